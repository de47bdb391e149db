//! The map: the fields of a raw row become an event, a row left out on purpose, or a rejection. One of the two pure
//! functions that hold all meaning of the ETL; the other is the fold.

use std::borrow::Cow;

use anabranch_events::event::{TimeField, ValueField};
use anabranch_events::wire::time::number_ms;
use anabranch_events::{Event, EventTypes, Fields, Rejection};

use crate::input::{Cell, Columns, Want, Wanted};
use crate::mapping::InteractionsMapping;

/// What the map needs to know.
#[derive(Clone, Copy, Debug)]
pub struct MapRules<'a> {
    /// Event types.
    pub types: &'a EventTypes,
    /// The time by which "more than a day ahead" is judged, milliseconds since 1970.
    pub as_of_ms: i64,
    /// Cut-over: later events are left to the stream.
    pub until_ms: Option<i64>,
}

/// A row that is no error.
#[derive(Clone, Debug, PartialEq)]
pub enum Mapped<'a> {
    /// An event to fold.
    Event(Event<'a>),
    /// Later than the cut-over.
    AfterCutOver,
}

/// Maps one row.
pub fn map_row<'a>(fields: Fields<'a>, rules: &MapRules<'_>) -> Result<Mapped<'a>, Rejection> {
    let event = Event::from_fields(fields, rules.types, rules.as_of_ms)?;
    Ok(match rules.until_ms {
        Some(until_ms) if event.time_ms > until_ms => Mapped::AfterCutOver,
        _ => Mapped::Event(event),
    })
}

/// The columns of an interaction file, in the order that [`fields`] takes them.
pub(crate) fn interaction_columns(mapping: &InteractionsMapping) -> Columns {
    let columns = &mapping.columns;
    let wanted = vec![
        Wanted::new(columns.user.as_deref(), &["USER_ID", "userId"], Want::Text, false),
        Wanted::new(columns.item.as_deref(), &["ITEM_ID", "itemId"], Want::Text, true),
        Wanted::new(columns.time.as_deref(), &["TIMESTAMP", "sentAt"], Want::Time, true),
        Wanted::new(columns.event_type.as_deref(), &["EVENT_TYPE", "eventType"], Want::Text, false),
        Wanted::new(columns.value.as_deref(), &["EVENT_VALUE", "eventValue"], Want::Number, false),
        Wanted::new(columns.event_id.as_deref(), &["EVENT_ID", "eventId"], Want::Text, false),
        Wanted::new(columns.session.as_deref(), &["SESSION_ID", "sessionId"], Want::Text, false),
    ];
    let delimiter = mapping.delimiter.map(|delimiter| delimiter as u8);
    Columns { wanted, one_of: vec![0, 6], keep_others: false, delimiter }
}

/// An event's fields from the cells of [`interaction_columns`].
pub(crate) fn fields<'a>(cells: &mut [Cell<'a>]) -> Fields<'a> {
    let mut take = |index: usize| std::mem::take(&mut cells[index]);
    Fields {
        user: take(0).into_text(),
        item: take(1).into_text(),
        time: match take(2) {
            Cell::Absent => TimeField::Absent,
            Cell::Text(text) => TimeField::Text(text),
            Cell::Ms(ms) => TimeField::Ms(ms),
            Cell::Number(number) => match number_ms(number) {
                Some(ms) => TimeField::Ms(ms),
                None => TimeField::Text(Cow::Owned(number.to_string())),
            },
        },
        event_type: take(3).into_text(),
        value: match take(4) {
            Cell::Absent => ValueField::Absent,
            Cell::Text(text) => ValueField::Text(text),
            Cell::Ms(ms) => ValueField::Number(ms as f64),
            Cell::Number(number) => ValueField::Number(number),
        },
        event_id: take(5).into_text(),
        session: take(6).into_text(),
    }
}
