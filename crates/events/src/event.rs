//! One event, validated. Every reader (CSV, JSON Lines, Parquet, Kinesis record, HTTP) hands its text fields to
//! [`Event::from_fields`]; no other code decides whether an event is acceptable or what its identity is.
//!
//! Event times are judged against an arrival time that the caller recorded, never against a clock, so a replay
//! judges as the first run did.

use std::borrow::Cow;

use crate::history::Entry;
use crate::ids::{self, EventKey, HistoryKey, IdFault, ItemKey};
use crate::rejection::{Rejection, RejectionCode, excerpt};
use crate::settings::EventTypes;
use crate::wire::time::parse_time_ms;

/// 2000-01-01T00:00:00Z in milliseconds: nothing real is older.
pub const TIME_MIN_MS: i64 = 946_684_800_000;
/// How far an event time may lie after its arrival, in milliseconds: a day, for clocks set to local time.
pub const TIME_AHEAD_MAX_MS: i64 = 86_400_000;

/// The text fields of an event before validation. Empty text counts as absent.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a> {
    /// `userId` / `USER_ID`.
    pub user: Option<Cow<'a, str>>,
    /// `sessionId` / `SESSION_ID`.
    pub session: Option<Cow<'a, str>>,
    /// `itemId` / `ITEM_ID`.
    pub item: Option<Cow<'a, str>>,
    /// `eventType` / `EVENT_TYPE`.
    pub event_type: Option<Cow<'a, str>>,
    /// `eventId` / `EVENT_ID`.
    pub event_id: Option<Cow<'a, str>>,
    /// `sentAt` / `TIMESTAMP`.
    pub time: TimeField<'a>,
    /// `eventValue` / `EVENT_VALUE`.
    pub value: ValueField<'a>,
}

/// An event time as found.
#[derive(Clone, Debug, Default)]
pub enum TimeField<'a> {
    /// None given.
    #[default]
    Absent,
    /// Text: a number of seconds or milliseconds, or RFC 3339.
    Text(Cow<'a, str>),
    /// Already milliseconds since 1970.
    Ms(i64),
}

/// An event value as found.
#[derive(Clone, Debug, Default)]
pub enum ValueField<'a> {
    /// None given.
    #[default]
    Absent,
    /// Text to parse.
    Text(Cow<'a, str>),
    /// A number.
    Number(f64),
}

/// A validated event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event<'a> {
    /// The user, if known; otherwise `session` is given.
    pub user: Option<Cow<'a, str>>,
    /// The session, if given.
    pub session: Option<Cow<'a, str>>,
    /// The item.
    pub item: Cow<'a, str>,
    /// Code of the event type under the settings that validated it.
    pub kind: u8,
    /// Event time in milliseconds since 1970.
    pub time_ms: i64,
    /// The value, if given: finite.
    pub value: Option<f32>,
    /// Identity: from `eventId` if given, else from what the event says.
    pub key: EventKey,
    /// The producer's own id, if given.
    pub event_id: Option<Cow<'a, str>>,
}

impl<'a> Event<'a> {
    /// Validates the fields of an event that arrived at `arrival_ms`.
    pub fn from_fields(fields: Fields<'a>, types: &EventTypes, arrival_ms: i64) -> Result<Self, Rejection> {
        let user = id("user", fields.user)?;
        let session = id("session", fields.session)?;
        if user.is_none() && session.is_none() {
            return Err(Rejection::new(RejectionCode::MissingUser, "neither a user id nor a session id"));
        }
        let item = id("item", fields.item)?.ok_or_else(|| Rejection::new(RejectionCode::MissingItem, "no item id"))?;
        let event_id = id("event", fields.event_id)?;
        let kind = event_type(fields.event_type.as_deref(), types)?;
        let time_ms = event_time(&fields.time, arrival_ms)?;
        let value = event_value(&fields.value)?;
        let key = if let Some(id) = &event_id {
            EventKey::of(id)
        } else {
            let owner = user.as_deref().or(session.as_deref()).expect("one of both was checked above");
            EventKey::derived(owner, &item, &types.get(kind).name, time_ms, value)
        };
        Ok(Self { user, session, item, kind, time_ms, value, key, event_id })
    }

    /// The history that this event grows: the user's, or the session's if the user is unknown.
    pub fn history_key(&self) -> HistoryKey {
        match (&self.user, &self.session) {
            (Some(user), _) => HistoryKey::User(user.as_ref().into()),
            (None, Some(session)) => HistoryKey::Session(session.as_ref().into()),
            (None, None) => unreachable!("validation refuses an event without user and session"),
        }
    }

    /// The entry that joins the history.
    pub fn entry(&self) -> Entry {
        Entry {
            time_ms: self.time_ms,
            event: self.key,
            item: ItemKey::of(&self.item),
            value: self.value,
            kind: self.kind,
        }
    }

    /// The same event, owning its texts.
    pub fn into_owned(self) -> Event<'static> {
        let own = |text: Option<Cow<'a, str>>| text.map(|t| Cow::Owned(t.into_owned()));
        Event {
            user: own(self.user),
            session: own(self.session),
            item: Cow::Owned(self.item.into_owned()),
            kind: self.kind,
            time_ms: self.time_ms,
            value: self.value,
            key: self.key,
            event_id: own(self.event_id),
        }
    }
}

fn id<'a>(what: &str, text: Option<Cow<'a, str>>) -> Result<Option<Cow<'a, str>>, Rejection> {
    let Some(text) = text else { return Ok(None) };
    match ids::check_id(&text) {
        Ok(()) => Ok(Some(text)),
        Err(IdFault::Empty) => Ok(None),
        Err(IdFault::TooLong(bytes)) => Err(Rejection::new(
            RejectionCode::IdTooLong,
            format!("{what} id of {bytes} bytes, at most {} are accepted: {:?}…", ids::ID_BYTES_MAX, excerpt(&text)),
        )),
    }
}

fn event_type(name: Option<&str>, types: &EventTypes) -> Result<u8, Rejection> {
    match name {
        None | Some("") => Ok(types.default_code()),
        Some(name) => types.code(name).ok_or_else(|| {
            let known: Vec<&str> = types.types().iter().map(|t| &*t.name).collect();
            Rejection::new(
                RejectionCode::UnknownEventType,
                format!("event type {:?} is not in the settings, which name: {}", excerpt(name), known.join(", ")),
            )
        }),
    }
}

fn event_time(time: &TimeField<'_>, arrival_ms: i64) -> Result<i64, Rejection> {
    let time_ms = match time {
        TimeField::Ms(ms) => *ms,
        TimeField::Text(text) if !text.trim().is_empty() => parse_time_ms(text.trim()).ok_or_else(|| {
            Rejection::new(
                RejectionCode::BadTime,
                format!("time {:?} is neither unix seconds, milliseconds nor RFC 3339", excerpt(text)),
            )
        })?,
        _ => return Err(Rejection::new(RejectionCode::MissingTime, "no event time")),
    };
    if time_ms < TIME_MIN_MS {
        return Err(Rejection::new(RejectionCode::TimeTooOld, format!("time {time_ms} ms lies before the year 2000")));
    }
    if time_ms > arrival_ms.saturating_add(TIME_AHEAD_MAX_MS) {
        return Err(Rejection::new(
            RejectionCode::TimeTooNew,
            format!("time {time_ms} ms lies more than a day after its arrival at {arrival_ms} ms"),
        ));
    }
    Ok(time_ms)
}

fn event_value(value: &ValueField<'_>) -> Result<Option<f32>, Rejection> {
    let number = match value {
        ValueField::Absent => return Ok(None),
        ValueField::Number(number) => *number,
        ValueField::Text(text) if text.trim().is_empty() => return Ok(None),
        ValueField::Text(text) => text.trim().parse::<f64>().map_err(|_| {
            Rejection::new(RejectionCode::BadValue, format!("value {:?} is not a number", excerpt(text)))
        })?,
    };
    let narrow = number as f32;
    if narrow.is_finite() {
        // -0.0 and 0.0 are one value and must hash alike.
        Ok(Some(narrow + 0.0))
    } else {
        Err(Rejection::new(RejectionCode::BadValue, format!("value {number} is not a finite 32-bit number")))
    }
}
