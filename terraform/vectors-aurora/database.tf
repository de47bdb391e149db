# The database, and how the training job finds it.

resource "aws_db_subnet_group" "this" {
  name       = local.name
  subnet_ids = aws_subnet.this[*].id
}

resource "aws_rds_cluster_parameter_group" "this" {
  name        = local.name
  family      = "aurora-postgresql${split(".", var.engine_version)[0]}"
  description = "Connections are encrypted; changes of the schema and slow statements are written down"

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }

  parameter {
    name  = "log_statement"
    value = "ddl"
  }

  parameter {
    name  = "log_min_duration_statement"
    value = "1000"
  }
}

resource "aws_cloudwatch_log_group" "database" {
  name              = "/aws/rds/cluster/${local.name}/postgresql"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_rds_cluster" "this" {
  #checkov:skip=CKV_AWS_139: Protection is a variable, true unless somebody says otherwise before a destroy.
  #checkov:skip=CKV2_AWS_8: Backups of a week are the cluster's own; embeddings can be written again from the model.
  #checkov:skip=CKV2_AWS_27: Statements carry embeddings; what changes the schema and what is slow is logged (the parameter group).
  depends_on = [aws_cloudwatch_log_group.database]

  cluster_identifier                  = local.name
  engine                              = "aurora-postgresql"
  engine_mode                         = "provisioned"
  engine_version                      = var.engine_version
  database_name                       = local.database
  port                                = local.port
  master_username                     = "anabranch"
  manage_master_user_password         = true
  master_user_secret_kms_key_id       = var.kms_key_arn
  iam_database_authentication_enabled = true
  storage_encrypted                   = true
  kms_key_id                          = var.kms_key_arn
  db_subnet_group_name                = aws_db_subnet_group.this.name
  db_cluster_parameter_group_name     = aws_rds_cluster_parameter_group.this.name
  vpc_security_group_ids              = [aws_security_group.database.id]
  backup_retention_period             = var.backup_days
  copy_tags_to_snapshot               = true
  deletion_protection                 = var.deletion_protection
  skip_final_snapshot                 = !var.deletion_protection
  final_snapshot_identifier           = "${local.name}-final"
  enabled_cloudwatch_logs_exports     = ["postgresql"]

  serverlessv2_scaling_configuration {
    min_capacity = var.capacity_min
    max_capacity = var.capacity_max
  }
}

resource "aws_iam_role" "monitoring" {
  name = "${local.name}-monitoring"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "monitoring.rds.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account_id } }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "monitoring" {
  role       = aws_iam_role.monitoring.name
  policy_arn = "arn:${local.partition}:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"
}

resource "aws_rds_cluster_instance" "this" {
  #checkov:skip=CKV_AWS_226: The version is engine_version's: what Aurora raised by itself an apply would try to set back, and fail.
  count = var.instances

  identifier                      = "${local.name}-${count.index}"
  cluster_identifier              = aws_rds_cluster.this.id
  engine                          = aws_rds_cluster.this.engine
  engine_version                  = aws_rds_cluster.this.engine_version
  instance_class                  = "db.serverless"
  db_subnet_group_name            = aws_db_subnet_group.this.name
  auto_minor_version_upgrade      = false
  publicly_accessible             = false
  copy_tags_to_snapshot           = true
  performance_insights_enabled    = true
  performance_insights_kms_key_id = var.kms_key_arn
  monitoring_interval             = 60
  monitoring_role_arn             = aws_iam_role.monitoring.arn
}

locals {
  secret_arn = one(aws_rds_cluster.this.master_user_secret[*].secret_arn)
}

# Puts the job's workers into the VPC.
resource "aws_glue_connection" "this" {
  name            = local.name
  description     = "The training job to the vector database"
  connection_type = "NETWORK"

  physical_connection_requirements {
    availability_zone      = local.zones[0]
    subnet_id              = aws_subnet.this[0].id
    security_group_id_list = [aws_security_group.job.id]
  }
}

# What the training job needs beside its own role's policy. To be named in training_policy_arns of the deployment.
resource "aws_iam_policy" "use" {
  #checkov:skip=CKV_AWS_355: Actions on network interfaces that do not exist yet, and descriptions, know no resources; the VPC bounds them.
  #checkov:skip=CKV_AWS_290: Interfaces are made in one subnet for one group and removed from that subnet; descriptions know no resources.
  name        = local.name
  description = "Reaches the vector database of the Anabranch deployment ${var.name}"

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        # stores/src/vectors/secret.rs: the password of [vectors.postgres].
        Sid      = "Password"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = local.secret_arn
      },
      {
        # The secret is encrypted with it.
        Sid      = "Key"
        Effect   = "Allow"
        Action   = "kms:Decrypt"
        Resource = var.kms_key_arn
      },
      {
        # Glue: where its workers stand.
        Sid      = "Connection"
        Effect   = "Allow"
        Action   = "glue:GetConnection"
        Resource = ["arn:${local.partition}:glue:${local.region}:${local.account_id}:catalog", aws_glue_connection.this.arn]
      },
      {
        # Glue: putting them there.
        Sid    = "Describe"
        Effect = "Allow"
        Action = [
          "ec2:DescribeNetworkInterfaces",
          "ec2:DescribeRouteTables",
          "ec2:DescribeSecurityGroups",
          "ec2:DescribeSubnets",
          "ec2:DescribeVpcAttribute",
          "ec2:DescribeVpcEndpoints",
          "ec2:DescribeVpcs",
        ]
        Resource = "*"
      },
      {
        # The same: in one subnet, for one group.
        Sid    = "Interfaces"
        Effect = "Allow"
        Action = ["ec2:CreateNetworkInterface", "ec2:CreateTags"]
        Resource = [
          "arn:${local.partition}:ec2:${local.region}:${local.account_id}:network-interface/*",
          aws_subnet.this[0].arn,
          aws_security_group.job.arn,
        ]
      },
      {
        # The same: taking them away from there.
        Sid       = "Leave"
        Effect    = "Allow"
        Action    = "ec2:DeleteNetworkInterface"
        Resource  = "arn:${local.partition}:ec2:${local.region}:${local.account_id}:network-interface/*"
        Condition = { ArnEquals = { "ec2:Subnet" = aws_subnet.this[0].arn } }
      },
    ]
  })
}
