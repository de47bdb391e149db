//! Rules: what triggers a notice, and what is decided when it is due. Pure functions of settings, event, arrival, history
//! and list; the only clock in them is the one that the caller holds against quiet hours and expiry.

use std::fmt;

use anabranch_events::{Event, EventTypes, History, HistoryKey};

use super::notice::{self, Notice};
use crate::ports::ShardId;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 1440 * MINUTE_MS;

/// A rule, checked. See [`RuleSettings`](super::RuleSettings) for what each part means.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name, part of every id.
    pub name: Box<str>,
    /// Codes of the types that trigger it.
    pub triggers: Vec<u8>,
    /// Codes of the types that cancel it.
    pub unless: Vec<u8>,
    /// From an event's arrival to the moment of decision.
    pub delay_ms: i64,
    /// Least lift of a list.
    pub lift_min: f32,
    /// From the user's last notification on.
    pub cool_down_ms: i64,
    /// When nothing goes out.
    pub quiet: Option<QuietHours>,
    /// Most items.
    pub items_max: usize,
    /// From an event's time to its arrival, at most.
    pub event_age_max_ms: i64,
    /// From being due to being too late.
    pub expire_after_ms: i64,
}

/// Why a notice does not go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// The settings have no such rule any more.
    NoRule,
    /// It could not go out in time.
    Expired,
    /// Its event was erased.
    Forgotten,
    /// An event came that cancels it.
    Cancelled,
    /// The user had a notification a short while ago.
    CoolDown,
    /// The list is hardly better than what is popular.
    Lift,
    /// There is nothing to recommend.
    NoItems,
}

impl DropReason {
    /// Its name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRule => "no_rule",
            Self::Expired => "expired",
            Self::Forgotten => "forgotten",
            Self::Cancelled => "cancelled",
            Self::CoolDown => "cool_down",
            Self::Lift => "lift",
            Self::NoItems => "no_items",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// All rules of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// In order of their names.
    rules: Vec<Rule>,
    /// For each event type's code, the rules that it triggers.
    by_kind: Vec<Vec<usize>>,
}

/// What [`Rules::triggered`] looks at.
#[derive(Clone, Copy, Debug)]
pub struct Triggering<'a> {
    /// The stream.
    pub namespace: &'a str,
    /// The shard that carried the event.
    pub shard: ShardId,
    /// Settings under which it was validated.
    pub types: &'a EventTypes,
    /// The event, new in its history.
    pub event: &'a Event<'a>,
    /// Whose.
    pub owner: &'a HistoryKey,
    /// When its record arrived, milliseconds since 1970.
    pub arrival_ms: i64,
}

impl Rules {
    /// Nothing triggers anything.
    pub const NONE: Self = Self { rules: Vec::new(), by_kind: Vec::new() };

    /// `rules` have distinct names.
    pub(super) fn new(rules: Vec<Rule>, types: &EventTypes) -> Self {
        let of = |code: usize| {
            let is_its = |rule: &Rule| rule.triggers.iter().any(|trigger| usize::from(*trigger) == code);
            (0..rules.len()).filter(|&index| is_its(&rules[index])).collect()
        };
        let by_kind = (0..types.types().len()).map(of).collect();
        Self { rules, by_kind }
    }

    /// Whether no event ever triggers anything.
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rule of this name.
    pub fn get(&self, name: &str) -> Option<&Rule> {
        self.rules.binary_search_by(|rule| (*rule.name).cmp(name)).ok().map(|index| &self.rules[index])
    }

    /// The notices that an event triggers: one for each rule of its type, unless it came too late after its own time.
    pub fn triggered<'a>(&'a self, of: Triggering<'a>) -> impl Iterator<Item = Notice> + 'a {
        let rules = self.by_kind.get(usize::from(of.event.kind)).map_or(&[][..], Vec::as_slice);
        rules.iter().map(|&index| &self.rules[index]).filter_map(move |rule| rule.notice(&of))
    }
}

impl Rule {
    fn notice(&self, of: &Triggering<'_>) -> Option<Notice> {
        let Triggering { event, arrival_ms, .. } = *of;
        if arrival_ms.saturating_sub(event.time_ms) > self.event_age_max_ms {
            return None;
        }
        let event_type = of.types.get(event.kind);
        let class = &of.types.classes()[usize::from(event_type.class)].name;
        let settled_ms = arrival_ms.saturating_add(self.delay_ms);
        Some(Notice {
            id: notice::id(of.namespace, &self.name, of.owner, class, event.key),
            rule: self.name.to_string(),
            owner: of.owner.clone(),
            shard: of.shard.0,
            event_id: event.event_id.as_deref().map_or_else(|| event.key.to_string(), str::to_owned),
            event_type: event_type.name.to_string(),
            item: event.item.to_string(),
            time_ms: event.time_ms,
            arrival_ms,
            settled_ms,
            due_ms: self.quiet.map_or(settled_ms, |quiet| quiet.over_at(settled_ms)),
            attempts: 0,
            not_before_ms: i64::MIN,
        })
    }

    /// Whether a notice still stands, by the effective history of its owner and the newest time at which something was
    /// due that went out to them.
    pub fn stands(&self, notice: &Notice, history: &History, newest_sent_ms: Option<i64>) -> Result<(), DropReason> {
        if notice.time_ms <= history.floor_ms() {
            return Err(DropReason::Forgotten);
        }
        let cancels = |kind: u8, time_ms: i64| self.unless.contains(&kind) && time_ms >= notice.time_ms;
        if history.entries().any(|entry| cancels(entry.kind, entry.time_ms)) {
            return Err(DropReason::Cancelled);
        }
        if newest_sent_ms.is_some_and(|sent_ms| notice.due_ms < sent_ms.saturating_add(self.cool_down_ms)) {
            return Err(DropReason::CoolDown);
        }
        Ok(())
    }

    /// Whether a list is worth sending. `lift` is what the user's history adds to its first item's score.
    pub fn is_worth(&self, items: usize, lift: f64) -> Result<(), DropReason> {
        if items == 0 {
            return Err(DropReason::NoItems);
        }
        if lift < f64::from(self.lift_min) { Err(DropReason::Lift) } else { Ok(()) }
    }

    /// Whether it is too late to send what was due at `due_ms`.
    pub const fn is_expired(&self, due_ms: i64, now_ms: i64) -> bool {
        now_ms.saturating_sub(due_ms) > self.expire_after_ms
    }
}

/// A part of every day in which nothing goes out: from one local time to another, over midnight or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_field_names)] // the unit
pub struct QuietHours {
    /// Milliseconds after local midnight.
    from_ms: i64,
    /// Less than a day, and not 0.
    length_ms: i64,
    /// Local time less UTC.
    utc_offset_minutes: i32,
}

impl QuietHours {
    /// Reads `"22:00-08:00"`; `None` of empty text.
    pub(super) fn parse(text: &str, utc_offset_minutes: i32) -> Result<Option<Self>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let two = |digits: &str, below: i64| {
            let is_two = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<i64>().ok().filter(|number| is_two && *number < below)
        };
        let time = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            Some((two(hours, 24)? * 60 + two(minutes, 60)?) * MINUTE_MS)
        };
        let parsed = text.split_once('-').and_then(|(from, until)| Some((time(from)?, time(until)?)));
        match parsed {
            Some((from_ms, until_ms)) if from_ms != until_ms => {
                Ok(Some(Self { from_ms, length_ms: (until_ms - from_ms).rem_euclid(DAY_MS), utc_offset_minutes }))
            }
            _ => Err(format!("quiet_hours = {text:?}: two different times of the day, such as \"22:00-08:00\"")),
        }
    }

    /// The first moment at or after `time_ms` that is not quiet.
    pub fn over_at(&self, time_ms: i64) -> i64 {
        let local_ms = time_ms.saturating_add(i64::from(self.utc_offset_minutes) * MINUTE_MS);
        // Since the hours last began, midnight between or not.
        let since_ms = local_ms.saturating_sub(self.from_ms).rem_euclid(DAY_MS);
        if since_ms < self.length_ms { time_ms.saturating_add(self.length_ms - since_ms) } else { time_ms }
    }
}
