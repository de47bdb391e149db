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
