//! What a batch of records does: decode → join → recommend. The same function serves the laptop's worker and, through
//! other ports, AWS. It is pure: equal records, histories and model give equal bytes. Between decoding and joining the
//! caller brings the histories that the batch names ([`crate::histories::read_ahead`]).
//!
//! In per-event mode the list of an event uses the history as of that event, whatever the batch: rows are taken while
//! joining, one event at a time, and only the scoring is done for the whole batch (its result does not depend on the
//! batch, by `models`' promise).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;

use anabranch_events::history::effective;
use anabranch_events::recommendation::recommendation_id;
use anabranch_events::wire::decode_record;
use anabranch_events::{
    Event, EventKey, EventTypes, HistoryKey, Outcome, Recommendation, RecommendedItem, Rejection, Trigger, apply_event,
};
use anabranch_models::{Hide, Model, Query, Scratch};
use base64::Engine as _;
use serde::Serialize;

use crate::histories::Histories;
use crate::measures::{ListTimes, Tally};
use crate::notify::{Notice, Rules, rule};
use crate::object::Counts;
use crate::ports::{Record, SequenceNumber, ShardId};
use crate::settings::Mode;

/// The version that records carry while no overlay applies.
pub const NO_OVERLAY: &str = "0";

/// Lists scored together at a cut in per-user mode.
const LISTS_AT_ONCE: usize = 256;

/// What stays the same over a stream's batches.
#[derive(Clone, Copy, Debug)]
pub struct Transform<'a> {
    /// Settings under which histories are folded.
    pub types: &'a EventTypes,
    /// Namespace of the stream, part of every id.
    pub namespace: &'a str,
    /// The shard.
    pub shard: ShardId,
    /// When a list is made.
    pub mode: Mode,
    /// Length of a list.
    pub list_length: usize,
    /// Which items a list does not show.
    pub hide: Hide,
    /// What triggers notifications.
    pub rules: &'a Rules,
}

/// The outcome of one or more batches: lines to deliver, dead letters, counts.
#[derive(Debug, Default)]
pub struct Output {
    /// JSON Lines of recommendations.
    pub lines: Vec<u8>,
    /// JSON Lines of dead letters.
    pub dead: Vec<u8>,
    /// What happened.
    pub counts: Counts,
    /// What is counted beside them, at other places.
    pub tally: Tally,
    /// Of each list in `lines`, when its event happened and arrived.
    pub times: Vec<ListTimes>,
    /// What is to be sent.
    pub notices: Vec<Notice>,
    /// Per-user mode: the newest applied event of each user, in the order of their first.
    touched: Vec<Triggering<'static>>,
    touched_by: HashMap<HistoryKey, usize>,
}

/// Records, decoded once.
#[derive(Debug)]
pub struct Batch<'a> {
    records: &'a [Record],
    decoded: Vec<(&'a Record, Result<Decoded<'a>, Rejection>)>,
}

#[derive(Debug)]
struct Decoded<'a> {
    event: Event<'a>,
    owner: HistoryKey,
    /// The session that an event of a known user tells the owner of.
    session: Option<HistoryKey>,
}

impl Batch<'_> {
    /// Every history that the batch changes; some more than once.
    pub fn touched(&self) -> impl Iterator<Item = &HistoryKey> {
        self.events().flat_map(|decoded| std::iter::once(&decoded.owner).chain(&decoded.session))
    }

    /// Whose events they are; some more than once.
    pub fn owners(&self) -> impl Iterator<Item = &HistoryKey> + Clone {
        self.events().map(|decoded| &decoded.owner)
    }

    fn events(&self) -> impl Iterator<Item = &Decoded<'_>> + Clone {
        self.decoded.iter().filter_map(|(_, decoded)| decoded.as_ref().ok())
    }
}

/// Events that earned a list in one run, for callers whose delivery comes after their commit
/// ([`Transform::join_repeating`]): owner, class and key are an event's identity.
#[derive(Debug, Default)]
pub struct Earned(HashSet<(HistoryKey, u8, EventKey)>);

/// An event that earned a list.
#[derive(Clone, Debug)]
struct Triggering<'a> {
    owner: HistoryKey,
    event: Event<'a>,
    number: SequenceNumber,
    sub: Option<u64>,
    arrival_ms: i64,
}

/// A list to be scored: the question is fixed, the answer a function of it and the model.
#[derive(Debug)]
pub struct Pending<'a> {
    triggering: Triggering<'a>,
    row: Vec<(u32, f32)>,
    hidden: Vec<u32>,
}

/// A dead letter, as written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeadLetter<'a> {
    shard_id: String,
    sequence_number: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_sequence_number: Option<u64>,
    arrival_time_ms: i64,
    partition_key: &'a str,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_base64: Option<String>,
}

impl Transform<'_> {
    /// Decodes records. What does not decode becomes a dead letter when the batch is joined.
    pub fn decode<'a>(&self, records: &'a [Record]) -> Batch<'a> {
        let mut decoded = Vec::with_capacity(records.len());
        for record in records {
            let Some(data) = &record.data else { continue };
            decode_record(data, self.types, record.arrival_ms, |event| {
                let event = event.map(|event| {
                    let owner = event.history_key();
                    let session = event.user.as_ref().and(event.session.as_ref());
                    let session = session.map(|session| HistoryKey::Session(session.as_ref().into()));
                    Decoded { event, owner, session }
                });
                decoded.push((record, event));
            });
        }
        Batch { records, decoded }
    }

    /// Joins a batch, one event after the other. In per-event mode the answer holds the questions of its lists, each
    /// with the history as of its event; [`Transform::score`] makes the lists, and needs the histories no longer.
    pub fn join<'a>(
        &self,
        batch: Batch<'a>,
        histories: &mut Histories,
        model: &Model,
        output: &mut Output,
    ) -> Vec<Pending<'a>> {
        self.join_where(batch, histories, model, output, &mut |_, _, outcome| outcome == Outcome::Applied)
    }

    /// The same for a caller whose lists leave only after the histories are committed (a Firehose transformation
    /// answers last): a history that holds the event may be the work of a run whose answer was lost, so the event earns
    /// its list once in every run, under the id that it always has. Such lists are counted as delivered, not as
    /// duplicates.
    pub fn join_repeating<'a>(
        &self,
        batch: Batch<'a>,
        histories: &mut Histories,
        model: &Model,
        output: &mut Output,
        earned: &mut Earned,
    ) -> Vec<Pending<'a>> {
        self.join_where(batch, histories, model, output, &mut |owner, event, outcome| {
            let class = self.types.get(event.kind).class;
            outcome != Outcome::Late && earned.0.insert((owner.clone(), class, event.key))
        })
    }

    fn join_where<'a>(
        &self,
        batch: Batch<'a>,
        histories: &mut Histories,
        model: &Model,
        output: &mut Output,
        earns: &mut dyn FnMut(&HistoryKey, &Event<'_>, Outcome) -> bool,
    ) -> Vec<Pending<'a>> {
        output.counts.records += batch.records.len() as u64;
        output.tally.events_in += batch.decoded.len() as u64;
        output.counts.erased += batch.records.iter().filter(|record| record.data.is_none()).count() as u64;
        let mut pending = Vec::with_capacity(if self.mode == Mode::PerEvent { batch.decoded.len() } else { 0 });
        for (record, decoded) in batch.decoded {
            let Decoded { event, owner, .. } = match decoded {
                Ok(decoded) => decoded,
                Err(rejection) => {
                    self.reject(record, &rejection, output);
                    continue;
                }
            };
            output.counts.accepted += 1;
            let outcome = apply(&event, self.types, histories);
            if !earns(&owner, &event, outcome) {
                match outcome {
                    Outcome::Late => output.counts.late += 1,
                    Outcome::Applied | Outcome::Duplicate => output.counts.duplicate += 1,
                }
                continue;
            }
            output.tally.applied += 1;
            // What a history holds has its notices in the outbox already: they are kept first.
            if outcome == Outcome::Applied {
                self.notify(&event, &owner, record.arrival_ms, output);
            }
            let (number, sub, arrival_ms) = (record.position.number, record.sub, record.arrival_ms);
            match self.mode {
                Mode::PerEvent => {
                    let triggering = Triggering { owner, event, number, sub, arrival_ms };
                    pending.push(self.question(triggering, histories, model));
                }
                Mode::PerUser => {
                    let event = event.into_owned();
                    output.touch(Triggering { owner, event, number, sub, arrival_ms });
                }
            }
        }
        pending
    }

    /// In per-user mode: the lists of all users touched since the last cut. Nothing in per-event mode.
    pub fn finish(&self, histories: &Histories, model: &Model, scratch: &mut Scratch, output: &mut Output) {
        output.touched_by.clear();
        let mut touched = std::mem::take(&mut output.touched).into_iter().peekable();
        while touched.peek().is_some() {
            let pending: Vec<Pending<'_>> = touched
                .by_ref()
                .take(LISTS_AT_ONCE)
                .map(|triggering| self.question(triggering, histories, model))
                .collect();
            self.score(&pending, model, scratch, output);
        }
    }

    /// The question that a list answers, from the history as it stands.
    fn question<'a>(&self, triggering: Triggering<'a>, histories: &Histories, model: &Model) -> Pending<'a> {
        let owner = &triggering.owner;
        let is_alone = histories.get(owner).filter(|own| own.alias().is_none() && own.sessions().next().is_none());
        let (row, hidden) = if let Some(own) = is_alone {
            (model.row(own), model.hidden(own, self.hide))
        } else {
            let Ok(joined) = effective::<Infallible>(owner, self.types, &mut |key| Ok(histories.get(key).cloned()));
            let joined = joined.unwrap_or_default();
            (model.row(&joined), model.hidden(&joined, self.hide))
        };
        Pending { triggering, row, hidden }
    }

    /// Makes the lists.
    pub fn score(&self, pending: &[Pending<'_>], model: &Model, scratch: &mut Scratch, output: &mut Output) {
        let queries: Vec<Query<'_>> =
            pending.iter().map(|p| Query { row: &p.row, exclude: &p.hidden, k: self.list_length }).collect();
        let lists = model.recommender().recommend(scratch, &queries);
        for (pending, list) in pending.iter().zip(lists) {
            let list = list.unwrap_or_else(|error| {
                // A row that cannot be folded in (weights of absurd scale) gets the list of a user without history.
                let sequence_number = pending.triggering.number;
                tracing::warn!(shard = %self.shard, %sequence_number, %error, "fold-in failed; popular items instead");
                let query = Query { row: &[], exclude: &pending.hidden, k: self.list_length };
                model.recommender().recommend(scratch, &[query]).pop().and_then(Result::ok).unwrap_or_default()
            });
            self.deliver(&pending.triggering, &list, model, output);
        }
    }

    fn deliver(
        &self,
        triggering: &Triggering<'_>,
        list: &[anabranch_models::Scored],
        model: &Model,
        output: &mut Output,
    ) {
        let event = &triggering.event;
        let event_type = self.types.get(event.kind);
        let class = &self.types.classes()[usize::from(event_type.class)].name;
        let trigger = match self.mode {
            Mode::PerEvent => Trigger::Event,
            Mode::PerUser => Trigger::User,
        };
        let record = Recommendation {
            recommendation_id: recommendation_id(self.namespace, &triggering.owner, class, event.key, trigger).into(),
            user_id: event.user.as_deref().map(Cow::Borrowed),
            session_id: event.session.as_deref().map(Cow::Borrowed),
            event_id: event.event_id.as_deref().map_or_else(|| event.key.to_string().into(), Cow::Borrowed),
            event_type: Cow::Borrowed(&event_type.name),
            event_item_id: Cow::Borrowed(&event.item),
            event_time_ms: event.time_ms,
            arrival_time_ms: triggering.arrival_ms,
            trigger,
            shard_id: self.shard.to_string().into(),
            sequence_number: triggering.number.to_string().into(),
            sub_sequence_number: triggering.sub,
            snapshot_version: Cow::Borrowed(model.version()),
            overlay_version: Cow::Borrowed(NO_OVERLAY),
            items: list
                .iter()
                .map(|scored| RecommendedItem {
                    item_id: Cow::Borrowed(model.snapshot().item_id(scored.item())),
                    score: scored.score(),
                })
                .collect(),
        };
        serde_json::to_writer(&mut output.lines, &record).expect("texts and finite numbers serialise into memory");
        output.lines.push(b'\n');
        output.counts.delivered += 1;
        output.times.push(ListTimes { event_ms: event.time_ms, arrival_ms: triggering.arrival_ms });
        output.tally.lists_made += 1;
        output.tally.lists_full += u64::from(list.len() >= self.list_length);
    }

    fn reject(&self, record: &Record, rejection: &Rejection, output: &mut Output) {
        let data = record.data.as_deref().unwrap_or_default();
        let text = std::str::from_utf8(data).ok();
        let letter = DeadLetter {
            shard_id: self.shard.to_string(),
            sequence_number: record.position.number.to_string(),
            sub_sequence_number: record.sub,
            arrival_time_ms: record.arrival_ms,
            partition_key: &record.partition_key,
            code: rejection.code.as_str(),
            detail: &rejection.detail,
            raw: text,
            raw_base64: text.is_none().then(|| base64::engine::general_purpose::STANDARD.encode(data)),
        };
        serde_json::to_writer(&mut output.dead, &letter).expect("texts and numbers serialise into memory");
        output.dead.push(b'\n');
        output.counts.rejected += 1;
    }

    /// The notices that an event triggers which is new in its history.
    fn notify(&self, event: &Event<'_>, owner: &HistoryKey, arrival_ms: i64, output: &mut Output) {
        if self.rules.is_empty() {
            return;
        }
        let Self { namespace, shard, types, .. } = *self;
        let triggering = rule::Triggering { namespace, shard, types, event, owner, arrival_ms };
        output.notices.extend(self.rules.triggered(triggering));
    }

    /// Joins the events of records without making lists: rolling forward over what an object already delivered.
    /// Dead letters and notices come out as they did the first time: they are functions of the range and of what is
    /// committed before it.
    pub fn roll_forward(&self, batch: Batch<'_>, histories: &mut Histories, output: &mut Output) {
        output.counts.records += batch.records.len() as u64;
        for (record, decoded) in batch.decoded {
            match decoded {
                Ok(Decoded { event, owner, .. }) => {
                    if apply(&event, self.types, histories) == Outcome::Applied {
                        self.notify(&event, &owner, record.arrival_ms, output);
                    }
                }
                Err(rejection) => self.reject(record, &rejection, output),
            }
        }
    }
}

impl Output {
    /// Per-user mode: who gets a list at the cut.
    pub fn owners(&self) -> impl Iterator<Item = &HistoryKey> + Clone {
        self.touched.iter().map(|triggering| &triggering.owner)
    }

    fn touch(&mut self, triggering: Triggering<'static>) {
        if let Some(&place) = self.touched_by.get(&triggering.owner) {
            self.touched[place] = triggering;
            self.counts.superseded += 1;
        } else {
            self.touched_by.insert(triggering.owner.clone(), self.touched.len());
            self.touched.push(triggering);
        }
    }
}

fn apply(event: &Event<'_>, types: &EventTypes, histories: &mut Histories) -> Outcome {
    apply_event(event, types, &mut |key, change| change(histories.get_mut(key)))
}
