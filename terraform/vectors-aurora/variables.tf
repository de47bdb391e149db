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
  description = "Key of the database and its password: the output kms_key_arn of the deployment."
  type        = string

  validation {
    condition     = can(regex("^arn:[^:]+:kms:[^:]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn is the ARN of a key, not of an alias."
  }
}

variable "cidr_block" {
  description = "Addresses of the VPC, a /24 or larger that nothing beside it uses."
  type        = string
  default     = "10.86.0.0/22"

  validation {
    condition     = can(cidrsubnet(var.cidr_block, 4, 0)) && try(tonumber(split("/", var.cidr_block)[1]) <= 24, false)
    error_message = "cidr_block is a block of addresses such as 10.86.0.0/22, a /24 or larger."
  }
}

variable "zones" {
  description = "Two availability zones or more; the region's a and b if null, which not every region has."
  type        = list(string)
  default     = null

  validation {
    condition     = var.zones == null || try(length(var.zones) >= 2 && length(var.zones) <= 4 && length(var.zones) == length(distinct(var.zones)), false)
    error_message = "zones are two to four, each once."
  }
}

variable "engine_version" {
  description = "Version of Aurora PostgreSQL; Aurora raises it no further by itself. Its pgvector has to be 0.8 or newer: 17.5, 16.9, and what follows them."
  type        = string
  default     = "17.5"

  validation {
    condition     = can(regex("^1[6-9]\\.[0-9]+$", var.engine_version))
    error_message = "engine_version is 16 or newer, such as 17.5."
  }
}

variable "capacity_min" {
  description = "Least capacity, in ACU of 2 GiB. 0 stops the database while nobody asks; the first question then waits some 15 s."
  type        = number
  default     = 0.5

  validation {
    condition     = var.capacity_min >= 0 && var.capacity_min <= var.capacity_max
    error_message = "capacity_min is 0 or more, and at most capacity_max."
  }
}

variable "capacity_max" {
  description = "Most capacity, in ACU of 2 GiB. The graph of an index should fit into memory."
  type        = number
  default     = 8

  validation {
    condition     = var.capacity_max >= 1 && var.capacity_max <= 256
    error_message = "capacity_max is 1 to 256."
  }
}

variable "instances" {
  description = "Instances: 1, or 2 and more in several zones. Embeddings can be written again from the model, so 1 loses nothing."
  type        = number
  default     = 1

  validation {
    condition     = var.instances >= 1 && var.instances <= 15 && floor(var.instances) == var.instances
    error_message = "instances is a whole number from 1 to 15."
  }
}

variable "backup_days" {
  description = "Days that backups are kept."
  type        = number
  default     = 7

  validation {
    condition     = var.backup_days >= 1 && var.backup_days <= 35
    error_message = "backup_days is 1 to 35."
  }
}

variable "deletion_protection" {
  description = "Whether the database refuses to be deleted. Set it to false, and apply, before a destroy."
  type        = bool
  default     = true
}

variable "log_retention_days" {
  description = "Days that log lines are kept, one of those that CloudWatch knows."
  type        = number
  default     = 365

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days is one of those that CloudWatch knows, such as 30, 90 or 365."
  }
}

variable "interface_endpoints" {
  description = "Services that the training job reaches from inside the VPC, which has no way to the internet. S3 has an endpoint of its own, which costs nothing."
  type        = list(string)
  default     = ["glue", "kms", "logs", "monitoring", "secretsmanager", "sts"]

  validation {
    condition     = length(var.interface_endpoints) == length(distinct(var.interface_endpoints))
    error_message = "interface_endpoints names a service twice."
  }
}

variable "ca_file" {
  description = "Certificates (PEM) that the server's must be signed by, as s3://bucket/key that the job may read: the bundle of the region, from AWS. Without them the way to the database is encrypted, and who answers is not verified."
  type        = string
  default     = ""

  validation {
    condition     = var.ca_file == "" || can(regex("^s3://[^/]+/.+$", var.ca_file))
    error_message = "ca_file is s3://bucket/key."
  }
}
