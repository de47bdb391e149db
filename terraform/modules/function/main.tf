# One Lambda function with its log group and a role that may do what `statements` says and nothing else.

resource "aws_cloudwatch_log_group" "this" {
  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_iam_role" "this" {
  name = "${var.name}-function"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

locals {
  statements = merge(var.statements, {
    # lambda/src/log.rs and report.rs: log lines and metrics go to standard output, and Lambda writes them down.
    Log = {
      actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      resources = ["${aws_cloudwatch_log_group.this.arn}:*"]
      condition = null
    }
    # Lambda opens the variables, and the clients read what the key encrypts.
    Key = {
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [var.kms_key_arn]
      condition = null
    }
  })
}

resource "aws_iam_role_policy" "this" {
  name = "function"
  role = aws_iam_role.this.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [for sid, statement in local.statements : { for key, value in {
      Sid       = sid
      Effect    = "Allow"
      Action    = statement.actions
      Resource  = statement.resources
      Condition = statement.condition
    } : key => value if value != null }]
  })
}

resource "aws_lambda_function" "this" {
  #checkov:skip=CKV_AWS_50: Times are measured in the function and written as metrics; no code of ours writes trace segments.
  #checkov:skip=CKV_AWS_115: Reserving is a variable: an account with the quota of 10 cannot reserve at all.
  #checkov:skip=CKV_AWS_116: Nothing invokes asynchronously but the schedule of notifications, which comes again in a minute; the mapping has a destination of its own.
  #checkov:skip=CKV_AWS_117: It talks to AWS's own endpoints only; a VPC would add cold starts and endpoints, and take the internet that a webhook needs.
  #checkov:skip=CKV_AWS_272: The zip is built from this tree and uploaded by this configuration, which records its SHA-256.
  depends_on = [aws_iam_role_policy.this]

  function_name    = var.name
  description      = var.description
  role             = aws_iam_role.this.arn
  runtime          = "provided.al2023"
  handler          = "bootstrap"
  architectures    = [var.architecture]
  filename         = var.zip
  source_code_hash = filebase64sha256(var.zip)
  memory_size      = var.memory_mb
  # Lambda's own default is three seconds, which one throttled call outlasts (docs/traps.md, 23).
  timeout                        = var.timeout_s
  reserved_concurrent_executions = var.reserved_concurrency
  kms_key_arn                    = var.kms_key_arn

  ephemeral_storage {
    size = var.storage_mb
  }

  environment {
    variables = var.environment
  }

  logging_config {
    # The lines are JSON already, and metrics in the embedded format have to stay as they are.
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.this.name
  }
}
