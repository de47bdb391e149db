//! The outbox in DynamoDB: a table of its own, since notices are looked for by when they are due and histories by whose
//! they are. It is small (what waits, and the ids of the last two days), so a walk over it is a scan.
//!
//! | item | table | `k` | other attributes |
//! |---|---|---|---|
//! | a notice | outbox | its id, 16 bytes | `n`: JSON |
//! | a finished id | outbox | the same | `ttl`: seconds since 1970 |
//! | the newest sent time | state | `n`, then the receiver | `sent`: milliseconds since 1970; `ttl` |
//!
//! **Notices are put before histories** and only where their id is new: an event that is in its history triggers nothing
//! any more, so the other order would lose a notice in a crash between the two. After a crash the cut is committed again
//! and puts nothing twice; an id that was finished meanwhile stays finished until its time to live ends.
//!
//! A walk sees the table as its beginning found it. It keeps the first thousands of notices, and of the others only where
//! they stand (some fifty bytes each): those are read again, a page at a time, when it comes to them. Cost: a consistent
//! scan reads 4 KB a unit, $0.125 a million; a thousand waiting notices of 400 bytes, looked at every second, are 100 units a
//! second or $33 a month. Where more wait, look less often.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::PoisonError;

use anabranch_events::HistoryKey;
use anabranch_stores::state::outbox::{Entry, Place};
use anabranch_stream::notify::outbox::corrupt;
use anabranch_stream::notify::{Notice, Outbox};
use anabranch_stream::ports::PortError;

use super::api::{Condition, DynamoError, Item, Put, Table, Value};
use super::histories::{DynamoState, PUTS_MAX};
use super::item;

/// Notices that a walk keeps.
const KEPT_MAX: usize = 4096;
const NOTICE: &str = "n";
const SENT: &str = "sent";
/// How long the newest sent time is kept, in seconds: longer than the longest cool-down.
const SENT_TTL_S: i64 = 400 * 86_400;

/// The outbox as a walk's beginning found it.
#[derive(Debug, Default)]
pub(super) struct Walk {
    places: BTreeSet<Place>,
    /// The first of them, whole.
    kept: BTreeMap<Place, Notice>,
}

impl Walk {
    fn add(&mut self, notice: Notice) {
        self.places.insert(notice.place());
        self.kept.insert(notice.place(), notice);
        if self.kept.len() > KEPT_MAX {
            self.kept.pop_last();
        }
    }
}

fn key(id: u128) -> Value {
    Value::B(id.to_be_bytes().to_vec())
}

/// The key of a receiver's newest sent time.
fn sent_key(receiver: &HistoryKey) -> Value {
    Value::B([b"n", &receiver.to_bytes()[..]].concat())
}

pub(super) fn waiting(notice: &Notice, condition: Condition) -> Put {
    let body = Value::B(notice.to_entry().body);
    Put { item: Item::from([(item::KEY.to_owned(), key(notice.id)), (NOTICE.to_owned(), body)]), condition }
}

/// Reads an item of the outbox; `None` of a finished one.
pub(super) fn read(item: &Item) -> Result<Option<Notice>, PortError> {
    let Some(body) = item.get(NOTICE) else { return Ok(None) };
    let id = item.get(item::KEY).and_then(Value::as_bytes).and_then(|id| id.try_into().ok()).map(u128::from_be_bytes);
    let id = id.ok_or_else(|| corrupt(0))?;
    let body = body.as_bytes().unwrap_or_default().to_vec();
    // What a notice is says its body alone; the rest is for stores that keep it apart.
    let entry = Entry { id, due_ms: 0, owner: HistoryKey::User("".into()), time_ms: 0, body };
    Notice::from_entry(&entry).map(Some).ok_or_else(|| corrupt(id))
}

impl DynamoState {
    /// With the table in which notices wait (partition key `k`, binary; time to live on `ttl`).
    #[must_use]
    pub fn with_outbox(mut self, table: impl Into<String>) -> Self {
        self.outbox = Some(Table { name: table.into(), key: item::KEY });
        self
    }

    fn outbox(&self) -> Result<&Table, PortError> {
        self.outbox.as_ref().ok_or_else(|| PortError {
            kind: anabranch_stores::ErrorKind::FixInput,
            what: "there are rules for notifications but no table for what waits: name an outbox table".to_owned(),
            source: None,
        })
    }

    /// Keeps the notices of a cut, side by side. One whose id is there, waiting or finished, stays as it is.
    pub(super) fn keep(&self, notices: &[Notice]) -> Result<(), PortError> {
        for notices in notices.chunks(PUTS_MAX) {
            let table = self.outbox()?;
            let mut left: Vec<Put> =
                notices.iter().map(|notice| waiting(notice, Condition::Absent(item::KEY))).collect();
            for attempt in 1.. {
                let answers = self.api.put(table, left.clone());
                let mut again = Vec::new();
                let mut trouble = None;
                for (put, answer) in left.into_iter().zip(answers) {
                    match answer {
                        Ok(()) | Err(DynamoError::ConditionFailed(_)) => {}
                        Err(error) if error.is_passing() => {
                            again.push(put);
                            trouble = Some(error);
                        }
                        Err(error) => return Err(error.into_port("keeping a notice")),
                    }
                }
                left = again;
                match trouble {
                    None => break,
                    Some(error) if !self.patience.wait_after(attempt) => {
                        return Err(error.into_port("keeping a notice"));
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Removes what waits for `owners` up to `floor_ms`, and when something was sent to them. How many notices went.
    pub(super) fn forget_notices(&self, owners: &BTreeSet<HistoryKey>, floor_ms: i64) -> Result<u64, PortError> {
        let Some(table) = &self.outbox else { return Ok(0) };
        let mut gone = 0;
        self.scan_all(table, |notice| {
            if owners.contains(&notice.owner) && notice.time_ms <= floor_ms {
                self.delete_in(table, &key(notice.id), "erasing a notice")?;
                gone += 1;
            }
            Ok(())
        })?;
        for owner in owners {
            self.delete_in(&self.table, &sent_key(owner), "erasing a sent time")?;
        }
        Ok(gone)
    }

    /// Shows every notice that waits to `each`.
    fn scan_all(&self, table: &Table, mut each: impl FnMut(Notice) -> Result<(), PortError>) -> Result<(), PortError> {
        let (mut from, mut attempt) = (None, 0);
        loop {
            match self.api.scan(table, from.clone()) {
                Ok(page) => {
                    attempt = 0;
                    for item in &page.items {
                        read(item)?.map_or(Ok(()), &mut each)?;
                    }
                    from = page.next;
                    if from.is_none() {
                        return Ok(());
                    }
                }
                Err(error) => {
                    attempt += 1;
                    if !(error.is_passing() && self.patience.wait_after(attempt)) {
                        return Err(error.into_port("reading the outbox"));
                    }
                }
            }
        }
    }

    fn delete_in(&self, table: &Table, key: &Value, what: &str) -> Result<(), PortError> {
        for attempt in 1.. {
            match self.api.delete(table, key.clone(), Condition::Always) {
                Ok(()) => break,
                Err(error) if error.is_passing() && self.patience.wait_after(attempt) => {}
                Err(error) => return Err(error.into_port(what)),
            }
        }
        Ok(())
    }
}

impl Outbox for DynamoState {
    fn due(&self, now_ms: i64, after: Option<Place>, count_max: usize) -> Result<Vec<Notice>, PortError> {
        let table = self.outbox()?;
        let mut walk = self.walk.lock().unwrap_or_else(PoisonError::into_inner);
        if after.is_none() {
            let mut found = Walk::default();
            self.scan_all(table, |notice| {
                found.add(notice);
                Ok(())
            })?;
            *walk = found;
        }
        let mut from = after.map_or(Bound::Unbounded, Bound::Excluded);
        loop {
            let due = walk.places.range((from, Bound::Unbounded)).take_while(|(due_ms, _)| *due_ms <= now_ms);
            let page: Vec<Place> = due.take(count_max).copied().collect();
            let Some(last) = page.last() else { return Ok(Vec::new()) };
            from = Bound::Excluded(*last);
            let mut notices: Vec<Notice> = page.iter().filter_map(|place| walk.kept.get(place).cloned()).collect();
            let others = page.iter().filter(|place| !walk.kept.contains_key(place)).map(|(_, id)| key(*id));
            for item in self.read_in(table, others, "reading notices")?.values() {
                notices.extend(read(item)?);
            }
            notices.sort_unstable_by_key(Notice::place);
            // All of a page may be finished since.
            if !notices.is_empty() {
                return Ok(notices);
            }
        }
    }

    fn next_due(&self, now_ms: i64) -> Result<Option<i64>, PortError> {
        let walk = self.walk.lock().unwrap_or_else(PoisonError::into_inner);
        let later = Bound::Excluded((now_ms, u128::MAX));
        Ok(walk.places.range((later, Bound::Unbounded)).next().map(|(due_ms, _)| *due_ms))
    }

    fn postpone(&self, notice: &Notice) -> Result<(), PortError> {
        let put = waiting(notice, Condition::Present(NOTICE));
        self.put_one_in(self.outbox()?, &put, "postponing a notice").map(drop)
    }

    /// The sent time first: after a crash between the two the notice is decided again, and its own cool-down drops it.
    fn finish(&self, notice: &Notice, kept_until_ms: i64, sent: Option<(&HistoryKey, i64)>) -> Result<(), PortError> {
        if let Some((receiver, time_ms)) = sent {
            let ttl_s = time_ms.div_euclid(1000).saturating_add(SENT_TTL_S);
            let item = Item::from([
                (item::KEY.to_owned(), sent_key(receiver)),
                (SENT.to_owned(), Value::number(time_ms)),
                (item::TTL.to_owned(), Value::number(ttl_s)),
            ]);
            let rises = Condition::Absent(item::KEY).or(Condition::Below(SENT, Value::number(time_ms)));
            self.put_one_in(&self.table, &Put { item, condition: rises }, "writing a sent time")?;
        }
        let ttl_s = Value::number(kept_until_ms.div_euclid(1000));
        let item = Item::from([(item::KEY.to_owned(), key(notice.id)), (item::TTL.to_owned(), ttl_s)]);
        self.put_one_in(self.outbox()?, &Put { item, condition: Condition::Always }, "finishing a notice").map(drop)
    }

    fn newest_sent(&self, receiver: &HistoryKey) -> Result<Option<i64>, PortError> {
        let found = self.read(std::iter::once(sent_key(receiver)), "reading a sent time")?;
        Ok(found.values().next().and_then(|item| item.get(SENT)).and_then(Value::as_number))
    }

    /// The table's time to live does it.
    fn trim(&self, _now_ms: i64) -> Result<(), PortError> {
        Ok(())
    }
}
