# The shape `stream`: a function behind an event source mapping, through Firehose and as objects. Needs what `make package` makes
# (package_folder); nothing of AWS's.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  erasure_key = "0707070707070707070707070707070707070707070707070707070707070707"
}

run "through_firehose" {
  assert {
    condition     = length(module.stream_function) == 1 && length(module.transform_function) == 0 && length(module.delivery) == 1
    error_message = "one function reads, Firehose delivers"
  }

  assert {
    condition = (
      aws_lambda_event_source_mapping.stream[0].bisect_batch_on_function_error
      && contains(aws_lambda_event_source_mapping.stream[0].function_response_types, "ReportBatchItemFailures")
      && aws_lambda_event_source_mapping.stream[0].starting_position == "TRIM_HORIZON"
      && aws_lambda_event_source_mapping.stream[0].parallelization_factor == 1
    )
    error_message = "partial failures are told, bad batches are halved, nothing is left unread"
  }

  assert {
    condition = (
      aws_lambda_event_source_mapping.stream[0].maximum_record_age_in_seconds > 0
      && aws_lambda_event_source_mapping.stream[0].maximum_record_age_in_seconds < var.retention_hours * 3600
      && aws_lambda_event_source_mapping.stream[0].maximum_retry_attempts > 0
    )
    error_message = "a batch that fails is given up before its records expire"
  }

  assert {
    condition     = startswith(aws_lambda_event_source_mapping.stream[0].destination_config[0].on_failure[0].destination_arn, "arn:aws:s3:::")
    error_message = "what is given up is kept with its records"
  }

  assert {
    condition     = output.lists_location == "s3://${output.buckets["recommendations"]}/recommendations/firehose/"
    error_message = "lists of Firehose have a folder of their own"
  }

  assert {
    condition     = !startswith(local.error_prefix, local.lists_prefix) && !startswith("dead-letters/", local.lists_prefix)
    error_message = "errors and dead letters lie outside of the table"
  }

  assert {
    condition     = jsonencode(local.buckets.lake) == jsonencode({ training = { prefix = "training/", days = 7 } })
    error_message = "of the lake only what killed trainings left goes by itself"
  }

  assert {
    condition     = jsonencode(output.functions) == jsonencode({ stream = "anabranch-stream" })
    error_message = "the functions"
  }
}

run "who_watches_whether_it_is_read" {
  assert {
    condition     = contains(output.alarms, "reading-stopped") && !contains(output.alarms, "no-events")
    error_message = "records that nobody reads are an alarm, no records are none"
  }

  assert {
    condition     = aws_lambda_event_source_mapping.stream[0].maximum_record_age_in_seconds == 48 * 3600 && local.read_within_s == 48 * 3600
    error_message = "a batch has two thirds of the retention, and the alarm knows"
  }
}

run "objects" {
  variables {
    delivery = "objects"
  }

  assert {
    condition     = length(module.delivery) == 0 && output.firehose_name == null
    error_message = "nobody pays for a Firehose that nothing goes through"
  }

  assert {
    condition     = !contains(output.alarms, "delivery-old") && !contains(output.alarms, "conversion-failed") && contains(output.alarms, "batches-given-up")
    error_message = "there is no alarm for what is not there"
  }
}

run "json_lines" {
  variables {
    delivery_format    = "jsonl"
    firehose_buffer_mb = 5
  }

  assert {
    condition     = !contains(output.alarms, "conversion-failed") && contains(output.alarms, "delivery-old")
    error_message = "nothing is converted"
  }
}

run "before_the_first_model" {
  variables {
    is_streaming = false
  }

  assert {
    condition     = !aws_lambda_event_source_mapping.stream[0].enabled
    error_message = "nothing is read"
  }

  assert {
    condition     = !contains(output.alarms, "reading-stopped")
    error_message = "nobody waits for what is switched off"
  }
}

run "a_restored_table" {
  variables {
    state_table = "anabranch-state-2"
  }

  assert {
    condition     = local.environment["ANABRANCH__LAMBDA__TABLE"] == "anabranch-state-2" && output.worker_environment["ANABRANCH__SOURCE__TABLE"] == "anabranch-state-2"
    error_message = "functions and workers use it"
  }

  assert {
    condition     = alltrue([for arn in [local.shared_statements["State"].resources[0], local.table_arns["state"]] : endswith(arn, ":table/anabranch-state-2")])
    error_message = "and may"
  }
}

run "two_deployments_share_no_name" {
  command = plan

  variables {
    name = "shop-b"
  }

  assert {
    condition     = local.stream_name == "shop-b-clicks" && local.firehose_name == "shop-b-recommendations"
    error_message = "names begin with the deployment's"
  }

  assert {
    condition     = aws_lambda_event_source_mapping.stream[0].enabled
    error_message = "the default reads"
  }
}

run "what_is_refused" {
  command = plan

  variables {
    name                     = "a-deployment-with-a-long-name"
    erasure_key              = "0707"
    delivery                 = "objects"
    mapping_parallelization  = 2
    retention_hours          = 8760
    history_days             = 300
    mapping_record_age_max_s = 31536000
    firehose_buffer_mb       = 5
    function_timeout_s       = 3
  }

  expect_failures = [
    var.name,                     # bucket names would be too long
    var.erasure_key,              # no key
    var.mapping_parallelization,  # a chain has one writer at a time
    var.history_days,             # histories would vanish before the stream's records
    var.mapping_record_age_max_s, # batches would expire before they are given up
    var.firehose_buffer_mb,       # too small for Parquet
    var.function_timeout_s,       # shorter than one call's patience
  ]
}
