variable "name" {
  description = "Name of the Firehose stream."
  type        = string
}

variable "region" {
  description = "Region of the table that gives the columns."
  type        = string
}

variable "account_id" {
  description = "Account whose Firehose may use the role."
  type        = string
}

variable "bucket_arn" {
  description = "Bucket that is delivered to."
  type        = string
}

variable "prefix" {
  description = "Folder of the lists, with a slash at its end."
  type        = string
}

variable "error_prefix" {
  description = "Folder of what could not be delivered, outside of every table, with a slash at its end."
  type        = string

  validation {
    condition     = !startswith(var.error_prefix, var.prefix)
    error_message = "The folder of errors lies outside of the lists'."
  }
}

variable "format" {
  description = "parquet or jsonl."
  type        = string
}

variable "schema_database" {
  description = "Database of the table that gives Parquet its columns."
  type        = string
}

variable "schema_table" {
  description = "The table that gives Parquet its columns."
  type        = string
}

variable "schema_arns" {
  description = "ARNs of catalogue, database and table, to read the columns."
  type        = list(string)
}

variable "buffer_mb" {
  description = "Size of an object before compression, in MB; Parquet needs 64."
  type        = number

  validation {
    condition     = var.buffer_mb <= 128 && var.buffer_mb >= (var.format == "parquet" ? 64 : 1)
    error_message = "buffer_mb is 1 to 128; Parquet needs 64 at least."
  }
}

variable "buffer_s" {
  description = "Longest wait for an object, in seconds."
  type        = number
}

variable "reads_stream" {
  description = "Whether it reads a stream and calls a function; otherwise a function puts into it."
  type        = bool
}

variable "kinesis_stream_arn" {
  description = "Stream to read; null if a function puts into Firehose."
  type        = string
  default     = null
}

variable "processor_arn" {
  description = "Function that transforms what comes from Kinesis; null without."
  type        = string
  default     = null
}

variable "processor_buffer_mb" {
  description = "Data of one invocation of the processor, in MB."
  type        = number
}

variable "processor_buffer_s" {
  description = "Longest wait for an invocation of the processor, in seconds."
  type        = number
}

variable "kms_key_arn" {
  description = "Key of data and logs."
  type        = string
}

variable "log_retention_days" {
  description = "Days that log lines are kept."
  type        = number
}
