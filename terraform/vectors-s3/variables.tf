variable "name" {
  description = "Name of the deployment, as in the configuration beside this one."
  type        = string
  default     = "anabranch"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,16}[a-z0-9]$", var.name))
    error_message = "name has 3 to 18 lower-case letters, digits and hyphens and begins with a letter."
  }
}

variable "region" {
  description = "Region; that of the environment or profile if null."
  type        = string
  default     = null

  validation {
    condition     = var.region == null || can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", coalesce(var.region, "-")))
    error_message = "region is one such as eu-west-1."
  }
}

variable "tags" {
  description = "Tags of everything, beside Deployment."
  type        = map(string)
  default     = {}

  validation {
    condition     = !contains(keys(var.tags), "Deployment")
    error_message = "The tag Deployment is the deployment's name."
  }
}

variable "kms_key_arn" {
  description = "Key of the vectors: the output kms_key_arn of the deployment."
  type        = string

  validation {
    condition     = can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn is the ARN of a key, not of an alias."
  }
}

variable "force_destroy" {
  description = "Whether a destroy removes the vectors too."
  type        = bool
  default     = false
}
