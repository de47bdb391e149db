//! [`KinesisApi`] over the official SDK. It translates and decides nothing.

use std::time::Duration;

use anabranch_stream::ports::{ParseError, SequenceNumber, ShardId};
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{Config, StalledStreamProtectionConfig};
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::error::SubscribeToShardEventStreamError;
use aws_sdk_kinesis::types::{
    self, PutRecordsRequestEntry, PutRecordsResultEntry, Record, ShardIteratorType, SubscribeToShardEvent,
    SubscribeToShardEventStream,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::api::{
    ApiError, ApiErrorKind, DataRecord, KinesisApi, Pushed, PutRecord, PutResult, RecordsPage, Shard, ShardFilter,
    ShardPage, StartingPosition, StreamSummary, Subscription, SubscriptionEvent,
};
use crate::failure::{api_error, of_status};

/// Events of a subscription that wait for a slow worker, at most 2 MB each; then Kinesis waits.
const EVENTS_AHEAD: usize = 2;

/// One stream, through the SDK.
#[derive(Clone, Debug)]
pub struct SdkKinesis {
    client: Client,
    runtime: Handle,
    stream: String,
    consumer_arn: Option<String>,
}

impl SdkKinesis {
    /// The stream of this name. `consumer_arn` is a registered consumer's; without one there is no fan-out.
    pub fn new(client: Client, runtime: Handle, stream: impl Into<String>, consumer_arn: Option<String>) -> Self {
        Self { client, runtime, stream: stream.into(), consumer_arn }
    }

    fn resource(&self) -> String {
        format!("stream {}", self.stream)
    }

    fn shard_resource(&self, shard: ShardId) -> String {
        format!("{shard} of stream {}", self.stream)
    }

    /// Waits for `call` and reads its error.
    fn wait<T, E>(
        &self,
        operation: &'static str,
        resource: &str,
        call: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> Result<T, ApiError>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.runtime.block_on(call).map_err(|error| api_error(operation, resource, &error))
    }
}

impl KinesisApi for SdkKinesis {
    fn describe(&self) -> Result<StreamSummary, ApiError> {
        let (operation, resource) = ("DescribeStreamSummary", self.resource());
        let call = self.client.describe_stream_summary().stream_name(&self.stream).send();
        let answer = self.wait(operation, &resource, call)?;
        let malformed = || ApiError::new(ApiErrorKind::Malformed, operation, &resource, "a field is missing");
        let summary = answer.stream_description_summary().ok_or_else(malformed)?;
        Ok(StreamSummary {
            arn: summary.stream_arn().to_owned(),
            created_ms: summary.stream_creation_timestamp().to_millis().map_err(|_| malformed())?,
            retention_hours: u32::try_from(summary.retention_period_hours()).map_err(|_| malformed())?,
        })
    }

    fn list_shards(&self, filter: Option<ShardFilter>, next_token: Option<&str>) -> Result<ShardPage, ApiError> {
        let (operation, resource) = ("ListShards", self.resource());
        let filter = filter.map(|ShardFilter::AtTrimHorizon| {
            let filter = types::ShardFilter::builder().r#type(types::ShardFilterType::AtTrimHorizon);
            filter.build().expect("its one required field is set")
        });
        let request = self.client.list_shards();
        // A token names the stream and the filter; Kinesis refuses both.
        let request = match next_token {
            Some(token) => request.next_token(token),
            None => request.stream_name(&self.stream).set_shard_filter(filter),
        };
        let answer = self.wait(operation, &resource, request.send())?;
        let shards = answer.shards().iter().map(shard).collect::<Result<_, _>>();
        Ok(ShardPage {
            shards: shards.map_err(|error| malformed(operation, &resource, &error))?,
            next_token: answer.next_token().map(str::to_owned),
        })
    }

    fn get_shard_iterator(&self, shard: ShardId, from: StartingPosition) -> Result<String, ApiError> {
        let (operation, resource) = ("GetShardIterator", self.shard_resource(shard));
        let (kind, number) = iterator_type(from);
        let call = self
            .client
            .get_shard_iterator()
            .stream_name(&self.stream)
            .shard_id(shard.to_string())
            .shard_iterator_type(kind)
            .set_starting_sequence_number(number)
            .send();
        let answer = self.wait(operation, &resource, call)?;
        let missing =
            || ApiError::new(ApiErrorKind::Malformed, operation, &resource, "there is no iterator in the answer");
        answer.shard_iterator().map(str::to_owned).ok_or_else(missing)
    }

    fn get_records(&self, iterator: &str, limit: u32) -> Result<RecordsPage, ApiError> {
        let (operation, resource) = ("GetRecords", self.resource());
        let limit = i32::try_from(limit).unwrap_or(i32::MAX);
        let answer =
            self.wait(operation, &resource, self.client.get_records().shard_iterator(iterator).limit(limit).send())?;
        Ok(RecordsPage {
            records: data_records(answer.records).map_err(|error| malformed(operation, &resource, &error))?,
            next_iterator: answer.next_shard_iterator,
            behind_ms: answer.millis_behind_latest.and_then(|ms| u64::try_from(ms).ok()),
        })
    }

    fn subscribe_to_shard(&self, shard: ShardId, from: StartingPosition) -> Result<Box<dyn Subscription>, ApiError> {
        let (operation, resource) = ("SubscribeToShard", self.shard_resource(shard));
        let Some(consumer_arn) = &self.consumer_arn else {
            let message = "fan-out needs the ARN of a registered consumer";
            return Err(ApiError::new(ApiErrorKind::FixInput, operation, resource, message));
        };
        let (kind, number) = iterator_type(from);
        let position = aws_sdk_kinesis::types::StartingPosition::builder()
            .r#type(kind)
            .set_sequence_number(number)
            .build()
            .map_err(|error| ApiError::new(ApiErrorKind::FixInput, operation, &resource, error.to_string()))?;
        // A quiet shard is not a stalled connection.
        let quiet = Config::builder().stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        let call = self
            .client
            .subscribe_to_shard()
            .consumer_arn(consumer_arn)
            .shard_id(shard.to_string())
            .starting_position(position)
            .customize()
            .config_override(quiet)
            .send();
        let mut events = self.wait(operation, &resource, call)?.event_stream;
        let (sender, receiver) = channel(EVENTS_AHEAD);
        let source = resource.clone();
        // The task ends with the subscription, or when nobody listens any more.
        self.runtime.spawn(async move {
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    () = sender.closed() => return,
                };
                if !forward(&sender, event, &source).await {
                    return;
                }
            }
        });
        Ok(Box::new(SdkSubscription { runtime: self.runtime.clone(), receiver, is_drained: true }))
    }

    fn put_records(&self, records: &[PutRecord]) -> Result<Vec<PutResult>, ApiError> {
        let (operation, resource) = ("PutRecords", self.resource());
        let entries = records
            .iter()
            .map(|record| {
                PutRecordsRequestEntry::builder()
                    .partition_key(&record.partition_key)
                    .data(Blob::new(record.data.as_slice()))
                    .build()
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| ApiError::new(ApiErrorKind::FixInput, operation, &resource, error.to_string()))?;
        let call = self.client.put_records().stream_name(&self.stream).set_records(Some(entries)).send();
        let answer = self.wait(operation, &resource, call)?;
        answer
            .records()
            .iter()
            .map(put_result)
            .collect::<Result<_, _>>()
            .map_err(|error| malformed(operation, &resource, &error))
    }
}

/// A subscription whose events a task of the runtime receives.
#[derive(Debug)]
struct SdkSubscription {
    runtime: Handle,
    receiver: Receiver<Result<SubscriptionEvent, ApiError>>,
    /// Nothing lay ready at the end of the last call.
    is_drained: bool,
}

impl Subscription for SdkSubscription {
    fn next(&mut self, wait: Duration) -> Result<Pushed, ApiError> {
        let receiver = &mut self.receiver;
        let next = self.runtime.block_on(async { tokio::time::timeout(wait, receiver.recv()).await });
        let is_fresh = std::mem::replace(&mut self.is_drained, receiver.is_empty());
        match next {
            Err(_) => Ok(Pushed::Nothing),
            Ok(None) => Ok(Pushed::Ended),
            Ok(Some(event)) => event.map(|event| Pushed::Event(SubscriptionEvent { is_fresh, ..event })),
        }
    }
}

type Received<R> = Result<Option<SubscribeToShardEventStream>, SdkError<SubscribeToShardEventStreamError, R>>;

/// Hands an event on; whether more may come.
async fn forward<R: std::fmt::Debug>(
    sender: &Sender<Result<SubscriptionEvent, ApiError>>,
    event: Received<R>,
    resource: &str,
) -> bool {
    let operation = "SubscribeToShard";
    let event = match event {
        Ok(None) => return false,
        Ok(Some(SubscribeToShardEventStream::SubscribeToShardEvent(event))) => {
            subscription_event(event).map_err(|error| malformed(operation, resource, &error))
        }
        // A kind of event that later versions may have.
        Ok(Some(_)) => return true,
        Err(error) => Err(of_status(operation, resource, &error, None)),
    };
    let is_good = event.is_ok();
    sender.send(event).await.is_ok() && is_good
}

fn iterator_type(from: StartingPosition) -> (ShardIteratorType, Option<String>) {
    match from {
        StartingPosition::TrimHorizon => (ShardIteratorType::TrimHorizon, None),
        StartingPosition::At(number) => (ShardIteratorType::AtSequenceNumber, Some(number.to_string())),
        StartingPosition::After(number) => (ShardIteratorType::AfterSequenceNumber, Some(number.to_string())),
    }
}

fn malformed(operation: &'static str, resource: &str, error: &ParseError) -> ApiError {
    ApiError::new(ApiErrorKind::Malformed, operation, resource, error.to_string())
}

fn shard(shard: &aws_sdk_kinesis::types::Shard) -> Result<Shard, ParseError> {
    let hash_key = |text: &str| {
        text.parse::<u128>().map_err(|_| ParseError { text: text.to_owned(), expected: "a hash key below 2^128" })
    };
    let hash_keys = match shard.hash_key_range() {
        Some(range) => (hash_key(range.starting_hash_key())?, hash_key(range.ending_hash_key())?),
        None => (0, u128::MAX),
    };
    Ok(Shard {
        id: shard.shard_id().parse()?,
        parent: shard.parent_shard_id().map(str::parse).transpose()?,
        adjacent_parent: shard.adjacent_parent_shard_id().map(str::parse).transpose()?,
        is_closed: shard.sequence_number_range().is_some_and(|range| range.ending_sequence_number().is_some()),
        hash_keys,
    })
}

fn data_records(records: Vec<Record>) -> Result<Vec<DataRecord>, ParseError> {
    records
        .into_iter()
        .map(|record| {
            let arrival = record.approximate_arrival_timestamp();
            Ok(DataRecord {
                number: record.sequence_number().parse()?,
                arrival_ms: arrival.and_then(|time| time.to_millis().ok()).unwrap_or(0),
                partition_key: record.partition_key().unwrap_or_default().to_owned(),
                data: record.data.into_inner(),
            })
        })
        .collect()
}

fn subscription_event(event: SubscribeToShardEvent) -> Result<SubscriptionEvent, ParseError> {
    let is_end_of_shard = !event.child_shards().is_empty();
    // The SDK gives "" where the field is missing, as it is at the end of a shard.
    let continuation = Some(event.continuation_sequence_number()).filter(|number| !number.is_empty());
    Ok(SubscriptionEvent {
        continuation: continuation.map(str::parse::<SequenceNumber>).transpose()?,
        behind_ms: u64::try_from(event.millis_behind_latest()).ok(),
        is_end_of_shard,
        records: data_records(event.records)?,
        is_fresh: false,
    })
}

fn put_result(result: &PutRecordsResultEntry) -> Result<PutResult, ParseError> {
    if let Some(code) = result.error_code() {
        let message = result.error_message().unwrap_or_default().to_owned();
        return Ok(PutResult::Failed { code: code.to_owned(), message });
    }
    Ok(PutResult::Stored {
        shard: result.shard_id().unwrap_or_default().parse()?,
        number: result.sequence_number().unwrap_or_default().parse()?,
    })
}
