//! Which shards this process reads now. It has no threads: whoever drives it brings the clock and says how far its own workers
//! came.
//!
//! Shards are listed now and then; leases are renewed in every round. An open shard cannot be read to its end, so only
//! closed ones are asked for their checkpoint in every listing, until they are done: in quiet times a round costs one
//! scan of the lease table and one write for each lease of ours.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use anabranch_stream::Clock;
use anabranch_stream::ports::{Checkpoint, PortError, ShardId, StateStore};

use crate::api::{KinesisApi, Shard, all_shards};
use crate::kinesis::lease::{LeaseTable, LeaseTaker};
use crate::kinesis::shards::{ShardStatus, plan};

/// One process's view of the stream.
#[derive(Debug)]
pub struct Coordinator {
    api: Arc<dyn KinesisApi>,
    state: Arc<dyn StateStore>,
    leases: Arc<dyn LeaseTable>,
    taker: LeaseTaker,
    list_every_us: u64,
    listed_us: Option<u64>,
    shards: Vec<Shard>,
    checkpoints: HashMap<ShardId, Checkpoint>,
}

impl Coordinator {
    /// Before its first round.
    pub fn new(
        api: Arc<dyn KinesisApi>,
        state: Arc<dyn StateStore>,
        leases: Arc<dyn LeaseTable>,
        taker: LeaseTaker,
        list_every_ms: u64,
    ) -> Self {
        let list_every_us = list_every_ms.saturating_mul(1000);
        Self {
            api,
            state,
            leases,
            taker,
            list_every_us,
            listed_us: None,
            shards: Vec::new(),
            checkpoints: HashMap::new(),
        }
    }

    /// The shards to read from now on. `own` says how far the workers here came; `is_news` that one of them came to the
    /// end of its shard, so that there are children. On an error go on with what was said before: nothing is unsafe.
    pub fn round(
        &mut self,
        own: &HashMap<ShardId, Checkpoint>,
        clock: &dyn Clock,
        is_news: bool,
    ) -> Result<BTreeSet<ShardId>, PortError> {
        let now_us = clock.monotonic_us();
        for (shard, checkpoint) in own {
            let held = self.checkpoints.entry(*shard).or_insert(*checkpoint);
            *held = held.furthest(*checkpoint);
        }
        let is_due = self.listed_us.is_none_or(|listed_us| now_us.saturating_sub(listed_us) >= self.list_every_us);
        if is_news || is_due {
            self.list(own)?;
            self.listed_us = Some(now_us);
        }
        self.taker.run(&*self.leases, &plan(&self.shards, &self.checkpoints), clock)
    }

    fn list(&mut self, own: &HashMap<ShardId, Checkpoint>) -> Result<(), PortError> {
        self.shards = all_shards(&*self.api)?;
        let listed: BTreeSet<ShardId> = self.shards.iter().map(|shard| shard.id).collect();
        self.checkpoints.retain(|shard, _| listed.contains(shard));
        for shard in self.shards.iter().filter(|shard| !own.contains_key(&shard.id)) {
            let is_settled = match self.checkpoints.get(&shard.id) {
                None => false,
                Some(Checkpoint::ShardEnd(_)) => true,
                Some(Checkpoint::After(_)) => !shard.is_closed,
            };
            if !is_settled {
                self.checkpoints.insert(shard.id, self.state.checkpoint(shard.id)?);
            }
        }
        Ok(())
    }

    /// Gives every lease of ours back.
    pub fn release(&mut self, clock: &dyn Clock) -> Result<(), PortError> {
        let mut states = plan(&self.shards, &self.checkpoints);
        // Nothing is to be read here any more.
        for state in &mut states {
            state.status = ShardStatus::Drained;
        }
        self.taker.run(&*self.leases, &states, clock).map(|_| ())
    }
}
