# Embeddings in S3 Vectors. The bucket is made here; its indexes are made by whoever writes embeddings, one for each
# collection and model version, and removed by the same (an index cannot be changed once it is there).

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account_id = data.aws_caller_identity.current.account_id
  partition  = data.aws_partition.current.partition
  region     = data.aws_region.current.region
  bucket     = "${var.name}-vectors-${local.account_id}-${local.region}"
}

resource "aws_s3vectors_vector_bucket" "this" {
  vector_bucket_name = local.bucket
  force_destroy      = var.force_destroy

  encryption_configuration = [{
    sse_type    = "aws:kms"
    kms_key_arn = var.kms_key_arn
  }]
}

# Whoever writes and asks: the training job, the command. To be named in training_policy_arns of the deployment.
resource "aws_iam_policy" "use" {
  name        = "${var.name}-vectors"
  description = "Writes and asks embeddings of the Anabranch deployment ${var.name}"

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        # stores/src/vectors/s3: indexes of a version, their vectors, queries. A query that returns metadata, as every
        # one does, and a listing that does need GetVectors too.
        Sid    = "Vectors"
        Effect = "Allow"
        Action = [
          "s3vectors:CreateIndex",
          "s3vectors:DeleteIndex",
          "s3vectors:DeleteVectors",
          "s3vectors:GetIndex",
          "s3vectors:GetVectors",
          "s3vectors:ListVectors",
          "s3vectors:PutVectors",
          "s3vectors:QueryVectors",
        ]
        Resource = "${aws_s3vectors_vector_bucket.this.vector_bucket_arn}/index/*"
      },
      {
        # The same: which versions there are, and which indexes a version has.
        Sid      = "Bucket"
        Effect   = "Allow"
        Action   = "s3vectors:ListIndexes"
        Resource = aws_s3vectors_vector_bucket.this.vector_bucket_arn
      },
      {
        # The same: vectors are encrypted with it.
        Sid      = "Key"
        Effect   = "Allow"
        Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource = var.kms_key_arn
      },
    ]
  })
}
