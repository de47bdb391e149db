# Anabranch in an AWS account, read top to bottom: what is kept, the stream, the functions that apply the model, delivery,
# tables for Athena, the nightly training, and what looks after it. docs/explanation.md tells what each part is for,
# docs/operations.md how it is deployed, replayed, rolled back and mended.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account_id = data.aws_caller_identity.current.account_id
  partition  = data.aws_partition.current.partition
  region     = data.aws_region.current.id

  is_stream         = var.shape == "stream"
  is_by_firehose    = var.delivery == "firehose"
  is_parquet        = var.delivery_format == "parquet"
  has_notifications = var.notify_channel != "none"
  # Firehose with a Kinesis source has no switch: while nothing is to be read, there is none.
  has_firehose = local.is_by_firehose && (local.is_stream || var.is_streaming)

  stream_name   = "${var.name}-clicks"
  firehose_name = "${var.name}-recommendations"
  # Below recommendations/ a folder of its own, where objects have that of their namespace.
  lists_prefix     = local.is_by_firehose ? "recommendations/firehose/" : "recommendations/"
  error_prefix     = "firehose-errors/"
  temporary_prefix = "temporary/"
  # Where a mapping puts what it gave up; the name is Lambda's.
  given_up_prefix = "aws/lambda/"
}

# What is kept

module "key" {
  source = "./modules/key"

  name       = var.name
  partition  = local.partition
  region     = local.region
  account_id = local.account_id
  # Its ARN; the topic itself is encrypted with the key.
  alerts_topic_arn = "arn:${local.partition}:sns:${local.region}:${local.account_id}:${var.name}-alerts"
}

locals {
  # Name to what goes by itself.
  buckets = {
    raw = var.raw_expire_days == 0 ? {} : { raw = { prefix = "", days = var.raw_expire_days } }
    # What a night that nobody takes up again left to go on from; the job removes it too, once a night succeeds.
    lake   = { training = { prefix = "training/", days = 7 } }
    models = {}
    recommendations = { for folder in ["recommendations", "dead-letters", "firehose-errors"] :
      folder => { prefix = "${folder}/", days = var.recommendations_expire_days } if var.recommendations_expire_days > 0
    }
    failures  = {}
    artefacts = { temporary = { prefix = local.temporary_prefix, days = 7 } }
    queries   = { results = { prefix = "results/", days = 7 } }
  }
}

module "bucket" {
  source   = "./modules/bucket"
  for_each = local.buckets

  name          = "${var.name}-${each.key}-${local.account_id}-${local.region}"
  kms_key_arn   = module.key.arn
  force_destroy = var.force_destroy
  expire        = each.value
}

module "stream" {
  source = "./modules/stream"

  name                = local.stream_name
  prefix              = var.name
  stream_mode         = var.stream_mode
  shard_count         = var.shard_count
  retention_hours     = var.retention_hours
  deletion_protection = var.deletion_protection
  kms_key_arn         = module.key.arn
}

# The functions

locals {
  at = { for name, bucket in module.bucket : name => "s3://${bucket.name}" }

  # A restored table takes the place of the one that was made (docs/operations.md, Backup and restore).
  tables = merge(module.stream.tables, var.state_table == null ? {} : { state = var.state_table })
  table_arns = merge(module.stream.table_arns, var.state_table == null ? {} : {
    state = "arn:${local.partition}:dynamodb:${local.region}:${local.account_id}:table/${var.state_table}"
  })

  # The settings that functions have in common; names are those of lambda/src/settings.rs.
  environment = merge(
    var.settings_file == null ? {} : { ANABRANCH_TOML = file(var.settings_file) },
    {
      ANABRANCH__PLACES__MODELS            = local.at["models"]
      ANABRANCH__PLACES__DELIVERED         = local.at["recommendations"]
      ANABRANCH__STREAM__NAME              = local.stream_name
      ANABRANCH__STREAM__LIST_LENGTH       = tostring(var.list_length)
      ANABRANCH__STREAM__FORMAT            = var.delivery_format
      ANABRANCH__LAMBDA__TABLE             = local.tables["state"]
      ANABRANCH__LAMBDA__OUTBOX_TABLE      = local.tables["outbox"]
      ANABRANCH__LAMBDA__ERASURE_KEY       = var.erasure_key
      ANABRANCH__LAMBDA__RETENTION_HOURS   = tostring(var.retention_hours)
      ANABRANCH__LAMBDA__HISTORY_DAYS      = tostring(var.history_days)
      ANABRANCH__LAMBDA__MODEL_POLL_S      = tostring(var.model_poll_s)
      ANABRANCH__LAMBDA__METRICS_NAMESPACE = var.metrics_namespace
      ANABRANCH__LOG__LEVEL                = var.log_level
    },
  )

  notify_environment = merge(
    { ANABRANCH__NOTIFY__CHANNEL = var.notify_channel, ANABRANCH__LAMBDA__LEASE_TABLE = local.tables["leases"] },
    local.is_stream ? { ANABRANCH__LAMBDA__KINESIS_STREAM = local.stream_name } : {},
    local.is_stream ? {} : { ANABRANCH__LAMBDA__SETTLE_MINUTES = tostring(var.notify_settle_minutes) },
    var.notify_channel == "sns" ? { ANABRANCH__NOTIFY__SNS__TOPIC = one(module.notifications[*].arn) } : {},
    var.notify_channel == "webhook" ? {
      ANABRANCH__NOTIFY__WEBHOOK__URL   = var.webhook_url
      ANABRANCH__LAMBDA__WEBHOOK_SECRET = var.webhook_secret
    } : {},
  )

  # Lambda takes a week at most.
  record_age_max_s = coalesce(var.mapping_record_age_max_s, min(604800, floor(var.retention_hours * 2400)))
  # What a reader that is behind loses first: what its mapping does not hand over any more, or what the stream forgets.
  read_within_s = local.is_stream ? local.record_age_max_s : var.retention_hours * 3600

  zips = "${var.package_folder}/${var.architecture}"

  # What every function may do, and the code that needs it.
  shared_statements = {
    # lambda/src/models.rs: the current pointer, its snapshot, and newer ones.
    Models = {
      actions   = ["s3:GetObject"]
      resources = ["${module.bucket["models"].arn}/models/*"]
    }
    # stores/src/lake/remote.rs: listing, and telling "not there" from "not allowed".
    Buckets = {
      actions   = ["s3:ListBucket"]
      resources = [module.bucket["models"].arn, module.bucket["recommendations"].arn]
    }
    # lambda/src/dead.rs, stream/src/notify: dead letters, created only if they are not there.
    DeadLetters = {
      actions   = ["s3:GetObject", "s3:PutObject"]
      resources = ["${module.bucket["recommendations"].arn}/dead-letters/*"]
    }
    # aws/src/dynamo/histories.rs: histories, floors of erasures and checkpoints, by batches of reads and conditional puts.
    State = {
      actions   = ["dynamodb:BatchGetItem", "dynamodb:PutItem"]
      resources = [local.table_arns["state"]]
    }
    # aws/src/kinesis/identity.rs: the stream's creation time, which is part of every id.
    Identity = {
      actions   = ["kinesis:DescribeStreamSummary"]
      resources = [module.stream.arn]
    }
  }

  outbox_statements = local.has_notifications ? {
    # aws/src/dynamo/outbox.rs: notices are put beside the histories that earned them.
    Outbox = {
      actions   = ["dynamodb:PutItem"]
      resources = [module.stream.table_arns["outbox"]]
    }
  } : {}

  mapping_statements = {
    # The event source mapping: Lambda's poller reads with the function's role.
    Mapping = {
      actions   = ["kinesis:DescribeStream", "kinesis:GetRecords", "kinesis:GetShardIterator", "kinesis:ListShards"]
      resources = [module.stream.arn]
    }
    # The same: what it gives up is kept with its records.
    GivenUp = {
      actions   = ["s3:PutObject"]
      resources = ["${module.bucket["failures"].arn}/*"]
    }
    # The same: Lambda looks whether the bucket is there.
    GivenUpBucket = {
      actions   = ["s3:ListBucket"]
      resources = [module.bucket["failures"].arn]
    }
  }

  delivery_statements = local.is_by_firehose ? {
    # aws/src/firehose/sink.rs.
    Deliver = {
      actions   = ["firehose:PutRecordBatch"]
      resources = ["arn:${local.partition}:firehose:${local.region}:${local.account_id}:deliverystream/${local.firehose_name}"]
    }
    } : {
    # lambda/src/objects.rs, and stream/src/object/claim.rs: the chain and its form.
    Deliver = {
      actions   = ["s3:GetObject", "s3:PutObject"]
      resources = ["${module.bucket["recommendations"].arn}/recommendations/*", "${module.bucket["recommendations"].arn}/chains/*"]
    }
  }

  sender_statements = merge(
    {
      # aws/src/dynamo/outbox.rs: walking it, and what becomes of a notice.
      Outbox = {
        actions   = ["dynamodb:BatchGetItem", "dynamodb:DeleteItem", "dynamodb:PutItem", "dynamodb:Scan"]
        resources = [module.stream.table_arns["outbox"]]
      }
      # aws/src/dynamo/leases.rs: who sends.
      Lease = {
        actions   = ["dynamodb:BatchGetItem", "dynamodb:UpdateItem"]
        resources = [module.stream.table_arns["leases"]]
      }
    },
    local.is_stream ? {
      # aws/src/kinesis/frontier.rs: how far the stream is read.
      Frontier = {
        actions   = ["kinesis:GetRecords", "kinesis:GetShardIterator", "kinesis:ListShards"]
        resources = [module.stream.arn]
      }
    } : {},
    var.notify_channel == "sns" ? {
      # aws/src/sns/channel.rs.
      Publish = {
        actions   = ["sns:Publish"]
        resources = [one(module.notifications[*].arn)]
      }
    } : {},
  )

  function_names = {
    stream    = one(module.stream_function[*].name)
    transform = one(module.transform_function[*].name)
    notify    = one(module.notify_function[*].name)
  }
}

module "stream_function" {
  source = "./modules/function"
  count  = local.is_stream ? 1 : 0

  name                 = "${var.name}-stream"
  description          = "Joins events into histories and delivers a list for each"
  zip                  = "${local.zips}/stream.zip"
  architecture         = var.architecture
  memory_mb            = var.function_memory_mb
  timeout_s            = var.function_timeout_s
  storage_mb           = var.function_storage_mb
  reserved_concurrency = var.function_reserved_concurrency
  environment          = merge(local.environment, local.is_by_firehose ? { ANABRANCH__LAMBDA__FIREHOSE = local.firehose_name } : {})
  statements           = merge(local.shared_statements, local.outbox_statements, local.mapping_statements, local.delivery_statements)
  kms_key_arn          = module.key.arn
  log_retention_days   = var.log_retention_days
}

module "transform_function" {
  source = "./modules/function"
  count  = local.is_stream ? 0 : 1

  name                 = "${var.name}-transform"
  description          = "Makes a list of each event that Firehose brings"
  zip                  = "${local.zips}/transform.zip"
  architecture         = var.architecture
  memory_mb            = var.function_memory_mb
  timeout_s            = var.function_timeout_s
  storage_mb           = var.function_storage_mb
  reserved_concurrency = var.function_reserved_concurrency
  environment          = local.environment
  statements           = merge(local.shared_statements, local.outbox_statements)
  kms_key_arn          = module.key.arn
  log_retention_days   = var.log_retention_days
}

# Reading the stream: the mapping, bounded so that no batch blocks its shard for ever (docs/traps.md, 17 to 19).
resource "aws_lambda_event_source_mapping" "stream" {
  count = local.is_stream ? 1 : 0

  event_source_arn = module.stream.arn
  function_name    = module.stream_function[0].arn
  enabled          = var.is_streaming
  # Notices wait for what a mapping from LATEST would leave unread (docs/notifications.md).
  starting_position                  = "TRIM_HORIZON"
  batch_size                         = var.mapping_batch_size
  maximum_batching_window_in_seconds = var.mapping_window_s
  parallelization_factor             = var.mapping_parallelization
  maximum_retry_attempts             = var.mapping_attempts_max
  maximum_record_age_in_seconds      = local.record_age_max_s
  bisect_batch_on_function_error     = true
  function_response_types            = ["ReportBatchItemFailures"]

  destination_config {
    on_failure {
      # A bucket keeps the records themselves; a queue or topic would keep where they were.
      destination_arn = module.bucket["failures"].arn
    }
  }

  metrics_config {
    metrics = ["EventCount"]
  }
}

# Delivery

module "delivery" {
  source = "./modules/delivery"
  count  = local.has_firehose ? 1 : 0

  name                = local.firehose_name
  region              = local.region
  account_id          = local.account_id
  bucket_arn          = module.bucket["recommendations"].arn
  prefix              = local.lists_prefix
  error_prefix        = local.error_prefix
  format              = var.delivery_format
  schema_database     = module.catalogue.database
  schema_table        = module.catalogue.recommendations_table
  schema_arns         = module.catalogue.recommendations_arns
  buffer_mb           = var.firehose_buffer_mb
  buffer_s            = var.firehose_buffer_s
  reads_stream        = !local.is_stream
  kinesis_stream_arn  = local.is_stream ? null : module.stream.arn
  processor_arn       = one(module.transform_function[*].arn)
  processor_buffer_mb = var.transform_buffer_mb
  processor_buffer_s  = var.transform_buffer_s
  kms_key_arn         = module.key.arn
  log_retention_days  = var.log_retention_days
}

module "catalogue" {
  source = "./modules/catalogue"

  name                   = var.name
  partition              = local.partition
  region                 = local.region
  account_id             = local.account_id
  recommendations_bucket = module.bucket["recommendations"].name
  lists_prefix           = local.lists_prefix
  format                 = var.delivery_format
  is_firehose            = local.is_by_firehose
  lake_bucket            = module.bucket["lake"].name
  queries_bucket         = module.bucket["queries"].name
  scan_gb_max            = var.athena_scan_gb_max
  kms_key_arn            = module.key.arn
  force_destroy          = var.force_destroy
}

# Notifications

module "notifications" {
  source = "./modules/topic"
  count  = var.notify_channel == "sns" ? 1 : 0

  name        = "${var.name}-notifications"
  account_id  = local.account_id
  kms_key_arn = module.key.arn
}

locals {
  notifications_topic_arn = one(module.notifications[*].arn)
}

module "notify_function" {
  source = "./modules/function"
  count  = local.has_notifications ? 1 : 0

  name         = "${var.name}-notify"
  description  = "Sends the notifications that are due"
  zip          = "${local.zips}/notify.zip"
  architecture = var.architecture
  memory_mb    = var.function_memory_mb
  # Longer than the schedule's minute: what is due goes out in one go, and reserved concurrency keeps a second one away.
  timeout_s            = 300
  storage_mb           = var.function_storage_mb
  reserved_concurrency = var.notify_reserved_concurrency
  environment          = merge(local.environment, local.notify_environment)
  statements           = merge(local.shared_statements, local.sender_statements)
  kms_key_arn          = module.key.arn
  log_retention_days   = var.log_retention_days
}

# The schedule comes again in a minute: an invocation that meets the one before is not tried again.
resource "aws_lambda_function_event_invoke_config" "notify" {
  count = local.has_notifications ? 1 : 0

  function_name                = module.notify_function[0].name
  maximum_event_age_in_seconds = 60
  maximum_retry_attempts       = 0
}

resource "aws_cloudwatch_event_rule" "notify" {
  count = local.has_notifications ? 1 : 0

  name                = "${var.name}-notify"
  description         = "Sends the notifications that are due"
  schedule_expression = "rate(1 minute)"
  state               = var.is_streaming ? "ENABLED" : "DISABLED"
}

resource "aws_cloudwatch_event_target" "notify" {
  count = local.has_notifications ? 1 : 0

  rule      = aws_cloudwatch_event_rule.notify[0].name
  target_id = "notify"
  arn       = module.notify_function[0].arn
}

resource "aws_lambda_permission" "notify" {
  count = local.has_notifications ? 1 : 0

  statement_id  = "schedule"
  action        = "lambda:InvokeFunction"
  function_name = module.notify_function[0].name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.notify[0].arn
}

# Training

module "training" {
  source = "./modules/training"

  name             = "${var.name}-train"
  partition        = local.partition
  region           = local.region
  account_id       = local.account_id
  package_folder   = var.package_folder
  mapping_file     = var.mapping_file
  settings_file    = var.settings_file
  erasure_key      = var.erasure_key
  raw              = module.bucket["raw"]
  raw_prefix       = var.raw_prefix
  lake             = module.bucket["lake"]
  models           = module.bucket["models"]
  artefacts        = module.bucket["artefacts"]
  temporary_prefix = local.temporary_prefix
  arguments = {
    "--metric"                  = var.promotion_metric
    "--min-improvement"         = tostring(var.promotion_min_improvement)
    "--promote"                 = tostring(var.is_promoting)
    "--driver-interactions-max" = tostring(var.driver_interactions_max)
    "--incremental"             = tostring(var.is_incremental)
    "--bulk"                    = tostring(var.has_bulk_lists)
    "--embeddings"              = tostring(var.has_embeddings)
  }
  glue_version       = var.glue_version
  worker_type        = var.glue_worker_type
  workers            = var.glue_workers
  execution_class    = var.glue_execution_class
  timeout_minutes    = var.glue_timeout_minutes
  retries            = var.glue_retries
  connections        = var.glue_connections
  extra_policy_arns  = var.training_policy_arns
  schedule           = var.training_schedule
  is_scheduled       = var.is_training_scheduled
  topic_arn          = module.alerts.arn
  kms_key_arn        = module.key.arn
  log_retention_days = var.log_retention_days
}

# The command

module "worker" {
  source = "./modules/worker"

  name                = var.name
  stream_arn          = module.stream.arn
  table_arns          = local.table_arns
  topic_arn           = one(module.notifications[*].arn)
  raw_arn             = module.bucket["raw"].arn
  lake_arn            = module.bucket["lake"].arn
  models_arn          = module.bucket["models"].arn
  recommendations_arn = module.bucket["recommendations"].arn
  kms_key_arn         = module.key.arn
}

# Looking after it

module "alerts" {
  source = "./modules/topic"

  name        = "${var.name}-alerts"
  account_id  = local.account_id
  kms_key_arn = module.key.arn
  publishers  = ["cloudwatch.amazonaws.com", "events.amazonaws.com", "s3.amazonaws.com", "budgets.amazonaws.com"]
  emails      = var.alarm_emails
}

# Each object here is data that somebody has to put into the stream again.
resource "aws_s3_bucket_notification" "failures" {
  bucket = module.bucket["failures"].name

  topic {
    topic_arn     = module.alerts.arn
    events        = ["s3:ObjectCreated:*"]
    filter_prefix = local.given_up_prefix
  }
}

resource "aws_s3_bucket_notification" "errors" {
  bucket = module.bucket["recommendations"].name

  topic {
    topic_arn     = module.alerts.arn
    events        = ["s3:ObjectCreated:*"]
    filter_prefix = local.error_prefix
  }
}

module "alarms" {
  source = "./modules/alarms"

  prefix                   = var.name
  region                   = local.region
  shape                    = var.shape
  metrics_namespace        = var.metrics_namespace
  stream_name              = local.stream_name
  read_within_s            = local.read_within_s
  is_streaming             = var.is_streaming
  batch_wait_s             = local.is_stream ? var.mapping_window_s : var.transform_buffer_s
  functions                = local.function_names
  mapping_uuid             = one(aws_lambda_event_source_mapping.stream[*].uuid)
  tables                   = local.tables
  has_firehose             = local.has_firehose
  firehose_name            = local.firehose_name
  firehose_buffer_s        = var.firehose_buffer_s
  is_parquet               = local.is_parquet
  has_notifications        = local.has_notifications
  training_failure_rule    = module.training.failure_rule
  training_interval_hours  = var.training_interval_hours
  expects_events           = var.expects_events
  latency_ms_max           = var.alarm_latency_ms
  dead_letters_percent_max = var.alarm_dead_letters_percent
  coverage_percent_min     = var.alarm_coverage_percent
  topic_arn                = module.alerts.arn
}

module "budget" {
  source = "./modules/budget"
  count  = var.monthly_budget_usd > 0 ? 1 : 0

  name      = var.name
  limit_usd = var.monthly_budget_usd
  by_tag    = var.is_budget_by_tag
  topic_arn = module.alerts.arn
}
