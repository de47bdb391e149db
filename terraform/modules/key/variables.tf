variable "name" {
  description = "Name of the deployment."
  type        = string
}

variable "partition" {
  description = "Partition of the account, such as aws."
  type        = string
}

variable "region" {
  description = "Region of the deployment."
  type        = string
}

variable "account_id" {
  description = "Account of the deployment."
  type        = string
}

variable "alerts_topic_arn" {
  description = "ARN of the topic that events are told to."
  type        = string
}
