//! `anabranch replay`: events from files through the stream, as if they arrived when they happened.

use std::sync::Arc;

use anabranch_batch::etl::read_events;
use anabranch_batch::input::{InputOptions, resolve};
use anabranch_batch::mapping::Mapping;
use anabranch_events::wire::encode_event;
use anabranch_stores::ErrorKind;
use anabranch_stores::state::Create;
use anabranch_stores::state::State;
use anabranch_stream::Counts;
use anabranch_stream::replay::{ReplayRecord, replay};
use anabranch_stream::running::RunningStream;
use serde::Serialize;

use crate::account::refuse;
use crate::args::ReplayArgs;
use crate::compose::{Context, time_argument};
use crate::failure::Failure;
use crate::ui::grouped;

/// What a replay did.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Replayed {
    /// Events of the files in the window.
    pub(crate) events: u64,
    /// Refused rows of the files (the ETL's quarantine explains them).
    pub(crate) refused: u64,
    /// Records that this call appended; the rest were there from an earlier one.
    pub(crate) appended: u64,
    /// Counts of the cuts that this process made.
    pub(crate) counts: Counts,
    /// Seconds from the first record to the last commit.
    pub(crate) seconds: f64,
}

pub(crate) fn run(context: &Context, arguments: &ReplayArgs) -> Result<(), Failure> {
    let (input, mapping) = context.input(&arguments.data)?;
    let window = Window {
        after_ms: time_argument("--from", arguments.from.as_deref())?.unwrap_or(i64::MIN),
        until_ms: time_argument("--until", arguments.until.as_deref())?.unwrap_or(i64::MAX),
    };
    let (state, namespace) = match &arguments.run {
        None => {
            let instead = "put the events into the stream, or make a backfill of its own with --run ID";
            refuse(context, "replay", instead)?;
            (context.state()?, None)
        }
        Some(run) => {
            let (state, namespace) = backfill_state(context, run)?;
            (state, Some(namespace))
        }
    };
    context.warm(&state, &*context.lake()?)?;
    // What happened long ago is nothing to tell anybody now.
    let stream = context.start_stream(state, namespace, None)?;
    let replayed = through(context, &stream, &input, &mapping, window)?;
    let namespace = stream.shared().namespace.clone();
    stream.stop()?;
    context.ui.answer(&replayed, |replayed| {
        format!("{}\n  lists in {}/recommendations/{namespace}", text(replayed), context.delivered_location())
    })
}

/// Which events.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    /// Strictly after, milliseconds since 1970.
    pub(crate) after_ms: i64,
    /// Up to, milliseconds since 1970.
    pub(crate) until_ms: i64,
}

/// A backfill has a state and a namespace of its own: it cannot touch what the live stream delivered.
fn backfill_state(context: &Context, run: &str) -> Result<(Arc<State>, String), Failure> {
    let is_name = (1..=64).contains(&run.len())
        && run.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !run.starts_with('.');
    if !is_name {
        return Err(Failure::input(format!("--run {run:?}: 1 to 64 letters, digits, '-', '_' or '.'")));
    }
    let folder = context.home().join("runs").join(run).join("state");
    std::fs::create_dir_all(&folder).map_err(|e| Failure::io("create", &folder, &e))?;
    let create = Create {
        name: context.settings.stream.name.clone(),
        shards: context.settings.stream.shards,
        now_ms: anabranch_stream::Clock::now_ms(&*context.clock),
        secret: *context.erasure_key()?.secret_bytes(),
    };
    Ok((Arc::new(State::open(&folder, create)?), format!("run={run}")))
}

/// Replays the events of `window` in order of time and waits until all lists are delivered and committed.
pub(crate) fn through(
    context: &Context,
    stream: &RunningStream,
    input: &InputOptions,
    mapping: &Mapping,
    window: Window,
) -> Result<Replayed, Failure> {
    context.ui.progress("read", 0, 0);
    let (mut records, refused) = read(context, input, mapping, window)?;
    // Stable: events of one millisecond keep the order of the files.
    records.sort_by_key(|record| record.arrival_ms);
    let total = records.len() as u64;
    let id = format!("{}-{}-{}-{total}", digest_of(input, mapping), window.after_ms, window.until_ms);
    let before = context.clock.seconds();
    let appended = replay(stream.shared(), stream.state(), &id, records.into_iter(), &mut |done| {
        context.ui.progress("append", done, total);
    })?;
    let shared = stream.shared();
    std::thread::scope(|scope| {
        let flushing = scope.spawn(|| stream.flush());
        while !flushing.is_finished() {
            context.ui.progress("recommend", shared.totals().accepted, total);
            std::thread::park_timeout(std::time::Duration::from_millis(100));
        }
        flushing.join().unwrap_or_else(|_| {
            Err(anabranch_stream::running::AskError::Stopped("waiting for the stream panicked".to_owned()))
        })
    })?;
    context.ui.end_bar();
    let seconds = context.clock.seconds() - before;
    Ok(Replayed { events: total, refused, appended, counts: shared.totals(), seconds })
}

fn read(
    context: &Context,
    input: &InputOptions,
    mapping: &Mapping,
    window: Window,
) -> Result<(Vec<ReplayRecord>, u64), Failure> {
    let files = resolve(input, &mapping.interactions.files, false)?;
    let (mut records, mut refused) = (Vec::new(), 0);
    let as_of_ms = anabranch_stream::Clock::now_ms(&*context.clock);
    read_events(&files, &mapping.interactions, &context.types, as_of_ms, &context.scratch(), &mut |event| {
        match event {
            Ok(event) if event.time_ms > window.after_ms && event.time_ms <= window.until_ms => {
                records.push(ReplayRecord {
                    partition_key: event.history_key().id().to_owned(),
                    data: encode_event(&event, &context.types),
                    arrival_ms: event.time_ms,
                });
            }
            Ok(_) => {}
            Err(_) => refused += 1,
        }
        Ok(())
    })?;
    Ok((records, refused))
}

/// A name for "these files under this mapping", so that the same replay goes on where it stopped.
fn digest_of(input: &InputOptions, mapping: &Mapping) -> String {
    let text = format!("{}\n{}", input.data, serde_json::to_string(mapping).unwrap_or_default());
    anabranch_events::ItemKey::of(&text).to_string()
}

/// The counts, for people.
pub(crate) fn text(replayed: &Replayed) -> String {
    let counts = &replayed.counts;
    let rate = if replayed.seconds > 0.0 { replayed.appended as f64 / replayed.seconds } else { 0.0 };
    format!(
        "  {} events ({} refused), {} appended now, {:.1} s, {} events/s\n  \
         accepted {} = delivered {} + superseded {} + duplicate {} + late {}; rejected {}",
        grouped(replayed.events),
        grouped(replayed.refused),
        grouped(replayed.appended),
        replayed.seconds,
        grouped(rate as u64),
        grouped(counts.accepted),
        grouped(counts.delivered),
        grouped(counts.superseded),
        grouped(counts.duplicate),
        grouped(counts.late),
        grouped(counts.rejected),
    )
}

/// What is wrong when the books of a replay do not balance.
pub(crate) fn check(counts: &Counts) -> Result<(), Failure> {
    if counts.conserve() {
        return Ok(());
    }
    Err(Failure::of(ErrorKind::Bug, format!("the counts do not add up, please report this: {counts:?}")))
}
