# The nightly job: raw interactions to a dataset, a model, its evaluation and, if it is better, its promotion, all in one run of
# scripts/glue_job.py. Here: what it runs on, when, what it may do, and that somebody hears of a run that fails.

locals {
  wheel_name = one(fileset(var.package_folder, "*.whl"))
  wheel      = "${var.package_folder}/${local.wheel_name}"
  script     = "${var.package_folder}/glue_job.py"

  # A new wheel or job is a new object: a run that has begun goes on with what it began with.
  uploads = merge(
    {
      script = { source = local.script, key = "jobs/${filemd5(local.script)}/glue_job.py" }
      wheel  = { source = local.wheel, key = "wheels/${filemd5(local.wheel)}/${local.wheel_name}" }
    },
    var.mapping_file == null ? {} : {
      mapping = { source = var.mapping_file, key = "settings/${filemd5(var.mapping_file)}/mapping.toml" }
    },
    var.settings_file == null ? {} : {
      settings = { source = var.settings_file, key = "settings/${filemd5(var.settings_file)}/anabranch.toml" }
    },
  )
  at = { for name, upload in local.uploads : name => "s3://${var.artefacts.name}/${upload.key}" }
}

resource "aws_s3_object" "this" {
  for_each = local.uploads

  bucket      = var.artefacts.name
  key         = each.value.key
  source      = each.value.source
  source_hash = filemd5(each.value.source)
  kms_key_id  = var.kms_key_arn
}

# Who was forgotten stays forgotten: the job leaves out what lies below their floors, which it finds under this key.
resource "aws_s3_object" "erasure_key" {
  bucket     = var.artefacts.name
  key        = "keys/erasure.key"
  content    = var.erasure_key
  kms_key_id = var.kms_key_arn
}

# Logs, shuffle files on disk and bookmarks are encrypted with the deployment's key.
resource "aws_glue_security_configuration" "this" {
  name = var.name

  encryption_configuration {
    cloudwatch_encryption {
      cloudwatch_encryption_mode = "SSE-KMS"
      kms_key_arn                = var.kms_key_arn
    }

    job_bookmarks_encryption {
      job_bookmarks_encryption_mode = "CSE-KMS"
      kms_key_arn                   = var.kms_key_arn
    }

    s3_encryption {
      s3_encryption_mode = "SSE-KMS"
      kms_key_arn        = var.kms_key_arn
    }
  }
}

resource "aws_cloudwatch_log_group" "this" {
  # What the job prints, and what Spark does. Where a security configuration encrypts them, Glue names the groups after it and the role.
  for_each = toset(["output", "error"])

  name              = "/aws-glue/jobs/${aws_glue_security_configuration.this.name}-role/${aws_iam_role.this.name}/${each.key}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_iam_role" "this" {
  name = "${var.name}-glue"

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "glue.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = var.account_id } }
    }]
  })
}

locals {
  statements = {
    # batch/src/input: raw files.
    Raw = {
      actions   = ["s3:GetObject"]
      resources = ["${var.raw.arn}/*"]
      condition = null
    }
    # Glue and pip: the job, the wheel, mapping, settings and the erasure key.
    Artefacts = {
      actions   = ["s3:GetObject"]
      resources = ["${var.artefacts.arn}/*"]
      condition = null
    }
    # The same: what a run leaves behind for itself.
    Temporary = {
      actions   = ["s3:DeleteObject", "s3:PutObject"]
      resources = ["${var.artefacts.arn}/${var.temporary_prefix}*"]
      condition = null
    }
    # batch/src/etl/publish.rs: data files, manifests, and the removal of files that no manifest names; checkpoints of training.
    Lake = {
      actions   = ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
      resources = ["${var.lake.arn}/*"]
      condition = null
    }
    # stores/src/registry: publishing, and a pointer for each promotion. Nothing in it is ever deleted.
    Models = {
      actions   = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
      resources = ["${var.models.arn}/models/*"]
      condition = null
    }
    # stores/src/lake/remote.rs: listing, and telling "not there" from "not allowed".
    Buckets = {
      actions   = ["s3:GetBucketLocation", "s3:ListBucket"]
      resources = [var.raw.arn, var.artefacts.arn, var.lake.arn, var.models.arn]
      condition = null
    }
    # Glue: everything above is encrypted.
    Key = {
      actions   = ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"]
      resources = [var.kms_key_arn]
      condition = null
    }
    # awsglue's Job.init and Job.commit, which scripts/glue_job.py calls.
    Job = {
      actions   = ["glue:GetJob", "glue:GetJobRun", "glue:GetJobRuns"]
      resources = ["arn:${var.partition}:glue:${var.region}:${var.account_id}:job/${var.name}"]
      condition = null
    }
    # Glue: how the job's logs are encrypted. The action knows no resources.
    Security = {
      actions   = ["glue:GetSecurityConfiguration"]
      resources = ["*"]
      condition = null
    }
    # Glue: the job's log lines. It makes their groups, in which the job's name is.
    Log = {
      actions   = ["logs:AssociateKmsKey", "logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"]
      resources = ["arn:${var.partition}:logs:${var.region}:${var.account_id}:log-group:/aws-glue/jobs/*"]
      condition = null
    }
    # Glue: the job's own measures. The action knows no resources; the namespace bounds it.
    Metrics = {
      actions   = ["cloudwatch:PutMetricData"]
      resources = ["*"]
      condition = { StringEquals = { "cloudwatch:namespace" = ["Glue"] } }
    }
  }
}

resource "aws_iam_role_policy" "this" {
  name = "training"
  role = aws_iam_role.this.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [for sid, statement in local.statements : { for key, value in {
      Sid       = sid
      Effect    = "Allow"
      Action    = statement.actions
      Resource  = statement.resources
      Condition = statement.condition
    } : key => value if value != null }]
  })
}

# A vector database brings what its use needs as a policy of its own: vectors-s3, vectors-aurora.
resource "aws_iam_role_policy_attachment" "extra" {
  for_each = toset(var.extra_policy_arns)

  role       = aws_iam_role.this.name
  policy_arn = each.value
}

resource "aws_glue_job" "this" {
  depends_on = [aws_iam_role_policy.this, aws_s3_object.this]

  name                   = var.name
  description            = "Raw interactions to dataset, model and, if it is better, its promotion"
  role_arn               = aws_iam_role.this.arn
  glue_version           = var.glue_version
  worker_type            = var.worker_type
  number_of_workers      = var.workers
  execution_class        = var.execution_class
  timeout                = var.timeout_minutes
  max_retries            = var.retries
  security_configuration = aws_glue_security_configuration.this.name
  connections            = var.connections

  command {
    name            = "glueetl"
    python_version  = "3"
    script_location = local.at["script"]
  }

  execution_property {
    # Two runs at once would publish two datasets; the second would find the first's and begin again.
    max_concurrent_runs = 1
  }

  default_arguments = merge(
    {
      "--job-language"              = "python"
      "--additional-python-modules" = local.at["wheel"]
      # The dataset's newest manifest says what was read: it moves with the data, as a bookmark of Glue's would not.
      "--job-bookmark-option" = "job-bookmark-disable"
      "--TempDir"             = "s3://${var.artefacts.name}/${var.temporary_prefix}"
      "--enable-metrics"      = "true"
    },
    # scripts/glue_job.py's own.
    {
      "--region"      = var.region
      "--raw"         = "s3://${var.raw.name}/${var.raw_prefix}"
      "--lake"        = "s3://${var.lake.name}"
      "--models"      = "s3://${var.models.name}"
      "--erasure-key" = "s3://${aws_s3_object.erasure_key.bucket}/${aws_s3_object.erasure_key.key}"
    },
    var.mapping_file == null ? {} : { "--mapping" = local.at["mapping"] },
    var.settings_file == null ? {} : { "--settings" = local.at["settings"] },
    var.arguments,
  )
}

resource "aws_glue_trigger" "nightly" {
  name        = "${var.name}-nightly"
  description = "Trains every night"
  type        = "SCHEDULED"
  schedule    = var.schedule
  enabled     = var.is_scheduled

  actions {
    job_name = aws_glue_job.this.name
  }
}

# What failed, with the run's id and reason. The alarm counts these events.
resource "aws_cloudwatch_event_rule" "failed" {
  name        = "${var.name}-failed"
  description = "A run of the training job failed, was stopped, or took too long"

  event_pattern = jsonencode({
    source        = ["aws.glue"]
    "detail-type" = ["Glue Job State Change"]
    detail = {
      jobName = [aws_glue_job.this.name]
      state   = ["FAILED", "TIMEOUT", "STOPPED"]
    }
  })
}

resource "aws_cloudwatch_event_target" "failed" {
  rule      = aws_cloudwatch_event_rule.failed.name
  target_id = "alerts"
  arn       = var.topic_arn

  input_transformer {
    input_paths = {
      job     = "$.detail.jobName"
      run     = "$.detail.jobRunId"
      state   = "$.detail.state"
      message = "$.detail.message"
    }
    input_template = "\"<job>, run <run>: <state>. <message>\""
  }
}
