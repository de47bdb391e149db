# What Athena reads: recommendations and interactions as tables. Partitions are projected from the folders' names, so
# nothing crawls, and an object can be asked for as soon as it is there.

resource "aws_glue_catalog_database" "this" {
  name        = replace(var.name, "-", "_")
  description = "Recommendations and interactions of the Anabranch deployment ${var.name}"
}

locals {
  parquet = {
    input  = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat"
    output = "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat"
    serde  = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
  }
  json = {
    input  = "org.apache.hadoop.mapred.TextInputFormat"
    output = "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat"
    serde  = "org.openx.data.jsonserde.JsonSerDe"
  }
  lists = var.format == "parquet" ? local.parquet : local.json

  # Our own Parquet objects have timestamps; JSON, and what Firehose makes of it, the milliseconds themselves.
  time_type = var.format == "parquet" && !var.is_firehose ? "timestamp" : "bigint"

  # The fields of docs/formats.md, "Delivered objects", in their order.
  list_columns = [
    ["recommendationid", "string", "One for each event, however often a list is delivered"],
    ["userid", "string", "The user, if known"],
    ["sessionid", "string", "The session, if the user is unknown"],
    ["eventid", "string", "The event that caused the list"],
    ["eventtype", "string", "Its type"],
    ["eventitemid", "string", "Its item"],
    ["eventtimems", local.time_type, "When it happened"],
    ["arrivaltimems", local.time_type, "When it arrived in the stream"],
    ["trigger", "string", "event or user"],
    ["shardid", "string", "Shard that carried it"],
    ["sequencenumber", "string", "Its number there; compare as a number"],
    ["subsequencenumber", "bigint", "Its place in an aggregate"],
    ["snapshotversion", "string", "The model"],
    ["overlayversion", "string", "The overlay"],
    ["items", "array<struct<itemid:string,score:float>>", "The list, best first"],
  ]

  # The columns of batch/src/etl/days.rs.
  interaction_columns = [
    ["user_id", "string", "The user, if known"],
    ["session_id", "string", "The session"],
    ["item_id", "string", "The item"],
    ["event_type", "string", "The type"],
    ["event_value", "float", "The value, such as a quantity"],
    ["time_ms", "timestamp", "When it happened, UTC"],
    ["event_id", "string", "16 hexadecimal digits"],
  ]

  day = {
    "projection.day.type"          = "date"
    "projection.day.format"        = "yyyy-MM-dd"
    "projection.day.interval"      = "1"
    "projection.day.interval.unit" = "DAYS"
  }
  lists_root = "s3://${var.recommendations_bucket}/${trimsuffix(var.lists_prefix, "/")}"
  # Objects lie in a folder of their stream (its name and creation time), which a query has to name.
  list_partitions = concat(var.is_firehose ? [] : [["namespace", "string"]], [["day", "string"], ["hour", "string"]])
}

resource "aws_glue_catalog_table" "recommendations" {
  name          = "recommendations"
  database_name = aws_glue_catalog_database.this.name
  description   = "One row a list, by hour of arrival"
  table_type    = "EXTERNAL_TABLE"

  parameters = merge(local.day, {
    EXTERNAL                 = "TRUE"
    classification           = var.format == "parquet" ? "parquet" : "json"
    "projection.enabled"     = "true"
    "projection.day.range"   = "NOW-2YEARS,NOW+1DAYS"
    "projection.hour.type"   = "integer"
    "projection.hour.range"  = "0,23"
    "projection.hour.digits" = "2"
    "storage.location.template" = join("/", concat(
      [local.lists_root], var.is_firehose ? [] : ["$${namespace}"], ["day=$${day}", "hour=$${hour}"]
    ))
  }, var.is_firehose ? {} : { "projection.namespace.type" = "injected" })

  dynamic "partition_keys" {
    for_each = local.list_partitions

    content {
      name = partition_keys.value[0]
      type = partition_keys.value[1]
    }
  }

  storage_descriptor {
    location      = "${local.lists_root}/"
    input_format  = local.lists.input
    output_format = local.lists.output

    ser_de_info {
      serialization_library = local.lists.serde
    }

    dynamic "columns" {
      for_each = local.list_columns

      content {
        name    = columns.value[0]
        type    = columns.value[1]
        comment = columns.value[2]
      }
    }
  }
}

resource "aws_glue_catalog_table" "interactions" {
  name          = "interactions"
  database_name = aws_glue_catalog_database.this.name
  description   = "Clean interactions of the newest dataset, by day"
  table_type    = "EXTERNAL_TABLE"

  parameters = merge(local.day, {
    EXTERNAL             = "TRUE"
    classification       = "parquet"
    "projection.enabled" = "true"
    # Files may reach back to 2000, the oldest time that an event may have (docs/operations.md, time-too-old).
    "projection.day.range"      = "2000-01-01,NOW+1DAYS"
    "storage.location.template" = "s3://${var.lake_bucket}/interactions/day=$${day}"
  })

  partition_keys {
    name = "day"
    type = "string"
  }

  storage_descriptor {
    location      = "s3://${var.lake_bucket}/interactions/"
    input_format  = local.parquet.input
    output_format = local.parquet.output

    ser_de_info {
      serialization_library = local.parquet.serde
    }

    dynamic "columns" {
      for_each = local.interaction_columns

      content {
        name    = columns.value[0]
        type    = columns.value[1]
        comment = columns.value[2]
      }
    }
  }
}

# Queries of people: encrypted results that go by themselves, and a bound on what one query may read.
resource "aws_athena_workgroup" "this" {
  name          = var.name
  description   = "Queries on the Anabranch deployment ${var.name}"
  force_destroy = var.force_destroy

  configuration {
    enforce_workgroup_configuration    = true
    publish_cloudwatch_metrics_enabled = true
    bytes_scanned_cutoff_per_query     = var.scan_gb_max * 1000 * 1000 * 1000

    result_configuration {
      output_location = "s3://${var.queries_bucket}/results/"

      encryption_configuration {
        encryption_option = "SSE_KMS"
        kms_key_arn       = var.kms_key_arn
      }
    }
  }
}
