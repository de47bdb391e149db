variable "name" {
  description = "Name of the topic."
  type        = string
}

variable "account_id" {
  description = "Account that publishers act for."
  type        = string
}

variable "kms_key_arn" {
  description = "Key of the messages."
  type        = string
}

variable "publishers" {
  description = "Services that may publish; roles need no more than their own policy."
  type        = list(string)
  default     = []
}

variable "emails" {
  description = "Addresses that get the messages; each has to confirm once."
  type        = list(string)
  default     = []
}
