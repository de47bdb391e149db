//! A plan as text: what it takes and costs in every shape, then one shape line by line, its limits, and the same traffic
//! on Amazon Personalize.

use super::bill::{Line, Part};
use super::calls::Calls;
use super::scenario::Shape;
use super::streaming::fleet_words;
use super::words::{bytes, count, money, number};
use super::{Plan, ShapePlan};
use crate::ui::{grouped, table};

/// Where there is nothing to say.
const NOTHING: &str = "-";

/// The page, with the lines of `shape`.
pub(crate) fn text(plan: &Plan, shape: Shape) -> String {
    let mut out = head(plan);
    out.push_str(&sizes(plan));
    out.push_str(&needs(plan));
    out.push_str(&dollars(plan));
    for detailed in plan.shapes.iter().filter(|of| of.shape == shape) {
        out.push_str(&lines(detailed));
        out.push_str(&otherwise(detailed));
        out.push_str(&limits(plan, detailed));
    }
    out.push_str(&personalize(plan));
    out.push_str(&trust(plan));
    out
}

fn head(plan: &Plan) -> String {
    let scenario = &plan.scenario;
    format!(
        "{} events a second ({} at the peak) of {} users, {} items × {} dimensions, lists of {}:\n\
         {} million events a month of 730 h. Prices of {}, {}; a GB is 2^30 bytes.\n",
        number(scenario.events_per_second),
        number(scenario.peak()),
        grouped(scenario.users),
        grouped(scenario.items),
        scenario.dim,
        scenario.list_length,
        number(plan.million_events),
        plan.region,
        plan.date,
    )
}

fn sizes(plan: &Plan) -> String {
    let (scenario, sizes, cpu) = (&plan.scenario, &plan.sizes, &plan.cpu);
    let row = |what: &str, value: String, words: String| vec![what.to_owned(), value, words];
    let catalogue = if scenario.text_bytes > 0 { ", ids and catalogue" } else { ", ids" };
    let rows = [
        row(
            "snapshot",
            bytes(sizes.snapshot_bytes as f64),
            format!(
                "its layout: {} items × {}, {} neighbours each{catalogue}",
                grouped(scenario.items),
                scenario.dim,
                scenario.neighbours
            ),
        ),
        row("list", bytes(sizes.line_bytes as f64), format!("a JSON line of {} items", scenario.list_length)),
        row(
            "history",
            bytes(sizes.history_bytes as f64),
            format!(
                "of {} entries; as an item {}, written for {}, read for {}",
                scenario.history_entries,
                bytes(sizes.item_bytes as f64),
                count(sizes.write_units, "unit"),
                count(sizes.read_units, "unit")
            ),
        ),
        row(
            "processor",
            format!("{} µs", number(cpu.list_us)),
            format!(
                "a list; an event with its list {} µs in a function, {} µs in a worker, calls of AWS included",
                number(cpu.function_us),
                number(cpu.worker_us)
            ),
        ),
        row(
            "nightly job",
            format!("{} min", number(plan.job.duration_s / 60.0)),
            format!(
                "on {} {} ({} DPUs): rows {} CPU s, training {}, lists for all {}",
                plan.job.workers,
                plan.job.worker,
                plan.job.dpus,
                number(cpu.etl_s),
                number(cpu.train_s),
                number(cpu.bulk_s)
            ),
        ),
    ];
    format!("\nSizes\n{}", table(&["", "", ""], &rows).trim_start_matches('\n'))
}

fn names(first: &'static str) -> Vec<&'static str> {
    std::iter::once(first).chain(Shape::ALL.map(Shape::name)).collect()
}

fn row_of(plan: &Plan, name: &str, cell: impl Fn(&ShapePlan) -> Option<String>) -> Vec<String> {
    let cells = plan.shapes.iter().map(|shape| cell(shape).unwrap_or_else(|| NOTHING.to_owned()));
    std::iter::once(name.to_owned()).chain(cells).collect()
}

fn needs(plan: &Plan) -> String {
    let of_calls =
        |name: &str, cell: fn(&Calls) -> String| row_of(plan, name, |of| of.streaming.calls.as_ref().map(cell));
    let rows = [
        row_of(plan, "shards", |of| Some(grouped(of.streaming.shards))),
        row_of(plan, "batches of a shard at once", |of| {
            (of.shape == Shape::Mapping || of.shape == Shape::Objects).then(|| grouped(of.streaming.factor))
        }),
        of_calls("records an invocation", |calls| number(calls.records)),
        of_calls("seconds an invocation", |calls| number(calls.duration_s)),
        of_calls("invocations a second", |calls| number(calls.per_second)),
        of_calls("at once, at the peak", |calls| grouped(calls.concurrency)),
        of_calls("memory, MB", |calls| grouped(calls.memory_mb)),
        of_calls("/tmp, MB", |calls| grouped(calls.tmp_mb)),
        row_of(plan, "machines", |of| of.streaming.fleet.as_ref().map(|fleet| grouped(fleet.count))),
        row_of(plan, "cores, at the peak", |of| of.streaming.fleet.as_ref().map(|fleet| number(fleet.cores))),
        row_of(plan, "DynamoDB write units/s, peak", |of| Some(number(of.peak_write_units))),
        row_of(plan, "DynamoDB read units/s, peak", |of| Some(number(of.peak_read_units))),
        row_of(plan, "write units, if provisioned", |of| Some(number(of.write_capacity))),
        row_of(plan, "read units, if provisioned", |of| Some(number(of.read_capacity))),
    ];
    let mut out = format!("\n{}", table(&names("What it takes"), &rows));
    for shape in &plan.shapes {
        if let Some(fleet) = &shape.streaming.fleet {
            out.push_str(&format!("  {}: {}\n", shape.shape.name(), fleet_words(fleet)));
        }
    }
    out
}

fn dollars(plan: &Plan) -> String {
    let of_part = |of: &ShapePlan, part: Part| -> f64 {
        of.lines.iter().filter(|line| line.part == part).map(|line| line.dollars).sum()
    };
    let runs =
        |of: &ShapePlan, dollars: f64| if of.obstacle.is_some() { "does not run".to_owned() } else { money(dollars) };
    let mut rows: Vec<Vec<String>> = Part::ALL
        .into_iter()
        .filter(|part| plan.shapes.iter().any(|of| of_part(of, *part) > 0.0))
        .map(|part| {
            row_of(plan, part.name(), |of| {
                let has = of.lines.iter().any(|line| line.part == part);
                has.then(|| money(of_part(of, part)))
            })
        })
        .collect();
    rows.push(row_of(plan, "together", |of| Some(runs(of, of.total))));
    rows.push(row_of(plan, "per million events", |of| Some(runs(of, of.per_million))));
    format!("\n{}", table(&names("Dollars a month"), &rows))
}

fn line_rows(lines: &[Line]) -> Vec<Vec<String>> {
    let mut before = None;
    lines
        .iter()
        .map(|line| {
            let part = if before == Some(line.part) { "" } else { line.part.name() };
            before = Some(line.part);
            vec![part.to_owned(), line.name.clone(), money(line.dollars), line.formula.clone()]
        })
        .collect()
}

fn lines(of: &ShapePlan) -> String {
    let rows = line_rows(&of.lines);
    format!("\n{} line by line\n{}", of.shape.name(), table(&["", "", "dollars", "formula"], &rows))
}

fn otherwise(of: &ShapePlan) -> String {
    if of.otherwise.is_empty() {
        return String::new();
    }
    let sign = |dollars: f64| format!("{}{}", if dollars > 0.0 { "+" } else { "" }, money(dollars));
    let rows: Vec<Vec<String>> =
        of.otherwise.iter().map(|other| vec![other.choice.clone(), sign(other.dollars)]).collect();
    format!("\n{}", table(&["Another choice, alone", "dollars"], &rows))
}

fn limits(plan: &Plan, of: &ShapePlan) -> String {
    let rows: Vec<Vec<String>> = of
        .limits
        .iter()
        .map(|limit| {
            vec![
                limit.what.clone(),
                number(limit.used),
                number(limit.available),
                limit.unit.clone(),
                limit.reached_at.map_or(NOTHING.to_owned(), number),
                if limit.is_reached { "REACHED" } else { "" }.to_owned(),
            ]
        })
        .collect();
    let head = ["Limits, at the peak", "needed", "there is", "", "reached at events/s", ""];
    let mut out = format!("\n{}", table(&head, &rows));
    for limit in of.limits.iter().filter(|limit| limit.is_reached) {
        out.push_str(&format!("  {}: {}.\n", limit.what, limit.then));
    }
    for other in plan.shapes.iter().filter(|other| other.shape != of.shape) {
        let reached: Vec<&str> =
            other.limits.iter().filter(|limit| limit.is_reached).map(|limit| limit.what.as_str()).collect();
        if !reached.is_empty() {
            out.push_str(&format!("  {} reaches: {}\n", other.shape.name(), reached.join(", ")));
        }
    }
    out
}

fn personalize(plan: &Plan) -> String {
    let theirs = &plan.personalize;
    let mut rows = line_rows(&theirs.lines);
    rows.push(vec![String::new(), "together".to_owned(), money(theirs.total), String::new()]);
    rows.push(vec![String::new(), "per million events".to_owned(), money(theirs.per_million), String::new()]);
    let mut out =
        format!("\nThe same events and lists on Amazon Personalize\n{}", table(&["", "", "dollars", "formula"], &rows));
    let times = |of: &ShapePlan| of.obstacle.is_none().then(|| format!("{} ×", number(theirs.total / of.total)));
    let over = row_of(plan, "its dollars over ours", times);
    out.push_str(&format!("\n{}", table(&names(""), &[over]).trim_start_matches('\n')));
    out.push_str(&format!(
        "  Lists of its older recipes alone: ${}; their trainings are billed by the hour and are not counted here.\n",
        money(theirs.older_lists)
    ));
    for beyond in &theirs.beyond {
        out.push_str(&format!("  beyond its quota of {beyond}\n"));
    }
    out
}

fn trust(plan: &Plan) -> String {
    let list = |names: &[String]| names.join(", ");
    let mut out = String::from(
        "\nNot counted: taxes, free tiers, discounts, support, data that leave the region, producers, notifications.\n",
    );
    if !plan.unconfirmed.is_empty() {
        out.push_str(&format!("Prices not confirmed: {}.\n", list(&plan.unconfirmed)));
    }
    for note in &plan.notes {
        out.push_str(&format!("Of the price of {note}.\n"));
    }
    if !plan.assumed.is_empty() {
        out.push_str(&format!("Figures assumed, not measured: {}.\n", plan.assumed.join(", ")));
    }
    out.push_str("`anabranch plan --print prices` and `--print figures` show all of them with their sources; --prices and --figures take yours.\n");
    out
}
