output "job" {
  description = "Name of the job."
  value       = aws_glue_job.this.name
}

output "role_arn" {
  description = "ARN of the job's role."
  value       = aws_iam_role.this.arn
}

output "failure_rule" {
  description = "Name of the rule that failed runs meet."
  value       = aws_cloudwatch_event_rule.failed.name
}
