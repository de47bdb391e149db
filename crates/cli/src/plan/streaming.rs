//! The streaming arm: shards, functions or workers, Firehose, and what they cost.

use anabranch_aws::firehose::pack::{RECORD_BYTES, billed_bytes};
use serde::Serialize;

use super::bill::{Bill, Part};
use super::calls::{Calls, FACTOR_MAX, Model, TMP_FREE_MB};
use super::fleet::Fleet;
use super::scenario::{Architecture, Delivered, Scenario, Shape, StreamMode};
use super::words::{bytes, count, number, price};
use super::{GB, HOURS, Input, SECONDS};

/// What a shard takes in: records and bytes a second.
pub(crate) const SHARD_RECORDS: f64 = 1000.0;
pub(crate) const SHARD_BYTES: f64 = 1e6;
/// A payload unit of Kinesis.
const PAYLOAD_UNIT_BYTES: u64 = 25 << 10;
/// On-demand streams count records by this.
const ON_DEMAND_BYTES: u64 = 1 << 10;
/// On-demand Advantage bills this at least, in and out.
const ADVANTAGE_BYTES_MIN: f64 = (25 << 20) as f64;
/// Retention that costs nothing more, and the end of the first price beyond.
const FREE_HOURS: u64 = 24;
const WEEK_HOURS: u64 = 168;
/// Shards that a stream on demand begins with.
const ON_DEMAND_SHARDS: u64 = 4;
/// Disk of an EC2 worker beside its snapshots.
const DISK_GB: f64 = 20.0;

/// The streaming arm in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Streaming {
    /// Shards of the stream.
    pub(crate) shards: u64,
    /// Shards that records and bytes ask for.
    pub(crate) shards_in: u64,
    /// Batches of a shard side by side.
    pub(crate) factor: u64,
    /// The function.
    pub(crate) calls: Option<Calls>,
    /// The workers; none if no machine holds the snapshot.
    pub(crate) fleet: Option<Fleet>,
    /// Cuts a second of all workers.
    pub(crate) cuts_per_second: f64,
    /// Bytes a second that Firehose bills.
    pub(crate) firehose_bytes: f64,
}

impl Streaming {
    /// Sizes one shape.
    pub(crate) fn of(shape: Shape, input: &Input<'_>) -> Self {
        let Input { scenario, figures, sizes, cpu, .. } = *input;
        let fill = figures.shard_fill.value;
        let records = scenario.peak() / (SHARD_RECORDS * fill);
        let data = scenario.peak() * scenario.record_bytes as f64 / (SHARD_BYTES * fill);
        let least = if scenario.kinesis == StreamMode::Provisioned { 1 } else { ON_DEMAND_SHARDS };
        let shards_in = (records.max(data).ceil() as u64).max(least);
        if shape.is_function() {
            let model = Model { shape, scenario, figures, sizes, cpu };
            let lanes = model.lanes();
            let (shards, factor) = match shape {
                Shape::Mapping => {
                    let shards = shards_in.max(lanes.div_ceil(FACTOR_MAX));
                    (shards, lanes.div_ceil(shards))
                }
                // The chain of a shard's objects takes one batch at a time.
                Shape::Objects => (shards_in.max(lanes), 1),
                // Firehose invokes as often as it needs.
                _ => (shards_in, 1),
            };
            let calls = model.calls(if shape == Shape::Transform { lanes } else { shards * factor });
            let firehose_bytes = firehose_bytes(shape, scenario, sizes.line_bytes, &calls);
            let calls = Some(calls);
            return Self { shards, shards_in, factor, calls, fleet: None, cuts_per_second: 0.0, firehose_bytes };
        }
        // A shard is one thread.
        let shards =
            shards_in.max((scenario.peak() / (cpu.worker_events_per_second() * figures.cpu_fill.value)).ceil() as u64);
        let fleet = Fleet::of(shape, shards, input);
        let cuts_per_second = (shards as f64 / scenario.cut_s).min(scenario.events_per_second);
        Self { shards, shards_in, factor: 1, calls: None, fleet, cuts_per_second, firehose_bytes: 0.0 }
    }
}

/// What Firehose bills a second. Lines are packed into records of up to 256 KB; the records of a stream are taken as they
/// come, each rounded up to 5 KB.
fn firehose_bytes(shape: Shape, scenario: &Scenario, line_bytes: u64, calls: &Calls) -> f64 {
    match shape {
        Shape::Mapping => {
            let lines = (calls.records * scenario.lists_per_event()).max(1.0).round() as usize;
            let line = line_bytes as usize;
            let packed = (RECORD_BYTES / line).max(1);
            let billed = lines / packed * billed_bytes(packed * line) + billed_bytes(lines % packed * line);
            billed as f64 / lines as f64 * scenario.events_per_second * scenario.lists_per_event()
        }
        Shape::Transform => billed_bytes(scenario.record_bytes as usize) as f64 * scenario.events_per_second,
        Shape::Objects | Shape::Fargate | Shape::Ec2 => 0.0,
    }
}

/// The lines of Kinesis.
pub(crate) fn kinesis(bill: &mut Bill, streaming: &Streaming, input: &Input<'_>) {
    let (scenario, prices) = (input.scenario, &input.prices.prices);
    let events = scenario.events_per_second * SECONDS;
    let shards = streaming.shards as f64;
    let hours = scenario.retention_hours;
    let kept_gb = |hours: f64| scenario.events_per_second * hours * 3600.0 * scenario.record_bytes as f64 / GB;
    let part = Part::Kinesis;
    let millions = number(events / 1e6);
    if scenario.kinesis == StreamMode::Provisioned {
        let words = format!("{} × {} h", count(streaming.shards, "shard"), number(HOURS));
        bill.charge(part, "shard hours", &prices.kinesis_shard_hour, shards * HOURS, &words);
        let units = scenario.record_bytes.div_ceil(PAYLOAD_UNIT_BYTES);
        let words = format!("{millions} million events × {} of 25 KB", count(units, "unit"));
        bill.charge(part, "payload units", &prices.kinesis_put_unit_million, units as f64 * events / 1e6, &words);
        if hours > FREE_HOURS {
            let words = format!("{} × {} h", count(streaming.shards, "shard"), number(HOURS));
            bill.charge(part, "retention to 7 days", &prices.kinesis_retention_shard_hour, shards * HOURS, &words);
        }
    } else {
        let rounded = scenario.record_bytes.next_multiple_of(ON_DEMAND_BYTES) as f64;
        let gb = events * rounded / GB;
        let words = format!("{millions} million events × {} = {} GB", bytes(rounded), number(gb));
        if scenario.kinesis == StreamMode::Advantage {
            let gb = gb.max(ADVANTAGE_BYTES_MIN * SECONDS / GB);
            let words = format!("{words}, 25 MB a second at least = {} GB", number(gb));
            bill.charge(part, "data in", &prices.kinesis_advantage_in_gb, gb, &words);
            bill.charge(part, "data out", &prices.kinesis_advantage_out_gb, gb, &words);
        } else {
            bill.charge(part, "stream hours", &prices.kinesis_on_demand_hour, HOURS, &format!("{} h", number(HOURS)));
            bill.charge(part, "data in", &prices.kinesis_on_demand_in_gb, gb, &words);
            bill.charge(part, "data out", &prices.kinesis_on_demand_out_gb, gb, &words);
        }
        if hours > FREE_HOURS {
            let kept = hours.min(WEEK_HOURS) - FREE_HOURS;
            let words = format!("events of {kept} h beyond a day = {} GB", number(kept_gb(kept as f64)));
            let price = match scenario.kinesis {
                StreamMode::Advantage => &prices.kinesis_long_retention_gb_month,
                _ => &prices.kinesis_on_demand_retention_gb_month,
            };
            bill.charge(part, "retention to 7 days", price, kept_gb(kept as f64), &words);
        }
    }
    if hours > WEEK_HOURS {
        let gb = kept_gb((hours - WEEK_HOURS) as f64);
        let words = format!("events of {} h beyond 7 days = {} GB", hours - WEEK_HOURS, number(gb));
        bill.charge(part, "retention beyond", &prices.kinesis_long_retention_gb_month, gb, &words);
    }
}

/// The lines of the functions.
pub(crate) fn lambda(bill: &mut Bill, streaming: &Streaming, input: &Input<'_>) {
    let Some(calls) = &streaming.calls else { return };
    let prices = &input.prices.prices;
    let invocations = calls.per_second * SECONDS;
    let millions = number(invocations / 1e6);
    let words = format!(
        "{} million events / {} of an invocation = {millions} million",
        number(input.scenario.events_per_second * SECONDS / 1e6),
        number(calls.records)
    );
    bill.charge(Part::Lambda, "invocations", &prices.lambda_request_million, invocations / 1e6, &words);
    let gb = calls.memory_mb as f64 / 1024.0;
    let of_processor = match input.scenario.architecture {
        Architecture::Arm64 => &prices.lambda_arm_gb_second,
        Architecture::X86 => &prices.lambda_x86_gb_second,
    };
    let words = format!("{millions} million × {} s × {} GB", number(calls.duration_s), number(gb));
    bill.charge(Part::Lambda, "GB-seconds", of_processor, invocations * calls.duration_s * gb, &words);
    if calls.tmp_mb > TMP_FREE_MB {
        let gb = (calls.tmp_mb - TMP_FREE_MB) as f64 / 1024.0;
        let words = format!("{millions} million × {} s × {} GB beyond 512 MB", number(calls.duration_s), number(gb));
        let units = invocations * calls.duration_s * gb;
        bill.charge(Part::Lambda, "/tmp", &prices.lambda_storage_gb_second, units, &words);
    }
}

/// The lines of the workers.
pub(crate) fn workers(bill: &mut Bill, shape: Shape, streaming: &Streaming, input: &Input<'_>) {
    let Some(fleet) = &streaming.fleet else { return };
    let prices = &input.prices.prices;
    let hours = fleet.count as f64 * HOURS;
    let machines = format!("{} × {} h", count(fleet.count, "machine"), number(HOURS));
    if shape == Shape::Fargate {
        let words = format!("{} × {} vCPU × {} h", count(fleet.count, "task"), fleet.vcpus, number(HOURS));
        bill.charge(Part::Workers, "vCPU hours", &prices.fargate_vcpu_hour, hours * fleet.vcpus as f64, &words);
        let words = format!("{} × {} GB × {} h", count(fleet.count, "task"), fleet.memory_gb, number(HOURS));
        bill.charge(Part::Workers, "GB hours", &prices.fargate_gb_hour, hours * fleet.memory_gb as f64, &words);
    } else if let Some(kind) = input.prices.instances.iter().find(|kind| kind.name == fleet.machine) {
        bill.charge(Part::Workers, &fleet.machine, &kind.price(), hours, &machines);
        let gb = DISK_GB + 3.0 * input.sizes.snapshot_bytes as f64 / GB;
        let words = format!("{} × {} GB", count(fleet.count, "disk"), number(gb));
        bill.charge(Part::Workers, "disks", &prices.ebs_gb_month, fleet.count as f64 * gb, &words);
    }
}

/// The lines of Firehose.
pub(crate) fn firehose(bill: &mut Bill, shape: Shape, streaming: &Streaming, input: &Input<'_>) {
    if streaming.firehose_bytes <= 0.0 {
        return;
    }
    let (scenario, prices) = (input.scenario, &input.prices.prices);
    let gb = streaming.firehose_bytes * SECONDS / GB;
    let millions = number(scenario.events_per_second * SECONDS / 1e6);
    let words = if shape == Shape::Transform {
        format!("{millions} million events × 5 KB, rounded up = {} GB", number(gb))
    } else {
        let lists = number(scenario.events_per_second * scenario.lists_per_event() * SECONDS / 1e6);
        format!("{lists} million lists × {}, packed = {} GB", bytes(input.sizes.line_bytes as f64), number(gb))
    };
    bill.charge(Part::Firehose, "data in", &prices.firehose_gb, gb, &words);
    if scenario.delivered == Delivered::Parquet {
        bill.charge(Part::Firehose, "to Parquet", &prices.firehose_parquet_gb, gb, &format!("{} GB", number(gb)));
    }
}

/// In one line, for the page.
pub(crate) fn fleet_words(fleet: &Fleet) -> String {
    format!(
        "{} × {}, {} GB, ${} an hour each",
        fleet.count,
        fleet.machine,
        fleet.memory_gb,
        price(fleet.dollars_per_hour)
    )
}
