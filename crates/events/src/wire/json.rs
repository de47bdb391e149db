//! JSON events.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::value::RawValue;

use crate::event::{Event, Fields, TimeField, ValueField};
use crate::rejection::{Rejection, RejectionCode, excerpt};
use crate::settings::EventTypes;
use crate::wire::time::number_ms;

/// Most events in one `PutEvents` envelope. Personalize takes 10; we take what a Kinesis record of 1 MiB can hold
/// of the smallest events, and refuse the rest.
pub const ENVELOPE_EVENTS_MAX: usize = 10_000;

/// A text or a number, as found.
#[derive(Debug, Default)]
enum Scalar<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Integer(i128),
    Number(f64),
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;
        impl<'de> Visitor<'de> for ScalarVisitor {
            type Value = Scalar<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text, a number or null")
            }
            fn visit_borrowed_str<E: de::Error>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Borrowed(v)))
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Owned(v.to_owned())))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Self::Value, E> {
                Ok(Scalar::Integer(i128::from(v)))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Self::Value, E> {
                Ok(Scalar::Integer(i128::from(v)))
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Self::Value, E> {
                Ok(Scalar::Number(v))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Scalar::Absent)
            }
            fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Scalar::Absent)
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

impl<'a> Scalar<'a> {
    fn into_id(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Absent => None,
            Self::Text(text) => Some(text),
            Self::Integer(number) => Some(Cow::Owned(number.to_string())),
            Self::Number(number) => Some(Cow::Owned(number.to_string())),
        }
    }

    fn into_time(self) -> TimeField<'a> {
        match self {
            Self::Absent => TimeField::Absent,
            Self::Text(text) => TimeField::Text(text),
            Self::Integer(number) => number_time(number as f64),
            Self::Number(number) => number_time(number),
        }
    }

    fn into_value(self) -> ValueField<'a> {
        match self {
            Self::Absent => ValueField::Absent,
            Self::Text(text) => ValueField::Text(text),
            Self::Integer(number) => ValueField::Number(number as f64),
            Self::Number(number) => ValueField::Number(number),
        }
    }
}

fn number_time(number: f64) -> TimeField<'static> {
    number_ms(number).map_or_else(|| TimeField::Text(Cow::Owned(number.to_string())), TimeField::Ms)
}

/// An event or an envelope; unknown names are ignored, as Personalize does.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wire<'a> {
    #[serde(borrow, rename = "userId", alias = "USER_ID")]
    user: Scalar<'a>,
    #[serde(borrow, rename = "sessionId", alias = "SESSION_ID")]
    session: Scalar<'a>,
    #[serde(borrow, rename = "itemId", alias = "ITEM_ID")]
    item: Scalar<'a>,
    #[serde(borrow, rename = "eventType", alias = "EVENT_TYPE")]
    event_type: Scalar<'a>,
    #[serde(borrow, rename = "eventId", alias = "EVENT_ID")]
    event_id: Scalar<'a>,
    #[serde(borrow, rename = "sentAt", alias = "TIMESTAMP")]
    sent_at: Scalar<'a>,
    #[serde(borrow, rename = "eventValue", alias = "EVENT_VALUE")]
    value: Scalar<'a>,
    #[serde(borrow, rename = "eventList")]
    event_list: Option<Vec<&'a RawValue>>,
}

impl<'a> Wire<'a> {
    fn into_fields(self) -> Fields<'a> {
        Fields {
            user: self.user.into_id(),
            session: self.session.into_id(),
            item: self.item.into_id(),
            event_type: self.event_type.into_id(),
            event_id: self.event_id.into_id(),
            time: self.sent_at.into_time(),
            value: self.value.into_value(),
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Wire<'_>, Rejection> {
    let text =
        std::str::from_utf8(bytes).map_err(|e| Rejection::new(RejectionCode::Unparsable, format!("not UTF-8: {e}")))?;
    // serde's derive would also read a JSON array as the fields in order; an event is an object.
    if !text.trim_start().starts_with('{') {
        return Err(Rejection::new(RejectionCode::Unparsable, "not a JSON object"));
    }
    serde_json::from_str(text)
        .map_err(|e| Rejection::new(RejectionCode::Unparsable, format!("not an event in JSON: {}", problem(&e))))
}

/// What is wrong, without quoting a whole text that is where it should not be.
fn problem(error: &serde_json::Error) -> String {
    const PROBLEM_BYTES_MAX: usize = 256;
    let text = error.to_string();
    if text.len() <= PROBLEM_BYTES_MAX {
        return text;
    }
    format!("{}… at line {} column {}", excerpt(&text), error.line(), error.column())
}

/// Decodes one stream record: an event, or a `PutEvents` envelope whose events each pass or fail on their own.
/// `arrival_ms` is the recorded arrival time.
pub fn decode_record<'a>(
    bytes: &'a [u8],
    types: &EventTypes,
    arrival_ms: i64,
    mut each: impl FnMut(Result<Event<'a>, Rejection>),
) {
    let mut wire = match parse(bytes) {
        Ok(wire) => wire,
        Err(rejection) => return each(Err(rejection)),
    };
    let Some(list) = wire.event_list.take() else {
        return each(Event::from_fields(wire.into_fields(), types, arrival_ms));
    };
    if list.is_empty() || list.len() > ENVELOPE_EVENTS_MAX {
        let detail = format!("eventList holds {} events; 1 to {ENVELOPE_EVENTS_MAX} are accepted", list.len());
        return each(Err(Rejection::new(RejectionCode::Unparsable, detail)));
    }
    let outer = wire.into_fields();
    for raw in list {
        each(parse(raw.get().as_bytes()).and_then(|inner| {
            let mut fields = inner.into_fields();
            fields.user = fields.user.or_else(|| outer.user.clone());
            fields.session = fields.session.or_else(|| outer.session.clone());
            Event::from_fields(fields, types, arrival_ms)
        }));
    }
}

/// The partition key of a record as the ingest door chooses it: the user id, else the session id, so that all
/// events of one history travel one shard in order. `None` if the bytes name neither.
pub fn partition_key(bytes: &[u8]) -> Option<String> {
    let wire = parse(bytes).ok()?;
    let fields = wire.into_fields();
    fields.user.filter(|id| !id.is_empty()).or(fields.session.filter(|id| !id.is_empty())).map(Cow::into_owned)
}

/// Splits a `PutEvents` envelope into single events that carry the envelope's user and session; a single event
/// passes through. Text that is no JSON object is an error; an event in the envelope that is none stays as it is,
/// so that it reaches the dead letters.
pub fn split_envelope(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Rejection> {
    let wire = parse(bytes)?;
    let Some(list) = wire.event_list else { return Ok(vec![bytes.to_vec()]) };
    if list.is_empty() || list.len() > ENVELOPE_EVENTS_MAX {
        let detail = format!("eventList holds {} events; 1 to {ENVELOPE_EVENTS_MAX} are accepted", list.len());
        return Err(Rejection::new(RejectionCode::Unparsable, detail));
    }
    let (user, session) = (wire.user.into_id(), wire.session.into_id());
    Ok(list
        .into_iter()
        .map(|raw| {
            with_owner(raw, user.as_deref(), session.as_deref()).unwrap_or_else(|| raw.get().as_bytes().to_vec())
        })
        .collect())
}

/// An event of an envelope as one of its own: with the envelope's user and session where it names none itself, and
/// without an envelope of its own, which [`decode_record`] passes over too. `None` if it is no event.
fn with_owner(raw: &RawValue, user: Option<&str>, session: Option<&str>) -> Option<Vec<u8>> {
    let inner = parse(raw.get().as_bytes()).ok()?;
    // Values stay as they are written: any number, any depth.
    let mut event: BTreeMap<String, Box<RawValue>> = serde_json::from_str(raw.get()).ok()?;
    event.remove("eventList");
    let owners = [(["userId", "USER_ID"], inner.user, user), (["sessionId", "SESSION_ID"], inner.session, session)];
    for (names, own, outer) in owners {
        if let (Scalar::Absent, Some(outer)) = (own, outer) {
            // A `null` under either name is no id, and two names for one field are not an event.
            for name in names {
                event.remove(name);
            }
            event.insert(names[0].to_owned(), serde_json::value::to_raw_value(outer).ok()?);
        }
    }
    serde_json::to_vec(&event).ok()
}

/// Writes an event as producers do; reading it back gives the same event.
pub fn encode_event(event: &Event<'_>, types: &EventTypes) -> Vec<u8> {
    let mut map = serde_json::Map::new();
    if let Some(user) = &event.user {
        map.insert("userId".into(), user.as_ref().into());
    }
    if let Some(session) = &event.session {
        map.insert("sessionId".into(), session.as_ref().into());
    }
    map.insert("itemId".into(), event.item.as_ref().into());
    map.insert("eventType".into(), types.get(event.kind).name.as_ref().into());
    if let Some(id) = &event.event_id {
        map.insert("eventId".into(), id.as_ref().into());
    }
    if let Some(value) = event.value {
        map.insert("eventValue".into(), f64::from(value).into());
    }
    map.insert("sentAt".into(), event.time_ms.into());
    serde_json::to_vec(&map).expect("a map of JSON values serialises")
}

#[cfg(test)]
mod tests;
