# What has to be looked at, and the page to look at it on. Names, units and meanings of our own metrics are those of
# lambda/src/report.rs; the bounds are those of docs/operations.md, which has a row for every alarm: cause and cure.

locals {
  # Every line of the functions has this namespace and this one dimension.
  namespace  = var.metrics_namespace
  dimensions = { Stream = var.stream_name }
  minute     = 60

  is_stream = var.shape == "stream"
  functions = { for name, function in var.functions : name => function if function != null }
  stream_age = (local.is_stream
    ? ["AWS/Lambda", "IteratorAge", { FunctionName = var.functions["stream"] }]
    : ["AWS/Firehose", "KinesisMillisBehindLatest", { DeliveryStreamName = var.firehose_name }]
  )
  # Attempts may take minutes each, so one bad minute in five is a failure that stays.
  in_15_minutes = { periods = 15, bad_periods = 3, period_s = 60 }

  # One metric against one bound: [namespace, name, dimensions], statistic, bound, periods of so many seconds.
  simple = merge(
    {
      lag = merge(local.in_15_minutes, {
        why    = "Reading is more than a minute behind in 3 of 15 minutes"
        metric = local.stream_age
        stat   = "Maximum", over = 60000
      })
      lag-near-retention = {
        why    = "Reading is behind by a quarter of the age at which records are not read any more"
        metric = local.stream_age
        stat   = "Maximum", over = 1000 * var.read_within_s / 4, periods = 2, period_s = 60
      }
      latency = {
        why    = "One list in a hundred comes more than a minute after its record arrived, for 5 minutes"
        metric = [local.namespace, "LatencyFromArrival", local.dimensions]
        stat   = "p99", over = var.latency_ms_max, periods = 5, period_s = 60
      }
      lists-undeliverable = {
        why    = "A list is longer than a Firehose record and was left out"
        metric = [local.namespace, "ListsUndeliverable", local.dimensions]
        stat   = "Sum", over = 0, periods = 1, period_s = 300
      }
      records-retried = {
        why    = "Deliveries fail in part for 15 minutes"
        metric = [local.namespace, "RecordsRetried", local.dimensions]
        stat   = "Sum", over = 0, periods = 3, period_s = 300
      }
      records-missing = {
        why    = "An object covers records that its batch does not hold"
        metric = [local.namespace, "RecordsMissing", local.dimensions]
        stat   = "Sum", over = 0, periods = 1, period_s = 300
      }
      snapshot-age = {
        why    = "The model that serves learned from nothing newer for three times the interval of training"
        metric = [local.namespace, "SnapshotAge", local.dimensions]
        stat   = "Maximum", over = 3 * var.training_interval_hours * 3600, periods = 1, period_s = 3600
      }
      training-failed = {
        why    = "A run of the training job failed, was stopped, or took too long"
        metric = ["AWS/Events", "Invocations", { RuleName = var.training_failure_rule }]
        stat   = "Sum", over = 0, periods = 1, period_s = 300
      }
      stream-write-throttled = {
        why    = "Producers are refused: the stream takes no more"
        metric = ["AWS/Kinesis", "WriteProvisionedThroughputExceeded", { StreamName = var.stream_name }]
        stat   = "Sum", over = 0, periods = 5, period_s = 60
      }
      stream-read-throttled = {
        why    = "Readers of the stream get in each other's way"
        metric = ["AWS/Kinesis", "ReadProvisionedThroughputExceeded", { StreamName = var.stream_name }]
        stat   = "Sum", over = 0, periods = 15, period_s = 60
      }
    },
    { for name, function in local.functions : "${name}-errors" => merge(local.in_15_minutes, {
      why    = "The function ${name} fails in 3 of 15 minutes"
      metric = ["AWS/Lambda", "Errors", { FunctionName = function }]
      stat   = "Sum", over = 0
    }) },
    # The schedule of `notify` meets the run before whenever that takes more than a minute, and is throttled by design.
    { for name, function in local.functions : "${name}-throttles" => {
      why    = "The function ${name} is not let run: its reserved concurrency or the account's is used up"
      metric = ["AWS/Lambda", "Throttles", { FunctionName = function }]
      stat   = "Sum", over = 0, periods = 5, period_s = 60
    } if name != "notify" },
    { for name, table in var.tables : "${name}-write-throttled" => {
      why    = "Writes to the table ${name} are throttled for 5 minutes"
      metric = ["AWS/DynamoDB", "WriteThrottleEvents", { TableName = table }]
      stat   = "Sum", over = 0, periods = 5, period_s = 60
    } },
    local.is_stream ? {
      batches-given-up = {
        why    = "The mapping gave a batch up: its records lie in the bucket of failures and have no list"
        metric = ["AWS/Lambda", "OnFailureDestinationDeliveredEventCount", { EventSourceMappingUUID = var.mapping_uuid }]
        stat   = "Sum", over = 0, periods = 1, period_s = 300
      }
      batches-lost = {
        why    = "The mapping gave a batch up and could not keep it"
        metric = ["AWS/Lambda", "DroppedEventCount", { EventSourceMappingUUID = var.mapping_uuid }]
        stat   = "Sum", over = 0, periods = 1, period_s = 300
      }
    } : {},
    var.has_firehose ? {
      delivery-old = {
        why    = "What Firehose holds is older than its buffer allows: it does not get its objects written"
        metric = ["AWS/Firehose", "DeliveryToS3.DataFreshness", { DeliveryStreamName = var.firehose_name }]
        stat   = "Maximum", over = var.firehose_buffer_s + 900, periods = 3, period_s = 300
      }
    } : {},
    var.has_firehose && var.is_parquet ? {
      conversion-failed = {
        why    = "Firehose could not make Parquet of records: they lie below its error prefix"
        metric = ["AWS/Firehose", "FailedConversion.Records", { DeliveryStreamName = var.firehose_name }]
        stat   = "Sum", over = 0, periods = 1, period_s = 300
      }
    } : {},
    var.has_firehose && local.is_stream ? {
      delivery-throttled = {
        why    = "Firehose takes less than comes, for 15 minutes"
        metric = ["AWS/Firehose", "ThrottledRecords", { DeliveryStreamName = var.firehose_name }]
        stat   = "Sum", over = 0, periods = 3, period_s = 300
      }
    } : {},
    var.has_notifications ? {
      notifications-dead = {
        why    = "A notification was given up; it lies in the dead letters"
        metric = [local.namespace, "NotificationsDead", local.dimensions]
        stat   = "Sum", over = 0, periods = 1, period_s = 300, missing = "notBreaching"
      }
      notifications-retried = {
        why    = "The receiver of notifications does not take them, for 15 minutes"
        metric = [local.namespace, "NotificationsRetried", local.dimensions]
        stat   = "Sum", over = 0, periods = 3, period_s = 300, missing = "notBreaching"
      }
    } : {},
    var.has_notifications && var.is_streaming ? {
      notifications-waiting = {
        why = "The oldest due notification waits too long, or nobody sends"
        # Behind transform a notice waits for what Firehose may still hold. Nothing at all for 10 minutes means that nobody sends.
        metric = [local.namespace, "NotificationsWaitingAge", local.dimensions]
        stat   = "Maximum", over = (local.is_stream ? 5 : 20) * 60 * 1000, periods = 10, period_s = 60, missing = "breaching"
      }
    } : {},
  )

  # Several metrics in one expression; each is the sum of ours with this name, and the last that of `incoming`, if it is asked for.
  incoming = ["AWS/Kinesis", "IncomingRecords", { StreamName = var.stream_name }]
  math = merge(
    {
      dead-letters = {
        why     = "More than one event in a hundred is refused, for 5 minutes"
        sums    = ["EventsDeadLettered", "EventsIn"], expression = "IF(m1 > 0, 100 * m0 / m1, 0)"
        compare = "GreaterThanThreshold", bound = var.dead_letters_percent_max, periods = 5, period_s = 60, missing = "notBreaching"
      }
      coverage = {
        why     = "Lists are shorter than asked for, for 15 minutes"
        sums    = ["ListsFull", "ListsMade"], expression = "IF(m1 > 0, 100 * m0 / m1, 100)"
        compare = "LessThanThreshold", bound = var.coverage_percent_min, periods = 3, period_s = 300, missing = "notBreaching"
      }
      conservation = {
        why  = "Events or lists are not accounted for: a bug"
        sums = ["EventsIn", "EventsApplied", "EventsDuplicate", "EventsLate", "EventsDeadLettered", "ListsDelivered", "EventsSuperseded", "ListsUndeliverable"]
        # The sides of both equations of docs/operations.md, "Metrics".
        expression = "ABS(m0 - m1 - m2 - m3 - m4) + ABS(m1 - m5 - m6 - m7)"
        compare    = "GreaterThanThreshold", bound = 0, periods = 1, period_s = 300, missing = "notBreaching"
      }
    },
    var.is_streaming ? {
      # The age of what is read is told by who reads: nobody tells it when nobody does.
      reading-stopped = {
        why     = "Records come into the stream and none is read, for 15 minutes and as long as a batch may wait"
        sums    = ["EventsIn"], expression = "IF(FILL(m1, 0) > 0 AND FILL(m0, 0) == 0, 1, 0)", beside = [local.incoming]
        compare = "GreaterThanThreshold", bound = 0, periods = 3 + ceil(var.batch_wait_s / 300), period_s = 300, missing = "notBreaching"
      }
    } : {},
    var.expects_events ? {
      no-events = {
        why     = "No event came in for 15 minutes"
        sums    = ["EventsIn"], expression = "FILL(m0, 0)"
        compare = "LessThanThreshold", bound = 1, periods = 3, period_s = 300, missing = "breaching"
      }
    } : {},
  )

  math_metrics = { for name, alarm in local.math :
    name => concat([for sum in alarm.sums : [local.namespace, sum, local.dimensions]], try(alarm.beside, []))
  }

  is_percentile = { for name, alarm in local.simple : name => startswith(alarm.stat, "p") }
}

resource "aws_cloudwatch_metric_alarm" "simple" {
  for_each = local.simple

  alarm_name          = "${var.prefix}-${each.key}"
  alarm_description   = "${each.value.why}. What to do: docs/operations.md, Alarms, ${each.key}."
  namespace           = each.value.metric[0]
  metric_name         = each.value.metric[1]
  dimensions          = each.value.metric[2]
  statistic           = local.is_percentile[each.key] ? null : each.value.stat
  extended_statistic  = local.is_percentile[each.key] ? each.value.stat : null
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.over
  period              = each.value.period_s
  evaluation_periods  = each.value.periods
  datapoints_to_alarm = try(each.value.bad_periods, null)
  treat_missing_data  = try(each.value.missing, "notBreaching")
  actions_enabled     = true
  alarm_actions       = [var.topic_arn]
  ok_actions          = [var.topic_arn]
}

resource "aws_cloudwatch_metric_alarm" "math" {
  for_each = local.math

  alarm_name          = "${var.prefix}-${each.key}"
  alarm_description   = "${each.value.why}. What to do: docs/operations.md, Alarms, ${each.key}."
  comparison_operator = each.value.compare
  threshold           = each.value.bound
  evaluation_periods  = each.value.periods
  treat_missing_data  = each.value.missing
  actions_enabled     = true
  alarm_actions       = [var.topic_arn]
  ok_actions          = [var.topic_arn]

  metric_query {
    id          = "e0"
    expression  = each.value.expression
    label       = each.key
    return_data = true
  }

  dynamic "metric_query" {
    for_each = { for place, metric in local.math_metrics[each.key] : "m${place}" => metric }

    content {
      id          = metric_query.key
      return_data = false

      metric {
        namespace   = metric_query.value[0]
        metric_name = metric_query.value[1]
        dimensions  = metric_query.value[2]
        stat        = "Sum"
        period      = each.value.period_s
      }
    }
  }
}
