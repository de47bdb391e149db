variable "name" {
  description = "Name of the deployment; the database has underscores for its hyphens."
  type        = string
}

variable "partition" {
  description = "Partition of the account, such as aws."
  type        = string
}

variable "region" {
  description = "Region of the catalogue."
  type        = string
}

variable "account_id" {
  description = "Account of the catalogue."
  type        = string
}

variable "recommendations_bucket" {
  description = "Bucket that lists are delivered to."
  type        = string
}

variable "lists_prefix" {
  description = "Folder of the lists, with a slash at its end."
  type        = string
}

variable "format" {
  description = "What delivered objects are: parquet or jsonl."
  type        = string
}

variable "is_firehose" {
  description = "Whether Firehose delivers, in folders of its own; otherwise functions and workers do."
  type        = bool
}

variable "lake_bucket" {
  description = "Bucket of the dataset."
  type        = string
}

variable "queries_bucket" {
  description = "Bucket of Athena's results."
  type        = string
}

variable "scan_gb_max" {
  description = "Most that one query may read, in GB."
  type        = number
}

variable "kms_key_arn" {
  description = "Key of the results."
  type        = string
}

variable "force_destroy" {
  description = "Whether destroying removes the workgroup with its named queries."
  type        = bool
}
