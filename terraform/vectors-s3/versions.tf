terraform {
  required_version = ">= 1.9.0"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # S3 Vectors came with 6.24. That is why this is a configuration of its own: an older provider refuses even a module
      # that is not used.
      version = ">= 6.24.0, < 7.0.0"
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = merge(var.tags, { Deployment = var.name })
  }
}
