output "database" {
  description = "Name of the database."
  value       = aws_glue_catalog_database.this.name
}

output "recommendations_table" {
  description = "Name of the table of lists."
  value       = aws_glue_catalog_table.recommendations.name
}

output "recommendations_arns" {
  description = "ARNs that reading the columns of recommendations needs: catalogue, database, table."
  value = [for resource in [
    "catalog",
    "database/${aws_glue_catalog_database.this.name}",
    "table/${aws_glue_catalog_database.this.name}/${aws_glue_catalog_table.recommendations.name}",
  ] : "arn:${var.partition}:glue:${var.region}:${var.account_id}:${resource}"]
}

output "interactions_table" {
  description = "Name of the table of clean interactions."
  value       = aws_glue_catalog_table.interactions.name
}

output "workgroup" {
  description = "Name of Athena's workgroup."
  value       = aws_athena_workgroup.this.name
}
