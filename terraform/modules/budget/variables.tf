variable "name" {
  description = "Name of the deployment, and value of its tag."
  type        = string
}

variable "limit_usd" {
  description = "Limit of a month, in dollars."
  type        = number
}

variable "by_tag" {
  description = "Whether only costs with the deployment's tag count; otherwise the account's."
  type        = bool
}

variable "topic_arn" {
  description = "Topic that is told."
  type        = string
}
