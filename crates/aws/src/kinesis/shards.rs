//! Which shards may be read now.
//!
//! A split or a merge closes its parents and continues their keys in children. A key's events stay in order only if
//! every parent is read to its end before a child is begun, and nothing is lost only if the child is begun at its oldest
//! record. A parent that the retention took away holds nothing any more, so it blocks nobody.
//!
//! A pure function of what `ListShards` says and of the checkpoints; it asks nobody and remembers nothing.

use std::collections::HashMap;
use std::hash::BuildHasher;

use anabranch_stream::ports::{Checkpoint, Position, ShardId};

use crate::api::{Shard, StartingPosition};

/// Whether a shard is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShardStatus {
    /// Every parent is done: read it from its checkpoint.
    Readable,
    /// A parent is not read to its end yet.
    Waiting,
    /// It is closed and was read to its end.
    Drained,
}

/// A shard of the stream and what is to be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardState {
    /// Its id.
    pub id: ShardId,
    /// The shards it continues.
    pub parents: Vec<ShardId>,
    /// First and last hash key, inclusive.
    pub hash_keys: (u128, u128),
    /// How far it is committed.
    pub checkpoint: Checkpoint,
    /// Whether it is to be read.
    pub status: ShardStatus,
}

/// The state of every listed shard, by id. A shard without a checkpoint was never read.
pub fn plan<S: BuildHasher>(shards: &[Shard], checkpoints: &HashMap<ShardId, Checkpoint, S>) -> Vec<ShardState> {
    let checkpoint = |id: &ShardId| checkpoints.get(id).copied().unwrap_or(Checkpoint::After(Position::START));
    let unfinished: std::collections::HashSet<ShardId> =
        shards.iter().map(|shard| shard.id).filter(|id| !matches!(checkpoint(id), Checkpoint::ShardEnd(_))).collect();
    let mut states: Vec<ShardState> = shards
        .iter()
        .map(|shard| {
            let status = if !unfinished.contains(&shard.id) {
                ShardStatus::Drained
            } else if shard.parents().any(|parent| unfinished.contains(&parent)) {
                ShardStatus::Waiting
            } else {
                ShardStatus::Readable
            };
            ShardState {
                id: shard.id,
                parents: shard.parents().collect(),
                hash_keys: shard.hash_keys,
                checkpoint: checkpoint(&shard.id),
                status,
            }
        })
        .collect();
    states.sort_by_key(|state| state.id);
    states.dedup_by_key(|state| state.id);
    states
}

/// The shards to read, by id.
pub fn readable(states: &[ShardState]) -> Vec<ShardId> {
    states.iter().filter(|state| state.status == ShardStatus::Readable).map(|state| state.id).collect()
}

/// Where Kinesis is to begin so that the next user record is the one after `after`: after the last whole record, at a
/// record of which a part was read, or at the oldest record.
pub fn starting_position(after: Position) -> StartingPosition {
    match after {
        Position { number, .. } if number == Position::START.number => StartingPosition::TrimHorizon,
        Position { number, sub: Some(_) } => StartingPosition::At(number),
        Position { number, sub: None } => StartingPosition::After(number),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use anabranch_stream::ports::SequenceNumber;
    use proptest::prelude::*;

    use super::*;

    fn shard(id: u64, parents: &[u64], is_closed: bool) -> Shard {
        Shard {
            id: ShardId(id),
            parent: parents.first().copied().map(ShardId),
            adjacent_parent: parents.get(1).copied().map(ShardId),
            is_closed,
            hash_keys: (0, u128::MAX),
        }
    }

    fn ended(ids: &[u64]) -> HashMap<ShardId, Checkpoint> {
        ids.iter()
            .map(|&id| (ShardId(id), Checkpoint::ShardEnd(Position::whole(SequenceNumber::from(id + 100)))))
            .collect()
    }

    fn readable_ids(shards: &[Shard], checkpoints: &HashMap<ShardId, Checkpoint>) -> Vec<u64> {
        readable(&plan(shards, checkpoints)).into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn the_children_of_a_split_wait_for_their_parent_and_begin_at_the_oldest_record() {
        let shards = [shard(0, &[], true), shard(1, &[0], false), shard(2, &[0], false)];
        assert_eq!(readable_ids(&shards, &ended(&[])), [0]);
        // A parent that is being read is not done, however far.
        let reading = [(ShardId(0), Checkpoint::After(Position::whole(SequenceNumber::from(9))))].into();
        assert_eq!(readable_ids(&shards, &reading), [0]);
        assert_eq!(readable_ids(&shards, &ended(&[0])), [1, 2]);
        let states = plan(&shards, &ended(&[0]));
        assert_eq!(starting_position(states[1].checkpoint.position()), StartingPosition::TrimHorizon);
        assert_eq!(states[0].status, ShardStatus::Drained);
    }

    #[test]
    fn the_child_of_a_merge_waits_for_both_parents() {
        let shards = [shard(0, &[], true), shard(1, &[], true), shard(2, &[0, 1], false)];
        assert_eq!(readable_ids(&shards, &ended(&[])), [0, 1]);
        assert_eq!(readable_ids(&shards, &ended(&[0])), [1]);
        assert_eq!(readable_ids(&shards, &ended(&[1])), [0]);
        assert_eq!(readable_ids(&shards, &ended(&[0, 1])), [2]);
    }

    #[test]
    fn a_split_of_a_split_is_read_one_generation_at_a_time() {
        let shards = [
            shard(4, &[1], false),
            shard(0, &[], true),
            shard(1, &[0], true),
            shard(2, &[0], false),
            shard(3, &[1], false),
        ];
        assert_eq!(readable_ids(&shards, &ended(&[])), [0]);
        assert_eq!(readable_ids(&shards, &ended(&[0])), [1, 2]);
        assert_eq!(readable_ids(&shards, &ended(&[0, 1])), [2, 3, 4]);
        assert_eq!(readable_ids(&shards, &ended(&[0, 1, 2, 3, 4])), [0_u64; 0]);
    }

    #[test]
    fn a_parent_that_the_retention_removed_blocks_nobody() {
        let shards = [shard(2, &[0, 1], false)];
        assert_eq!(readable_ids(&shards, &ended(&[])), [2]);
        // One of two parents is left.
        let shards = [shard(1, &[], true), shard(2, &[0, 1], false)];
        assert_eq!(readable_ids(&shards, &ended(&[])), [1]);
    }

    #[test]
    fn a_resume_is_after_whole_records_and_at_parts() {
        let number = SequenceNumber::from(7);
        assert_eq!(starting_position(Position::START), StartingPosition::TrimHorizon);
        assert_eq!(starting_position(Position::whole(number)), StartingPosition::After(number));
        assert_eq!(starting_position(Position { number, sub: Some(0) }), StartingPosition::At(number));
    }

    proptest! {
        /// Any history of splits and merges, drained in any order that the plan allows, reads every shard once, each
        /// after all its parents.
        #[test]
        fn every_shard_is_read_once_and_after_its_parents(
            reshards in proptest::collection::vec((any::<bool>(), 0_usize..8, 0_usize..8), 0..8),
            order in proptest::collection::vec(0_usize..16, 64),
        ) {
            let mut shards = vec![shard(0, &[], false), shard(1, &[], false)];
            for (is_split, left, right) in reshards {
                let open: Vec<usize> = (0..shards.len()).filter(|&index| !shards[index].is_closed).collect();
                let (left, right) = (open[left % open.len()], open[right % open.len()]);
                let next = shards.len() as u64;
                shards[left].is_closed = true;
                if is_split || left == right {
                    shards.push(shard(next, &[left as u64], false));
                    shards.push(shard(next + 1, &[left as u64], false));
                } else {
                    shards[right].is_closed = true;
                    shards.push(shard(next, &[left as u64, right as u64], false));
                }
            }
            let mut done = BTreeSet::new();
            for pick in order {
                let closed: Vec<u64> = readable_ids(&shards, &ended(&done.iter().copied().collect::<Vec<_>>()))
                    .into_iter()
                    .filter(|&id| shards[id as usize].is_closed)
                    .collect();
                let Some(&id) = closed.get(pick % closed.len().max(1)) else { break };
                prop_assert!(shards[id as usize].parents().all(|parent| done.contains(&parent.0)));
                prop_assert!(done.insert(id));
            }
            let closed: BTreeSet<u64> = shards.iter().filter(|shard| shard.is_closed).map(|shard| shard.id.0).collect();
            prop_assert_eq!(done, closed);
        }
    }
}
