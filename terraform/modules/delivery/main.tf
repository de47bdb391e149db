# Firehose to the bucket of recommendations: behind `stream`, which puts into it, or with Kinesis as its source and
# `transform` as its processor. Folders are by arrival, day and hour, which the table projects; errors lie beside them.

locals {
  is_parquet = var.format == "parquet"
  # Kinesis encrypts what it holds; Firehose refuses a key of its own on such a stream.
  is_direct = !var.reads_stream
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/aws/kinesisfirehose/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_cloudwatch_log_stream" "this" {
  name           = "delivery"
  log_group_name = aws_cloudwatch_log_group.this.name
}

resource "aws_iam_role" "this" {
  name = "${var.name}-firehose"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "firehose.amazonaws.com" }
      Action    = "sts:AssumeRole"
      # Nobody else's Firehose may borrow the role.
      Condition = { StringEquals = { "sts:ExternalId" = var.account_id } }
    }]
  })
}

locals {
  statements = merge(
    {
      # Firehose itself: writing objects.
      Objects = {
        actions   = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
        resources = ["${var.bucket_arn}/${var.prefix}*", "${var.bucket_arn}/${var.error_prefix}*"]
      }
      # Firehose itself: finding the bucket.
      Bucket = {
        actions   = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
        resources = [var.bucket_arn]
      }
      # Firehose itself: encrypting objects, and reading an encrypted stream.
      Key = {
        actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
        resources = [var.kms_key_arn]
      }
      # Firehose itself: why a delivery failed.
      Log = {
        actions   = ["logs:PutLogEvents"]
        resources = ["${aws_cloudwatch_log_group.this.arn}:*"]
      }
    },
    local.is_parquet ? {
      # Firehose itself: the columns that JSON becomes.
      Schema = {
        actions   = ["glue:GetTable", "glue:GetTableVersion", "glue:GetTableVersions"]
        resources = var.schema_arns
      }
    } : {},
    local.is_direct ? {} : {
      # Firehose itself: reading the stream, in place of lambda/src/stream.rs.
      Source = {
        actions   = ["kinesis:DescribeStream", "kinesis:GetRecords", "kinesis:GetShardIterator", "kinesis:ListShards"]
        resources = [var.kinesis_stream_arn]
      }
      # lambda/src/transform.rs is the processor.
      Processor = {
        actions   = ["lambda:GetFunctionConfiguration", "lambda:InvokeFunction"]
        resources = [var.processor_arn, "${var.processor_arn}:$LATEST"]
      }
    },
  )
}

resource "aws_iam_role_policy" "this" {
  name = "delivery"
  role = aws_iam_role.this.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [for sid, statement in local.statements :
      { Sid = sid, Effect = "Allow", Action = statement.actions, Resource = statement.resources }
    ]
  })
}

resource "aws_kinesis_firehose_delivery_stream" "this" {
  #checkov:skip=CKV_AWS_240: Encrypted where Firehose allows it; with Kinesis as its source the stream's own encryption covers it.
  #checkov:skip=CKV_AWS_241: The same: the key is the deployment's.
  depends_on  = [aws_iam_role_policy.this]
  name        = var.name
  destination = "extended_s3"

  dynamic "kinesis_source_configuration" {
    for_each = local.is_direct ? [] : [var.kinesis_stream_arn]

    content {
      kinesis_stream_arn = kinesis_source_configuration.value
      role_arn           = aws_iam_role.this.arn
    }
  }

  dynamic "server_side_encryption" {
    for_each = local.is_direct ? [var.kms_key_arn] : []

    content {
      enabled  = true
      key_type = "CUSTOMER_MANAGED_CMK"
      key_arn  = server_side_encryption.value
    }
  }

  extended_s3_configuration {
    bucket_arn  = var.bucket_arn
    role_arn    = aws_iam_role.this.arn
    kms_key_arn = var.kms_key_arn
    # No partition of more values than hours: Firehose holds 500 at most (docs/traps.md, 15).
    prefix = "${var.prefix}day=!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/"
    # Outside of the table's folder, or Athena would read errors as rows (docs/traps.md, 14).
    error_output_prefix = "${var.error_prefix}!{firehose:error-output-type}/day=!{timestamp:yyyy-MM-dd}/"
    buffering_size      = var.buffer_mb
    buffering_interval  = var.buffer_s
    # Parquet is compressed inside.
    compression_format = local.is_parquet ? "UNCOMPRESSED" : "GZIP"
    file_extension     = local.is_parquet ? ".parquet" : ".jsonl.gz"

    cloudwatch_logging_options {
      enabled         = true
      log_group_name  = aws_cloudwatch_log_group.this.name
      log_stream_name = aws_cloudwatch_log_stream.this.name
    }

    dynamic "processing_configuration" {
      for_each = local.is_direct ? [] : [var.processor_arn]

      content {
        enabled = true

        processors {
          type = "Lambda"

          dynamic "parameters" {
            # What is Firehose's default it does not tell again; named here, it would be a change for ever.
            for_each = { for name, value in {
              LambdaArn               = "${processing_configuration.value}:$LATEST"
              BufferSizeInMBs         = var.processor_buffer_mb == 1 ? null : tostring(var.processor_buffer_mb)
              BufferIntervalInSeconds = var.processor_buffer_s == 60 ? null : tostring(var.processor_buffer_s)
            } : name => value if value != null }

            content {
              parameter_name  = parameters.key
              parameter_value = parameters.value
            }
          }
        }
      }
    }

    dynamic "data_format_conversion_configuration" {
      for_each = local.is_parquet ? [var.schema_table] : []

      content {
        input_format_configuration {
          deserializer {
            # Reads several JSON documents of one record, which lambda/src/stream.rs packs.
            open_x_json_ser_de {}
          }
        }

        output_format_configuration {
          serializer {
            parquet_ser_de {
              compression = "SNAPPY"
            }
          }
        }

        schema_configuration {
          database_name = var.schema_database
          table_name    = data_format_conversion_configuration.value
          role_arn      = aws_iam_role.this.arn
          region        = var.region
        }
      }
    }
  }
}
