# What the streaming arm keeps: the Kinesis stream that events come by, and the DynamoDB tables of docs/formats.md. Workers and
# functions share them.

resource "aws_kinesis_stream" "clicks" {
  name             = var.name
  shard_count      = var.stream_mode == "PROVISIONED" ? var.shard_count : null
  retention_period = var.retention_hours
  encryption_type  = "KMS"
  kms_key_id       = var.kms_key_arn

  # A consumer by enhanced fan-out is registered outside of this configuration; it must not stand in the way of a destroy.
  enforce_consumer_deletion = true

  stream_mode_details {
    stream_mode = var.stream_mode
  }
}

locals {
  # Name to partition key, its type, and whether items expire by `ttl` (aws/src/dynamo/item.rs, leases.rs, outbox.rs).
  tables = {
    state  = { key = "k", type = "B", expires = true }
    leases = { key = "leaseKey", type = "S", expires = false }
    outbox = { key = "k", type = "B", expires = true }
  }
}

resource "aws_dynamodb_table" "this" {
  for_each = local.tables

  name                        = "${var.prefix}-${each.key}"
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = each.value.key
  deletion_protection_enabled = var.deletion_protection

  attribute {
    name = each.value.key
    type = each.value.type
  }

  dynamic "ttl" {
    for_each = each.value.expires ? ["ttl"] : []

    content {
      attribute_name = ttl.value
      enabled        = true
    }
  }

  point_in_time_recovery {
    enabled = true
  }

  server_side_encryption {
    enabled     = true
    kms_key_arn = var.kms_key_arn
  }
}
