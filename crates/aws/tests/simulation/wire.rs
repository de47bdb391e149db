//! What lies between a process and the services: the place where it dies.
//!
//! A process dies by a panic that unwinds out of the call during which it died, so whatever the worker had in hand is
//! lost there and then, be it in the middle of a commit. The call's effect landed or did not; of several requests of
//! one call any part did.

use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anabranch_aws::api::{
    ApiError, KinesisApi, PutRecord, PutResult, RecordsPage, ShardFilter, ShardPage, StartingPosition, StreamSummary,
    Subscription,
};
use anabranch_aws::dynamo::api::{Condition, DynamoApi, DynamoError, Got, Put, Scanned, Table, Update, Value};
use anabranch_aws::dynamo::testing::MemoryDynamo;
use anabranch_stores::lake::{LakeError, ObjectMeta, ObjectPath, ObjectStore, PutOutcome};
use anabranch_stream::ports::ShardId;
use bytes::Bytes;

use crate::chance::Chance;
use crate::tape::Tape;

/// The payload of the panic by which a process dies.
#[derive(Debug)]
pub(crate) struct Crash;

/// Dies at a later call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fuse {
    /// Calls that still pass.
    pub(crate) calls: u64,
    /// Whether the effect of the last one lands.
    pub(crate) lands: bool,
}

/// A process's way to the services.
#[derive(Debug)]
pub(crate) struct Wire {
    process: String,
    tape: Arc<Tape>,
    fuse: Mutex<Option<Fuse>>,
    chance: Chance,
}

impl Wire {
    pub(crate) fn new(process: String, tape: Arc<Tape>, seed: u64) -> Arc<Self> {
        Arc::new(Self { process, tape, fuse: Mutex::new(None), chance: Chance::new(seed) })
    }

    /// Sets, or takes away, the call at which the process dies.
    pub(crate) fn set_fuse(&self, fuse: Option<Fuse>) {
        *self.fuse.lock().unwrap() = fuse;
    }

    /// Whether the process dies in this call, and then whether the effect lands.
    fn burn(&self) -> Option<bool> {
        let mut place = self.fuse.lock().unwrap();
        let fuse = place.as_mut()?;
        match fuse.calls.checked_sub(1) {
            Some(left) => {
                fuse.calls = left;
                None
            }
            None => place.take().map(|fuse| fuse.lands),
        }
    }

    fn die(&self, operation: &str, lands: bool) -> ! {
        let how = if lands { "after its effect" } else { "before its effect" };
        self.tape.say(format!("{} dies in {operation}, {how}", self.process));
        self.tape.count(&format!("crash inside a call, {how}"), 1);
        resume_unwind(Box::new(Crash))
    }

    fn call<T>(&self, operation: &str, act: impl FnOnce() -> T) -> T {
        match self.burn() {
            None => act(),
            Some(lands) => {
                if lands {
                    drop(act());
                }
                self.die(operation, lands)
            }
        }
    }
}

/// A service as one process reaches it.
#[derive(Debug)]
pub(crate) struct Via<S> {
    pub(crate) wire: Arc<Wire>,
    pub(crate) service: S,
}

impl<S: KinesisApi> KinesisApi for Via<S> {
    fn describe(&self) -> Result<StreamSummary, ApiError> {
        self.wire.call("DescribeStreamSummary", || self.service.describe())
    }

    fn list_shards(&self, filter: Option<ShardFilter>, next_token: Option<&str>) -> Result<ShardPage, ApiError> {
        self.wire.call("ListShards", || self.service.list_shards(filter, next_token))
    }

    fn get_shard_iterator(&self, shard: ShardId, from: StartingPosition) -> Result<String, ApiError> {
        self.wire.call("GetShardIterator", || self.service.get_shard_iterator(shard, from))
    }

    fn get_records(&self, iterator: &str, limit: u32) -> Result<RecordsPage, ApiError> {
        self.wire.call("GetRecords", || self.service.get_records(iterator, limit))
    }

    fn subscribe_to_shard(&self, shard: ShardId, from: StartingPosition) -> Result<Box<dyn Subscription>, ApiError> {
        self.wire.call("SubscribeToShard", || self.service.subscribe_to_shard(shard, from))
    }

    fn put_records(&self, records: &[PutRecord]) -> Result<Vec<PutResult>, ApiError> {
        self.wire.call("PutRecords", || self.service.put_records(records))
    }
}

impl DynamoApi for Via<Arc<MemoryDynamo>> {
    fn get(&self, table: &Table, chunks: &[Vec<Value>]) -> Vec<Result<Got, DynamoError>> {
        self.wire.call("BatchGetItem", || self.service.get(table, chunks))
    }

    fn put(&self, table: &Table, puts: Vec<Put>) -> Vec<Result<(), DynamoError>> {
        if let Some(lands) = self.wire.burn() {
            // They run side by side: any part of them is done.
            let some = puts.into_iter().filter(|_| lands && !self.wire.chance.one_in(3)).collect();
            drop(self.service.put(table, some));
            self.wire.die("PutItem", lands);
        }
        let count = puts.len();
        let answers = self.service.put(table, puts);
        let conflicts = answers.iter().filter(|a| matches!(a, Err(DynamoError::ConditionFailed(_)))).count();
        let failures = answers.iter().filter(|a| matches!(a, Err(DynamoError::Failed(_)))).count();
        self.wire.tape.count("condition of a write that did not hold", conflicts as u64);
        self.wire
            .tape
            .say(format!("{} puts {count} items: {conflicts} conflicts, {failures} failures", self.wire.process));
        answers
    }

    fn update(&self, table: &Table, update: Update) -> Result<(), DynamoError> {
        self.wire.call("UpdateItem", || self.service.update(table, update))
    }

    fn delete(&self, table: &Table, key: Value, condition: Condition) -> Result<(), DynamoError> {
        self.wire.call("DeleteItem", || self.service.delete(table, key, condition))
    }

    fn scan(&self, table: &Table, from: Option<Value>) -> Result<Scanned, DynamoError> {
        self.wire.call("Scan", || self.service.scan(table, from))
    }
}

impl<S: ObjectStore> ObjectStore for Via<S> {
    fn put_new(&self, path: &ObjectPath, bytes: &[u8]) -> Result<PutOutcome, LakeError> {
        let outcome = self.wire.call("PutObject", || self.service.put_new(path, bytes));
        if matches!(outcome, Ok(PutOutcome::AlreadyExists)) {
            self.wire.tape.count("object that was there already", 1);
        }
        let said = outcome.as_ref().map_err(ToString::to_string);
        self.wire.tape.say(format!("{} creates {path}: {said:?}", self.wire.process));
        outcome
    }

    fn put(&self, path: &ObjectPath, bytes: &[u8]) -> Result<(), LakeError> {
        self.wire.call("PutObject", || self.service.put(path, bytes))
    }

    fn put_file(&self, path: &ObjectPath, source: &Path) -> Result<u64, LakeError> {
        self.wire.call("PutObject", || self.service.put_file(path, source))
    }

    fn get(&self, path: &ObjectPath) -> Result<Bytes, LakeError> {
        self.wire.call("GetObject", || self.service.get(path))
    }

    fn get_range(&self, path: &ObjectPath, start: u64, len: u64) -> Result<Bytes, LakeError> {
        let bytes = self.wire.call("GetObject", || self.service.get_range(path, start, len));
        if bytes.is_ok() {
            self.wire.tape.count("object read: found after a checkpoint, or in the way", 1);
        }
        bytes
    }

    fn open(&self, path: &ObjectPath) -> Result<Box<dyn std::io::Read + Send>, LakeError> {
        self.wire.call("GetObject", || self.service.open(path))
    }

    fn size(&self, path: &ObjectPath) -> Result<u64, LakeError> {
        self.wire.call("HeadObject", || self.service.size(path))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, LakeError> {
        self.wire.call("ListObjects", || self.service.list(prefix))
    }

    fn folders(&self, prefix: &str) -> Result<Vec<String>, LakeError> {
        self.wire.call("ListObjects", || self.service.folders(prefix))
    }

    fn list_named(&self, prefix: &str, start: &str) -> Result<Vec<ObjectMeta>, LakeError> {
        self.wire.call("ListObjects", || self.service.list_named(prefix, start))
    }

    fn delete(&self, path: &ObjectPath) -> Result<(), LakeError> {
        self.wire.call("DeleteObject", || self.service.delete(path))
    }
}
