variable "name" {
  description = "Name of the Kinesis stream."
  type        = string
}

variable "prefix" {
  description = "What the tables' names begin with."
  type        = string
}

variable "stream_mode" {
  description = "ON_DEMAND or PROVISIONED."
  type        = string
}

variable "shard_count" {
  description = "Shards of a provisioned stream."
  type        = number
}

variable "retention_hours" {
  description = "How long the stream keeps records, in hours."
  type        = number
}

variable "deletion_protection" {
  description = "Whether the tables refuse to be deleted."
  type        = bool
}

variable "kms_key_arn" {
  description = "Key of stream and tables."
  type        = string
}
