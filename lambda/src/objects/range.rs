//! Whether an object holds what its range says: the guard against invocations side by side.
//!
//! An object covers every record of its shard from the place that it comes after to its last one. That is true as long
//! as a mapping hands over one batch of a shard at a time. With a parallelization factor above 1 it hands over several,
//! divided by partition key, and one's records lie in the range of another's object, which does not hold their lists:
//! taken for delivered, they would never have one.
//!
//! Such a record is told by two facts together: it has an event that is new to its history, and the object of its range
//! has neither a list nor a dead letter of it. The first alone is no sign, since an invocation may die between its object
//! and its commit and a bisected batch then comes in parts. Only records that are passed over are looked at, and only if
//! the first fact holds: nothing is read for a batch that goes on where the chain ends.
//!
//! Not told: records that no object covers any more (deleted from the bucket, or delivered by Firehose before).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use anabranch_events::wire::time::day_and_hour;
use anabranch_events::{Recommendation, Trigger};
use anabranch_models::Model;
use anabranch_stores::lake::{LakeError, ObjectPath, ObjectStore};
use anabranch_stream::object::{self, ObjectError, Trailer};
use anabranch_stream::ports::{Position, Record, SequenceNumber, ShardId};
use serde::Deserialize;

use super::read_trailer;
use crate::run::{Applied, Function, Held, InvocationError};

const HOUR_MS: i64 = 3_600_000;
/// Folders that are looked through for the object of a record before the whole chain is listed: a batch's first record
/// lies rarely longer before its others, and a folder holds an hour.
const HOURS_MAX: i64 = 6;
/// Dead letters of an object that are read, in bytes: more than a cut may have.
const DEAD_BYTES_MAX: u64 = 1 << 30;

/// A record as lists and dead letters name it.
type Place = (SequenceNumber, Option<u64>);

/// What an object holds of its range.
#[derive(Debug, Default)]
struct Content {
    /// Ids of its lists.
    ids: HashSet<String>,
    /// Records with a list or a dead letter.
    told: HashSet<Place>,
    /// Records with a dead letter.
    letters: HashSet<Place>,
    /// Of lists made in per-user mode: the record of each owner's.
    lists_of: HashMap<String, Place>,
}

/// What a line of dead letters says of its record.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Letter<'a> {
    #[serde(borrow)]
    sequence_number: Cow<'a, str>,
    #[serde(default)]
    sub_sequence_number: Option<u64>,
}

/// Checks records that lie in the range of `object`; `applied` is what they do to the histories as they are stored. The
/// answer says of each whether its dead letters are still to be written: whoever delivered the object may have died
/// before it did.
pub(super) fn check(
    function: &Function,
    shard: ShardId,
    object: &ObjectPath,
    records: &[Record],
    applied: &Applied,
    model: &Arc<Model>,
) -> Result<Vec<bool>, InvocationError> {
    if !is_telling(applied) {
        return Ok(vec![false; records.len()]);
    }
    check_lists(function, shard, object, records, model, &mut Held::default())
}

/// Whether anything of the records may be undelivered.
const fn is_telling(applied: &Applied) -> bool {
    applied.tally.applied > 0 || applied.counts.rejected > 0
}

/// Makes the lists of the records once more, to compare their ids; `held` has the records before them.
fn check_lists(
    function: &Function,
    shard: ShardId,
    object: &ObjectPath,
    records: &[Record],
    model: &Arc<Model>,
    held: &mut Held,
) -> Result<Vec<bool>, InvocationError> {
    let content = Content::read(function, object)?;
    let lists = function.apply(shard, records, model, held)?;
    for (line, record) in lists.lines().zip(&lists.records) {
        let record = &records[*record];
        if !content.tells(line, record, object)? {
            let (position, object) = (record.position, object.as_str().to_owned());
            return Err(InvocationError::SideBySide { shard, position, object });
        }
    }
    Ok(records.iter().map(|record| !content.letters.contains(&place(record))).collect())
}

/// The same for records that the checkpoint has passed, wherever their objects are.
pub(super) fn check_passed(
    function: &Function,
    shard: ShardId,
    records: &[Record],
    applied: &Applied,
    model: &Arc<Model>,
) -> Result<Vec<bool>, InvocationError> {
    let mut wanted = vec![false; records.len()];
    let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(wanted) };
    if !is_telling(applied) {
        return Ok(wanted);
    }
    let namespace = format!("{}/{}", object::LISTS, function.namespace);
    let mut chain = BTreeMap::new();
    let (from, to) = (first.arrival_ms - HOUR_MS, last.arrival_ms.max(first.arrival_ms));
    for hour in (0..HOURS_MAX).map(|hour| from + hour * HOUR_MS).take_while(|hour| *hour < to + HOUR_MS) {
        let (day, hour) = day_and_hour(hour);
        list(function, shard, &format!("{namespace}/day={day}/hour={hour}"), &mut chain)?;
    }
    let mut held = Held::default();
    let mut is_whole = false;
    let mut start = 0;
    while let Some(record) = records.get(start) {
        let Some((path, trailer)) = covering(function, &chain, record.position)? else {
            if is_whole {
                // No object covers it: nothing can be told.
                wanted[start] = true;
                start += 1;
            } else {
                list(function, shard, &namespace, &mut chain)?;
                is_whole = true;
            }
            continue;
        };
        let end = start + records[start..].partition_point(|record| record.position <= trailer.last);
        let checked = check_lists(function, shard, &path, &records[start..end], model, &mut held)?;
        wanted[start..end].copy_from_slice(&checked);
        start = end;
    }
    Ok(wanted)
}

/// The shard's objects in a folder, by what they come after.
fn list(
    function: &Function,
    shard: ShardId,
    folder: &str,
    chain: &mut BTreeMap<Position, ObjectPath>,
) -> Result<(), LakeError> {
    for meta in ObjectStore::list(&function.sink, folder)? {
        if let Some((of, after)) = object::parse_name(meta.path.as_str())
            && of == shard
        {
            chain.insert(after, meta.path);
        }
    }
    Ok(())
}

/// The object whose range has `position`.
fn covering(
    function: &Function,
    chain: &BTreeMap<Position, ObjectPath>,
    position: Position,
) -> Result<Option<(ObjectPath, Trailer)>, InvocationError> {
    let Some((_, path)) = chain.range(..position).next_back() else { return Ok(None) };
    let trailer = read_trailer(function, path)?;
    Ok(trailer.filter(|trailer| trailer.last >= position).map(|trailer| (path.clone(), trailer)))
}

fn place(record: &Record) -> Place {
    (record.position.number, record.sub)
}

impl Content {
    fn read(function: &Function, path: &ObjectPath) -> Result<Self, InvocationError> {
        let mut content = Self::default();
        let (_, lines) = object::decode(path.as_str(), &ObjectStore::get(&function.sink, path)?)?;
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let list = parse::<Recommendation<'_>>(line, path)?;
            let place = (number(&list.sequence_number, path)?, list.sub_sequence_number);
            content.told.insert(place);
            if list.trigger == Trigger::User {
                content.lists_of.insert(owner(&list), place);
            }
            content.ids.insert(list.recommendation_id.into_owned());
        }
        let (beside, _) = object::dead_letters_beside(path);
        let letters = match ObjectStore::get(&function.sink, &beside) {
            Ok(bytes) => object::decompress(beside.as_str(), &bytes, DEAD_BYTES_MAX)?,
            Err(LakeError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        for line in letters.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let letter = parse::<Letter<'_>>(line, &beside)?;
            let place = (number(&letter.sequence_number, &beside)?, letter.sub_sequence_number);
            content.letters.insert(place);
            content.told.insert(place);
        }
        Ok(content)
    }

    /// Whether the object tells of `record`, which would earn the list `line`.
    fn tells(&self, line: &[u8], record: &Record, path: &ObjectPath) -> Result<bool, ObjectError> {
        let list = parse::<Recommendation<'_>>(line, path)?;
        let told = self.told.contains(&place(record)) || self.ids.contains(&*list.recommendation_id);
        // In per-user mode a later event of the same user may have had the list.
        let number = number(&list.sequence_number, path)?;
        let had = |last: &Place| *last >= (number, list.sub_sequence_number);
        Ok(told || self.lists_of.get(&owner(&list)).is_some_and(had))
    }
}

fn owner(list: &Recommendation<'_>) -> String {
    match (&list.user_id, &list.session_id) {
        (Some(user), _) => format!("u{user}"),
        (None, session) => format!("s{}", session.as_deref().unwrap_or_default()),
    }
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8], path: &ObjectPath) -> Result<T, ObjectError> {
    serde_json::from_slice(line).map_err(|error| corrupt(path, &error.to_string()))
}

fn number(text: &str, path: &ObjectPath) -> Result<SequenceNumber, ObjectError> {
    text.parse().map_err(|error: anabranch_stream::ports::ParseError| corrupt(path, &error.to_string()))
}

fn corrupt(path: &ObjectPath, what: &str) -> ObjectError {
    ObjectError::Corrupt { name: path.as_str().to_owned(), what: format!("a line: {what}") }
}
