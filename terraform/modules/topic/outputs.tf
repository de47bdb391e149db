output "arn" {
  description = "ARN of the topic."
  # Nothing may be told to publish before it is allowed to.
  depends_on = [aws_sns_topic_policy.this]
  value      = aws_sns_topic.this.arn
}
