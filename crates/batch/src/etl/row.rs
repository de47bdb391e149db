//! The compact row that travels through the shuffle: what the map yields and the fold takes.
//!
//! About 21 bytes and the ids. The layout is private to one run (scratch files are never read by another), so it
//! carries no version. Order of rows is defined by [`RowRef::position`] and, last, by the bytes themselves, so that the
//! fold sees one order whatever the threads did.

use anabranch_events::{Entry, Event, EventKey, EventTypes, HistoryKey, ItemKey};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const OWNER_IS_SESSION: u8 = 1;
const HAS_SESSION: u8 = 2;
const HAS_VALUE: u8 = 4;
const ALIAS: u8 = 8;
const ATTRIBUTES: u8 = 16;
const HISTORY: u8 = 32;
const HEAD_BYTES: usize = 21;
const SEED_SHUFFLE: u64 = 0x0073_6875_6666_6c65; // "shuffle"

/// One row in its encoded form: an event, a session's alias, a user's attributes, or a history to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowRef<'a> {
    bytes: &'a [u8],
}

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// An event of its owner.
    Event,
    /// The owner is a session; the item field names the user that it belongs to.
    Alias,
    /// Attributes of the owner; the payload is JSON, the time field the order among several.
    Attributes,
    /// A history of the owner, kept from an earlier run; the payload is its bytes.
    History,
}

fn put_id(out: &mut Vec<u8>, id: &str) {
    // Validated ids have 1 to 256 bytes, so the length less one fits a byte.
    out.extend_from_slice(id.as_bytes());
}

fn short(id: &str) -> u8 {
    debug_assert!((1..=256).contains(&id.len()));
    (id.len().max(1) - 1) as u8
}

fn head(out: &mut Vec<u8>, flags: u8, kind: u8, lengths: [u8; 3], time: i64, key: u64) {
    let mut head = [0; HEAD_BYTES];
    head[0] = flags;
    head[1] = kind;
    head[2..5].copy_from_slice(&lengths);
    head[5..13].copy_from_slice(&time.to_le_bytes());
    head[13..21].copy_from_slice(&key.to_le_bytes());
    out.extend_from_slice(&head);
}

/// Appends an event's row.
pub fn put_event(out: &mut Vec<u8>, event: &Event<'_>) {
    let (owner, owner_flag, session) = match (&event.user, &event.session) {
        (Some(user), session) => (user, 0, session.as_deref()),
        (None, Some(session)) => (session, OWNER_IS_SESSION, None),
        (None, None) => unreachable!("validation refuses an event without user and session"),
    };
    let mut flags = owner_flag;
    if event.value.is_some() {
        flags |= HAS_VALUE;
    }
    if session.is_some() {
        flags |= HAS_SESSION;
    }
    let lengths = [short(owner), short(&event.item), session.map_or(0, short)];
    head(out, flags, event.kind, lengths, event.time_ms, event.key.0);
    if let Some(value) = event.value {
        out.extend_from_slice(&value.to_bits().to_le_bytes());
    }
    put_id(out, owner);
    put_id(out, &event.item);
    if let Some(session) = session {
        put_id(out, session);
    }
}

/// Appends the row that tells a session whose it is.
pub fn put_alias(out: &mut Vec<u8>, session: &str, user: &str, time_ms: i64, event: EventKey) {
    head(out, ALIAS | OWNER_IS_SESSION, 0, [short(session), short(user), 0], time_ms, event.0);
    put_id(out, session);
    put_id(out, user);
}

/// Appends a row of attributes (JSON) of `owner`; of several the greatest `order` wins.
pub(crate) fn put_attributes(out: &mut Vec<u8>, owner: &str, order: i64, payload: &[u8]) {
    head(out, ATTRIBUTES, 0, [short(owner), 0, 0], order, 0);
    put_id(out, owner);
    put_payload(out, payload);
}

/// Appends a history (its encoded bytes) that `owner`'s joins.
pub(crate) fn put_history(out: &mut Vec<u8>, owner: &HistoryKey, history: &[u8]) {
    let flags = HISTORY | if matches!(owner, HistoryKey::Session(_)) { OWNER_IS_SESSION } else { 0 };
    head(out, flags, 0, [short(owner.id()), 0, 0], 0, 0);
    put_id(out, owner.id());
    put_payload(out, history);
}

fn put_payload(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Stable hash of an owner, by which rows are dealt to partitions.
pub fn owner_hash(is_session: bool, owner: &[u8]) -> u64 {
    xxh3_64_with_seed(owner, SEED_SHUFFLE ^ u64::from(is_session))
}

impl<'a> RowRef<'a> {
    /// The first row of `bytes`, and the rest; `None` if they are cut short.
    pub fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let head = bytes.get(..HEAD_BYTES)?;
        let mut length = Self::ids_at(head[0]) + usize::from(head[2]) + 1;
        if head[0] & (ATTRIBUTES | HISTORY) != 0 {
            let payload = bytes.get(length..length + 4)?;
            length += 4 + u32::from_le_bytes(payload.try_into().ok()?) as usize;
        } else {
            length += usize::from(head[3]) + 1;
            if head[0] & HAS_SESSION != 0 {
                length += usize::from(head[4]) + 1;
            }
        }
        let (row, rest) = bytes.split_at_checked(length)?;
        Some((Self { bytes: row }, rest))
    }

    const fn ids_at(flags: u8) -> usize {
        HEAD_BYTES + if flags & HAS_VALUE == 0 { 0 } else { 4 }
    }

    /// Whether these settings know the row's event type: rows of another run may not be folded.
    pub fn is_known(self, types: &EventTypes) -> bool {
        self.kind() != RowKind::Event || usize::from(self.event_type()) < types.types().len()
    }

    /// The encoded row.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// What the row says.
    pub fn kind(self) -> RowKind {
        match self.bytes[0] & (ALIAS | ATTRIBUTES | HISTORY) {
            0 => RowKind::Event,
            ALIAS => RowKind::Alias,
            HISTORY => RowKind::History,
            _ => RowKind::Attributes,
        }
    }

    /// Whether the owner is a session.
    pub fn owner_is_session(self) -> bool {
        self.bytes[0] & OWNER_IS_SESSION != 0
    }

    /// The owner's id.
    pub fn owner(self) -> &'a [u8] {
        let at = Self::ids_at(self.bytes[0]);
        &self.bytes[at..=at + usize::from(self.bytes[2])]
    }

    /// The owner's history key; `None` if the row is damaged.
    pub fn owner_key(self) -> Option<HistoryKey> {
        let id = std::str::from_utf8(self.owner()).ok()?.into();
        Some(if self.owner_is_session() { HistoryKey::Session(id) } else { HistoryKey::User(id) })
    }

    fn after_owner(self) -> usize {
        Self::ids_at(self.bytes[0]) + usize::from(self.bytes[2]) + 1
    }

    /// The item (an event's), or the user (an alias's).
    pub fn item(self) -> &'a [u8] {
        let at = self.after_owner();
        &self.bytes[at..=at + usize::from(self.bytes[3])]
    }

    /// The session of an event whose owner is a user.
    pub fn session(self) -> Option<&'a [u8]> {
        (self.bytes[0] & HAS_SESSION != 0).then(|| &self.bytes[self.after_owner() + usize::from(self.bytes[3]) + 1..])
    }

    /// The attributes, or the history's bytes.
    pub fn payload(self) -> &'a [u8] {
        &self.bytes[self.after_owner() + 4..]
    }

    /// Event time in milliseconds since 1970.
    pub fn time_ms(self) -> i64 {
        i64::from_le_bytes(self.bytes[5..13].try_into().expect("eight bytes"))
    }

    /// The event's key.
    pub fn event(self) -> EventKey {
        EventKey(u64::from_le_bytes(self.bytes[13..21].try_into().expect("eight bytes")))
    }

    /// Code of the event type.
    pub fn event_type(self) -> u8 {
        self.bytes[1]
    }

    /// The value, if given.
    pub fn value(self) -> Option<f32> {
        (self.bytes[0] & HAS_VALUE != 0).then(|| {
            f32::from_bits(u32::from_le_bytes(self.bytes[HEAD_BYTES..HEAD_BYTES + 4].try_into().expect("four bytes")))
        })
    }

    /// Order of an owner's rows.
    pub fn position(self) -> (i64, EventKey) {
        (self.time_ms(), self.event())
    }

    /// The entry that joins the history; `None` if the row is damaged.
    pub fn entry(self) -> Option<Entry> {
        Some(Entry {
            time_ms: self.time_ms(),
            event: self.event(),
            item: ItemKey::of(std::str::from_utf8(self.item()).ok()?),
            value: self.value(),
            kind: self.event_type(),
        })
    }
}
