output "arn" {
  description = "ARN of the Kinesis stream."
  value       = aws_kinesis_stream.clicks.arn
}

output "name" {
  description = "Name of the Kinesis stream."
  value       = aws_kinesis_stream.clicks.name
}

output "tables" {
  description = "Names of the tables, by what they hold: state, leases, outbox."
  value       = { for name, table in aws_dynamodb_table.this : name => table.name }
}

output "table_arns" {
  description = "ARNs of the tables, by what they hold."
  value       = { for name, table in aws_dynamodb_table.this : name => table.arn }
}
