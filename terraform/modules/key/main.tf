# One key for everything that a deployment keeps: whoever may use it may read the deployment's data, nobody else's.
# IAM policies of the account decide who that is; services get what they need to write logs and messages.

resource "aws_kms_key" "this" {
  description             = "Data of the Anabranch deployment ${var.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        # Without this nobody could ever change the key again. Actions are named, so that no new one comes in by itself.
        Sid       = "Account"
        Effect    = "Allow"
        Principal = { AWS = "arn:${var.partition}:iam::${var.account_id}:root" }
        Action = [
          "kms:CancelKeyDeletion",
          "kms:CreateGrant",
          "kms:Decrypt",
          "kms:DescribeKey",
          "kms:DisableKey",
          "kms:DisableKeyRotation",
          "kms:EnableKey",
          "kms:EnableKeyRotation",
          "kms:Encrypt",
          "kms:GenerateDataKey",
          "kms:GenerateDataKeyWithoutPlaintext",
          "kms:GetKeyPolicy",
          "kms:GetKeyRotationStatus",
          "kms:ListAliases",
          "kms:ListGrants",
          "kms:ListKeyPolicies",
          "kms:ListResourceTags",
          "kms:PutKeyPolicy",
          "kms:ReEncryptFrom",
          "kms:ReEncryptTo",
          "kms:RevokeGrant",
          "kms:ScheduleKeyDeletion",
          "kms:TagResource",
          "kms:UntagResource",
          "kms:UpdateAlias",
          "kms:CreateAlias",
          "kms:DeleteAlias",
          "kms:UpdateKeyDescription",
        ]
        Resource = "*"
      },
      {
        # CloudWatch Logs encrypts the deployment's log groups and no other.
        Sid       = "Logs"
        Effect    = "Allow"
        Principal = { Service = "logs.${var.region}.amazonaws.com" }
        Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo", "kms:GenerateDataKey", "kms:DescribeKey"]
        Resource  = "*"
        Condition = { ArnLike = { "kms:EncryptionContext:aws:logs:arn" = [
          for folder in ["/aws/lambda", "/aws/kinesisfirehose", "/aws-glue/jobs", "/aws/vpc", "/aws/rds/cluster"] :
          "arn:${var.partition}:logs:${var.region}:${var.account_id}:log-group:${folder}/${var.name}-*"
        ] } }
      },
      {
        # Alarms, buckets and the budget write into the encrypted topic of alerts.
        Sid       = "Publishers"
        Effect    = "Allow"
        Principal = { Service = ["cloudwatch.amazonaws.com", "s3.amazonaws.com", "budgets.amazonaws.com"] }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource  = "*"
        Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } }
      },
      {
        # So do events. EventBridge tells a key no source account, so the topic bounds it.
        Sid       = "Events"
        Effect    = "Allow"
        Principal = { Service = "events.amazonaws.com" }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource  = "*"
        Condition = { StringEquals = { "kms:EncryptionContext:aws:sns:topicArn" = var.alerts_topic_arn } }
      },
      {
        # S3 Vectors indexes in the background what vectors-s3 keeps.
        Sid       = "Vectors"
        Effect    = "Allow"
        Principal = { Service = "indexing.s3vectors.amazonaws.com" }
        Action    = "kms:Decrypt"
        Resource  = "*"
        Condition = {
          ArnLike      = { "aws:SourceArn" = "arn:${var.partition}:s3vectors:${var.region}:${var.account_id}:bucket/${var.name}-vectors-*" }
          StringEquals = { "aws:SourceAccount" = var.account_id }
        }
      },
    ]
  })
}

resource "aws_kms_alias" "this" {
  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.this.key_id
}
