output "bucket" {
  description = "Name of the vector bucket."
  value       = aws_s3vectors_vector_bucket.this.vector_bucket_name
}

output "policy_arn" {
  description = "Policy that writing and asking needs: name it in training_policy_arns of the deployment."
  value       = aws_iam_policy.use.arn
}

output "settings" {
  description = "Section for the deployment's settings_file."
  value       = <<-TOML
    [vectors]
    kind = "s3-vectors"

    [vectors.s3]
    bucket = "${aws_s3vectors_vector_bucket.this.vector_bucket_name}"
  TOML
}
