//! `anabranch etl`: raw files to a published dataset.

use anabranch_batch::etl::report::{Counts, EtlReport};
use anabranch_batch::etl::{self, EtlOutcome, EtlRequest, MEMORY_BYTES_DEFAULT, Published};
use anabranch_batch::input::InputOptions;
use anabranch_batch::mapping::Mapping;
use anabranch_events::HistoryKey;

use crate::args::EtlArgs;
use crate::compose::{Context, time_argument};
use crate::failure::Failure;
use crate::ui::{grouped, table};

pub(crate) fn run(context: &Context, arguments: &EtlArgs) -> Result<(), Failure> {
    let (input, mapping) = context.input(&arguments.data)?;
    let outcome = publish(
        context,
        &input,
        &mapping,
        &Options {
            until_ms: time_argument("--until", arguments.until.as_deref())?,
            as_of_ms: time_argument("--as-of", arguments.as_of.as_deref())?,
            keep_going: arguments.keep_going,
            memory_bytes: arguments.memory.unwrap_or(MEMORY_BYTES_DEFAULT),
        },
    )?;
    context.ui.answer(&outcome.report, |report| {
        let dataset = match outcome.published {
            Some(Published::New(number)) => format!("Dataset {number} in {}.", context.lake_location()),
            Some(Published::Unchanged(number)) => format!("Dataset {number} says the same already; nothing changed."),
            None => "Nothing was published.".to_owned(),
        };
        format!("{}\n{dataset} Next: anabranch train", text(report))
    })?;
    outcome.report.check_files().or_else(|error| if arguments.keep_going { Ok(()) } else { Err(error) })?;
    Ok(())
}

/// What the arguments decide.
#[derive(Clone, Copy, Default)]
pub(crate) struct Options {
    pub(crate) until_ms: Option<i64>,
    pub(crate) as_of_ms: Option<i64>,
    pub(crate) keep_going: bool,
    pub(crate) memory_bytes: u64,
}

/// Runs the ETL with progress.
pub(crate) fn publish(
    context: &Context,
    input: &InputOptions,
    mapping: &Mapping,
    options: &Options,
) -> Result<EtlOutcome, Failure> {
    let lake = context.lake()?;
    let floors = Context::lake_floors(&*lake)?;
    let key = if floors.is_empty() { None } else { Some(context.erasure_key()?) };
    let erased = |owner: &HistoryKey| key.as_ref().and_then(|key| floors.get(&key.name(owner)).copied());
    let mut settings = context.settings.etl.clone();
    settings.keep_going |= options.keep_going;
    let request = EtlRequest {
        input,
        mapping,
        types: &context.types,
        settings: &settings,
        as_of_ms: options.as_of_ms,
        until_ms: options.until_ms,
        erased: &erased,
        scratch: &context.scratch(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: if options.memory_bytes == 0 { MEMORY_BYTES_DEFAULT } else { options.memory_bytes },
        progress: &|progress| context.ui.progress(progress.phase, progress.done, progress.total),
        clock_s: &|| context.clock.seconds(),
    };
    let outcome = etl::run(&request, &*lake)?;
    context.ui.end_bar();
    Ok(outcome)
}

/// The books, for people.
pub(crate) fn text(report: &EtlReport) -> String {
    let row = |name: &str, counts: &Counts| {
        let numbers = [counts.read, counts.clean, counts.duplicates, counts.quarantined, counts.filtered];
        std::iter::once(name.to_owned()).chain(numbers.iter().map(|n| grouped(*n))).collect::<Vec<_>>()
    };
    let mut rows = vec![row("interactions", &report.interactions)];
    for (name, counts) in [("items", &report.items), ("users", &report.users)] {
        if counts.read > 0 {
            rows.push(row(name, counts));
        }
    }
    let mut out = table(&["", "read", "= clean", "+ duplicates", "+ quarantined", "+ filtered"], &rows);
    for (title, reasons) in [("quarantined", &report.quarantined_by_reason), ("filtered", &report.filtered_by_reason)] {
        if !reasons.is_empty() {
            let reasons: Vec<String> =
                reasons.iter().map(|(reason, count)| format!("{reason} {}", grouped(*count))).collect();
            out.push_str(&format!("  {title}: {}\n", reasons.join(", ")));
        }
    }
    out.push_str(&format!(
        "  {} days, {} active users ({} bots), {} histories with {} entries in {} KB\n",
        grouped(report.days),
        grouped(report.active_users),
        grouped(report.bots),
        grouped(report.histories.users + report.histories.sessions),
        grouped(report.histories.entries),
        grouped(report.histories.bytes / 1000),
    ));
    out
}
