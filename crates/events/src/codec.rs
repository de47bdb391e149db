//! The bytes of a history: compact (about 20 bytes an entry), canonical (equal histories have equal bytes),
//! versioned and checksummed. The layout is in `docs/formats.md`; a golden test holds it.
//!
//! Types are stored by name, once each, so the codes of the settings may change. Entries of a type that the settings
//! no longer name are dropped on reading. A seen item that a held entry shows anyway is not stored.

use xxhash_rust::xxh3::xxh3_64;

use crate::history::{Alias, Entry, History, Seen};
use crate::ids::{EventKey, ItemKey, check_id};
use crate::settings::EventTypes;

/// Version written by this code.
pub const VERSION: u8 = 1;

const CHECKSUM_BYTES: usize = 4;
const FLAG_FLOOR: u8 = 1;
const FLAG_ALIAS: u8 = 2;

/// Bytes that are no history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Written by newer code.
    #[error("history format {found} is newer than this program reads ({VERSION}); upgrade before reading this state")]
    NewerVersion {
        /// The version found.
        found: u8,
    },
    /// Damaged.
    #[error("history bytes are corrupt ({what}); restore this state from a backup, or replay the stream")]
    Corrupt {
        /// What does not fit.
        what: &'static str,
    },
}

const fn corrupt(what: &'static str) -> CodecError {
    CodecError::Corrupt { what }
}

/// Encodes a history that was folded under `types`.
pub fn encode(history: &History, types: &EventTypes) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + 24 * history.len() + 12 * history.seen.len());
    out.push(VERSION);
    let mut flags = 0;
    if history.floor.is_some() {
        flags |= FLAG_FLOOR;
    }
    if history.alias.is_some() {
        flags |= FLAG_ALIAS;
    }
    out.push(flags);
    if let Some(floor) = history.floor {
        put_signed(&mut out, floor);
    }
    let newest = history.newest_ms().unwrap_or(0);
    put_signed(&mut out, newest);

    let mut kinds: Vec<u8> = history.entries().map(|entry| entry.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    put_varint(&mut out, kinds.len() as u64);
    for kind in kinds {
        let event_type = types.get(kind);
        put_text(&mut out, &event_type.name);
        let of_kind = history.classes[usize::from(event_type.class)].iter().filter(|entry| entry.kind == kind);
        put_varint(&mut out, of_kind.clone().count() as u64);
        let mut newer = newest;
        for entry in of_kind.rev() {
            // Newest first, so each delta is small and not negative; its lowest bit says that a value follows.
            put_varint128(
                &mut out,
                (u128::from(newer.abs_diff(entry.time_ms)) << 1) | u128::from(entry.value.is_some()),
            );
            let keys: [[u8; 8]; 2] = [entry.event.0.to_le_bytes(), entry.item.0.to_le_bytes()];
            out.extend_from_slice(keys.as_flattened());
            if let Some(value) = entry.value {
                out.extend_from_slice(&value.to_bits().to_le_bytes());
            }
            newer = entry.time_ms;
        }
    }

    let shown = shown_seen(history, types);
    let extra = history.seen.iter().filter(|seen| {
        shown.binary_search_by_key(&seen.item, |s| s.item).map(|i| shown[i].time_ms) != Ok(seen.time_ms)
    });
    put_varint(&mut out, extra.clone().count() as u64);
    for seen in extra {
        put_signed(&mut out, newest.wrapping_sub(seen.time_ms));
        out.extend_from_slice(&seen.item.0.to_le_bytes());
    }
    put_varint(&mut out, history.sessions.len() as u64);
    for (session, time_ms) in &history.sessions {
        put_signed(&mut out, *time_ms);
        put_text(&mut out, session);
    }
    if let Some(alias) = &history.alias {
        put_signed(&mut out, alias.time_ms);
        out.extend_from_slice(&alias.event.0.to_le_bytes());
        put_text(&mut out, &alias.user);
    }
    let checksum = xxh3_64(&out) as u32;
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// Decodes a history and brings it under `types` (whose quotas may have changed since it was written).
pub fn decode(bytes: &[u8], types: &EventTypes) -> Result<History, CodecError> {
    let (&version, _) = bytes.split_first().ok_or(corrupt("empty"))?;
    if version > VERSION {
        return Err(CodecError::NewerVersion { found: version });
    }
    if version == 0 || bytes.len() < 2 + CHECKSUM_BYTES {
        return Err(corrupt("header"));
    }
    let (body, checksum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    if (xxh3_64(body) as u32).to_le_bytes() != checksum {
        return Err(corrupt("checksum"));
    }
    let flags = body[1];
    if flags & !(FLAG_FLOOR | FLAG_ALIAS) != 0 {
        return Err(corrupt("flags"));
    }
    let mut input = Input { bytes: &body[2..] };
    let mut history = History::new();
    if flags & FLAG_FLOOR != 0 {
        history.floor = Some(input.signed()?);
    }
    let newest = input.signed()?;
    history.classes = vec![Vec::new(); types.classes().len()];
    for _ in 0..input.count(2)? {
        let kind = types.code(input.text()?);
        let mut newer = newest;
        for _ in 0..input.count(17)? {
            let packed = input.varint128()?;
            let delta = i64::try_from(packed >> 1).map_err(|_| corrupt("time"))?;
            let time_ms = newer.checked_sub(delta).ok_or(corrupt("time"))?;
            let event = EventKey(input.u64()?);
            let item = ItemKey(input.u64()?);
            let value = if packed & 1 == 1 {
                let value = f32::from_bits(u32::from_le_bytes(input.array()?));
                Some(if value.is_finite() { value } else { return Err(corrupt("value")) })
            } else {
                None
            };
            newer = time_ms;
            if let Some(kind) = kind {
                history.classes[types.class_of(kind)].push(Entry { time_ms, event, item, value, kind });
            }
        }
    }
    // Each type was stored newest first; a class of one type is in order then.
    history.classes.iter_mut().for_each(|entries| entries.reverse());
    for _ in 0..input.count(9)? {
        let time_ms = newest.wrapping_sub(input.signed()?);
        history.seen.push(Seen { item: ItemKey(input.u64()?), time_ms });
    }
    for _ in 0..input.count(3)? {
        let time_ms = input.signed()?;
        let session = input.id()?;
        history.sessions.push((session.into(), time_ms));
    }
    if flags & FLAG_ALIAS != 0 {
        let time_ms = input.signed()?;
        let event = EventKey(input.u64()?);
        history.alias = Some(Alias { time_ms, event, user: input.id()?.into() });
    }
    if !input.bytes.is_empty() {
        return Err(corrupt("bytes after the end"));
    }
    let shown = shown_seen(&history, types);
    history.seen.extend(shown);
    history.normalise(types);
    Ok(history)
}

/// Seen items that the held entries show, in order of their hash, each with its newest time.
fn shown_seen(history: &History, types: &EventTypes) -> Vec<Seen> {
    let mut shown: Vec<Seen> = history
        .entries()
        .filter(|entry| types.get(entry.kind).hides)
        .map(|entry| Seen { item: entry.item, time_ms: entry.time_ms })
        .collect();
    shown.sort_unstable_by(|a, b| (a.item, b.time_ms).cmp(&(b.item, a.time_ms)));
    shown.dedup_by_key(|seen| seen.item);
    shown
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_varint128(out: &mut Vec<u8>, mut value: u128) {
    if let Ok(value) = u64::try_from(value) {
        return put_varint(out, value);
    }
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(corrupt("truncated"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        Ok(self.take(N)?.try_into().expect("take returns as many bytes as asked"))
    }

    fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn varint128(&mut self) -> Result<u128, CodecError> {
        // Deltas of days and less have at most five bytes; of these none can be cut off by the end, or pass 64 bits.
        if let Some(bytes) = self.bytes.first_chunk::<5>() {
            let mut value = 0_u64;
            for (place, byte) in bytes.iter().enumerate() {
                value |= u64::from(byte & 0x7f) << (7 * place);
                if byte & 0x80 == 0 {
                    self.bytes = &self.bytes[place + 1..];
                    return Ok(value.into());
                }
            }
        }
        let mut value = 0_u128;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u128::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(corrupt("number"))
    }

    fn varint(&mut self) -> Result<u64, CodecError> {
        u64::try_from(self.varint128()?).map_err(|_| corrupt("number"))
    }

    fn signed(&mut self) -> Result<i64, CodecError> {
        let packed = self.varint()?;
        Ok((packed >> 1) as i64 ^ -((packed & 1) as i64))
    }

    /// A count of things of at least `bytes_min` bytes each: never more than the bytes that are left can hold.
    fn count(&mut self, bytes_min: usize) -> Result<usize, CodecError> {
        let count = usize::try_from(self.varint()?).map_err(|_| corrupt("count"))?;
        if count > self.bytes.len() / bytes_min {
            return Err(corrupt("count"));
        }
        Ok(count)
    }

    fn text(&mut self) -> Result<&'a str, CodecError> {
        let length = self.count(1)?;
        std::str::from_utf8(self.take(length)?).map_err(|_| corrupt("text"))
    }

    fn id(&mut self) -> Result<&'a str, CodecError> {
        let id = self.text()?;
        check_id(id).map_err(|_| corrupt("id"))?;
        Ok(id)
    }
}

#[cfg(test)]
mod tests;
