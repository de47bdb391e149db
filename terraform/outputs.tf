output "stream_name" {
  description = "Kinesis stream that producers put events into."
  value       = module.stream.name
}

output "stream_arn" {
  description = "ARN of the Kinesis stream, for the policies of producers (kinesis:PutRecords, kms:GenerateDataKey)."
  value       = module.stream.arn
}

output "kms_key_arn" {
  description = "Key of everything that the deployment keeps."
  value       = module.key.arn
}

output "buckets" {
  description = "Buckets, by what they hold: raw, lake, models, recommendations, failures, artefacts, queries."
  value       = { for name, bucket in module.bucket : name => bucket.name }
}

output "tables" {
  description = "DynamoDB tables, by what they hold: state, leases, outbox."
  value       = local.tables
}

output "functions" {
  description = "Names of the functions, by what they do."
  value       = { for name, function in local.function_names : name => function if function != null }
}

output "mapping_uuid" {
  description = "UUID of the event source mapping; null with shape = \"transform\"."
  value       = one(aws_lambda_event_source_mapping.stream[*].uuid)
}

output "firehose_name" {
  description = "Name of the Firehose stream; null where objects are written, and while is_streaming is false with shape = \"transform\"."
  value       = local.has_firehose ? module.delivery[0].name : null
}

output "lists_location" {
  description = "Folder that lists are delivered below."
  value       = "s3://${module.bucket["recommendations"].name}/${local.lists_prefix}"
}

output "dead_letters_location" {
  description = "Folder of the events that were refused."
  value       = "s3://${module.bucket["recommendations"].name}/dead-letters/"
}

output "training_job" {
  description = "Name of the Glue job."
  value       = module.training.job
}

output "database" {
  description = "Database of Athena, with the tables recommendations and interactions."
  value       = module.catalogue.database
}

output "workgroup" {
  description = "Workgroup of Athena."
  value       = module.catalogue.workgroup
}

output "alerts_topic_arn" {
  description = "Topic that alarms, failed runs, given-up batches and the budget go to."
  value       = module.alerts.arn
}

output "notifications_topic_arn" {
  description = "Topic that notifications of users go to; null unless the channel is sns."
  value       = local.notifications_topic_arn
}

output "dashboard" {
  description = "Name of the dashboard."
  value       = module.alarms.dashboard
}

output "alarms" {
  description = "Names of the alarms, without the deployment's name. docs/operations.md says what to do for each."
  value       = module.alarms.names
}

output "worker_environment" {
  description = "Settings for `anabranch` at this deployment: models, forget, stream. The erasure key comes beside them, as ANABRANCH__SOURCE__ERASURE_KEY."
  value = {
    ANABRANCH__PLACES__LAKE         = "s3://${module.bucket["lake"].name}"
    ANABRANCH__PLACES__MODELS       = "s3://${module.bucket["models"].name}"
    ANABRANCH__PLACES__DELIVERED    = "s3://${module.bucket["recommendations"].name}"
    ANABRANCH__SOURCE__KIND         = "kinesis"
    ANABRANCH__SOURCE__STREAM       = module.stream.name
    ANABRANCH__SOURCE__TABLE        = local.tables["state"]
    ANABRANCH__SOURCE__LEASE_TABLE  = local.tables["leases"]
    ANABRANCH__SOURCE__OUTBOX_TABLE = local.tables["outbox"]
    ANABRANCH__SOURCE__HISTORY_DAYS = tostring(var.history_days)
    ANABRANCH__STREAM__LIST_LENGTH  = tostring(var.list_length)
    ANABRANCH__STREAM__FORMAT       = var.delivery_format
    AWS_REGION                      = local.region
  }
}

output "worker_policy_arn" {
  description = "Policy for whatever role runs `anabranch` with the settings of worker_environment."
  value       = module.worker.policy_arn
}
