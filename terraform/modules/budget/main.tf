# A bound on the bill: a message when the month's cost passes parts of the limit, and when it is forecast to pass it.

resource "aws_budgets_budget" "this" {
  name         = var.name
  budget_type  = "COST"
  limit_amount = tostring(var.limit_usd)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  # Costs are told apart by the tag only once it is activated for cost allocation, in the account's billing console.
  dynamic "cost_filter" {
    for_each = var.by_tag ? [var.name] : []

    content {
      name   = "TagKeyValue"
      values = [format("user:Deployment$%s", cost_filter.value)]
    }
  }

  dynamic "notification" {
    for_each = [["ACTUAL", 50], ["ACTUAL", 100], ["FORECASTED", 100]]

    content {
      notification_type         = notification.value[0]
      threshold                 = notification.value[1]
      threshold_type            = "PERCENTAGE"
      comparison_operator       = "GREATER_THAN"
      subscriber_sns_topic_arns = [var.topic_arn]
    }
  }
}
