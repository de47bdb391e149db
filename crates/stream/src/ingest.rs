//! The door: acknowledged means synced. Requests wait in a bounded queue; one thread takes all that wait, appends them in
//! one batch with one `fdatasync`, and only then answers each. So the cost of a sync is shared by everyone who waits
//! for it, and a lone request pays for one.
//!
//! Back-pressure: what waits for its sync is bounded in events, and the log in bytes. Records leave the log only after their
//! delivery, so when delivery cannot keep up the log fills, and from then on as much is taken as is delivered. What is
//! refused was not written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anabranch_stores::state::State;
use anabranch_stores::state::log::{NewRecord, RECORD_BYTES_MAX, hash_key, record_bytes, shard_of};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};

use crate::ports::{Position, ShardId};
use crate::shared::Shared;

/// Requests waiting at most; each holds up to 500 records, which the records' own limit bounds further.
const QUEUE_REQUESTS: usize = 10_000;
/// Records and bytes appended in one batch: one `fdatasync` of 8 MiB takes tens of milliseconds at worst.
const BATCH_RECORDS: usize = 5_000;
const BATCH_BYTES: u64 = 8 << 20;
/// A request is refused unread if less than this part of its body's bytes fits into the log. While everything is
/// delivered there is room for half of the least log, which is more than this part of the largest body.
const HOPELESS_PART: u64 = 16;
/// How often an idle appender looks whether the stream stops.
const IDLE: Duration = Duration::from_millis(200);

/// An event to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// Chooses the shard: the user id, so that a user's events stay in order.
    pub partition_key: String,
    /// Overrides the partition key's hash.
    pub explicit_hash_key: Option<u128>,
    /// The producer's bytes.
    pub data: Vec<u8>,
}

/// Where an event went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The shard.
    pub shard: u32,
    /// Its sequence number there.
    pub sequence: u64,
}

/// Why events were not appended. None of the request's events was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// Too many events wait; the same request succeeds later.
    #[error("too many events wait to be written; send them again after a pause")]
    Busy,
    /// The log has no room; the same request succeeds when more is delivered.
    #[error(
        "events come faster than their lists are delivered: the log holds all the {bytes_max} bytes that retention_bytes \
         allows; send them again after a pause"
    )]
    Full {
        /// The limit.
        bytes_max: u64,
    },
    /// The stream takes no input for now.
    #[error("the stream takes no input: {0}")]
    Blocked(String),
    /// The stream is ending.
    #[error("the stream is stopping")]
    Stopping,
    /// The stream reads its records from elsewhere.
    #[error("events are not taken here: put them into {0}, which this process reads")]
    Elsewhere(String),
    /// An event can never be taken.
    #[error("{0}")]
    Refused(String),
    /// The log failed; whether the events were written is unknown. Sending them again is safe: repeats count once.
    #[error("the log failed: {0}")]
    Failed(String),
}

/// Called once with the outcome, on the appender's thread: hand it on, do not work in it.
pub type Reply = Box<dyn FnOnce(Result<Vec<Appended>, IngestError>) + Send>;

struct Request {
    events: Vec<NewEvent>,
    received_us: u64,
    reply: Reply,
}

/// The sending side. Cheap to clone.
#[derive(Clone)]
pub struct Appender {
    sender: Sender<Request>,
    waiting: Arc<Waiting>,
    shared: Arc<Shared>,
    state: Arc<State>,
}

/// What waits for its sync.
#[derive(Debug, Default)]
struct Waiting {
    events: AtomicUsize,
    /// As the log will count them.
    bytes: AtomicU64,
}

impl Waiting {
    fn add(&self, events: usize, bytes: u64) -> (usize, u64) {
        (
            self.events.fetch_add(events, Ordering::SeqCst) + events,
            self.bytes.fetch_add(bytes, Ordering::SeqCst) + bytes,
        )
    }

    fn remove(&self, events: usize, bytes: u64) {
        self.events.fetch_sub(events, Ordering::SeqCst);
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Appender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appender").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

/// Checks what can be checked before anything is queued.
pub fn check_event(event: &NewEvent) -> Result<(), IngestError> {
    let characters = event.partition_key.chars().count();
    if !(1..=256).contains(&characters) {
        return Err(IngestError::Refused(format!("a partition key of {characters} characters; 1 to 256 are accepted")));
    }
    let bytes = event.data.len() + event.partition_key.len();
    if bytes > RECORD_BYTES_MAX {
        return Err(IngestError::Refused(format!(
            "a record of {bytes} bytes; at most {RECORD_BYTES_MAX} are accepted"
        )));
    }
    Ok(())
}

impl Appender {
    /// The sending side, and what [`run_appender`] needs.
    pub(crate) fn new(shared: Arc<Shared>, state: Arc<State>) -> (Self, AppenderInbox) {
        let (sender, receiver) = crossbeam_channel::bounded(QUEUE_REQUESTS);
        let waiting = Arc::new(Waiting::default());
        let inbox = AppenderInbox { receiver, waiting: Arc::clone(&waiting) };
        (Self { sender, waiting, shared, state }, inbox)
    }

    /// Hands events over; `reply` is called after their sync, or at once if they are refused.
    pub fn submit(&self, events: Vec<NewEvent>, reply: Reply) {
        if let Some(why) = self.shared.blocked() {
            return reply(Err(IngestError::Blocked(why)));
        }
        if self.shared.is_stopping() {
            return reply(Err(IngestError::Stopping));
        }
        if let Some(error) = events.iter().find_map(|event| check_event(event).err()) {
            return reply(Err(error));
        }
        let (count, bytes) = size(&events);
        let limit = self.shared.settings.ingest_queue_records.max(count);
        let bytes_max = self.shared.settings.retention_bytes;
        let (waiting, waiting_bytes) = self.waiting.add(count, bytes);
        let refusal = if waiting > limit {
            Some(IngestError::Busy)
        } else if self.state.log_bytes() + waiting_bytes > bytes_max {
            Some(IngestError::Full { bytes_max })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.waiting.remove(count, bytes);
            return reply(Err(refusal));
        }
        let received_us = self.shared.clock.monotonic_us();
        match self.sender.try_send(Request { events, received_us, reply }) {
            Ok(()) => {}
            Err(TrySendError::Full(request) | TrySendError::Disconnected(request)) => {
                self.waiting.remove(count, bytes);
                let is_full = !self.shared.is_stopping();
                (request.reply)(Err(if is_full { IngestError::Busy } else { IngestError::Stopping }));
            }
        }
    }

    /// How many events the queue takes now. Others may come in between: only [`Appender::submit`] is binding.
    pub fn room(&self) -> usize {
        self.shared.settings.ingest_queue_records.saturating_sub(self.waiting.events.load(Ordering::SeqCst))
    }

    /// How many bytes the log takes now, as [`record_bytes`] counts them; as little binding.
    pub fn log_room(&self) -> u64 {
        let taken = self.state.log_bytes() + self.waiting.bytes.load(Ordering::SeqCst);
        self.shared.settings.retention_bytes.saturating_sub(taken)
    }

    /// Why a request whose body has this many bytes is refused unread, if so little room is left that next to nothing of it
    /// would be taken. So refusing costs little, and an overload leaves the processor to delivery.
    pub fn hopeless(&self, body_bytes: usize) -> Option<IngestError> {
        if self.room() == 0 {
            return Some(IngestError::Busy);
        }
        let is_hopeless = self.log_room().saturating_mul(HOPELESS_PART) < body_bytes as u64;
        is_hopeless.then_some(IngestError::Full { bytes_max: self.shared.settings.retention_bytes })
    }

    /// How many of `events`, from the first on, are taken now, and why the next one is not.
    pub fn fitting(&self, events: &[NewEvent]) -> (usize, IngestError) {
        let (room, mut log_room) = (self.room(), self.log_room());
        for (index, event) in events.iter().enumerate() {
            let Some(left) = log_room.checked_sub(event_bytes(event)) else {
                return (index, IngestError::Full { bytes_max: self.shared.settings.retention_bytes });
            };
            if index == room {
                return (index, IngestError::Busy);
            }
            log_room = left;
        }
        (events.len(), IngestError::Busy)
    }

    /// Hands events over and waits for their sync.
    pub fn append(&self, events: Vec<NewEvent>) -> Result<Vec<Appended>, IngestError> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let reply: Reply = Box::new(move |result| drop(sender.send(result)));
        self.submit(events, reply);
        receiver.recv().unwrap_or(Err(IngestError::Stopping))
    }
}

/// The receiving side.
pub(crate) struct AppenderInbox {
    receiver: Receiver<Request>,
    waiting: Arc<Waiting>,
}

/// Appends until the stream stops. Returns the log's error, after which nothing can be appended any more.
pub(crate) fn run_appender(
    shared: &Shared,
    state: &State,
    inbox: &AppenderInbox,
) -> Result<(), anabranch_stores::state::StateError> {
    let mut last_arrival_ms = i64::MIN;
    loop {
        let first = match inbox.receiver.recv_timeout(IDLE) {
            Ok(request) => request,
            Err(RecvTimeoutError::Timeout) if !shared.is_stopping() => continue,
            Err(_) => return Ok(()),
        };
        let mut requests = vec![first];
        let (mut records, mut bytes) = size(&requests[0].events);
        while records < BATCH_RECORDS && bytes < BATCH_BYTES {
            let Ok(request) = inbox.receiver.try_recv() else { break };
            let (more_records, more_bytes) = size(&request.events);
            records += more_records;
            bytes += more_bytes;
            requests.push(request);
        }
        // Arrival times ascend within a shard, whatever the clock does: folders and retention rely on it.
        last_arrival_ms = last_arrival_ms.max(shared.clock.now_ms());
        let result = append(shared, state, &requests, last_arrival_ms);
        inbox.waiting.remove(records, bytes);
        match result {
            Ok(appended) => {
                let mut appended = appended.into_iter();
                for request in requests {
                    let own: Vec<Appended> = appended.by_ref().take(request.events.len()).collect();
                    (request.reply)(Ok(own));
                }
            }
            Err(error) => {
                let failed = IngestError::Failed(error.to_string());
                for request in requests {
                    (request.reply)(Err(failed.clone()));
                }
                return Err(error);
            }
        }
    }
}

fn size(events: &[NewEvent]) -> (usize, u64) {
    (events.len(), events.iter().map(event_bytes).sum())
}

fn event_bytes(event: &NewEvent) -> u64 {
    record_bytes(&event.partition_key, &event.data)
}

fn append(
    shared: &Shared,
    state: &State,
    requests: &[Request],
    arrival_ms: i64,
) -> Result<Vec<Appended>, anabranch_stores::state::StateError> {
    let shards = state.identity().shards;
    let records: Vec<NewRecord<'_>> = requests
        .iter()
        .flat_map(|request| &request.events)
        .map(|event| NewRecord {
            shard: shard_of(event.explicit_hash_key.unwrap_or_else(|| hash_key(&event.partition_key)), shards),
            partition_key: &event.partition_key,
            data: &event.data,
            arrival_ms,
        })
        .collect();
    let sequences = state.append(&records, None)?;
    // Only now are the records synced and visible; each shard hears of its own.
    let mut by_shard: Vec<(Vec<Position>, u64)> = vec![(Vec::new(), u64::MAX); shards as usize];
    let mut received =
        requests.iter().flat_map(|request| std::iter::repeat_n(request.received_us, request.events.len()));
    for (record, sequence) in records.iter().zip(&sequences) {
        let entry = &mut by_shard[record.shard as usize];
        entry.0.push(Position::whole((*sequence).into()));
        entry.1 = entry.1.min(received.next().unwrap_or(u64::MAX));
    }
    for (shard, (positions, received_us)) in (0..).map(ShardId).zip(&by_shard) {
        shared.announce(shard, positions, *received_us);
    }
    Ok(records.iter().zip(sequences).map(|(record, sequence)| Appended { shard: record.shard, sequence }).collect())
}
