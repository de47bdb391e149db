//! External ids and their stable hashes.
//!
//! Users, items, sessions and events are named by their owners: UTF-8 strings of 1 to 256 bytes. Histories
//! keep 64-bit hashes of item and event ids, never dense indices, because a dense index changes with every
//! snapshot while a hash means the same for ever. The hash is XXH3-64 with a seed for each kind of id, so an
//! item and an event with the same text do not share a key; it is part of the stored format and must not change.

use std::fmt;

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

/// Longest id, in bytes.
pub const ID_BYTES_MAX: usize = 256;

const SEED_ITEM: u64 = 0x6974_656d; // "item"
const SEED_EVENT: u64 = 0x0065_7665_6e74; // "event"
const SEED_DERIVED_EVENT: u64 = 0x6465_7269_7665; // "derive"
const SEED_RECOMMENDATION: u64 = 0x7265_636f; // "reco"

/// Stable 64-bit hash of an item id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemKey(pub u64);

impl ItemKey {
    /// The key of the item named `id`.
    pub fn of(id: &str) -> Self {
        Self(xxh3_64_with_seed(id.as_bytes(), SEED_ITEM))
    }
}

impl fmt::Display for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:016x}", self.0)
    }
}

/// Stable 64-bit identity of an event within its user's history and its event-type class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey(pub u64);

impl EventKey {
    /// The key of an event whose producer named it.
    pub fn of(event_id: &str) -> Self {
        Self(xxh3_64_with_seed(event_id.as_bytes(), SEED_EVENT))
    }

    /// The key of an event without an id: a hash of what it says. Two events that say the same are one.
    pub fn derived(user: &str, item: &str, event_type: &str, time_ms: i64, value: Option<f32>) -> Self {
        let mut bytes = [0_u8; 3 * (2 + ID_BYTES_MAX) + 8 + 5];
        let mut used = 0;
        for text in [user, item, event_type] {
            // Lengths go in front, so ("ab", "c") and ("a", "bc") differ. Ids are at most 256 bytes by validation;
            // a longer text (an unvalidated caller) is hashed down first instead of overflowing the buffer.
            let digest;
            let part = if text.len() <= ID_BYTES_MAX {
                text.as_bytes()
            } else {
                digest = xxh3_128_with_seed(text.as_bytes(), SEED_EVENT).to_le_bytes();
                &digest[..]
            };
            bytes[used..used + 2].copy_from_slice(&(text.len().min(0xffff) as u16).to_le_bytes());
            bytes[used + 2..used + 2 + part.len()].copy_from_slice(part);
            used += 2 + part.len();
        }
        bytes[used..used + 8].copy_from_slice(&time_ms.to_le_bytes());
        used += 8;
        if let Some(value) = value {
            bytes[used] = 1;
            bytes[used + 1..used + 5].copy_from_slice(&value.to_bits().to_le_bytes());
            used += 5;
        }
        Self(xxh3_64_with_seed(&bytes[..used], SEED_DERIVED_EVENT))
    }
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Whose history: a user's, or an anonymous session's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HistoryKey {
    /// A known user.
    User(Box<str>),
    /// A session whose events carry no user.
    Session(Box<str>),
}

impl HistoryKey {
    /// The id without its kind.
    pub fn id(&self) -> &str {
        match self {
            Self::User(id) | Self::Session(id) => id,
        }
    }

    /// The stored form: `u` or `s`, then the id. Order of bytes is the order of keys.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, id) = match self {
            Self::User(id) => (b'u', id),
            Self::Session(id) => (b's', id),
        };
        let mut bytes = Vec::with_capacity(1 + id.len());
        bytes.push(kind);
        bytes.extend_from_slice(id.as_bytes());
        bytes
    }

    /// Reads [`HistoryKey::to_bytes`]; `None` if the bytes are not such a key.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, id) = bytes.split_first()?;
        let id = std::str::from_utf8(id).ok()?;
        if check_id(id).is_err() {
            return None;
        }
        match kind {
            b'u' => Some(Self::User(id.into())),
            b's' => Some(Self::Session(id.into())),
            _ => None,
        }
    }
}

impl fmt::Display for HistoryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user {id}"),
            Self::Session(id) => write!(f, "session {id}"),
        }
    }
}

/// Why a text is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdFault {
    /// Nothing there.
    Empty,
    /// More than [`ID_BYTES_MAX`] bytes; carries the length in bytes.
    TooLong(usize),
}

/// Checks the length rule of every id.
pub const fn check_id(id: &str) -> Result<(), IdFault> {
    match id.len() {
        0 => Err(IdFault::Empty),
        1..=ID_BYTES_MAX => Ok(()),
        long => Err(IdFault::TooLong(long)),
    }
}

/// 128-bit hash of length-prefixed parts, for recommendation ids.
pub(crate) fn recommendation_hash(parts: &[&[u8]]) -> u128 {
    let mut bytes = Vec::with_capacity(parts.iter().map(|p| p.len() + 4).sum());
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    xxh3_128_with_seed(&bytes, SEED_RECOMMENDATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These values are stored in every history; a change here breaks every user's state.
    #[test]
    fn hashes_are_frozen() {
        assert_eq!(ItemKey::of("item-1").0, 0xfbac_10e1_73ad_e57e);
        assert_eq!(EventKey::of("item-1").0, 0xa152_d219_e623_01ae);
        assert_eq!(EventKey::derived("u", "i", "view", 1_700_000_000_000, Some(2.5)).0, 0xd463_f7a4_d580_c513);
    }

    #[test]
    fn derived_keys_tell_where_one_id_ends() {
        let a = EventKey::derived("ab", "c", "view", 1, None);
        let b = EventKey::derived("a", "bc", "view", 1, None);
        assert_ne!(a, b);
        assert_ne!(EventKey::derived("a", "b", "v", 1, None), EventKey::derived("a", "b", "v", 1, Some(0.0)));
    }

    #[test]
    fn history_keys_round_trip() {
        for key in [HistoryKey::User("ü".into()), HistoryKey::Session("x".into())] {
            assert_eq!(HistoryKey::from_bytes(&key.to_bytes()), Some(key));
        }
        assert_eq!(HistoryKey::from_bytes(b"u"), None);
        assert_eq!(HistoryKey::from_bytes(b"x1"), None);
        assert_eq!(HistoryKey::from_bytes(b""), None);
    }
}
