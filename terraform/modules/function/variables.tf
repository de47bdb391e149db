variable "name" {
  description = "Name of the function, unique in account and region."
  type        = string
}

variable "description" {
  description = "What the function does."
  type        = string
}

variable "zip" {
  description = "Path of the zip with the executable bootstrap."
  type        = string
}

variable "architecture" {
  description = "Machine that the zip was built for."
  type        = string
}

variable "memory_mb" {
  description = "Memory, in MB."
  type        = number
}

variable "timeout_s" {
  description = "Longest time of an invocation, in seconds."
  type        = number
}

variable "storage_mb" {
  description = "Room below /tmp, in MB: two snapshots, while a newer one is downloaded."
  type        = number
}

variable "reserved_concurrency" {
  description = "Concurrent invocations that are reserved and the most there may be; -1 reserves none and bounds none."
  type        = number
}

variable "environment" {
  description = "Settings, by name of variable."
  type        = map(string)
}

variable "statements" {
  description = "What the role may do, by Sid: actions, resources, and conditions (operator to key to values)."
  type = map(object({
    actions   = list(string)
    resources = list(string)
    condition = optional(map(map(list(string))))
  }))
}

variable "kms_key_arn" {
  description = "Key of variables, logs and data."
  type        = string
}

variable "log_retention_days" {
  description = "Days that log lines are kept."
  type        = number
}
