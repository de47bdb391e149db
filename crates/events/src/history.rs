//! A user's history and its join: the one idea of the project.
//!
//! A history is a set of entries that grows by one operation, *join*, which is commutative, associative and
//! idempotent. Duplicates, retries, reordering and replays therefore cannot corrupt it, a lost conditional write
//! is simply joined again, and the batch arm and the stream arm reach the same bytes.
//!
//! The join, exactly:
//! 1. the floor is the greater of both floors;
//! 2. within each event-type class, entries are united; of several entries with one event key the greatest by
//!    (time, type, item, value) wins;
//! 3. entries at or below the floor vanish;
//! 4. of each class only the newest `quota` by (time, event key) stay;
//! 5. seen items and sessions unite by newest time, the newest few stay; the alias is the greatest by
//!    (time, event key, user).
//!
//! **An event's identity is its key within its class**, not its key alone. Were the class left out, the law would
//! break: let the quota be 1 and Y\@0 a view, X\@1 a view and X\@2 a purchase. Joining Y with X\@1 drops Y, and X\@2
//! then takes X out of the views: nothing is left. Joining X\@1 with X\@2 first keeps Y. With the class in the
//! identity each class is a semilattice of its own, and so is their product
//! (`docs/design/0001-identity-within-a-class.md`).
//!
//! Not here: storage, delivery, scoring.

use std::cmp::Ordering;

use crate::event::Event;
use crate::ids::{EventKey, HistoryKey, ItemKey};
use crate::settings::EventTypes;

/// The floor of a history from which nothing was erased.
pub const NO_FLOOR: i64 = i64::MIN;

/// One interaction as remembered: about 20 bytes when encoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Event time, milliseconds since 1970.
    pub time_ms: i64,
    /// Identity within the class.
    pub event: EventKey,
    /// The item's stable hash.
    pub item: ItemKey,
    /// The value, if given: finite, never -0.
    pub value: Option<f32>,
    /// Code of the event type.
    pub kind: u8,
}

impl Entry {
    /// Order of entries in a class: (time, event key).
    fn position(&self) -> (i64, EventKey) {
        (self.time_ms, self.event)
    }

    /// Which of two entries with one event key wins: the greater by (time, type, item, value). Type codes are
    /// ranks of names, so this order does not depend on the order of the settings.
    fn rank(&self) -> (i64, u8, ItemKey, Option<u32>) {
        (self.time_ms, self.kind, self.item, self.value.map(f32::to_bits))
    }
}

/// A seen item and when it was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The item's stable hash.
    pub item: ItemKey,
    /// Newest time of an event that hides it, milliseconds since 1970.
    pub time_ms: i64,
}

/// Whose session it turned out to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alias {
    /// Time of the event that said so.
    pub time_ms: i64,
    /// That event.
    pub event: EventKey,
    /// The user.
    pub user: Box<str>,
}

/// What an event did to its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A new entry stands in the history.
    Applied,
    /// The history held this event already (the greater payload now stands); nothing new happened.
    Duplicate,
    /// The event is older than what the history can hold, or lies at or below its floor.
    Late,
}

/// What the system remembers of one user or session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Everything at or below this time was erased; [`NO_FLOOR`] if nothing was.
    pub(crate) floor: Option<i64>,
    /// For each class of the settings: entries, oldest first, each event key once.
    pub(crate) classes: Vec<Vec<Entry>>,
    /// Seen items in order of their hash.
    pub(crate) seen: Vec<Seen>,
    /// Sessions of a user with their newest time, in order of id.
    pub(crate) sessions: Vec<(Box<str>, i64)>,
    /// Owner of a session.
    pub(crate) alias: Option<Alias>,
}

impl History {
    /// An empty history.
    pub const fn new() -> Self {
        Self { floor: None, classes: Vec::new(), seen: Vec::new(), sessions: Vec::new(), alias: None }
    }

    /// The history of `entries`, in any order and with any repeats: what joining them one by one gives, in
    /// O(n log n).
    pub fn from_entries(mut entries: Vec<Entry>, types: &EventTypes) -> Self {
        let mut history = Self::new();
        let mut seen: Vec<Seen> = entries
            .iter()
            .filter(|entry| types.get(entry.kind).hides)
            .map(|entry| Seen { item: entry.item, time_ms: entry.time_ms })
            .collect();
        normalise_seen(&mut seen, None, types.seen_max);
        history.seen = seen;
        history.classes = vec![Vec::new(); types.classes().len()];
        entries.sort_unstable_by_key(|entry| types.get(entry.kind).class);
        for run in entries.chunk_by(|a, b| types.class_of(a.kind) == types.class_of(b.kind)) {
            let class = types.class_of(run[0].kind);
            let mut entries = run.to_vec();
            normalise_class(&mut entries, None, types.classes()[class].quota);
            history.classes[class] = entries;
        }
        history
    }

    /// Joins one entry; the fast path of [`History::join`] with a history of that entry alone.
    pub fn apply(&mut self, entry: Entry, types: &EventTypes) -> Outcome {
        if self.is_erased(entry.time_ms) {
            let held =
                self.classes.get(types.class_of(entry.kind)).is_some_and(|c| c.iter().any(|e| e.event == entry.event));
            return if held { Outcome::Duplicate } else { Outcome::Late };
        }
        if types.get(entry.kind).hides {
            self.see(Seen { item: entry.item, time_ms: entry.time_ms }, types.seen_max);
        }
        let class = types.class_of(entry.kind);
        self.classes.resize(types.classes().len(), Vec::new());
        let entries = &mut self.classes[class];
        if let Some(held) = entries.iter().rposition(|held| held.event == entry.event) {
            if entry.rank() > entries[held].rank() {
                entries.remove(held);
                insert_sorted(entries, entry);
            }
            return Outcome::Duplicate;
        }
        let quota = types.classes()[class].quota;
        if entries.len() >= quota && entry.position() < entries[0].position() {
            return Outcome::Late;
        }
        insert_sorted(entries, entry);
        if entries.len() > quota {
            entries.drain(..entries.len() - quota);
        }
        Outcome::Applied
    }

    /// Joins `other` into this history.
    pub fn join(&mut self, other: &Self, types: &EventTypes) {
        self.raise_floor(other.floor);
        let floor = self.floor;
        self.classes.resize(types.classes().len(), Vec::new());
        for (class, theirs) in other.classes.iter().enumerate() {
            if !theirs.is_empty() {
                self.classes[class].extend_from_slice(theirs);
                normalise_class(&mut self.classes[class], floor, types.classes()[class].quota);
            }
        }
        if !other.seen.is_empty() {
            self.seen.extend_from_slice(&other.seen);
            normalise_seen(&mut self.seen, floor, types.seen_max);
        }
        for (session, time_ms) in &other.sessions {
            self.note_session(session, *time_ms, types);
        }
        if let Some(alias) = &other.alias {
            self.note_alias(alias.clone());
        }
    }

    /// Erases everything at or below `floor_ms`, now and in whatever joins later.
    pub fn erase(&mut self, floor_ms: i64) {
        self.raise_floor(Some(floor_ms));
    }

    /// Remembers that this user was seen in `session` at `time_ms`.
    pub fn note_session(&mut self, session: &str, time_ms: i64, types: &EventTypes) {
        if self.is_erased(time_ms) || types.sessions_max == 0 {
            return;
        }
        match self.sessions.binary_search_by(|(held, _)| (**held).cmp(session)) {
            Ok(held) => self.sessions[held].1 = self.sessions[held].1.max(time_ms),
            Err(place) => self.sessions.insert(place, (session.into(), time_ms)),
        }
        if self.sessions.len() > types.sessions_max {
            let oldest = (0..self.sessions.len())
                .min_by(|&a, &b| {
                    (self.sessions[a].1, &self.sessions[a].0).cmp(&(self.sessions[b].1, &self.sessions[b].0))
                })
                .expect("more sessions than a non-negative limit");
            self.sessions.remove(oldest);
        }
    }

    /// Remembers whose session this is; the newest word wins.
    pub fn note_alias(&mut self, alias: Alias) {
        if !self.is_erased(alias.time_ms) && self.alias.as_ref().is_none_or(|held| alias > *held) {
            self.alias = Some(alias);
        }
    }

    /// The floor: everything at or below it was erased.
    pub fn floor_ms(&self) -> i64 {
        self.floor.unwrap_or(NO_FLOOR)
    }

    /// All entries, class by class, oldest first within a class.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> + Clone {
        self.classes.iter().flatten()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.classes.iter().map(Vec::len).sum()
    }

    /// Whether no entry is held (a floor, seen items or an alias may be).
    pub fn is_empty(&self) -> bool {
        self.classes.iter().all(Vec::is_empty)
    }

    /// Whether nothing is remembered at all, but for a floor.
    pub fn is_forgotten(&self) -> bool {
        self.is_empty() && self.seen.is_empty() && self.sessions.is_empty() && self.alias.is_none()
    }

    /// Time of the newest entry: the user's own "now".
    pub fn newest_ms(&self) -> Option<i64> {
        self.classes.iter().filter_map(|entries| entries.last()).map(|entry| entry.time_ms).max()
    }

    /// Seen items, in order of their hash.
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Sessions of a user with their newest time, in order of id.
    pub fn sessions(&self) -> impl Iterator<Item = (&str, i64)> {
        self.sessions.iter().map(|(session, time_ms)| (&**session, *time_ms))
    }

    /// Owner of a session, if known.
    pub const fn alias(&self) -> Option<&Alias> {
        self.alias.as_ref()
    }

    fn is_erased(&self, time_ms: i64) -> bool {
        self.floor.is_some_and(|floor| time_ms <= floor)
    }

    fn raise_floor(&mut self, floor: Option<i64>) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        let floor = self.floor_ms();
        for entries in &mut self.classes {
            entries.retain(|entry| entry.time_ms > floor);
        }
        self.seen.retain(|seen| seen.time_ms > floor);
        self.sessions.retain(|(_, time_ms)| *time_ms > floor);
        self.alias.take_if(|alias| alias.time_ms <= floor);
    }

    fn see(&mut self, seen: Seen, seen_max: usize) {
        match self.seen.binary_search_by_key(&seen.item, |held| held.item) {
            Ok(held) => self.seen[held].time_ms = self.seen[held].time_ms.max(seen.time_ms),
            Err(place) => {
                self.seen.insert(place, seen);
                if self.seen.len() > seen_max {
                    let oldest = (0..self.seen.len())
                        .min_by_key(|&i| (self.seen[i].time_ms, self.seen[i].item))
                        .expect("one was inserted above");
                    self.seen.remove(oldest);
                }
            }
        }
    }

    /// Brings decoded parts into the form that the settings ask for.
    pub(crate) fn normalise(&mut self, types: &EventTypes) {
        self.classes.resize(types.classes().len(), Vec::new());
        let floor = self.floor;
        for (entries, class) in self.classes.iter_mut().zip(types.classes()) {
            normalise_class(entries, floor, class.quota);
        }
        normalise_seen(&mut self.seen, floor, types.seen_max);
        for (session, time_ms) in std::mem::take(&mut self.sessions) {
            self.note_session(&session, time_ms, types);
        }
        if let Some(alias) = self.alias.take() {
            self.note_alias(alias);
        }
    }
}

/// Gives the history of a key to a change.
pub type WithHistory<'a> = dyn FnMut(&HistoryKey, &mut dyn FnMut(&mut History)) + 'a;

/// What one event does, to every history that it touches: the owner's gains the entry; if both user and session
/// are named, the user's remembers the session and the session's remembers its owner.
///
/// `with` is called for each touched key with what to do to its history.
pub fn apply_event(event: &Event<'_>, types: &EventTypes, with: &mut WithHistory<'_>) -> Outcome {
    let entry = event.entry();
    let owner = event.history_key();
    let mut outcome = Outcome::Late;
    with(&owner, &mut |history| {
        outcome = history.apply(entry, types);
        if let (Some(_), Some(session)) = (&event.user, &event.session) {
            history.note_session(session, event.time_ms, types);
        }
    });
    if let (Some(user), Some(session)) = (&event.user, &event.session) {
        let alias = Alias { time_ms: event.time_ms, event: event.key, user: user.as_ref().into() };
        with(&HistoryKey::Session(session.as_ref().into()), &mut |history| history.note_alias(alias.clone()));
    }
    outcome
}

/// The effective history: a user's own joined with those of the sessions that are known to be the user's; for a
/// session whose owner is known, the owner's effective history. `get` reads a stored history.
pub fn effective<E>(
    key: &HistoryKey,
    types: &EventTypes,
    get: &mut dyn FnMut(&HistoryKey) -> Result<Option<History>, E>,
) -> Result<Option<History>, E> {
    let Some(own) = get(key)? else { return Ok(None) };
    match (key, own.alias()) {
        (HistoryKey::Session(_), Some(alias)) => {
            let user = HistoryKey::User(alias.user.clone());
            let mut joined = effective(&user, types, get)?.unwrap_or_default();
            joined.join(&own, types);
            joined.alias = None;
            Ok(Some(joined))
        }
        (HistoryKey::Session(_), None) => Ok(Some(own)),
        (HistoryKey::User(user), _) => {
            let mut joined = own.clone();
            for (session, _) in own.sessions() {
                if let Some(theirs) = get(&HistoryKey::Session(session.into()))?
                    && theirs.alias().is_some_and(|alias| alias.user == *user)
                {
                    joined.join(&theirs, types);
                }
            }
            joined.alias = None;
            Ok(Some(joined))
        }
    }
}

fn insert_sorted(entries: &mut Vec<Entry>, entry: Entry) {
    // Events arrive nearly in order, so the place is almost always the end.
    let place = entries.iter().rposition(|held| held.position() < entry.position()).map_or(0, |i| i + 1);
    entries.insert(place, entry);
}

fn normalise_class(entries: &mut Vec<Entry>, floor: Option<i64>, quota: usize) {
    // What was stored comes back as it was, almost always.
    let is_above = entries.first().is_none_or(|oldest| floor.is_none_or(|floor| oldest.time_ms > floor));
    if is_above
        && entries.len() <= quota
        && entries.is_sorted_by(|a, b| a.position() < b.position())
        && are_distinct(entries)
    {
        return;
    }
    entries.sort_unstable_by(|a, b| match a.event.cmp(&b.event) {
        Ordering::Equal => b.rank().cmp(&a.rank()),
        order => order,
    });
    entries.dedup_by_key(|entry| entry.event);
    entries.retain(|entry| floor.is_none_or(|floor| entry.time_ms > floor));
    entries.sort_unstable_by_key(Entry::position);
    if entries.len() > quota {
        entries.drain(..entries.len() - quota);
    }
}

/// Whether no two entries have the same event key. A table twice as long as there are entries, each at the first free place
/// from where its key's bits point; keys are hashes.
fn are_distinct(entries: &[Entry]) -> bool {
    let size = (2 * entries.len()).next_power_of_two();
    let mut places = vec![0_u32; size]; // 0: free; otherwise an entry's number, from 1
    entries.iter().zip(1..).all(|(entry, number)| {
        let mut place = entry.event.0 as usize & (size - 1);
        while places[place] != 0 {
            if entries[places[place] as usize - 1].event == entry.event {
                return false;
            }
            place = (place + 1) & (size - 1);
        }
        places[place] = number;
        true
    })
}

fn normalise_seen(seen: &mut Vec<Seen>, floor: Option<i64>, seen_max: usize) {
    seen.retain(|seen| floor.is_none_or(|floor| seen.time_ms > floor));
    seen.sort_unstable_by(|a, b| (a.item, b.time_ms).cmp(&(b.item, a.time_ms)));
    seen.dedup_by_key(|seen| seen.item);
    if seen.len() > seen_max {
        seen.sort_unstable_by_key(|seen| std::cmp::Reverse((seen.time_ms, seen.item)));
        seen.truncate(seen_max);
        seen.sort_unstable_by_key(|seen| seen.item);
    }
}

#[cfg(test)]
pub(crate) mod tests;
