variable "name" {
  description = "Name of the job."
  type        = string
}

variable "partition" {
  description = "Partition of the account, such as aws."
  type        = string
}

variable "region" {
  description = "Region of the job."
  type        = string
}

variable "account_id" {
  description = "Account of the job."
  type        = string
}

variable "package_folder" {
  description = "Folder that `make package` made: the wheel and glue_job.py."
  type        = string
}

variable "mapping_file" {
  description = "What columns of the raw files mean; null for Personalize's own names."
  type        = string
}

variable "settings_file" {
  description = "anabranch.toml; null for the defaults."
  type        = string
}

variable "erasure_key" {
  description = "Secret under which forgotten users are named: 64 hexadecimal digits."
  type        = string
  sensitive   = true
}

variable "raw" {
  description = "Bucket of raw interactions."
  type        = object({ name = string, arn = string })
}

variable "raw_prefix" {
  description = "Folder of raw interactions in it."
  type        = string
}

variable "lake" {
  description = "Bucket of the dataset."
  type        = object({ name = string, arn = string })
}

variable "models" {
  description = "Bucket of the model registry."
  type        = object({ name = string, arn = string })
}

variable "artefacts" {
  description = "Bucket of the job, the wheel, and what runs leave behind for a while."
  type        = object({ name = string, arn = string })
}

variable "temporary_prefix" {
  description = "Folder of what runs leave behind, which expires."
  type        = string
}

variable "arguments" {
  description = "Arguments of the job beside its places."
  type        = map(string)
}

variable "glue_version" {
  description = "Version of Glue."
  type        = string
}

variable "worker_type" {
  description = "Kind of worker."
  type        = string
}

variable "workers" {
  description = "Number of workers, the driver's included."
  type        = number
}

variable "execution_class" {
  description = "STANDARD or FLEX."
  type        = string
}

variable "timeout_minutes" {
  description = "Longest run, in minutes."
  type        = number
}

variable "retries" {
  description = "Runs after a failed one; they go on from its checkpoints."
  type        = number
}

variable "connections" {
  description = "Glue connections, such as the one into the VPC of a vector database."
  type        = list(string)
}

variable "extra_policy_arns" {
  description = "Policies that the job's role has beside its own."
  type        = list(string)
}

variable "schedule" {
  description = "When a run begins, as cron(…) in UTC."
  type        = string
}

variable "is_scheduled" {
  description = "Whether runs begin by themselves."
  type        = bool
}

variable "topic_arn" {
  description = "Topic that hears of failed runs."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of data, bookmarks and logs."
  type        = string
}

variable "log_retention_days" {
  description = "Days that log lines are kept."
  type        = number
}
