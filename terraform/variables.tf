# The deployment

variable "name" {
  description = "Name of the deployment. Everything's name begins with it, so two deployments live in one account."
  type        = string
  default     = "anabranch"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,16}[a-z0-9]$", var.name))
    error_message = "name has 3 to 18 lower-case letters, digits and hyphens and begins with a letter: the longest bucket's name has 63."
  }
}

variable "region" {
  description = "Region; that of the environment or profile if null."
  type        = string
  default     = null

  validation {
    condition     = var.region == null || can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", coalesce(var.region, "-")))
    error_message = "region is one such as eu-west-1."
  }
}

variable "tags" {
  description = "Tags of everything, beside Deployment."
  type        = map(string)
  default     = {}

  validation {
    condition     = !contains(keys(var.tags), "Deployment")
    error_message = "The tag Deployment is the deployment's name."
  }
}

variable "package_folder" {
  description = "Folder that `make package` made: zips of the functions, the wheel, glue_job.py."
  type        = string
  default     = "../target/package"

  validation {
    condition     = length(var.package_folder) > 0
    error_message = "package_folder is empty."
  }
}

variable "deletion_protection" {
  description = "Whether the tables refuse to be deleted. Set it to false, and apply, before a destroy."
  type        = bool
  default     = true
}

variable "force_destroy" {
  description = "Whether a destroy removes what lies in the buckets too."
  type        = bool
  default     = false
}

variable "log_retention_days" {
  description = "Days that log lines are kept, one of those that CloudWatch knows."
  type        = number
  default     = 365

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days is one of those that CloudWatch knows, such as 30, 90 or 365."
  }
}

variable "raw_expire_days" {
  description = "Days that raw interactions are kept; 0 keeps them."
  type        = number
  default     = 0

  validation {
    condition     = var.raw_expire_days >= 0
    error_message = "raw_expire_days is 0 or more."
  }
}

variable "recommendations_expire_days" {
  description = "Days that delivered lists and dead letters are kept; 0 keeps them."
  type        = number
  default     = 0

  validation {
    # A worker looks for the end of its chain among objects that may be as old as the stream's records.
    condition     = var.recommendations_expire_days == 0 || var.recommendations_expire_days * 24 > var.retention_hours
    error_message = "recommendations_expire_days is 0, or more than the stream keeps records."
  }
}

# The stream

variable "shape" {
  description = "Who applies the model: `stream`, a function behind an event source mapping, or `transform`, the function that Firehose calls."
  type        = string
  default     = "stream"

  validation {
    condition     = contains(["stream", "transform"], var.shape)
    error_message = "shape is stream or transform."
  }
}

variable "delivery" {
  description = "How the shape `stream` delivers: through `firehose` (at least once, one id), or as `objects` that the function writes (exactly once)."
  type        = string
  default     = "firehose"

  validation {
    condition     = contains(["firehose", "objects"], var.delivery)
    error_message = "delivery is firehose or objects."
  }

  validation {
    condition     = !(var.shape == "transform" && var.delivery == "objects")
    error_message = "With shape = \"transform\" Firehose delivers: set delivery = \"firehose\"."
  }
}

variable "delivery_format" {
  description = "What delivered objects are: parquet or jsonl. A stream keeps what it began with."
  type        = string
  default     = "parquet"

  validation {
    condition     = contains(["parquet", "jsonl"], var.delivery_format)
    error_message = "delivery_format is parquet or jsonl."
  }
}

variable "is_streaming" {
  description = "Whether events are read. Deploy with false, train and promote the first model, then set it to true: without a model no function starts."
  type        = bool
  default     = true
}

variable "stream_mode" {
  description = "Capacity of the Kinesis stream: ON_DEMAND, or PROVISIONED with shard_count."
  type        = string
  default     = "ON_DEMAND"

  validation {
    condition     = contains(["ON_DEMAND", "PROVISIONED"], var.stream_mode)
    error_message = "stream_mode is ON_DEMAND or PROVISIONED."
  }
}

variable "shard_count" {
  description = "Shards of a provisioned stream; each takes 1 MB or 1,000 records a second."
  type        = number
  default     = 2

  validation {
    condition     = var.shard_count >= 1 && floor(var.shard_count) == var.shard_count
    error_message = "shard_count is a whole number from 1."
  }
}

variable "retention_hours" {
  description = "How long the stream keeps records, in hours. What is not read by then is lost."
  type        = number
  default     = 72

  validation {
    condition     = var.retention_hours >= 24 && var.retention_hours <= 8760
    error_message = "retention_hours is 24 to 8760."
  }
}

variable "state_table" {
  description = "Name of the DynamoDB table that has the place of the one made here, such as one that was restored (docs/operations.md, Backup and restore); null for the one made here."
  type        = string
  default     = null

  validation {
    condition     = var.state_table == null || can(regex("^[A-Za-z0-9_.-]{3,255}$", var.state_table))
    error_message = "state_table is the name of a table of this account and region."
  }
}

variable "history_days" {
  description = "Days that a user's history outlives its last change; more than the stream keeps records."
  type        = number
  default     = 400

  validation {
    condition     = var.history_days * 24 > var.retention_hours && var.history_days <= 3650
    error_message = "history_days is more than retention_hours, and at most 3650."
  }
}

variable "list_length" {
  description = "Length of a list."
  type        = number
  default     = 20

  validation {
    condition     = var.list_length >= 1 && var.list_length <= 500
    error_message = "list_length is 1 to 500."
  }
}

variable "settings_file" {
  description = "An anabranch.toml for functions and training: event types, weights, rules of notifications. Defaults if null. Lambda takes 4 KB of variables in all."
  type        = string
  default     = null

  validation {
    condition     = var.settings_file == null || try(length(file(var.settings_file)) <= 3000, false)
    error_message = "settings_file is not there, or has more than 3,000 characters."
  }
}

variable "erasure_key" {
  description = "Secret under which forgotten users are named: 64 hexadecimal digits, one for everything that shares table or lake. Make one with: openssl rand -hex 32. Never change it (docs/operations.md, Secrets)."
  type        = string
  sensitive   = true

  validation {
    condition     = can(regex("^[0-9a-fA-F]{64}$", var.erasure_key))
    error_message = "erasure_key is 64 hexadecimal digits: openssl rand -hex 32."
  }
}

# The functions

variable "architecture" {
  description = "Machine of the functions, for which `make package` built zips: x86_64 or arm64."
  type        = string
  default     = "x86_64"

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "architecture is x86_64 or arm64."
  }
}

variable "function_memory_mb" {
  description = "Memory of a function, in MB: the snapshot and some 64; 1,769 MB is one processor."
  type        = number
  default     = 1769

  validation {
    condition     = var.function_memory_mb >= 128 && var.function_memory_mb <= 10240
    error_message = "function_memory_mb is 128 to 10240."
  }
}

variable "function_timeout_s" {
  description = "Longest time of an invocation, in seconds. Firehose waits for five minutes; a call of AWS's may take two with its retries."
  type        = number
  default     = 300

  validation {
    condition     = var.function_timeout_s >= 150 && var.function_timeout_s <= (var.shape == "transform" ? 300 : 900)
    error_message = "function_timeout_s is 150 to 900, with shape = \"transform\" at most 300."
  }
}

variable "function_storage_mb" {
  description = "Room of a function below /tmp, in MB: two snapshots."
  type        = number
  default     = 1024

  validation {
    condition     = var.function_storage_mb >= 512 && var.function_storage_mb <= 10240
    error_message = "function_storage_mb is 512 to 10240."
  }
}

variable "function_reserved_concurrency" {
  description = "Concurrent invocations reserved for the function that reads the stream, and the most there may be; -1 for neither."
  type        = number
  default     = -1

  validation {
    condition     = var.function_reserved_concurrency >= -1 && var.function_reserved_concurrency != 0
    error_message = "function_reserved_concurrency is -1, or 1 and more: 0 would stop the function."
  }
}

variable "model_poll_s" {
  description = "How often a function looks for a newer model, in seconds."
  type        = number
  default     = 60

  validation {
    condition     = var.model_poll_s >= 1
    error_message = "model_poll_s is 1 or more."
  }
}

variable "log_level" {
  description = "Level of the functions' log: error, warn, info, debug, or a filter such as info,anabranch_aws=debug."
  type        = string
  default     = "info"

  validation {
    condition     = length(var.log_level) > 0
    error_message = "log_level is empty."
  }
}

variable "metrics_namespace" {
  description = "Namespace of the functions' metrics in CloudWatch."
  type        = string
  default     = "Anabranch"

  validation {
    condition     = can(regex("^[^:]{1,255}$", var.metrics_namespace)) && !startswith(var.metrics_namespace, "AWS/")
    error_message = "metrics_namespace has 1 to 255 characters and does not begin with AWS/."
  }
}

# The event source mapping (shape = "stream")

variable "mapping_batch_size" {
  description = "Records of an invocation, at most."
  type        = number
  default     = 1000

  validation {
    condition     = var.mapping_batch_size >= 1 && var.mapping_batch_size <= 10000
    error_message = "mapping_batch_size is 1 to 10000."
  }
}

variable "mapping_window_s" {
  description = "Longest wait for a batch, in seconds: larger batches write fewer histories and cost less."
  type        = number
  default     = 1

  validation {
    condition     = var.mapping_window_s >= 0 && var.mapping_window_s <= 300
    error_message = "mapping_window_s is 0 to 300."
  }
}

variable "mapping_parallelization" {
  description = "Batches of one shard side by side. Above 1 only through Firehose and without notifications (docs/operations.md, Batches side by side)."
  type        = number
  default     = 1

  validation {
    condition     = var.mapping_parallelization >= 1 && var.mapping_parallelization <= 10
    error_message = "mapping_parallelization is 1 to 10."
  }

  validation {
    condition     = var.mapping_parallelization == 1 || (var.delivery == "firehose" && var.notify_channel == "none")
    error_message = "mapping_parallelization is 1 with delivery = \"objects\" and where notifications are sent."
  }
}

variable "mapping_record_age_max_s" {
  description = "Age at which records go to the bucket of failures, in seconds; below the stream's retention. Lambda hands over none that is older: neither one that fails nor one that was never tried. Null: two thirds of the retention, a week at most."
  type        = number
  default     = null

  validation {
    condition     = var.mapping_record_age_max_s == null || try(var.mapping_record_age_max_s >= 60 && var.mapping_record_age_max_s < var.retention_hours * 3600, false)
    error_message = "mapping_record_age_max_s is 60 or more, and less than the stream keeps records: a batch that fails until its records expire is lost."
  }
}

variable "mapping_attempts_max" {
  description = "Attempts of a batch that fails, before it goes to the bucket of failures. An outage is no fault of the batch: the age should come first."
  type        = number
  default     = 1000

  validation {
    condition     = var.mapping_attempts_max >= 1 && var.mapping_attempts_max <= 10000
    error_message = "mapping_attempts_max is 1 to 10000."
  }
}

# Firehose

variable "firehose_buffer_mb" {
  description = "Size of a delivered object before compression, in MB; Parquet needs 64."
  type        = number
  default     = 64

  validation {
    condition     = var.firehose_buffer_mb >= (var.delivery_format == "parquet" ? 64 : 1) && var.firehose_buffer_mb <= 128
    error_message = "firehose_buffer_mb is 1 to 128; Parquet needs 64 at least."
  }
}

variable "firehose_buffer_s" {
  description = "Longest wait for a delivered object, in seconds."
  type        = number
  default     = 60

  validation {
    condition     = var.firehose_buffer_s >= 0 && var.firehose_buffer_s <= 900
    error_message = "firehose_buffer_s is 0 to 900."
  }
}

variable "transform_buffer_mb" {
  description = "Data of one invocation of `transform`, in MB. Lists are larger than events, and an answer may have 6 MB."
  type        = number
  default     = 0.2

  validation {
    condition     = var.transform_buffer_mb >= 0.2 && var.transform_buffer_mb <= 3
    error_message = "transform_buffer_mb is 0.2 to 3."
  }
}

variable "transform_buffer_s" {
  description = "Longest wait for an invocation of `transform`, in seconds."
  type        = number
  default     = 60

  validation {
    condition     = var.transform_buffer_s >= 0 && var.transform_buffer_s <= 900
    error_message = "transform_buffer_s is 0 to 900."
  }
}

# Notifications

variable "notify_channel" {
  description = "Where notifications go: none, log, webhook or sns. What triggers them stands in settings_file, [notify.rules]."
  type        = string
  default     = "none"

  validation {
    condition     = contains(["none", "log", "webhook", "sns"], var.notify_channel)
    error_message = "notify_channel is none, log, webhook or sns."
  }

  validation {
    condition     = var.notify_channel == "none" || var.settings_file != null
    error_message = "Notifications need rules: name a settings_file with [notify.rules]."
  }

  validation {
    # A function with rules puts notices, and nobody would send them.
    condition     = var.notify_channel != "none" || !try(strcontains(file(var.settings_file), "[notify.rules"), false)
    error_message = "settings_file has [notify.rules]: say where notifications go."
  }
}

variable "webhook_url" {
  description = "Where the channel webhook posts to."
  type        = string
  default     = ""

  validation {
    condition     = startswith(var.webhook_url, "https://") || (var.webhook_url == "" && var.notify_channel != "webhook")
    error_message = "webhook_url begins with https://, and the channel webhook needs it."
  }
}

variable "webhook_secret" {
  description = "Secret of the webhook's signature, 16 characters or more: openssl rand -hex 32."
  type        = string
  default     = ""
  sensitive   = true

  validation {
    condition     = length(var.webhook_secret) >= 16 || (var.webhook_secret == "" && var.notify_channel != "webhook")
    error_message = "webhook_secret has 16 characters or more, and the channel webhook needs it."
  }
}

variable "notify_reserved_concurrency" {
  description = "Concurrent invocations of the function that sends: 1. -1 where the account's quota does not allow to reserve; its lease then does the same, at the price of an idle attempt."
  type        = number
  default     = 1

  validation {
    condition     = contains([-1, 1], var.notify_reserved_concurrency)
    error_message = "notify_reserved_concurrency is 1 or -1."
  }
}

variable "notify_settle_minutes" {
  description = "With shape = \"transform\": within this time what arrived is in the histories, in minutes; longer than Firehose buffers."
  type        = number
  default     = 16

  validation {
    condition     = var.notify_settle_minutes >= 1 && var.notify_settle_minutes <= 120
    error_message = "notify_settle_minutes is 1 to 120."
  }
}

# Training

variable "raw_prefix" {
  description = "Folder of raw interactions in their bucket, with a slash at its end; empty for the whole bucket."
  type        = string
  default     = ""

  validation {
    condition     = var.raw_prefix == "" || can(regex("^[^/].*/$", var.raw_prefix))
    error_message = "raw_prefix is empty, or ends with a slash and does not begin with one."
  }
}

variable "mapping_file" {
  description = "What columns of the raw files mean, such as examples/completejourney.toml; Personalize's own names if null."
  type        = string
  default     = null

  validation {
    condition     = var.mapping_file == null || try(fileexists(var.mapping_file), false)
    error_message = "mapping_file is not there."
  }
}

variable "training_schedule" {
  description = "When a run begins, as cron(…) in UTC."
  type        = string
  default     = "cron(0 2 * * ? *)"

  validation {
    condition     = can(regex("^cron\\(.+\\)$", var.training_schedule))
    error_message = "training_schedule is cron(…), as Glue writes it."
  }
}

variable "is_training_scheduled" {
  description = "Whether runs begin by themselves."
  type        = bool
  default     = true
}

variable "training_interval_hours" {
  description = "Hours from one training to the next: a model three times as old is an alarm."
  type        = number
  default     = 24

  validation {
    condition     = var.training_interval_hours >= 1
    error_message = "training_interval_hours is 1 or more."
  }
}

variable "glue_version" {
  description = "Version of Glue."
  type        = string
  default     = "5.0"

  validation {
    condition     = contains(["5.0", "5.1", "6.0"], var.glue_version)
    error_message = "glue_version is 5.0, 5.1 or 6.0."
  }
}

variable "glue_worker_type" {
  description = "Kind of worker; `anabranch plan` says which."
  type        = string
  default     = "G.1X"

  validation {
    condition     = contains(["G.1X", "G.2X", "G.4X", "G.8X", "G.12X", "G.16X", "R.1X", "R.2X", "R.4X", "R.8X"], var.glue_worker_type)
    error_message = "glue_worker_type is one of Glue's, such as G.1X."
  }
}

variable "glue_workers" {
  description = "Number of workers, the driver's included."
  type        = number
  default     = 2

  validation {
    condition     = var.glue_workers >= 2 && floor(var.glue_workers) == var.glue_workers
    error_message = "glue_workers is a whole number from 2."
  }
}

variable "glue_execution_class" {
  description = "STANDARD, or FLEX: cheaper, and begins and goes on when there is room."
  type        = string
  default     = "STANDARD"

  validation {
    condition     = contains(["STANDARD", "FLEX"], var.glue_execution_class)
    error_message = "glue_execution_class is STANDARD or FLEX."
  }
}

variable "glue_timeout_minutes" {
  description = "Longest run, in minutes."
  type        = number
  default     = 480

  validation {
    condition     = var.glue_timeout_minutes >= 1 && var.glue_timeout_minutes <= 10080
    error_message = "glue_timeout_minutes is 1 to 10080."
  }
}

variable "glue_retries" {
  description = "Runs after a failed one; they go on from its checkpoints."
  type        = number
  default     = 1

  validation {
    condition     = var.glue_retries >= 0 && var.glue_retries <= 10
    error_message = "glue_retries is 0 to 10."
  }
}

variable "glue_connections" {
  description = "Glue connections of the job, such as the output glue_connection of vectors-aurora."
  type        = list(string)
  default     = []
}

variable "training_policy_arns" {
  description = "Policies of the job's role beside its own, such as the output policy_arn of vectors-s3 or vectors-aurora."
  type        = list(string)
  default     = []
}

variable "driver_interactions_max" {
  description = "Up to so many interactions train on the driver alone, without Spark."
  type        = number
  default     = 20000000

  validation {
    condition     = var.driver_interactions_max >= 0
    error_message = "driver_interactions_max is 0 or more."
  }
}

variable "is_incremental" {
  description = "Whether a run reads only the raw files that the dataset does not name yet; otherwise all of them."
  type        = bool
  default     = false
}

variable "is_promoting" {
  description = "Whether a run makes its model the current one if it is better; otherwise it only publishes."
  type        = bool
  default     = true
}

variable "promotion_metric" {
  description = "Metric of the evaluation that says which model is better."
  type        = string
  default     = "recall"

  validation {
    condition     = can(regex("^(recall|ndcg|mrr|coverage|[a-z-]+/[a-z-]+/[a-z]+@[0-9]+)$", var.promotion_metric))
    error_message = "promotion_metric is recall, ndcg, mrr or coverage, or a name of metrics.json such as model/seen-hidden/recall@20."
  }
}

variable "promotion_min_improvement" {
  description = "Part by which a new model has to be better than what the current one was published with: 0.01 is a hundredth."
  type        = number
  default     = 0

  validation {
    condition     = var.promotion_min_improvement > -1 && var.promotion_min_improvement < 10
    error_message = "promotion_min_improvement is a part, such as 0.01."
  }
}

variable "has_bulk_lists" {
  description = "Whether a run writes a list for every user into the lake."
  type        = bool
  default     = true
}

variable "has_embeddings" {
  description = "Whether a run writes embeddings: files in the lake and, if settings_file names one in [vectors], into a vector database."
  type        = bool
  default     = false
}

# Looking after it

variable "alarm_emails" {
  description = "Addresses that alarms go to; each has to confirm once. Other ways subscribe to the output alerts_topic_arn."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for email in var.alarm_emails : can(regex("^[^@ ]+@[^@ ]+$", email))])
    error_message = "alarm_emails are addresses."
  }
}

variable "expects_events" {
  description = "Whether there is always traffic, so that none for 15 minutes is an alarm."
  type        = bool
  default     = false
}

variable "alarm_latency_ms" {
  description = "Bound of the p99 from arrival to delivery, in milliseconds. Firehose's buffer is not in it."
  type        = number
  default     = 60000

  validation {
    condition     = var.alarm_latency_ms >= 1
    error_message = "alarm_latency_ms is 1 or more."
  }
}

variable "alarm_dead_letters_percent" {
  description = "Refused events that are no alarm, in hundredths of all."
  type        = number
  default     = 1

  validation {
    condition     = var.alarm_dead_letters_percent >= 0 && var.alarm_dead_letters_percent <= 100
    error_message = "alarm_dead_letters_percent is 0 to 100."
  }
}

variable "alarm_coverage_percent" {
  description = "Lists that have to be as long as was asked for, in hundredths."
  type        = number
  default     = 90

  validation {
    condition     = var.alarm_coverage_percent >= 0 && var.alarm_coverage_percent <= 100
    error_message = "alarm_coverage_percent is 0 to 100."
  }
}

variable "monthly_budget_usd" {
  description = "Dollars a month beyond which the budget tells; 0 for no budget. `anabranch plan` says what to expect."
  type        = number
  default     = 200

  validation {
    condition     = var.monthly_budget_usd >= 0
    error_message = "monthly_budget_usd is 0 or more."
  }
}

variable "is_budget_by_tag" {
  description = "Whether the budget counts what has the tag Deployment only. The tag has to be activated for cost allocation first; otherwise the account's costs count."
  type        = bool
  default     = false
}

variable "athena_scan_gb_max" {
  description = "Most that one query of Athena may read, in GB."
  type        = number
  default     = 100

  validation {
    condition     = var.athena_scan_gb_max >= 0.01
    error_message = "athena_scan_gb_max is 0.01 or more: Athena's least."
  }
}
