# The VPC and the database, with what AWS would answer.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }

  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }

  mock_data "aws_region" {
    defaults = { id = "eu-west-1", name = "eu-west-1" }
  }

  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-west-1:123456789012:log-group:group" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/role" }
  }

  mock_resource "aws_rds_cluster" {
    defaults = {
      endpoint           = "vectors.example"
      master_user_secret = [{ secret_arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:vectors" }]
    }
  }
}

variables {
  kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0b0e1a6e-0000-4000-8000-000000000000"
}

run "closed_and_encrypted" {
  assert {
    condition = (
      aws_rds_cluster.this.storage_encrypted
      && aws_rds_cluster.this.kms_key_id == var.kms_key_arn
      && aws_rds_cluster.this.manage_master_user_password
      && !aws_rds_cluster_instance.this[0].publicly_accessible
    )
    error_message = "the database is encrypted, and nobody outside reaches it"
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.job_to_database.from_port == 5432 && length(aws_subnet.this) == 2
    error_message = "the job reaches it, from two zones"
  }

  assert {
    condition = (
      strcontains(output.settings, "postgres://anabranch@vectors.example:5432/anabranch?sslmode=prefer")
      && strcontains(output.settings, "secret_arn = \"arn:aws:secretsmanager:eu-west-1:123456789012:secret:vectors\"")
      && !strcontains(output.settings, "password")
    )
    error_message = "the settings name the secret, hold no password, and do not turn TLS off (the server takes nothing else)"
  }
}

run "the_server_is_verified" {
  command = apply

  variables {
    ca_file = "s3://certificates/eu-west-1-bundle.pem"
  }

  assert {
    condition = (
      strcontains(output.settings, "sslmode=verify-full")
      && strcontains(output.settings, "ca_file = \"s3://certificates/eu-west-1-bundle.pem\"")
    )
    error_message = "with certificates the server must be who it says"
  }
}

run "certificates_lie_on_s3" {
  command = plan

  variables {
    ca_file = "bundle.pem"
  }

  expect_failures = [var.ca_file]
}

run "an_alias_is_no_key" {
  command = plan

  variables {
    kms_key_arn = "alias/anabranch"
  }

  expect_failures = [var.kms_key_arn]
}
