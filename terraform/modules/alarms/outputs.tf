output "names" {
  description = "Names of the alarms without their prefix."
  value       = sort(concat(keys(local.simple), keys(local.math)))
}

output "dashboard" {
  description = "Name of the dashboard."
  value       = aws_cloudwatch_dashboard.this.dashboard_name
}
