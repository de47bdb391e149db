//! [`FirehoseApi`] over the official SDK. Translates; decides nothing and retries nothing.
//!
//! Calls block on a handle of a tokio runtime, so they must not be made from that runtime's async tasks.

use aws_sdk_firehose::Client;
use aws_sdk_firehose::primitives::Blob;
use aws_sdk_firehose::types::Record;
use tokio::runtime::Handle;

use super::sink::{FirehoseApi, RecordOutcome};
use crate::api::{ApiError, ApiErrorKind};
use crate::failure::api_error;

const OPERATION: &str = "PutRecordBatch";

/// One delivery stream through the SDK.
#[derive(Clone, Debug)]
pub struct SdkFirehose {
    client: Client,
    runtime: Handle,
    stream: String,
}

impl SdkFirehose {
    /// The delivery stream of this name, by calls of `client` on `runtime`.
    pub fn new(client: Client, runtime: Handle, stream: impl Into<String>) -> Self {
        Self { client, runtime, stream: stream.into() }
    }

    fn resource(&self) -> String {
        format!("delivery stream {}", self.stream)
    }
}

impl FirehoseApi for SdkFirehose {
    fn put_record_batch(&self, records: &[&[u8]]) -> Result<Vec<RecordOutcome>, ApiError> {
        let record = |data: &&[u8]| Record::builder().data(Blob::new(*data)).build();
        let records =
            records.iter().map(record).collect::<Result<Vec<_>, _>>().map_err(|error| {
                ApiError::new(ApiErrorKind::FixInput, OPERATION, self.resource(), error.to_string())
            })?;
        let request =
            self.client.put_record_batch().delivery_stream_name(&self.stream).set_records(Some(records)).send();
        let output = self.runtime.block_on(request).map_err(|error| api_error(OPERATION, self.resource(), &error))?;
        let outcome = |entry: aws_sdk_firehose::types::PutRecordBatchResponseEntry| match entry.error_code {
            // An entry has a code or a record id.
            Some(code) => RecordOutcome::Failed { code, message: entry.error_message.unwrap_or_default() },
            None => RecordOutcome::Stored,
        };
        Ok(output.request_responses.into_iter().map(outcome).collect())
    }
}
