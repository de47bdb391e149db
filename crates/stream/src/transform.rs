//! What a batch of records does: decode → join → recommend. The same function serves the laptop's worker and, through
//! other ports, AWS. It is pure but for reading histories: equal records, histories and model give equal bytes.
//!
//! In per-event mode the list of an event uses the history as of that event, whatever the batch: rows are taken while
//! joining, one event at a time, and only the scoring is done for the whole batch (its result does not depend on the
//! batch, by `models`' promise).

use std::borrow::Cow;
use std::collections::HashMap;

use anabranch_events::history::{WithHistory, effective};
use anabranch_events::recommendation::recommendation_id;
use anabranch_events::wire::decode_record;
use anabranch_events::{
    Event, EventTypes, History, HistoryKey, Outcome, Recommendation, RecommendedItem, Rejection, Trigger, apply_event,
};
use anabranch_models::{Hide, Model, Query, Scratch};
use anabranch_stores::state::log::{LogRecord, shard_id};
use base64::Engine as _;
use serde::Serialize;

use crate::object::Counts;
use crate::settings::Mode;

/// The version that records carry while no overlay applies.
pub const NO_OVERLAY: &str = "0";

/// Histories as one shard sees them: its own uncommitted ones over the stored ones.
pub trait Histories {
    /// What reading can fail with.
    type Error;
    /// The history of `key`, to be changed; empty if there is none.
    fn history_mut(&mut self, key: &HistoryKey) -> Result<&mut History, Self::Error>;
    /// A copy of the history of `key`, without making it this shard's own.
    fn peek(&mut self, key: &HistoryKey) -> Result<Option<History>, Self::Error>;
}

/// What stays the same over a stream's batches.
#[derive(Clone, Copy, Debug)]
pub struct Transform<'a> {
    /// Settings under which histories are folded.
    pub types: &'a EventTypes,
    /// Namespace of the stream, part of every id.
    pub namespace: &'a str,
    /// The shard.
    pub shard: u32,
    /// When a list is made.
    pub mode: Mode,
    /// Length of a list.
    pub list_length: usize,
    /// Which items a list does not show.
    pub hide: Hide,
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
    /// Per-user mode: the newest applied event of each user, in the order of their first.
    touched: Vec<Triggering>,
    touched_by: HashMap<HistoryKey, usize>,
}

/// An event that earned a list.
#[derive(Clone, Debug)]
struct Triggering {
    owner: HistoryKey,
    event: Event<'static>,
    sequence: u64,
    arrival_ms: i64,
}

/// A list to be scored.
struct Pending {
    triggering: Triggering,
    row: Vec<(u32, f32)>,
    hidden: Vec<u32>,
}

/// A dead letter, as written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeadLetter<'a> {
    shard_id: String,
    sequence_number: String,
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
    /// Decodes and joins a batch; in per-event mode also makes its lists. Adds to `output`.
    pub fn batch<H: Histories>(
        &self,
        records: &[LogRecord],
        histories: &mut H,
        model: &Model,
        scratch: &mut Scratch,
        output: &mut Output,
    ) -> Result<(), H::Error> {
        let pending = self.join(records, histories, model, output)?;
        self.score(&pending, model, scratch, output);
        Ok(())
    }

    /// The joining half of [`Transform::batch`], for callers that hold a lock on the histories only as long as needed.
    fn join<H: Histories>(
        &self,
        records: &[LogRecord],
        histories: &mut H,
        model: &Model,
        output: &mut Output,
    ) -> Result<Vec<Pending>, H::Error> {
        let mut pending = Vec::new();
        for record in records {
            output.counts.records += 1;
            let Some(data) = &record.data else {
                output.counts.erased += 1;
                continue;
            };
            let mut failure = None;
            decode_record(data, self.types, record.arrival_ms, |decoded| match decoded {
                Ok(_) if failure.is_some() => {}
                Ok(event) => match self.join_event(&event, record, histories, model, output) {
                    Ok(list) => pending.extend(list),
                    Err(error) => failure = Some(error),
                },
                Err(rejection) => self.reject(record, data, &rejection, output),
            });
            if let Some(error) = failure {
                return Err(error);
            }
        }
        Ok(pending)
    }

    fn join_event<H: Histories>(
        &self,
        event: &Event<'_>,
        record: &LogRecord,
        histories: &mut H,
        model: &Model,
        output: &mut Output,
    ) -> Result<Option<Pending>, H::Error> {
        output.counts.accepted += 1;
        let outcome = apply(event, self.types, histories)?;
        match outcome {
            Outcome::Duplicate => output.counts.duplicate += 1,
            Outcome::Late => output.counts.late += 1,
            Outcome::Applied => {
                let triggering = Triggering {
                    owner: event.history_key(),
                    event: event.clone().into_owned(),
                    sequence: record.sequence,
                    arrival_ms: record.arrival_ms,
                };
                match self.mode {
                    Mode::PerEvent => return self.question(triggering, histories, model).map(Some),
                    Mode::PerUser => output.touch(triggering),
                }
            }
        }
        Ok(None)
    }

    /// In per-user mode: the lists of all users touched since the last cut. Nothing in per-event mode.
    pub fn finish<H: Histories>(
        &self,
        histories: &mut H,
        model: &Model,
        scratch: &mut Scratch,
        output: &mut Output,
    ) -> Result<(), H::Error> {
        output.touched_by.clear();
        for chunk in std::mem::take(&mut output.touched).chunks(256) {
            let pending: Vec<Pending> = chunk
                .iter()
                .map(|triggering| self.question(triggering.clone(), histories, model))
                .collect::<Result<_, _>>()?;
            self.score(&pending, model, scratch, output);
        }
        Ok(())
    }

    /// The question that a list answers, from the history as it stands.
    fn question<H: Histories>(
        &self,
        triggering: Triggering,
        histories: &mut H,
        model: &Model,
    ) -> Result<Pending, H::Error> {
        let own = histories.history_mut(&triggering.owner)?;
        let is_alone = own.alias().is_none() && own.sessions().next().is_none();
        let (row, hidden) = if is_alone {
            (model.row(own), model.hidden(own, self.hide))
        } else {
            let joined = effective(&triggering.owner, self.types, &mut |key| histories.peek(key))?.unwrap_or_default();
            (model.row(&joined), model.hidden(&joined, self.hide))
        };
        Ok(Pending { triggering, row, hidden })
    }

    fn score(&self, pending: &[Pending], model: &Model, scratch: &mut Scratch, output: &mut Output) {
        let queries: Vec<Query<'_>> =
            pending.iter().map(|p| Query { row: &p.row, exclude: &p.hidden, k: self.list_length }).collect();
        let lists = model.recommender().recommend(scratch, &queries);
        for (pending, list) in pending.iter().zip(lists) {
            let list = list.unwrap_or_else(|error| {
                // A row that cannot be folded in (weights of absurd scale) gets the list of a user without history.
                tracing::warn!(owner = %pending.triggering.owner, %error, "fold-in failed; popular items instead");
                let query = Query { row: &[], exclude: &pending.hidden, k: self.list_length };
                model.recommender().recommend(scratch, &[query]).pop().and_then(Result::ok).unwrap_or_default()
            });
            self.deliver(&pending.triggering, &list, model, output);
        }
    }

    fn deliver(&self, triggering: &Triggering, list: &[anabranch_models::Scored], model: &Model, output: &mut Output) {
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
            shard_id: shard_id(self.shard).into(),
            sequence_number: triggering.sequence.to_string().into(),
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
    }

    fn reject(&self, record: &LogRecord, data: &[u8], rejection: &Rejection, output: &mut Output) {
        let text = std::str::from_utf8(data).ok();
        let letter = DeadLetter {
            shard_id: shard_id(self.shard),
            sequence_number: record.sequence.to_string(),
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

    /// Joins the events of records without making lists: rolling forward over what an object already delivered.
    /// Dead letters and counts come out as they did the first time, since they are functions of the range.
    pub fn roll_forward<H: Histories>(
        &self,
        records: &[LogRecord],
        histories: &mut H,
        output: &mut Output,
    ) -> Result<(), H::Error> {
        for record in records {
            output.counts.records += 1;
            let Some(data) = &record.data else { continue };
            let mut failure = None;
            decode_record(data, self.types, record.arrival_ms, |decoded| match decoded {
                Ok(_) if failure.is_some() => {}
                Ok(event) => {
                    failure = apply(&event, self.types, histories).err();
                }
                Err(rejection) => self.reject(record, data, &rejection, output),
            });
            if let Some(error) = failure {
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Output {
    fn touch(&mut self, triggering: Triggering) {
        if let Some(&place) = self.touched_by.get(&triggering.owner) {
            self.touched[place] = triggering;
            self.counts.superseded += 1;
        } else {
            self.touched_by.insert(triggering.owner.clone(), self.touched.len());
            self.touched.push(triggering);
        }
    }
}

fn apply<H: Histories>(event: &Event<'_>, types: &EventTypes, histories: &mut H) -> Result<Outcome, H::Error> {
    let mut failure = None;
    let with: &mut WithHistory<'_> = &mut |key, change| match histories.history_mut(key) {
        Ok(history) => change(history),
        Err(error) => failure = failure.take().or(Some(error)),
    };
    let outcome = apply_event(event, types, with);
    failure.map_or(Ok(outcome), Err)
}
