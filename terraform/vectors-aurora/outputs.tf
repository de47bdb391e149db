output "endpoint" {
  description = "Host of the database."
  value       = aws_rds_cluster.this.endpoint
}

output "secret_arn" {
  description = "Secret with the database's user and password."
  value       = local.secret_arn
}

output "glue_connection" {
  description = "Connection of the training job: name it in glue_connections of the deployment."
  value       = aws_glue_connection.this.name
}

output "policy_arn" {
  description = "Policy of the training job: name it in training_policy_arns of the deployment."
  value       = aws_iam_policy.use.arn
}

output "settings" {
  description = "Section for the deployment's settings_file. The password is not in it; it stands in the secret."
  value       = <<-TOML
    [vectors]
    kind = "postgres"

    [vectors.postgres]
    url = "postgres://anabranch@${aws_rds_cluster.this.endpoint}:${local.port}/${local.database}?sslmode=${var.ca_file == "" ? "prefer" : "verify-full"}"
    secret_arn = "${local.secret_arn}"
    ca_file = "${var.ca_file}"
  TOML
}
