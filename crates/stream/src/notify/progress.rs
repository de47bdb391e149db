//! How far the stream is read: a notice is decided only once everything that arrived up to its moment is joined.
//!
//! On one machine the shards say so themselves. Where several processes, or functions, read a stream, whoever dispatches
//! must learn of the others' shards too: `anabranch_aws::kinesis::frontier`.

use std::fmt::Debug;
use std::sync::Arc;

use super::notice::Notice;
use crate::clock::Clock;
use crate::ports::{PortError, ShardId};
use crate::shared::Shared;

/// Knows how far the stream is read.
pub trait Progress: Send + Debug {
    /// Whether everything that arrived up to [`Notice::settled_ms`] and may concern the notice is in the histories that
    /// the dispatcher reads. A `false` may be late, a `true` never early. A call bounds its own cost: it is made for every
    /// notice that is due, again and again.
    fn is_settled(&mut self, notice: &Notice) -> Result<bool, PortError>;
}

/// Of a process that reads every shard, and distributes events by owner: the shard that carried the event says it.
#[derive(Debug)]
pub struct OwnShards(Arc<Shared>);

impl OwnShards {
    /// The shards of `shared`.
    pub const fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }
}

impl Progress for OwnShards {
    fn is_settled(&mut self, notice: &Notice) -> Result<bool, PortError> {
        let settled_ms = self.0.settled_ms(ShardId(notice.shard));
        Ok(settled_ms.is_none_or(|settled_ms| settled_ms >= notice.settled_ms))
    }
}

/// Where nobody says how far reading is (a Firehose stream that reads for itself): what arrived is taken as joined after
/// a fixed time. What takes longer is not waited for.
#[derive(Debug)]
pub struct AfterAWhile {
    clock: Arc<dyn Clock>,
    wait_ms: i64,
}

impl AfterAWhile {
    /// Everything is joined `wait_ms` after it arrived.
    pub const fn new(clock: Arc<dyn Clock>, wait_ms: i64) -> Self {
        Self { clock, wait_ms }
    }
}

impl Progress for AfterAWhile {
    fn is_settled(&mut self, notice: &Notice) -> Result<bool, PortError> {
        Ok(self.clock.now_ms() >= notice.settled_ms.saturating_add(self.wait_ms))
    }
}
