//! Histories, checkpoints and leases in DynamoDB.
