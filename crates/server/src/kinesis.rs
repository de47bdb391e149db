//! The door that speaks Kinesis: AWS's JSON 1.1 protocol, so that a producer changes its endpoint and nothing else.
//!
//! `PutRecord` and `PutRecords` are complete but for signatures, which are not checked: whoever reaches the port may
//! send events, as with `POST /events`. `DescribeStreamSummary` and `ListShards` answer what clients ask before they
//! send. Reading is not offered here; lists are delivered as objects. CBOR (some Java clients' default) is refused with
//! the switch that turns it off.

use std::sync::Arc;

use anabranch_stores::state::log::{RECORD_BYTES_MAX, shard_id};
use anabranch_stream::{Appended, IngestError, NewEvent};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::app::App;
use crate::reply::{Refusal, Taken, by_size};

/// Records of one `PutRecords` call.
pub(crate) const RECORDS_MAX: usize = 500;
/// Bytes of one `PutRecords` call, data and partition keys together.
pub(crate) const CALL_BYTES_MAX: usize = 10 << 20;
/// Characters of a partition key.
const KEY_CHARACTERS_MAX: usize = 256;
/// Shards of one `ListShards` answer, unless `MaxResults` asks for fewer.
const SHARDS_LISTED: usize = 1000;

const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// An error in AWS's form.
#[derive(Debug)]
pub(crate) struct AwsError {
    status: StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

impl AwsError {
    fn bad(kind: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind, message: message.into() }
    }

    fn internal(message: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, kind: "InternalFailure", message: message.into() }
    }

    /// As AWS words a broken constraint.
    fn constraint(at: &str, constraint: &str) -> Self {
        Self::bad(
            "ValidationException",
            format!("1 validation error detected: Value at '{at}' failed to satisfy constraint: {constraint}"),
        )
    }
}

impl From<Refusal> for AwsError {
    fn from(refusal: Refusal) -> Self {
        match refusal.status {
            StatusCode::SERVICE_UNAVAILABLE => Self::bad("ProvisionedThroughputExceededException", refusal.message),
            StatusCode::INTERNAL_SERVER_ERROR => Self::internal(refusal.message),
            status => Self { status, kind: "ValidationException", message: refusal.message },
        }
    }
}

impl From<&IngestError> for AwsError {
    fn from(error: &IngestError) -> Self {
        match error {
            IngestError::Busy | IngestError::Full { .. } => {
                Self::bad("ProvisionedThroughputExceededException", error.to_string())
            }
            IngestError::Refused(why) => Self::bad("InvalidArgumentException", why.clone()),
            // A client error: no client tries this again.
            IngestError::Elsewhere(_) => Self::bad("UnknownOperationException", error.to_string()),
            IngestError::Blocked(_) | IngestError::Stopping | IngestError::Failed(_) => {
                Self::internal(error.to_string())
            }
        }
    }
}

/// Which stream a call names.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    stream_name: Option<String>,
    #[serde(rename = "StreamARN")]
    stream_arn: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutRecord {
    #[serde(flatten)]
    named: Named,
    #[serde(flatten)]
    record: PutRecordsEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutRecords {
    stream_name: Option<String>,
    #[serde(rename = "StreamARN")]
    stream_arn: Option<String>,
    records: Option<Vec<PutRecordsEntry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutRecordsEntry {
    data: Option<String>,
    partition_key: Option<String>,
    explicit_hash_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListShards {
    stream_name: Option<String>,
    #[serde(rename = "StreamARN")]
    stream_arn: Option<String>,
    exclusive_start_shard_id: Option<String>,
    next_token: Option<String>,
    max_results: Option<usize>,
}

/// `POST /`.
pub(crate) async fn door(State(app): State<Arc<App>>, headers: HeaderMap, body: Result<Taken, Refusal>) -> Response {
    let request_id = app.request_id();
    let result = match body {
        Ok(body) => answer(&app, &headers, body).await,
        Err(refusal) => Err(refusal.into()),
    };
    let (status, kind, value) = match result {
        Ok(value) => (StatusCode::OK, None, value),
        Err(error) => (error.status, Some(error.kind), json!({ "__type": error.kind, "message": error.message })),
    };
    let mut response = (status, value.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
    if let Ok(id) = HeaderValue::try_from(request_id) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(kind) = kind {
        headers.insert(ERROR_TYPE, HeaderValue::from_static(kind));
    }
    response
}

async fn answer(app: &Arc<App>, headers: &HeaderMap, body: Taken) -> Result<Value, AwsError> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if text(&header::CONTENT_TYPE).contains("cbor") {
        let message = "CBOR is not spoken here: switch the client to JSON (AWS_CBOR_DISABLE=true for the Java SDK)";
        return Err(AwsError {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            kind: "UnsupportedMediaTypeException",
            message: message.to_owned(),
        });
    }
    app.embedded().map_err(|error| AwsError::from(&error))?;
    match text(&TARGET) {
        "Kinesis_20131202.PutRecord" => put_record(app, body).await,
        "Kinesis_20131202.PutRecords" => put_records(app, body).await,
        "Kinesis_20131202.DescribeStreamSummary" => {
            let named: Named = parse(&body.bytes)?;
            describe(app, &named)
        }
        "Kinesis_20131202.ListShards" => list_shards(app, &parse(&body.bytes)?),
        "" => Err(AwsError::bad(
            "UnknownOperationException",
            "POST / speaks the Kinesis API and needs the header X-Amz-Target; plain JSON events go to POST /events",
        )),
        other => Err(AwsError::bad(
            "UnknownOperationException",
            format!("{other} is not offered; PutRecord, PutRecords, DescribeStreamSummary and ListShards are"),
        )),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, AwsError> {
    serde_json::from_slice(bytes).map_err(|error| AwsError::bad("SerializationException", error.to_string()))
}

fn check_stream(ours: &str, name: Option<&str>, arn: Option<&str>) -> Result<(), AwsError> {
    if name.is_none() && arn.is_none() {
        return Err(AwsError::bad("InvalidArgumentException", "StreamName or StreamARN must name the stream"));
    }
    let from_arn = arn.map(|arn| arn.rsplit_once(":stream/").map_or(arn, |(_, name)| name));
    match [name, from_arn].into_iter().flatten().find(|name| *name != ours) {
        None => Ok(()),
        Some(other) => {
            let other: String = other.chars().take(128).collect();
            Err(AwsError::bad(
                "ResourceNotFoundException",
                format!("Stream {other} not found; this server holds stream {ours}"),
            ))
        }
    }
}

/// Checks a record as AWS does; `at` is the path of its fields in the call.
fn event_of(record: PutRecordsEntry, at: &str) -> Result<NewEvent, AwsError> {
    let missing = |field: &str| AwsError::constraint(&format!("{at}{field}"), "Member must not be null");
    let data = record.data.ok_or_else(|| missing("data"))?;
    let partition_key = record.partition_key.ok_or_else(|| missing("partitionKey"))?;
    let characters = partition_key.chars().count();
    if characters == 0 {
        let constraint = "Member must have length greater than or equal to 1";
        return Err(AwsError::constraint(&format!("{at}partitionKey"), constraint));
    }
    if characters > KEY_CHARACTERS_MAX {
        let constraint = format!("Member must have length less than or equal to {KEY_CHARACTERS_MAX}");
        return Err(AwsError::constraint(&format!("{at}partitionKey"), &constraint));
    }
    let explicit_hash_key = record.explicit_hash_key.map(|key| hash_key_of(&key, at)).transpose()?;
    let data = STANDARD
        .decode(data)
        .map_err(|error| AwsError::bad("SerializationException", format!("{at}data is not base64: {error}")))?;
    if data.len() + partition_key.len() > RECORD_BYTES_MAX {
        let constraint = format!(
            "Member must have length less than or equal to {RECORD_BYTES_MAX} bytes, partition key included; found {}",
            data.len() + partition_key.len()
        );
        return Err(AwsError::constraint(&format!("{at}data"), &constraint));
    }
    Ok(NewEvent { partition_key, explicit_hash_key, data })
}

fn hash_key_of(text: &str, at: &str) -> Result<u128, AwsError> {
    let is_canonical =
        text == "0" || (text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() && !text.starts_with('0'));
    if !is_canonical {
        let constraint = "Member must satisfy regular expression pattern: 0|([1-9]\\d{0,38})";
        return Err(AwsError::constraint(&format!("{at}explicitHashKey"), constraint));
    }
    text.parse().map_err(|_| {
        AwsError::bad(
            "InvalidArgumentException",
            format!("Invalid ExplicitHashKey at '{at}explicitHashKey': it must be in the range [0, 2^128 - 1]"),
        )
    })
}

/// Refuses a call unread that there is no room for.
fn check_room(app: &App, body: &Taken) -> Result<(), AwsError> {
    let refused = app.embedded().map(|stream| stream.appender().hopeless(body.bytes.len()));
    match refused {
        Ok(None) => Ok(()),
        Ok(Some(error)) | Err(error) => Err(AwsError::from(&error)),
    }
}

async fn put_record(app: &Arc<App>, body: Taken) -> Result<Value, AwsError> {
    check_room(app, &body)?;
    let Taken { bytes, room } = body;
    let call = Arc::clone(app);
    let event = by_size(bytes.len(), move || {
        let put: PutRecord = parse(&bytes)?;
        check_stream(call.stream_name(), put.named.stream_name.as_deref(), put.named.stream_arn.as_deref())?;
        event_of(put.record, "")
    })
    .await??;
    let appended = app.append(vec![event], room).await.map_err(|error| AwsError::from(&error))?;
    let place = appended.first().ok_or_else(|| AwsError::internal("the log named no place; please report it"))?;
    Ok(placed(place))
}

async fn put_records(app: &Arc<App>, body: Taken) -> Result<Value, AwsError> {
    check_room(app, &body)?;
    let Taken { bytes, room } = body;
    let call = Arc::clone(app);
    let mut events = by_size(bytes.len(), move || events_of(call.stream_name(), &bytes)).await??;
    let count = events.len();
    if let Some(why) = app.stream().shared().blocked() {
        return Ok(outcomes(Err(IngestError::Blocked(why)), count));
    }
    // What there is no room for is told record by record; the first ones go in, so that order is kept.
    let (fitting, refusal) = app.embedded().map_err(|error| AwsError::from(&error))?.appender().fitting(&events);
    events.truncate(fitting);
    let appended = if events.is_empty() { Ok(Vec::new()) } else { app.append(events, room).await };
    Ok(outcomes(appended.map(|appended| (appended, refusal)), count))
}

pub(crate) fn events_of(ours: &str, bytes: &[u8]) -> Result<Vec<NewEvent>, AwsError> {
    let put: PutRecords = parse(bytes)?;
    check_stream(ours, put.stream_name.as_deref(), put.stream_arn.as_deref())?;
    let records = put.records.ok_or_else(|| AwsError::constraint("records", "Member must not be null"))?;
    if records.is_empty() {
        return Err(AwsError::constraint("records", "Member must have length greater than or equal to 1"));
    }
    if records.len() > RECORDS_MAX {
        let constraint = format!("Member must have length less than or equal to {RECORDS_MAX}");
        return Err(AwsError::constraint("records", &constraint));
    }
    let events: Vec<NewEvent> = records
        .into_iter()
        .enumerate()
        .map(|(index, record)| event_of(record, &format!("records.{}.member.", index + 1)))
        .collect::<Result<_, _>>()?;
    let bytes: usize = events.iter().map(|event| event.data.len() + event.partition_key.len()).sum();
    if bytes > CALL_BYTES_MAX {
        return Err(AwsError::bad(
            "InvalidArgumentException",
            format!("Records size of {bytes} bytes exceeds the limit of {CALL_BYTES_MAX} bytes a call"),
        ));
    }
    Ok(events)
}

/// The answer to `PutRecords`: one outcome for each of `count` records, of which the first ones were appended and the others
/// refused.
fn outcomes(result: Result<(Vec<Appended>, IngestError), IngestError>, count: usize) -> Value {
    let (appended, refusal) = result.unwrap_or_else(|error| (Vec::new(), error));
    let error = AwsError::from(&refusal);
    let failed = json!({ "ErrorCode": error.kind, "ErrorMessage": error.message });
    let failed_count = count - appended.len().min(count);
    let records: Vec<Value> = appended.iter().map(placed).chain(std::iter::repeat_n(failed, failed_count)).collect();
    json!({ "FailedRecordCount": failed_count, "Records": records, "EncryptionType": "NONE" })
}

fn placed(place: &Appended) -> Value {
    json!({
        "ShardId": shard_id(place.shard),
        "SequenceNumber": place.sequence.to_string(),
        "EncryptionType": "NONE",
    })
}

fn describe(app: &App, named: &Named) -> Result<Value, AwsError> {
    check_stream(app.stream_name(), named.stream_name.as_deref(), named.stream_arn.as_deref())?;
    let shared = app.stream().shared();
    let identity = app.embedded().map_err(|error| AwsError::from(&error))?.state().identity();
    Ok(json!({ "StreamDescriptionSummary": {
        "StreamName": shared.settings.name,
        "StreamARN": format!("arn:aws:kinesis:local:000000000000:stream/{}", shared.settings.name),
        "StreamStatus": "ACTIVE",
        "StreamModeDetails": { "StreamMode": "PROVISIONED" },
        "RetentionPeriodHours": shared.settings.retention_hours,
        "StreamCreationTimestamp": identity.created_ms as f64 / 1000.0,
        "EnhancedMonitoring": [{ "ShardLevelMetrics": [] }],
        "EncryptionType": "NONE",
        "OpenShardCount": identity.shards,
        "ConsumerCount": 0,
    } }))
}

fn list_shards(app: &App, call: &ListShards) -> Result<Value, AwsError> {
    // A token stands for the stream and the place in its list; AWS refuses it beside a name, we need neither.
    if call.next_token.is_none() {
        check_stream(app.stream_name(), call.stream_name.as_deref(), call.stream_arn.as_deref())?;
    }
    let max = call.max_results.unwrap_or(SHARDS_LISTED);
    if !(1..=10_000).contains(&max) {
        return Err(AwsError::constraint("maxResults", "Member must be between 1 and 10000"));
    }
    let count = app.embedded().map_err(|error| AwsError::from(&error))?.state().identity().shards;
    let after = call.next_token.as_deref().or(call.exclusive_start_shard_id.as_deref());
    let first = match after {
        None => 0,
        Some(after) => (0..count).find(|shard| shard_id(*shard) == after).map(|shard| shard + 1).ok_or_else(|| {
            AwsError::bad("ResourceNotFoundException", "NextToken or ExclusiveStartShardId names no shard of ours")
        })?,
    };
    let end = count.min(first.saturating_add(max.min(SHARDS_LISTED) as u32));
    let width = u128::MAX / u128::from(count);
    let shards: Vec<Value> = (first..end)
        .map(|shard| {
            let start = width * u128::from(shard);
            let last = if shard + 1 == count { u128::MAX } else { start + (width - 1) };
            json!({
                "ShardId": shard_id(shard),
                "HashKeyRange": { "StartingHashKey": start.to_string(), "EndingHashKey": last.to_string() },
                "SequenceNumberRange": { "StartingSequenceNumber": "1" },
            })
        })
        .collect();
    let mut answer = json!({ "Shards": shards });
    if end < count {
        answer["NextToken"] = shard_id(end - 1).into();
    }
    Ok(answer)
}
