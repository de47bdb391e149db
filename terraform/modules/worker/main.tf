# What `anabranch` needs at a deployment, as a policy to attach to whatever role runs it: workers in place of the functions
# (`stream`), and an operator's `models`, `forget`, `etl` and `train`. Nothing here has it by itself.

locals {
  statements = merge({
    # aws/src/kinesis/sdk.rs: polling, the shards, the stream's creation time.
    Stream = {
      actions   = ["kinesis:DescribeStreamSummary", "kinesis:GetRecords", "kinesis:GetShardIterator", "kinesis:ListShards"]
      resources = [var.stream_arn]
    }
    # aws/src/kinesis/fanout.rs: a registered consumer's records are pushed.
    FanOut = {
      actions   = ["kinesis:SubscribeToShard"]
      resources = [var.stream_arn, "${var.stream_arn}/consumer/*"]
    }
    # aws/src/dynamo/histories.rs, erasures.rs: histories, checkpoints, floors of who was forgotten.
    State = {
      actions   = ["dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:PutItem"]
      resources = [var.table_arns["state"]]
    }
    # aws/src/dynamo/leases.rs: who reads which shard, who sends notifications.
    Leases = {
      actions   = ["dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:Scan", "dynamodb:UpdateItem"]
      resources = [var.table_arns["leases"]]
    }
    # aws/src/dynamo/outbox.rs: notices that wait, and forgetting them.
    Outbox = {
      actions   = ["dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:PutItem", "dynamodb:Scan"]
      resources = [var.table_arns["outbox"]]
    }
    # batch/src/etl/publish.rs, batch/src/erase.rs: the dataset, what is forgotten in it, and bulk lists.
    Lake = {
      actions   = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
      resources = ["${var.lake_arn}/*"]
    }
    # stores/src/registry: publishing, promoting, rolling back. Nothing in it is ever deleted.
    Models = {
      actions   = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
      resources = ["${var.models_arn}/models/*"]
    }
    # stream/src/object.rs, stream/src/erase.rs: objects that are created once, dead letters, and forgetting in them.
    Recommendations = {
      actions   = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
      resources = [for folder in ["recommendations", "dead-letters", "chains"] : "${var.recommendations_arn}/${folder}/*"]
    }
    # batch/src/input: raw files.
    Raw = {
      actions   = ["s3:GetObject"]
      resources = ["${var.raw_arn}/*"]
    }
    # stores/src/lake/remote.rs: listing, and telling "not there" from "not allowed".
    Buckets = {
      actions   = ["s3:ListBucket"]
      resources = [var.raw_arn, var.lake_arn, var.models_arn, var.recommendations_arn]
    }
    # The same: all of it is encrypted.
    Key = {
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [var.kms_key_arn]
    }
    }, var.topic_arn == null ? {} : {
    # aws/src/sns/channel.rs: whichever worker has the lease of notifications sends them.
    Publish = {
      actions   = ["sns:Publish"]
      resources = [var.topic_arn]
    }
  })
}

resource "aws_iam_policy" "this" {
  name        = "${var.name}-worker"
  description = "What the command anabranch needs at the deployment ${var.name}"

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [for sid, statement in local.statements :
      { Sid = sid, Effect = "Allow", Action = statement.actions, Resource = statement.resources }
    ]
  })
}
