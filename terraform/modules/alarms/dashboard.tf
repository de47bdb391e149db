# One page: what comes in, what goes out, how late, with which model, and what stands in the way.

locals {
  ours  = ["Stream", var.stream_name]
  width = 8
  tall  = 6

  # Title, metrics as CloudWatch writes them (namespace, name, dimension pairs, options), statistic.
  widgets = concat(
    [
      ["Events", [for name in ["EventsIn", "EventsApplied", "EventsDuplicate", "EventsLate", "EventsDeadLettered"] :
      concat([local.namespace, name], local.ours)], "Sum"],
      ["Lists", [for name in ["ListsMade", "ListsDelivered", "ListsFull", "ListsShortened", "ListsUndeliverable"] :
      concat([local.namespace, name], local.ours)], "Sum"],
      ["From arrival to delivery, ms", [for stat in ["p50", "p99"] :
      concat([local.namespace, "LatencyFromArrival"], local.ours, [{ stat = stat, label = stat }])], "p99"],
      ["Behind the stream, ms", [concat(
        [local.stream_age[0], local.stream_age[1]], flatten([for name, value in local.stream_age[2] : [name, value]])
      )], "Maximum"],
      ["Age of the model's newest event, s", [concat([local.namespace, "SnapshotAge"], local.ours)], "Maximum"],
      ["Batches", [concat([local.namespace, "BatchSize"], local.ours)], "Average"],
      ["Comes again, or is missing", [for name in ["RecordsRetried", "RecordsMissing"] :
      concat([local.namespace, name], local.ours)], "Sum"],
      ["Functions: errors and throttles", flatten([for name, function in local.functions : [
        for metric in ["Errors", "Throttles"] : jsonencode(["AWS/Lambda", metric, "FunctionName", function])
      ]]), "Sum"],
      ["Functions: p99 of the time, ms", [for name, function in local.functions :
      ["AWS/Lambda", "Duration", "FunctionName", function]], "p99"],
      ["Stream: bytes", [for name in ["IncomingBytes", "GetRecords.Bytes"] :
      ["AWS/Kinesis", name, "StreamName", var.stream_name]], "Sum"],
      ["Tables: units written", [for name, table in var.tables :
      ["AWS/DynamoDB", "ConsumedWriteCapacityUnits", "TableName", table]], "Sum"],
      ["Training: failed runs", [["AWS/Events", "Invocations", "RuleName", var.training_failure_rule]], "Sum"],
    ],
    var.has_firehose ? [
      ["Firehose: age of the oldest record, s", [["AWS/Firehose", "DeliveryToS3.DataFreshness", "DeliveryStreamName", var.firehose_name]], "Maximum"],
    ] : [],
    var.has_notifications ? [
      ["Notifications", [for name in ["NotificationsQueued", "NotificationsSent", "NotificationsRetried", "NotificationsDead", "NotificationsDropped"] :
      concat([local.namespace, name], local.ours)], "Sum"],
      ["Oldest due notification, ms", [concat([local.namespace, "NotificationsWaitingAge"], local.ours)], "Maximum"],
    ] : [],
  )
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = var.prefix

  dashboard_body = jsonencode({
    widgets = concat(
      [{
        type   = "alarm"
        x      = 0
        y      = 0
        width  = 3 * local.width
        height = 3
        properties = {
          title  = "Alarms"
          alarms = concat([for alarm in aws_cloudwatch_metric_alarm.simple : alarm.arn], [for alarm in aws_cloudwatch_metric_alarm.math : alarm.arn])
        }
      }],
      [for place, widget in local.widgets : {
        type   = "metric"
        x      = (place % 3) * local.width
        y      = 3 + floor(place / 3) * local.tall
        width  = local.width
        height = local.tall
        properties = {
          title   = widget[0]
          region  = var.region
          view    = "timeSeries"
          stat    = widget[2]
          period  = local.minute
          metrics = [for metric in widget[1] : try(jsondecode(metric), metric)]
        }
      }],
    )
  })
}
