variable "prefix" {
  description = "What the alarms' names begin with, and the dashboard's name."
  type        = string
}

variable "region" {
  description = "Region of the metrics."
  type        = string
}

variable "shape" {
  description = "stream or transform."
  type        = string
}

variable "metrics_namespace" {
  description = "Namespace of the functions' metrics."
  type        = string
}

variable "stream_name" {
  description = "Name of the Kinesis stream, the value of the metrics' dimension Stream."
  type        = string
}

variable "read_within_s" {
  description = "Age at which records are not read any more, in seconds."
  type        = number
}

variable "is_streaming" {
  description = "Whether the functions read the stream, and send."
  type        = bool
}

variable "batch_wait_s" {
  description = "Longest wait for a batch, in seconds."
  type        = number
}

variable "functions" {
  description = "Names of the functions, by what they do; null for one that is not there."
  type        = map(string)
}

variable "mapping_uuid" {
  description = "UUID of the event source mapping; null without."
  type        = string
}

variable "tables" {
  description = "Names of the DynamoDB tables, by what they hold."
  type        = map(string)
}

variable "has_firehose" {
  description = "Whether Firehose delivers."
  type        = bool
}

variable "firehose_name" {
  description = "Name of the Firehose stream; null without."
  type        = string
}

variable "firehose_buffer_s" {
  description = "Longest wait of Firehose for an object, in seconds."
  type        = number
}

variable "is_parquet" {
  description = "Whether Firehose makes Parquet."
  type        = bool
}

variable "has_notifications" {
  description = "Whether notifications are sent."
  type        = bool
}

variable "training_failure_rule" {
  description = "Name of the rule that failed runs of training meet."
  type        = string
}

variable "training_interval_hours" {
  description = "Hours from one training to the next."
  type        = number
}

variable "expects_events" {
  description = "Whether there is always traffic, so that none is an alarm."
  type        = bool
}

variable "latency_ms_max" {
  description = "Bound of the p99 from arrival to delivery, in milliseconds."
  type        = number
}

variable "dead_letters_percent_max" {
  description = "Refused events that are no alarm, in hundredths of all."
  type        = number
}

variable "coverage_percent_min" {
  description = "Lists that have to be as long as was asked for, in hundredths."
  type        = number
}

variable "topic_arn" {
  description = "Topic that is told."
  type        = string
}
