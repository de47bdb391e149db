//! What every adapter of the outbox must pass, and a channel that remembers.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use anabranch_events::HistoryKey;

use super::{NOW_MS, types};
use crate::notify::{Channel, Notice, Notification, Outbox, SendError};
use crate::ports::{Checkpoint, Commit, Position, ShardId, StateStore};
use crate::shared::lock;

/// A notice of its own id, due at `due_ms`.
pub fn notice(id: u128, due_ms: i64, user: &str) -> Notice {
    Notice {
        id,
        rule: "r".to_owned(),
        owner: HistoryKey::User(user.into()),
        shard: 7,
        event_id: format!("e{id}"),
        event_type: "cart".to_owned(),
        item: "i\u{1f600}".to_owned(),
        time_ms: NOW_MS,
        arrival_ms: NOW_MS + 1,
        settled_ms: NOW_MS + 2,
        due_ms,
        attempts: 0,
        not_before_ms: i64::MIN,
    }
}

fn commit(store: &dyn StateStore, notices: &[Notice]) {
    let (shard, checkpoint) = (ShardId(7), Checkpoint::After(Position::START));
    let commit = Commit { shard, checkpoint, histories: &HashMap::new(), types: &types(), notices };
    store.commit(commit).unwrap();
}

/// What [`Outbox`] promises: notices come by due time and id, whole; an id that waits or is finished is not taken again;
/// the newest sent time only rises; doing anything twice is doing it once. The outbox must be empty.
pub fn outbox_conformance(store: &dyn StateStore, outbox: &dyn Outbox) {
    let all = [notice(9, NOW_MS + 5, "u"), notice(u128::MAX, NOW_MS + 5, "v"), notice(3, NOW_MS, "u")];
    commit(store, &all);
    commit(store, &all[..1]);
    let due = |now_ms| outbox.due(now_ms, None, 100).unwrap();
    assert_eq!(due(NOW_MS - 1), []);
    assert_eq!(due(NOW_MS), [all[2].clone()]);
    assert_eq!(due(NOW_MS + 5), [all[2].clone(), all[0].clone(), all[1].clone()]);
    assert_eq!(outbox.due(NOW_MS + 5, Some(all[2].place()), 1).unwrap(), [all[0].clone()]);
    assert_eq!(outbox.due(NOW_MS + 5, Some(all[1].place()), 9).unwrap(), []);

    let tried = Notice { attempts: 2, not_before_ms: NOW_MS + 77, ..all[0].clone() };
    outbox.postpone(&tried).unwrap();
    outbox.postpone(&tried).unwrap();
    commit(store, &all);
    assert_eq!(due(NOW_MS + 5), [all[2].clone(), tried.clone(), all[1].clone()], "attempts are kept");

    let (u, s) = (HistoryKey::User("u".into()), HistoryKey::Session("u".into()));
    assert_eq!(outbox.newest_sent(&u).unwrap(), None);
    let kept_ms = NOW_MS + 1_000_000;
    for _ in 0..2 {
        outbox.finish(&tried, kept_ms, Some((&u, tried.due_ms))).unwrap();
        outbox.finish(&all[2], kept_ms, Some((&u, all[2].due_ms))).unwrap();
        outbox.finish(&all[1], kept_ms, None).unwrap();
        assert_eq!((outbox.newest_sent(&u).unwrap(), outbox.newest_sent(&s).unwrap()), (Some(NOW_MS + 5), None));
        outbox.postpone(&tried).unwrap();
        commit(store, &all);
        outbox.trim(NOW_MS).unwrap();
        assert_eq!(due(NOW_MS + 5), [], "finished is finished");
    }

    let many: Vec<Notice> = (0..150).map(|i| notice(1000 + i, NOW_MS + (i as i64 * 37) % 50, "w")).collect();
    commit(store, &many);
    let (mut after, mut met) = (None, BTreeSet::new());
    loop {
        let page = outbox.due(NOW_MS + 100, after, 7).unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.is_sorted_by_key(Notice::place) && page.len() <= 7);
        assert!(page[0].place() > after.unwrap_or((i64::MIN, 0)));
        after = Some(last.place());
        met.extend(page.iter().map(|notice| notice.id));
    }
    assert_eq!(met.len(), 150);
    for notice in &many {
        outbox.finish(notice, kept_ms, None).unwrap();
    }
    assert_eq!(due(i64::MAX), []);
}

/// What happens to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// It arrives.
    Pass,
    /// It fails and did not arrive.
    Lose,
    /// It arrives and the answer is lost.
    LoseAnswer,
    /// The receiver will never take it.
    Refuse,
}

/// A receiver in memory. Clones are the same receiver.
#[derive(Clone, Debug, Default)]
pub struct MemoryChannel(Arc<Mutex<Receiver>>);

#[derive(Debug, Default)]
struct Receiver {
    arrived: Vec<(i64, Notification)>,
    script: VecDeque<Sending>,
}

impl MemoryChannel {
    /// What happens to the next attempts, one each; then all arrive.
    pub fn script(&self, script: impl IntoIterator<Item = Sending>) {
        lock(&self.0).script.extend(script);
    }

    /// From now on all arrive.
    pub fn end_script(&self) {
        lock(&self.0).script.clear();
    }

    /// What arrived, and when; repeats too.
    pub fn arrived(&self) -> Vec<(i64, Notification)> {
        lock(&self.0).arrived.clone()
    }

    /// The ids of what arrived, in order; repeats too.
    pub fn ids(&self) -> Vec<String> {
        self.arrived().into_iter().map(|(_, notification)| notification.id).collect()
    }
}

impl Channel for MemoryChannel {
    fn send(&mut self, notification: &Notification, now_ms: i64) -> Result<(), SendError> {
        let mut receiver = lock(&self.0);
        let what = receiver.script.pop_front().unwrap_or(Sending::Pass);
        if matches!(what, Sending::Pass | Sending::LoseAnswer) {
            receiver.arrived.push((now_ms, notification.clone()));
        }
        match what {
            Sending::Pass => Ok(()),
            Sending::Lose | Sending::LoseAnswer => Err(SendError::Retry("as the test asks".to_owned())),
            Sending::Refuse => Err(SendError::Refused("as the test asks".to_owned())),
        }
    }
}
