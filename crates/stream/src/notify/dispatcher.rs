//! Brings due notices out: due → decide → send → finish.
//!
//! [`Dispatcher::step`] does one small thing and says what to wait for; a thread, a function or a simulation drives it.
//! It walks the outbox in order of due times, so what is decided does not depend on when events were read. A notice that
//! cannot be decided yet (its shard is not read far enough, it is quiet, its next attempt is not due) holds back the
//! later ones of its owner, and of nobody else. A walk ends with what was due when it began, however much of that has to
//! wait, or with the last of so many that it finished, so that what waits for another attempt gets its turn. It keeps
//! eight bytes for each owner who is held back.
//!
//! A crash between sending and finishing sends again, under the same id. When the outbox or the histories fail in a way
//! that may pass, the dispatcher keeps what it holds, never sends a second time for it, and the next step tries again.
//!
//! How far the stream is read is asked of a [`Progress`]. Where several processes read a stream one of them dispatches;
//! which, and what happens when two believe it, is for whoever drives: [`Dispatcher::is_closing`] tells whether a notice is
//! in hand, and [`Dispatcher::begin_anew`] forgets what was read of the outbox meanwhile.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use anabranch_events::{History, HistoryKey, RecommendedItem};
use anabranch_models::{Model, PartKind, Query, Scored};
use anabranch_stores::ErrorKind;
use anabranch_stores::lake::{LakeError, ObjectPath};
use anabranch_stores::state::outbox::Place;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::channel::{Channel, SendError};
use super::notice::{Body, Notice, Notification, id_text};
use super::outbox::Outbox;
use super::progress::Progress;
use super::rule::{DropReason, Rule};
use crate::object;
use crate::ports::PortError;
use crate::settings::Compression;
use crate::shared::Shared;

/// Notices read at once.
const PAGE: usize = 64;
/// Notices finished in one walk: those that wait for another attempt wait no longer than these take.
const FINISHED_MAX: usize = 4096;
/// Longest wait of an idle dispatcher, in milliseconds.
const IDLE_LONGEST_MS: u64 = 1000;
/// When to look again at a notice whose moment is not read yet, in milliseconds.
const UNSETTLED_MS: i64 = 200;
/// Waiting times when outbox, histories or dead letters fail, in milliseconds: doubling up to the last.
const STALL_MS: [u64; 7] = [100, 200, 400, 800, 1600, 3200, 5000];
/// The first wait between attempts to send, in milliseconds; it doubles up to the longest.
const RETRY_MS: u64 = 1000;
const RETRY_LONGEST_MS: u64 = 300_000;
/// How long a finished id is remembered, in milliseconds. The outbox is written with or before the histories, so this
/// only has to outlast a worker that joins what another one has committed meanwhile.
const FINISHED_KEPT_MS: i64 = 48 * 3_600_000;
/// How often finished ids are trimmed, in milliseconds.
const TRIM_EVERY_MS: i64 = 600_000;

/// Why the dispatcher cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// Outbox or histories.
    #[error("notifications: {0}")]
    Port(#[from] PortError),
    /// Dead letters.
    #[error("notifications: writing a dead letter: {0}")]
    Sink(#[from] LakeError),
    /// Dead letters do not compress.
    #[error("notifications: compressing a dead letter: {0}")]
    Compress(#[from] std::io::Error),
}

impl NotifyError {
    /// What the caller can do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Port(error) => error.kind,
            Self::Sink(error) => error.kind(),
            Self::Compress(_) => ErrorKind::Bug,
        }
    }
}

/// What a step did, and what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DispatchStep {
    /// Something; step again.
    Worked,
    /// Nothing to do for so many milliseconds.
    Idle {
        /// Milliseconds.
        wait_ms: u64,
        /// More is due already, which this walk did not look at.
        is_more: bool,
    },
    /// Something fails for now; step again after so many milliseconds.
    Stalled {
        /// Milliseconds.
        wait_ms: u64,
    },
}

/// What [`Dispatcher::new`] is made of. The rules are those of the stream, see [`Shared::with_rules`].
#[derive(Debug)]
pub struct DispatcherParts {
    /// Histories, model, sink of dead letters, clock.
    pub shared: Arc<Shared>,
    /// Where notices wait.
    pub outbox: Arc<dyn Outbox>,
    /// How far the stream is read.
    pub progress: Box<dyn Progress>,
    /// The way out.
    pub channel: Box<dyn Channel>,
    /// Attempts of one notification, the first included.
    pub attempts_max: u32,
    /// What the jitter of retries comes from.
    pub seed: u64,
    /// Shortest wait between two walks over the outbox, in milliseconds, up to a second: what a walk costs.
    pub idle_shortest_ms: u64,
}

/// How a notice ends, or goes on.
#[derive(Debug)]
enum Closing {
    Sent { receiver: HistoryKey },
    Dropped(DropReason),
    Dead { why: String },
    Retry,
}

/// Sends what is due.
#[derive(Debug)]
pub struct Dispatcher {
    parts: DispatcherParts,
    /// What was read and not looked at yet.
    page: VecDeque<Notice>,
    /// When this walk over the outbox began: it looks at what was due then.
    began_ms: Option<i64>,
    /// How far it is.
    after: Option<Place>,
    /// What it finished.
    finished: usize,
    /// Owners with a notice that has to wait, so that their later ones do not overtake it, by hash: two of one hash wait
    /// for each other until the next walk.
    held_back: HashSet<u64>,
    /// The earliest known end of a wait.
    wake_ms: Option<i64>,
    /// When the oldest notice was due that this walk left waiting.
    waiting_since_ms: Option<i64>,
    closing: Option<(Notice, Closing)>,
    stalls: usize,
    trimmed_ms: Option<i64>,
}

/// Whose history decides, and who gets the notification.
struct Receiver {
    key: HistoryKey,
    user: Option<Box<str>>,
    history: History,
}

/// A list and what it is worth.
struct Offer {
    model: Arc<Model>,
    list: Vec<Scored>,
    lift: f64,
}

/// What a decision came to.
enum Decision {
    Drop(DropReason),
    Send { receiver: HistoryKey, notification: Notification },
}

impl Dispatcher {
    /// A dispatcher before its first step.
    pub fn new(parts: DispatcherParts) -> Self {
        Self {
            parts,
            page: VecDeque::new(),
            began_ms: None,
            after: None,
            finished: 0,
            held_back: HashSet::new(),
            wake_ms: None,
            waiting_since_ms: None,
            closing: None,
            stalls: 0,
            trimmed_ms: None,
        }
    }

    /// Does one thing. See the module's documentation.
    pub fn step(&mut self) -> Result<DispatchStep, NotifyError> {
        let done = if self.closing.is_some() { self.close() } else { self.look() };
        match done {
            Ok(step) => {
                self.stalls = 0;
                Ok(step)
            }
            Err(error) if matches!(error.kind(), ErrorKind::Retry | ErrorKind::Full) => {
                let wait_ms = STALL_MS[self.stalls.min(STALL_MS.len() - 1)];
                self.stalls += 1;
                tracing::warn!(%error, "notifications wait");
                Ok(DispatchStep::Stalled { wait_ms })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a notice was sent, or decided against, and that is not written down yet. The next step does only that.
    pub const fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// The next walk reads the outbox from its beginning: for whoever was not the one to dispatch for a while. What is in
    /// hand stays.
    pub fn begin_anew(&mut self) {
        self.page.clear();
        self.end_walk();
    }

    fn end_walk(&mut self) {
        (self.began_ms, self.after, self.finished) = (None, None, 0);
        (self.wake_ms, self.waiting_since_ms) = (None, None);
        self.held_back.clear();
    }

    /// Takes the next due notice and sends it, or finds out why not. If it fails it has sent nothing.
    fn look(&mut self) -> Result<DispatchStep, NotifyError> {
        let now_ms = self.parts.shared.clock.now_ms();
        if self.page.is_empty() {
            let began_ms = *self.began_ms.get_or_insert(now_ms);
            if self.finished >= FINISHED_MAX {
                return self.rest(began_ms, now_ms);
            }
            let page = self.parts.outbox.due(began_ms, self.after, PAGE)?;
            if self.after.is_none() {
                // In order of due times: the first has waited longest.
                self.parts.shared.note_waiting(page.first().map(|notice| notice.due_ms));
            }
            if page.is_empty() {
                return self.rest(began_ms, now_ms);
            }
            self.page = page.into();
        }
        let Some(notice) = self.page.pop_front() else { return Ok(DispatchStep::Worked) };
        let later_ms = match self.not_yet(&notice, now_ms) {
            Ok(later_ms) => later_ms,
            Err(error) => {
                self.page.push_front(notice);
                return Err(error);
            }
        };
        if later_ms.is_none() {
            let decision = match self.decide(&notice, now_ms) {
                Ok(decision) => decision,
                Err(error) => {
                    self.page.push_front(notice);
                    return Err(error);
                }
            };
            self.pass(&notice);
            let closing = match decision {
                Decision::Drop(reason) => (notice, Closing::Dropped(reason)),
                Decision::Send { receiver, notification } => self.send(notice, receiver, &notification, now_ms),
            };
            self.closing = Some(closing);
            return Ok(DispatchStep::Worked);
        }
        self.pass(&notice);
        self.hold_back(&notice, later_ms);
        Ok(DispatchStep::Worked)
    }

    fn pass(&mut self, notice: &Notice) {
        self.after = Some(notice.place());
    }

    fn hold_back(&mut self, notice: &Notice, until_ms: Option<i64>) {
        self.wake_ms = earlier(self.wake_ms, until_ms);
        self.waiting_since_ms = earlier(self.waiting_since_ms, Some(notice.due_ms));
        self.held_back.insert(self.name(&notice.owner));
    }

    fn name(&self, owner: &HistoryKey) -> u64 {
        xxh3_64_with_seed(&owner.to_bytes(), self.parts.seed)
    }

    /// The end of a walk that began at `began_ms`.
    fn rest(&mut self, began_ms: i64, now_ms: i64) -> Result<DispatchStep, NotifyError> {
        if self.trimmed_ms.is_none_or(|trimmed_ms| now_ms.abs_diff(trimmed_ms) >= TRIM_EVERY_MS.unsigned_abs()) {
            self.parts.outbox.trim(now_ms)?;
            self.trimmed_ms = Some(now_ms);
        }
        let due_ms = self.parts.outbox.next_due(began_ms)?;
        let is_more = self.finished >= FINISHED_MAX || due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        let next_ms = if is_more { Some(now_ms) } else { earlier(due_ms, self.wake_ms) };
        self.parts.shared.note_waiting(self.waiting_since_ms);
        self.end_walk();
        let wait_ms = next_ms.map_or(IDLE_LONGEST_MS, |next_ms| next_ms.saturating_sub(now_ms).max(0) as u64);
        let shortest_ms = self.parts.idle_shortest_ms.min(IDLE_LONGEST_MS);
        Ok(DispatchStep::Idle { wait_ms: wait_ms.clamp(shortest_ms, IDLE_LONGEST_MS), is_more })
    }

    /// When to look at a notice again that has to wait; `None` if it is to be decided now.
    fn not_yet(&mut self, notice: &Notice, now_ms: i64) -> Result<Option<i64>, NotifyError> {
        if self.held_back.contains(&self.name(&notice.owner)) {
            return Ok(Some(i64::MAX));
        }
        if now_ms < notice.not_before_ms {
            return Ok(Some(notice.not_before_ms));
        }
        if !self.parts.progress.is_settled(notice)? {
            return Ok(Some(now_ms.saturating_add(UNSETTLED_MS)));
        }
        // What was due by day may have to wait for a retry until it is night.
        let Some(rule) = self.parts.shared.rules().get(&notice.rule) else { return Ok(None) };
        let over_ms = rule.quiet.map_or(now_ms, |quiet| quiet.over_at(now_ms));
        Ok((over_ms > now_ms && !rule.is_expired(notice.due_ms, now_ms)).then_some(over_ms))
    }

    fn decide(&self, notice: &Notice, now_ms: i64) -> Result<Decision, NotifyError> {
        let shared = &self.parts.shared;
        let Some(rule) = shared.rules().get(&notice.rule) else { return Ok(Decision::Drop(DropReason::NoRule)) };
        if rule.is_expired(notice.due_ms, now_ms) {
            return Ok(Decision::Drop(DropReason::Expired));
        }
        let receiver = self.receiver(&notice.owner)?;
        let newest_sent_ms = self.parts.outbox.newest_sent(&receiver.key)?;
        if let Err(reason) = rule.stands(notice, &receiver.history, newest_sent_ms) {
            return Ok(Decision::Drop(reason));
        }
        let offer = self.offer(rule, &receiver.history);
        if let Err(reason) = rule.is_worth(offer.list.len(), offer.lift) {
            return Ok(Decision::Drop(reason));
        }
        let notification = self.notification(notice, &receiver, &offer);
        Ok(Decision::Send { receiver: receiver.key, notification })
    }

    /// The owner with their effective history; the user, if a session turned out to be theirs.
    fn receiver(&self, owner: &HistoryKey) -> Result<Receiver, NotifyError> {
        let shared = &self.parts.shared;
        let user = match owner {
            HistoryKey::User(user) => Some(user.clone()),
            HistoryKey::Session(_) => {
                shared.history(owner)?.and_then(|own| own.alias().map(|alias| alias.user.clone()))
            }
        };
        let key = user.clone().map_or_else(|| owner.clone(), HistoryKey::User);
        let history = shared.effective(owner)?.unwrap_or_default();
        Ok(Receiver { key, user, history })
    }

    /// The list that the user would see now, and its lift.
    fn offer(&self, rule: &Rule, history: &History) -> Offer {
        let shared = &self.parts.shared;
        let model = shared.model();
        let recommender = model.recommender();
        let (row, hidden) = (model.row(history), model.hidden(history, shared.settings.hide));
        let mut scratch = recommender.scratch();
        let query = Query { row: &row, exclude: &hidden, k: rule.items_max };
        let list = recommender.recommend(&mut scratch, &[query]).pop().and_then(Result::ok).unwrap_or_default();
        let explained = list.first().and_then(|best| recommender.explain(&mut scratch, &row, best.item()).ok());
        let lift = explained.map_or(0.0, |explained| {
            let personal = explained.parts.iter().filter(|part| part.kind != PartKind::Popularity);
            personal.map(|part| part.contribution).sum()
        });
        Offer { model, list, lift }
    }

    fn notification(&self, notice: &Notice, receiver: &Receiver, offer: &Offer) -> Notification {
        let id = id_text(notice.id);
        let session = match &notice.owner {
            HistoryKey::User(_) => None,
            HistoryKey::Session(session) => Some(&**session),
        };
        let item = |scored: &Scored| RecommendedItem {
            item_id: offer.model.snapshot().item_id(scored.item()).into(),
            score: scored.score(),
        };
        let body = Body {
            notification_id: &id,
            rule: &notice.rule,
            stream: &self.parts.shared.namespace,
            user_id: receiver.user.as_deref(),
            session_id: session,
            event_id: &notice.event_id,
            event_type: &notice.event_type,
            event_item_id: &notice.item,
            event_time_ms: notice.time_ms,
            arrival_time_ms: notice.arrival_ms,
            due_time_ms: notice.due_ms,
            snapshot_version: offer.model.version(),
            lift: offer.lift,
            items: offer.list.iter().map(item).collect(),
        };
        let body = serde_json::to_string(&body).expect("texts and finite numbers serialise into memory");
        Notification { id, group: Notification::group(&receiver.key), rule: notice.rule.clone(), body }
    }

    fn send(
        &mut self,
        mut notice: Notice,
        receiver: HistoryKey,
        notification: &Notification,
        now_ms: i64,
    ) -> (Notice, Closing) {
        let closing = match self.parts.channel.send(notification, now_ms) {
            Ok(()) => Closing::Sent { receiver },
            Err(SendError::Refused(why)) => Closing::Dead { why },
            Err(SendError::Retry(why)) => {
                notice.attempts += 1;
                if notice.attempts >= self.parts.attempts_max {
                    Closing::Dead { why: format!("{why}; given up after {} attempts", notice.attempts) }
                } else {
                    let wait_ms = retry_ms(self.parts.seed, notice.id, notice.attempts);
                    tracing::warn!(
                        notification = notification.id,
                        attempts = notice.attempts,
                        wait_ms,
                        reason = why,
                        "a notification is tried again"
                    );
                    notice.not_before_ms = now_ms.saturating_add_unsigned(wait_ms);
                    Closing::Retry
                }
            }
        };
        (notice, closing)
    }

    /// Writes down what became of a notice. What was sent is not sent again if this fails.
    fn close(&mut self) -> Result<DispatchStep, NotifyError> {
        let Some((notice, closing)) = &self.closing else { return Ok(DispatchStep::Worked) };
        let is_retry = matches!(closing, Closing::Retry);
        let outbox = &self.parts.outbox;
        let kept_until_ms = self.parts.shared.clock.now_ms().saturating_add(FINISHED_KEPT_MS);
        match closing {
            Closing::Sent { receiver } => outbox.finish(notice, kept_until_ms, Some((receiver, notice.due_ms)))?,
            Closing::Dropped(_) => outbox.finish(notice, kept_until_ms, None)?,
            Closing::Dead { why } => {
                self.bury(notice, why)?;
                outbox.finish(notice, kept_until_ms, None)?;
            }
            Closing::Retry => outbox.postpone(notice)?,
        }
        self.parts.shared.count_notices(|counts| match closing {
            Closing::Sent { .. } => counts.sent += 1,
            Closing::Dropped(reason) => *counts.dropped.entry(*reason).or_default() += 1,
            Closing::Dead { .. } => counts.dead += 1,
            Closing::Retry => counts.retried += 1,
        });
        if let Some((notice, _)) = self.closing.take().filter(|_| is_retry) {
            self.hold_back(&notice, Some(notice.not_before_ms));
        } else {
            self.finished += 1;
        }
        Ok(DispatchStep::Worked)
    }

    /// Puts a notice into the dead letters, beside those of the stream: erasing finds it there by its owner.
    fn bury(&self, notice: &Notice, why: &str) -> Result<(), NotifyError> {
        let (id, shared) = (id_text(notice.id), &self.parts.shared);
        tracing::error!(notification = id, reason = why, "a notification goes to the dead letters");
        let letter = DeadNotice {
            code: "notification-undelivered",
            detail: why,
            partition_key: notice.owner.id(),
            notification_id: &id,
            notice,
        };
        let mut line = serde_json::to_vec(&letter).expect("texts and numbers serialise into memory");
        line.push(b'\n');
        let path = format!("{}/{}/notifications/{id}.jsonl.zst", object::DEAD_LETTERS, shared.namespace);
        let path = ObjectPath::new(path).expect("a namespace is checked, an id is digits");
        // There already: an earlier attempt's, whose end was not written down.
        let _ = shared.sink.put_new(&path, &object::compress(&line, Compression::Zstd)?)?;
        Ok(())
    }
}

/// A notice that was given up.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeadNotice<'a> {
    code: &'a str,
    detail: &'a str,
    partition_key: &'a str,
    notification_id: &'a str,
    notice: &'a Notice,
}

/// The wait before attempt `attempts` + 1: between half of its step and the whole, so that what failed together does not
/// come back together.
fn retry_ms(seed: u64, id: u128, attempts: u32) -> u64 {
    let doubled = RETRY_MS.saturating_mul(1_u64.checked_shl(attempts.saturating_sub(1)).unwrap_or(u64::MAX));
    let step_ms = doubled.min(RETRY_LONGEST_MS);
    let draw = xxh3_64_with_seed(&[&id.to_le_bytes()[..], &attempts.to_le_bytes()].concat(), seed);
    step_ms / 2 + draw % (step_ms / 2 + 1)
}

/// The earlier of two times, where one is known.
fn earlier(left: Option<i64>, right: Option<i64>) -> Option<i64> {
    left.into_iter().chain(right).min()
}
