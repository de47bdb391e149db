variable "name" {
  description = "Name of the bucket, unique in the world."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.name))
    error_message = "A bucket's name has 3 to 63 lower-case letters, digits and hyphens."
  }
}

variable "kms_key_arn" {
  description = "Key that objects are encrypted with."
  type        = string
}

variable "force_destroy" {
  description = "Whether destroying removes the objects too."
  type        = bool
}

variable "noncurrent_days" {
  description = "Days that a version outlives its replacement or deletion."
  type        = number
  default     = 30

  validation {
    condition     = var.noncurrent_days >= 1
    error_message = "noncurrent_days is at least 1."
  }
}

variable "expire" {
  description = "What goes by itself: name of the rule to prefix and age in days."
  type = map(object({
    prefix = string
    days   = number
  }))
  default = {}
}
