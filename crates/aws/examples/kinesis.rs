//! Puts lines into a Kinesis stream, or reads a stream from its oldest record until nothing more comes.
//!
//! ```text
//! cargo run -p anabranch-aws --example kinesis -- put clicks < events.jsonl      # the key is the line's userId
//! cargo run -p anabranch-aws --example kinesis -- read clicks                    # one line a user record
//! cargo run -p anabranch-aws --example kinesis -- read clicks arn:aws:kinesis:…  # as a registered consumer
//! ```
//!
//! `AWS_ENDPOINT_URL` names another place than AWS. It shows how the parts fit together, and tests drive it with real
//! clients on the other side; the worker does the same with leases and checkpoints that last.
#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::io::BufRead;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anabranch_aws::api::{KinesisApi, PutRecord, all_shards};
use anabranch_aws::kinesis::fanout::{FanOutReader, FanOutSettings};
use anabranch_aws::kinesis::producer::{Answer, Producer, ProducerSettings};
use anabranch_aws::kinesis::reader::{PollSettings, PollingReader};
use anabranch_aws::kinesis::shards;
use anabranch_aws::sdk::{AwsSettings, Connection};
use anabranch_stores::ErrorKind;
use anabranch_stores::backoff::Patience;
use anabranch_stream::Clock;
use anabranch_stream::ports::{Checkpoint, Position, ShardId, ShardReader};

type AnyError = Box<dyn std::error::Error>;

/// Empty reads after which a shard counts as read, unless it ends before.
const QUIET_READS: usize = 12;

#[derive(Debug)]
struct SystemClock(Instant);

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
    }

    fn monotonic_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

fn main() -> Result<(), AnyError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let connection = Connection::new(&AwsSettings::default(), runtime.handle().clone());
    let patience = Patience::new(Arc::new(connection.pause()), std::process::id().into());
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["put", stream] => put(stream_of(&connection, stream, None), patience),
        ["read", stream] => read(&stream_of(&connection, stream, None), false, &patience),
        ["read", stream, arn] => read(&stream_of(&connection, stream, Some(arn)), true, &patience),
        _ => Err("usage: kinesis put STREAM | kinesis read STREAM [CONSUMER_ARN]".into()),
    }
}

fn stream_of(connection: &Connection, stream: &str, consumer_arn: Option<&str>) -> Arc<dyn KinesisApi> {
    Arc::new(connection.kinesis(stream, consumer_arn.map(str::to_owned)))
}

fn put(api: Arc<dyn KinesisApi>, patience: Patience) -> Result<(), AnyError> {
    let mut records = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let event: serde_json::Value = serde_json::from_str(&line)?;
        let partition_key = event["userId"].as_str().unwrap_or("nobody").to_owned();
        records.push(PutRecord { partition_key, data: line.into_bytes() });
    }
    let answers = Producer::new(api, ProducerSettings::default(), patience).put(&records);
    match answers.iter().find(|answer| !matches!(answer, Answer::Stored { .. })) {
        Some(answer) => Err(format!("{answer:?}").into()),
        None => Ok(()),
    }
}

fn read(api: &Arc<dyn KinesisApi>, by_fan_out: bool, patience: &Patience) -> Result<(), AnyError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock(Instant::now()));
    let mut checkpoints: HashMap<ShardId, Checkpoint> = HashMap::new();
    let mut quiet = Vec::new();
    loop {
        let plan = shards::plan(&all_shards(&**api)?, &checkpoints);
        let Some(shard) = shards::readable(&plan).into_iter().find(|shard| !quiet.contains(shard)) else {
            return Ok(());
        };
        let mut reader: Box<dyn ShardReader> = if by_fan_out {
            let settings = FanOutSettings { wait_ms: 250 };
            Box::new(FanOutReader::new(Arc::clone(api), shard, settings, Arc::clone(&clock), patience.clone()))
        } else {
            let settings = PollSettings::default();
            Box::new(PollingReader::new(Arc::clone(api), shard, settings, Arc::clone(&clock), patience.clone()))
        };
        match drain(&mut *reader, shard)? {
            Checkpoint::After(_) => quiet.push(shard),
            end @ Checkpoint::ShardEnd(_) => {
                checkpoints.insert(shard, end);
            }
        }
    }
}

/// Prints what a shard holds; how far it was read.
fn drain(reader: &mut dyn ShardReader, shard: ShardId) -> Result<Checkpoint, AnyError> {
    let (mut after, mut quiet_reads) = (Position::START, 0);
    while quiet_reads < QUIET_READS {
        let page = match reader.read_after(after, 1_000, 1 << 20) {
            Err(error) if error.kind == ErrorKind::Retry => {
                eprintln!("{error}");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            page => page?,
        };
        for record in &page.records {
            let data = String::from_utf8_lossy(record.data.as_deref().unwrap_or_default());
            let line = serde_json::json!({
                "shard": shard.to_string(), "position": record.position, "sub": record.sub,
                "partitionKey": record.partition_key, "arrivalMs": record.arrival_ms, "data": data,
            });
            println!("{line}");
        }
        after = page.through.or_else(|| page.records.last().map(|record| record.position)).unwrap_or(after);
        if page.is_end_of_shard {
            return Ok(Checkpoint::ShardEnd(after));
        }
        if page.records.is_empty() {
            quiet_reads += 1;
            std::thread::sleep(Duration::from_millis(100));
        } else {
            quiet_reads = 0;
        }
    }
    Ok(Checkpoint::After(after))
}
