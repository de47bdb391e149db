//! What a deployment on AWS needs and costs, reckoned: shards, functions or workers, capacity, the nightly job, dollars
//! by the line, and where each limit is reached.
//!
//! | file | what lives there |
//! |---|---|
//! | `scenario` | what is planned for |
//! | `data` | `prices.toml` (AWS's prices and quotas) and `figures.toml` (what our code costs) |
//! | `sizes` | bytes of a snapshot, a list, a history, by the code that writes them |
//! | `cpu` | processor time by measured laws |
//! | `calls`, `fleet` | invocations of a function; machines of workers |
//! | `streaming`, `keeping`, `batch` | sizes and lines of the bill, service by service |
//! | `limits` | what is reached, and what to do then |
//! | `personalize` | the same traffic on Amazon Personalize |
//! | `page` | the plan as text |
//!
//! Everything but the loading is a function of its arguments. It promises that a dollar on the page is the sum of its
//! lines, that each line is its formula, and that more never needs less. It does not promise the bill: prices
//! change, and what nobody measured is marked.

pub(crate) mod batch;
pub(crate) mod bill;
pub(crate) mod calls;
pub(crate) mod cpu;
pub(crate) mod data;
pub(crate) mod fleet;
pub(crate) mod keeping;
pub(crate) mod limits;
pub(crate) mod page;
pub(crate) mod personalize;
pub(crate) mod scenario;
pub(crate) mod sizes;
pub(crate) mod streaming;
mod words;

#[cfg(test)]
pub(crate) mod tests;

use anabranch_events::{EventSettings, EventTypes};
use anabranch_models::learn::LearnSettings;
use serde::Serialize;

use batch::Job;
use bill::{Bill, Line};
use cpu::Cpu;
use data::{Figures, Price, Prices};
use keeping::Units;
use limits::Limit;
use personalize::Personalize;
use scenario::{Architecture, Capacity, Scenario, Shape, StreamMode};
use sizes::Sizes;
use streaming::Streaming;

/// Hours of a month, as AWS counts them.
pub(crate) const HOURS: f64 = 730.0;
/// Seconds of a month.
pub(crate) const SECONDS: f64 = HOURS * 3600.0;
/// Nights of a month.
pub(crate) const NIGHTS: f64 = HOURS / 24.0;
/// What AWS calls a GB.
pub(crate) const GB: f64 = (1 << 30) as f64;

/// What a plan rests on beside the scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground<'a> {
    /// Event types with their quotas.
    pub(crate) types: &'a EventTypes,
    /// The same as settings.
    pub(crate) events: &'a EventSettings,
    /// The model's settings.
    pub(crate) learn: &'a LearnSettings,
    /// What our code costs.
    pub(crate) figures: &'a Figures,
    /// What AWS costs.
    pub(crate) prices: &'a Prices,
}

/// What every line is reckoned from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) sizes: &'a Sizes,
    pub(crate) cpu: &'a Cpu,
    pub(crate) figures: &'a Figures,
    pub(crate) prices: &'a Prices,
}

/// One shape's sizes, bill and limits.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShapePlan {
    /// How events travel.
    pub(crate) shape: Shape,
    /// The streaming arm.
    pub(crate) streaming: Streaming,
    /// Write units of DynamoDB a second in the busiest minutes.
    pub(crate) peak_write_units: f64,
    /// Read units of DynamoDB a second in the busiest minutes.
    pub(crate) peak_read_units: f64,
    /// Write units to provision, were they provisioned.
    pub(crate) write_capacity: f64,
    /// Read units to provision, were they provisioned.
    pub(crate) read_capacity: f64,
    /// The lines.
    pub(crate) lines: Vec<Line>,
    /// Dollars a month.
    pub(crate) total: f64,
    /// Dollars for a million events.
    pub(crate) per_million: f64,
    /// Why this shape cannot run, if it cannot: its dollars then say nothing.
    pub(crate) obstacle: Option<String>,
    /// What is reached, and what is not.
    pub(crate) limits: Vec<Limit>,
    /// The same with another choice.
    pub(crate) otherwise: Vec<Otherwise>,
}

/// What another choice would change.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Otherwise {
    /// The choice.
    pub(crate) choice: String,
    /// Dollars a month more, or less.
    pub(crate) dollars: f64,
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Plan {
    /// What is planned for.
    pub(crate) scenario: Scenario,
    /// Events of a month, in millions.
    pub(crate) million_events: f64,
    /// Bytes.
    pub(crate) sizes: Sizes,
    /// Processor time.
    pub(crate) cpu: Cpu,
    /// The nightly job.
    pub(crate) job: Job,
    /// Each shape.
    pub(crate) shapes: Vec<ShapePlan>,
    /// The same traffic on Amazon Personalize.
    pub(crate) personalize: Personalize,
    /// Day and region of the prices.
    pub(crate) date: String,
    pub(crate) region: String,
    /// Prices of its lines that nobody confirmed.
    pub(crate) unconfirmed: Vec<String>,
    /// What is to be known of the others.
    pub(crate) notes: Vec<String>,
    /// Figures that nobody measured.
    pub(crate) assumed: Vec<&'static str>,
}

/// Plans all shapes.
pub(crate) fn plan(scenario: &Scenario, ground: &Ground<'_>) -> Plan {
    let (sizes, cpu) = reckoned(scenario, ground);
    let input = Input { scenario, sizes: &sizes, cpu: &cpu, figures: ground.figures, prices: ground.prices };
    let shapes: Vec<ShapePlan> = Shape::ALL
        .into_iter()
        .map(|shape| {
            let plan = shape_plan(shape, &input);
            let otherwise = otherwise(shape, scenario, ground, plan.total);
            ShapePlan { otherwise, ..plan }
        })
        .collect();
    let personalize = Personalize::of(&input);
    let lines = shapes.iter().flat_map(|plan| &plan.lines).chain(&personalize.lines);
    let (unconfirmed, notes) = trust(lines.map(|line| &line.price));
    Plan {
        scenario: scenario.clone(),
        million_events: scenario.events_per_second * SECONDS / 1e6,
        sizes,
        cpu,
        job: Job::of(&input),
        shapes,
        personalize,
        date: ground.prices.date.clone(),
        region: ground.prices.region.clone(),
        unconfirmed,
        notes,
        assumed: ground.figures.assumed(),
    }
}

fn reckoned(scenario: &Scenario, ground: &Ground<'_>) -> (Sizes, Cpu) {
    (Sizes::of(scenario, ground.types, ground.events, ground.learn), Cpu::of(scenario, ground.figures))
}

/// One shape, without what other choices would change.
fn shape_plan(shape: Shape, input: &Input<'_>) -> ShapePlan {
    let streaming = Streaming::of(shape, input);
    let units = Units::of(shape, &streaming, input);
    let job = Job::of(input);
    let mut bill = Bill::default();
    streaming::kinesis(&mut bill, &streaming, input);
    streaming::lambda(&mut bill, &streaming, input);
    streaming::workers(&mut bill, shape, &streaming, input);
    streaming::firehose(&mut bill, shape, &streaming, input);
    keeping::dynamodb(&mut bill, &units, input);
    keeping::s3(&mut bill, shape, &streaming, input);
    batch::glue(&mut bill, &job, input);
    batch::vectors(&mut bill, input);
    keeping::watching(&mut bill, &streaming, input);
    let total = bill.total();
    let peak = input.scenario.peak_ratio;
    let limits = limits::of(shape, &streaming, &units, &job, input);
    ShapePlan {
        shape,
        peak_write_units: (units.writes + units.other_writes) * peak,
        peak_read_units: (units.reads + units.other_reads) * peak,
        write_capacity: keeping::capacity(units.writes + units.other_writes, input),
        read_capacity: keeping::capacity(units.reads + units.other_reads, input),
        lines: bill.0,
        total,
        per_million: total / (input.scenario.events_per_second * SECONDS / 1e6),
        obstacle: limits.iter().find(|limit| limit.is_reached && limit.is_end).map(|limit| limit.what.clone()),
        streaming,
        limits,
        otherwise: Vec::new(),
    }
}

/// What a choice changes in a scenario.
type Change = fn(&mut Scenario);

/// Choices beside those of the scenario, and what each alone would change of the total.
fn otherwise(shape: Shape, scenario: &Scenario, ground: &Ground<'_>, total: f64) -> Vec<Otherwise> {
    let choices: [(&str, Change); 12] = [
        ("Kinesis on demand", |s| s.kinesis = StreamMode::OnDemand),
        ("Kinesis On-demand Advantage", |s| s.kinesis = StreamMode::Advantage),
        ("Kinesis provisioned for the peak", |s| s.kinesis = StreamMode::Provisioned),
        ("DynamoDB provisioned for the peak", |s| s.dynamodb = Capacity::Provisioned),
        ("DynamoDB on demand", |s| s.dynamodb = Capacity::OnDemand),
        ("functions on arm64, as fast as on x86-64", |s| s.architecture = Architecture::Arm64),
        ("functions of 512 MB, a third of a processor", |s| s.lambda_mb = 512),
        ("a batch window ten times as long", |s| s.window_s = (s.window_s * 10.0).clamp(1.0, 300.0)),
        ("cuts ten times as long", |s| s.cut_s *= 10.0),
        ("two events of a user in a write, one list for them", |s| {
            s.events_per_write = s.events_per_write.max(2.0);
            s.is_per_event = false;
        }),
        ("histories of at most 44 entries: one unit a write", |s| s.history_entries = s.history_entries.min(44)),
        ("Glue 6", |s| s.glue = 6),
    ];
    let changed = choices.into_iter().map(|(choice, change)| {
        let mut scenario = scenario.clone();
        change(&mut scenario);
        let (sizes, cpu) = reckoned(&scenario, ground);
        let input =
            Input { scenario: &scenario, sizes: &sizes, cpu: &cpu, figures: ground.figures, prices: ground.prices };
        Otherwise { choice: choice.to_owned(), dollars: shape_plan(shape, &input).total - total }
    });
    changed.filter(|other| other.dollars.abs() >= 0.005).collect()
}

/// Names of the prices that nobody confirmed, and notes of the others; each once.
fn trust<'a>(prices: impl Iterator<Item = &'a Price>) -> (Vec<String>, Vec<String>) {
    let (mut unconfirmed, mut notes) = (Vec::new(), Vec::new());
    for price in prices {
        if price.read.is_none() && !unconfirmed.contains(&price.name) {
            unconfirmed.push(price.name.clone());
        }
        if let Some(note) = &price.note {
            let note = format!("{}: {note}", price.name);
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    (unconfirmed, notes)
}
