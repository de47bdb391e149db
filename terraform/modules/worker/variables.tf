variable "name" {
  description = "Name of the deployment."
  type        = string
}

variable "stream_arn" {
  description = "ARN of the Kinesis stream."
  type        = string
}

variable "table_arns" {
  description = "ARNs of the tables, by what they hold: state, leases, outbox."
  type        = map(string)
}

variable "topic_arn" {
  description = "ARN of the topic of notifications; null without."
  type        = string
}

variable "raw_arn" {
  description = "ARN of the bucket of raw interactions."
  type        = string
}

variable "lake_arn" {
  description = "ARN of the bucket of the dataset."
  type        = string
}

variable "models_arn" {
  description = "ARN of the bucket of models."
  type        = string
}

variable "recommendations_arn" {
  description = "ARN of the bucket of lists and dead letters."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of all of it."
  type        = string
}
