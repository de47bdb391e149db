//! The stream on AWS: Kinesis, DynamoDB and the fleet, from the `[source]` settings.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_aws::api::{ApiErrorKind, KinesisApi, StreamSummary};
use anabranch_aws::dynamo::histories::{DynamoState, StateParts, StateSettings};
use anabranch_aws::dynamo::leases::DynamoLeases;
use anabranch_aws::fleet::{Fleet, FleetNotify, FleetParts, FleetSettings, Reading};
use anabranch_aws::kinesis::fanout::FanOutSettings;
use anabranch_aws::kinesis::identity;
use anabranch_aws::kinesis::reader::PollSettings;
use anabranch_aws::sdk::{AwsSettings, Connection};
use anabranch_aws::sns::channel::SnsChannel;
use anabranch_batch::dataset::Dataset;
use anabranch_events::erasure::ErasureKey;
use anabranch_events::{HistoryKey, codec};
use anabranch_stores::ErrorKind;
use anabranch_stores::backoff::Patience;
use anabranch_stream::Clock;
use anabranch_stream::notify::Channel;
use anabranch_stream::shared::SharedParts;
use rand::TryRng as _;

use crate::compose::Context;
use crate::failure::Failure;
use crate::settings::{self, SourceKind};

/// Histories joined into the table at once, a few megabytes.
const WARM_CHUNK: usize = 2_000;
const SECONDS_PER_DAY: u32 = 86_400;

/// A connection to AWS and the stream that the settings name.
pub(crate) struct Account {
    /// Its threads carry every call. The last to go.
    runtime: tokio::runtime::Runtime,
    connection: Connection,
    patience: Patience,
    api: Arc<dyn KinesisApi>,
    stream: String,
    summary: StreamSummary,
}

/// Whether the settings name a stream of Kinesis.
pub(crate) fn is_kinesis(context: &Context) -> bool {
    context.settings.source.kind == SourceKind::Kinesis
}

/// Refuses what needs the embedded log and state; `instead` says what serves the purpose.
pub(crate) fn refuse(context: &Context, command: &str, instead: &str) -> Result<(), Failure> {
    if !is_kinesis(context) {
        return Ok(());
    }
    Err(Failure::input(format!(
        "`anabranch {command}` works on the embedded state, and the settings name a Kinesis stream ([source] kind): \
         {instead}"
    )))
}

impl Account {
    pub(crate) fn connect(context: &Context) -> Result<Self, Failure> {
        let source = &context.settings.source;
        let arn_parts: Vec<&str> = source.stream.splitn(6, ':').collect();
        let (stream, arn_region) = match arn_parts[..] {
            ["arn", _, "kinesis", region, _, resource] => {
                let name = resource.strip_prefix("stream/").ok_or_else(|| {
                    Failure::input(format!("[source] stream = {:?} is not the ARN of a stream", source.stream))
                })?;
                (name.to_owned(), region)
            }
            _ => (source.stream.clone(), ""),
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let aws = AwsSettings {
            region: some(&source.region).or_else(|| some(arn_region)),
            endpoint_url: some(&source.endpoint_url),
            ..AwsSettings::default()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .thread_name("aws")
            .build()
            .map_err(|e| Failure::of(ErrorKind::Retry, format!("starting the threads of the AWS client: {e}")))?;
        let connection = Connection::new(&aws, runtime.handle().clone());
        let patience = Patience::new(Arc::new(connection.pause()), u64::from_le_bytes(chance()?));
        let api: Arc<dyn KinesisApi> = Arc::new(connection.kinesis(stream.clone(), some(&source.consumer_arn)));
        let summary = identity::describe(&*api, &patience).map_err(|error| match error.kind {
            ApiErrorKind::NotFound => Failure::missing(error),
            kind => Failure::of(kind.kind(), error),
        })?;
        Ok(Self { runtime, connection, patience, api, stream, summary })
    }

    /// The stream's name and creation time: a stream that is deleted and made again is another one.
    fn namespace(&self) -> String {
        identity::namespace(&self.stream, &self.summary)
    }

    /// The stream, for people.
    pub(crate) fn source(&self) -> String {
        format!("the Kinesis stream {}", self.stream)
    }

    /// Histories and checkpoints.
    pub(crate) fn state(&self, context: &Context) -> Result<Arc<DynamoState>, Failure> {
        let source = &context.settings.source;
        let erasure_key = match settings::erasure_key(&source.erasure_key) {
            Some(key) => ErasureKey::new(key),
            None => context.erasure_key()?,
        };
        let settings = StateSettings {
            table: source.table.clone(),
            namespace: self.namespace(),
            retention_s: self.summary.retention_hours.saturating_mul(3600),
            ttl_s: source.history_days.saturating_mul(SECONDS_PER_DAY),
        };
        let parts = StateParts {
            api: Arc::new(self.connection.dynamo()),
            settings,
            erasure_key,
            clock: Arc::clone(&context.clock) as Arc<dyn Clock>,
            patience: self.patience.clone(),
        };
        let state = DynamoState::new(parts, &context.types)?;
        Ok(Arc::new(if source.outbox_table.is_empty() { state } else { state.with_outbox(&source.outbox_table) }))
    }

    /// Starts this process's workers.
    pub(crate) fn start_fleet(&self, context: &Context) -> Result<Fleet, Failure> {
        let source = &context.settings.source;
        let worker = if source.worker.is_empty() {
            format!("anabranch-{}-{:016x}", std::process::id(), u64::from_le_bytes(chance()?))
        } else {
            source.worker.clone()
        };
        let reading = if source.consumer_arn.is_empty() {
            Reading::Polling(PollSettings { reads_per_second: source.reads_per_second })
        } else {
            Reading::FanOut(FanOutSettings::default())
        };
        let mut stream_settings = context.settings.stream.clone();
        stream_settings.name.clone_from(&self.stream);
        let dynamo = Arc::new(self.connection.dynamo());
        let state = self.state(context)?;
        let leases = Arc::new(DynamoLeases::new(dynamo, source.lease_table.clone(), self.patience.clone()));
        let topic = |topic: &str| -> Result<Box<dyn Channel>, Failure> {
            Ok(Box::new(SnsChannel::new(Arc::new(self.connection.sns()), topic)))
        };
        let notify = context.notify_by(&topic)?.map(|parts| FleetNotify {
            parts,
            outbox: Arc::<DynamoState>::clone(&state),
            leases: Arc::<DynamoLeases>::clone(&leases),
        });
        Ok(Fleet::start(FleetParts {
            shared: SharedParts {
                state,
                sink: context.delivered()?,
                types: context.types.clone(),
                settings: stream_settings,
                namespace: self.namespace(),
                model: Arc::new(context.model()?),
                clock: Arc::clone(&context.clock) as Arc<dyn Clock>,
            },
            api: Arc::clone(&self.api),
            reading,
            leases,
            settings: FleetSettings {
                worker,
                shards_max: source.shards_max,
                failover_ms: source.failover_ms,
                list_every_ms: source.list_shards_every_ms,
                drain_ms: source.drain_ms,
            },
            patience: self.patience.clone(),
            models: Some(context.models()?),
            notify,
            source: self.source(),
            created_ms: self.summary.created_ms,
        })?)
    }

    /// Joins the dataset's histories into the table: the warm start. Says how many were written; running it again writes
    /// none.
    pub(crate) fn warm(&self, context: &Context) -> Result<u64, Failure> {
        let state = self.state(context)?;
        let lake = context.lake()?;
        let dataset = Dataset::current(&*lake)?;
        let mut written = 0;
        let mut chunk: HashMap<HistoryKey, anabranch_events::History> = HashMap::new();
        let mut entries = dataset.histories().peekable();
        while let Some(entry) = entries.next() {
            let (key, bytes) = entry?;
            let history = codec::decode(&bytes, &context.types)
                .map_err(|e| Failure::of(ErrorKind::Corrupt, format!("{key}: {e}")))?;
            chunk.insert(key, history);
            if chunk.len() >= WARM_CHUNK || entries.peek().is_none() {
                written += state.import(&chunk, &context.types)?.written;
                chunk.clear();
                context.ui.progress("warm", written, 0);
            }
        }
        context.ui.end_bar();
        Ok(written)
    }

    /// Ends the client's threads.
    pub(crate) fn close(self) {
        self.runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    }
}

fn chance() -> Result<[u8; 8], Failure> {
    let mut bytes = [0; 8];
    rand::rngs::SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|e| Failure::of(ErrorKind::Retry, format!("the system gives no random bytes: {e}")))?;
    Ok(bytes)
}
