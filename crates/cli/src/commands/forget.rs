//! `anabranch forget`: erases a user from log, histories, dead letters, lake and vectors.
//!
//! The floor is recorded first (state, then lake), so a crash in between leaves nothing that can come back; run it again
//! to finish.

use std::collections::BTreeSet;

use anabranch_batch::erase::{erase_owner, with_sessions};
use anabranch_batch::train::embeddings::USERS;
use anabranch_events::HistoryKey;
use anabranch_events::erasure::ErasedName;
use anabranch_stores::vectors::{Access, Collection, VectorKind};
use anabranch_stream::erase;
use serde_json::{Value, json};

use crate::args::ForgetArgs;
use crate::compose::{Context, owner};
use crate::failure::Failure;
use crate::remote::{Holder, holder};

/// What the state's side did: the owners erased, their names and floors, and counts for the answer.
struct FromState {
    keys: BTreeSet<HistoryKey>,
    names: Vec<(ErasedName, i64)>,
    counts: Value,
}

pub(crate) fn run(context: &Context, arguments: &ForgetArgs) -> Result<(), Failure> {
    let key = owner(arguments.user.as_deref(), arguments.session.as_deref())?;
    let state = match holder(context)? {
        Holder::Running(remote) => {
            let body = match &key {
                HistoryKey::User(id) => json!({ "userId": id }),
                HistoryKey::Session(id) => json!({ "sessionId": id }),
            };
            parse(&remote.post("/forget", &body)?)?
        }
        Holder::Here(state) => {
            let now_ms = anabranch_stream::Clock::now_ms(&*context.clock);
            let newest = state.history(&key, &context.types)?.and_then(|held| held.history.newest_ms());
            let floor_ms = newest.unwrap_or(i64::MIN).max(now_ms);
            let forgotten = state.forget(&key, floor_ms, &context.types, &erase::without)?;
            let keys: BTreeSet<HistoryKey> = forgotten.keys.into_iter().collect();
            let compression = context.settings.stream.compression;
            let letters = erase::erase_dead_letters(&*context.delivered()?, "dead-letters", &keys, compression)?;
            let counts = json!({
                "histories": forgotten.histories, "logRecords": forgotten.log_records, "notices": forgotten.notices,
                "deadLetters": letters,
            });
            FromState { keys, names: forgotten.names, counts }
        }
        Holder::Table(table) => {
            let now_ms = anabranch_stream::Clock::now_ms(&*context.clock);
            let newest = table.effective(context, &key)?.and_then(|history| history.newest_ms());
            let floor_ms = newest.unwrap_or(i64::MIN).max(now_ms);
            let forgotten = table.state.forget(&key, floor_ms, &context.types)?;
            let keys: BTreeSet<HistoryKey> = forgotten.keys.into_iter().collect();
            // What a worker holds in an open cut comes out a little later; its histories meet the floor.
            let compression = context.settings.stream.compression;
            let letters = erase::erase_dead_letters(&*context.delivered()?, "dead-letters", &keys, compression)?;
            let counts =
                json!({ "histories": forgotten.histories, "notices": forgotten.notices, "deadLetters": letters });
            FromState { keys, names: forgotten.names, counts }
        }
        Holder::Nobody => {
            let now_ms = anabranch_stream::Clock::now_ms(&*context.clock);
            let keys = with_sessions(&*context.lake()?, &BTreeSet::from([key.clone()]))?;
            let erasure_key = context.erasure_key()?;
            let names = keys.iter().map(|key| (erasure_key.name(key), now_ms)).collect();
            FromState { keys, names, counts: json!({}) }
        }
    };
    let lake = context.lake()?;
    Context::add_lake_floors(&*lake, &state.names)?;
    let rows = erase_owner(&*lake, &state.keys, &context.scratch())?;
    let vectors = erase_vectors(context, &state.keys)?;
    let answer = json!({ "state": state.counts, "lake": rows, "vectors": vectors });
    context.ui.answer(&answer, |answer| {
        format!(
            "{key} is forgotten: {answer}\nWhatever is replayed, nothing up to now returns. Lists that were delivered \
             already, and raw files outside the lake, are yours to delete."
        )
    })
}

fn parse(answer: &Value) -> Result<FromState, Failure> {
    let unreadable =
        || Failure::of(anabranch_stores::ErrorKind::Bug, format!("the stream's answer is not understood: {answer}"));
    let keys = answer["keys"].as_array().ok_or_else(unreadable)?;
    let keys = keys
        .iter()
        .map(|key| match (key["userId"].as_str(), key["sessionId"].as_str()) {
            (Some(user), _) => Ok(HistoryKey::User(user.into())),
            (None, Some(session)) => Ok(HistoryKey::Session(session.into())),
            (None, None) => Err(unreadable()),
        })
        .collect::<Result<BTreeSet<_>, _>>()?;
    let names = answer["names"].as_array().ok_or_else(unreadable)?;
    let names = names
        .iter()
        .map(|name| {
            let parsed = name["name"].as_str().and_then(ErasedName::parse);
            Ok((parsed.ok_or_else(unreadable)?, name["floorMs"].as_i64().ok_or_else(unreadable)?))
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let counts = json!({
        "histories": answer["histories"], "logRecords": answer["logRecords"], "notices": answer["notices"],
        "deadLetters": answer["deadLetters"],
    });
    Ok(FromState { keys, names, counts })
}

/// User vectors of every version. Item vectors say nothing of one user.
fn erase_vectors(context: &Context, keys: &BTreeSet<HistoryKey>) -> Result<u64, Failure> {
    if context.settings.vectors.kind == VectorKind::Embedded && !context.vectors_folder().is_dir() {
        return Ok(0);
    }
    let vectors = context.vectors(Access::ReadWrite)?;
    let ids: Vec<&str> = keys
        .iter()
        .filter_map(|key| match key {
            HistoryKey::User(id) => Some(&**id),
            HistoryKey::Session(_) => None,
        })
        .collect();
    let mut erased = 0;
    for version in vectors.versions(USERS)? {
        erased += vectors.delete(Collection::new(USERS, &version)?, &ids)?;
    }
    Ok(erased)
}
