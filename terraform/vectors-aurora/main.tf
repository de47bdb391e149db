# Embeddings in PostgreSQL with pgvector: Aurora in a VPC of its own without a way to the internet. The training job comes in by
# a Glue connection. The database makes its password itself and changes it; nobody sees it but through Secrets Manager.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account_id = data.aws_caller_identity.current.account_id
  partition  = data.aws_partition.current.partition
  region     = data.aws_region.current.id
  name       = "${var.name}-vectors"
  # Aurora wants two zones or more; endpoints cost by zone.
  zones    = coalesce(var.zones, ["${local.region}a", "${local.region}b"])
  database = "anabranch"
  port     = 5432
}

resource "aws_vpc" "this" {
  cidr_block           = var.cidr_block
  enable_dns_support   = true
  enable_dns_hostnames = true

  tags = { Name = local.name }
}

# Closed: nothing uses it, and nothing may by mistake.
resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id
}

resource "aws_subnet" "this" {
  count = length(local.zones)

  vpc_id            = aws_vpc.this.id
  availability_zone = local.zones[count.index]
  cidr_block        = cidrsubnet(var.cidr_block, 2, count.index)

  tags = { Name = "${local.name}-${local.zones[count.index]}" }
}

resource "aws_route_table" "this" {
  vpc_id = aws_vpc.this.id

  tags = { Name = local.name }
}

resource "aws_route_table_association" "this" {
  count = length(local.zones)

  subnet_id      = aws_subnet.this[count.index].id
  route_table_id = aws_route_table.this.id
}

# Who talks to whom is written down.
resource "aws_cloudwatch_log_group" "flow" {
  name              = "/aws/vpc/${local.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_iam_role" "flow" {
  name = "${local.name}-flow"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "vpc-flow-logs.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account_id } }
    }]
  })
}

resource "aws_iam_role_policy" "flow" {
  name = "flow"
  role = aws_iam_role.flow.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      # The VPC itself: its flow log.
      Sid      = "Log"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
      Resource = "${aws_cloudwatch_log_group.flow.arn}:*"
    }]
  })
}

resource "aws_flow_log" "this" {
  vpc_id          = aws_vpc.this.id
  traffic_type    = "ALL"
  log_destination = aws_cloudwatch_log_group.flow.arn
  iam_role_arn    = aws_iam_role.flow.arn
}

# Who may talk to whom

resource "aws_security_group" "job" {
  #checkov:skip=CKV2_AWS_5: Glue's workers have it, by the connection (database.tf).
  name        = "${local.name}-job"
  description = "The training job's workers"
  vpc_id      = aws_vpc.this.id

  tags = { Name = "${local.name}-job" }
}

resource "aws_security_group" "database" {
  name        = "${local.name}-database"
  description = "The database"
  vpc_id      = aws_vpc.this.id

  tags = { Name = "${local.name}-database" }
}

resource "aws_security_group" "endpoints" {
  name        = "${local.name}-endpoints"
  description = "The endpoints of AWS's services"
  vpc_id      = aws_vpc.this.id

  tags = { Name = "${local.name}-endpoints" }
}

# Glue refuses a connection whose group does not let its workers talk among themselves.
resource "aws_vpc_security_group_ingress_rule" "workers" {
  #checkov:skip=CKV_AWS_24: From the group itself, not from any address.
  #checkov:skip=CKV_AWS_25: From the group itself, not from any address.
  #checkov:skip=CKV_AWS_260: From the group itself, not from any address.
  security_group_id            = aws_security_group.job.id
  description                  = "Spark's workers among themselves"
  ip_protocol                  = "tcp"
  from_port                    = 0
  to_port                      = 65535
  referenced_security_group_id = aws_security_group.job.id
}

resource "aws_vpc_security_group_egress_rule" "workers" {
  security_group_id            = aws_security_group.job.id
  description                  = "Spark's workers among themselves"
  ip_protocol                  = "tcp"
  from_port                    = 0
  to_port                      = 65535
  referenced_security_group_id = aws_security_group.job.id
}

resource "aws_vpc_security_group_egress_rule" "job_to_database" {
  security_group_id            = aws_security_group.job.id
  description                  = "The job to the database"
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
  referenced_security_group_id = aws_security_group.database.id
}

resource "aws_vpc_security_group_ingress_rule" "job_to_database" {
  security_group_id            = aws_security_group.database.id
  description                  = "The job to the database"
  ip_protocol                  = "tcp"
  from_port                    = local.port
  to_port                      = local.port
  referenced_security_group_id = aws_security_group.job.id
}

resource "aws_vpc_security_group_egress_rule" "job_to_endpoints" {
  security_group_id            = aws_security_group.job.id
  description                  = "The job to AWS's services"
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  referenced_security_group_id = aws_security_group.endpoints.id
}

resource "aws_vpc_security_group_ingress_rule" "job_to_endpoints" {
  security_group_id            = aws_security_group.endpoints.id
  description                  = "The job to AWS's services"
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  referenced_security_group_id = aws_security_group.job.id
}

resource "aws_vpc_security_group_egress_rule" "job_to_s3" {
  security_group_id = aws_security_group.job.id
  description       = "The job to S3, by the gateway"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  prefix_list_id    = aws_vpc_endpoint.s3.prefix_list_id
}

resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.${local.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.this.id]

  tags = { Name = "${local.name}-s3" }
}

resource "aws_vpc_endpoint" "interface" {
  for_each = toset(var.interface_endpoints)

  vpc_id              = aws_vpc.this.id
  service_name        = "com.amazonaws.${local.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  subnet_ids          = aws_subnet.this[*].id
  security_group_ids  = [aws_security_group.endpoints.id]
  private_dns_enabled = true

  tags = { Name = "${local.name}-${each.key}" }
}
