# Notifications, training, budget.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  erasure_key = "0707070707070707070707070707070707070707070707070707070707070707"
}

run "as_it_comes" {
  assert {
    condition     = length(module.notify_function) == 0 && output.notifications_topic_arn == null && !contains(output.alarms, "notifications-dead")
    error_message = "without a channel there is no sender"
  }

  assert {
    condition     = length(module.budget) == 1
    error_message = "there is a budget unless somebody says otherwise"
  }

  assert {
    condition     = output.training_job == "anabranch-train" && contains(output.alarms, "training-failed") && contains(output.alarms, "snapshot-age")
    error_message = "the nightly job is looked after"
  }

  assert {
    condition     = output.worker_environment["ANABRANCH__SOURCE__TABLE"] == "anabranch-state" && output.worker_environment["ANABRANCH__PLACES__MODELS"] == "s3://${output.buckets["models"]}"
    error_message = "the command finds the deployment by these"
  }
}

run "notifications_by_sns" {
  variables {
    notify_channel = "sns"
    settings_file  = "tests/fixtures/rules.toml"

    monthly_budget_usd        = 0
    promotion_min_improvement = 0.01
    is_promoting              = false
  }

  assert {
    condition     = length(module.budget) == 0
    error_message = "0 is no budget"
  }

  assert {
    condition     = length(module.notify_function) == 1 && output.notifications_topic_arn != null
    error_message = "a topic and who publishes to it"
  }

  assert {
    condition     = aws_cloudwatch_event_rule.notify[0].schedule_expression == "rate(1 minute)" && aws_cloudwatch_event_rule.notify[0].state == "ENABLED"
    error_message = "once a minute"
  }

  assert {
    condition     = contains(output.alarms, "notifications-waiting") && contains(output.alarms, "notify-errors")
    error_message = "somebody hears when nobody sends"
  }

  assert {
    condition     = !contains(output.alarms, "notify-throttles") && aws_lambda_function_event_invoke_config.notify[0].maximum_retry_attempts == 0
    error_message = "an invocation that meets the one before is no fault"
  }
}

run "workers_send" {
  command = plan

  variables {
    notify_channel = "sns"
    settings_file  = "tests/fixtures/rules.toml"
    is_streaming   = false
  }

  assert {
    condition     = !contains(output.alarms, "notifications-waiting") && contains(output.alarms, "notifications-dead")
    error_message = "the function is not the one that sends"
  }
}

run "notifications_without_rules" {
  command = plan

  variables {
    notify_channel = "sns"
  }

  expect_failures = [var.notify_channel]
}

run "rules_that_nobody_sends" {
  command = plan

  variables {
    settings_file = "tests/fixtures/rules.toml"
  }

  expect_failures = [var.notify_channel]
}

run "a_webhook_without_a_secret" {
  command = plan

  variables {
    notify_channel = "webhook"
    settings_file  = "tests/fixtures/rules.toml"
    webhook_url    = "https://shop.example/hook"
  }

  expect_failures = [var.webhook_secret]
}
