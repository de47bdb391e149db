# The shape `transform`: Firehose reads the stream and calls the function.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  shape       = "transform"
  erasure_key = "0707070707070707070707070707070707070707070707070707070707070707"
}

run "firehose_reads" {
  assert {
    condition     = length(module.transform_function) == 1 && length(module.stream_function) == 0 && length(aws_lambda_event_source_mapping.stream) == 0
    error_message = "Firehose reads, no mapping does"
  }

  assert {
    condition     = jsonencode(output.functions) == jsonencode({ transform = "anabranch-transform" }) && output.mapping_uuid == null
    error_message = "the functions"
  }

  assert {
    condition     = contains(output.alarms, "delivery-old") && !contains(output.alarms, "batches-given-up") && contains(output.alarms, "transform-errors")
    error_message = "the alarms are those of the shape"
  }

  assert {
    condition     = local.read_within_s == var.retention_hours * 3600 && contains(output.alarms, "reading-stopped")
    error_message = "Firehose reads what the stream holds"
  }
}

run "before_the_first_model" {
  variables {
    is_streaming = false
  }

  assert {
    condition     = length(module.delivery) == 0
    error_message = "Firehose has no switch: it would send everything below its error prefix"
  }
}

run "what_is_refused" {
  command = plan

  variables {
    delivery           = "objects"
    function_timeout_s = 900
  }

  expect_failures = [
    var.delivery,           # Firehose delivers in this shape
    var.function_timeout_s, # Firehose does not wait so long
  ]
}
