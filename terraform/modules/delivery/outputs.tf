output "arn" {
  description = "ARN of the Firehose stream."
  value       = aws_kinesis_firehose_delivery_stream.this.arn
}

output "name" {
  description = "Name of the Firehose stream."
  value       = aws_kinesis_firehose_delivery_stream.this.name
}
