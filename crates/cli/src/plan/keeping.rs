//! What is kept and watched: histories in DynamoDB, objects in S3, logs, metrics and alarms, keys.

use super::bill::{Bill, Part};
use super::scenario::{Capacity, Shape};
use super::streaming::Streaming;
use super::words::{bytes, count, number};
use super::{GB, HOURS, Input, SECONDS};

/// Firehose writes an object when it has this much, or after this long (`terraform/`'s defaults).
const FIREHOSE_OBJECT_BYTES: f64 = (64 << 20) as f64;
const FIREHOSE_OBJECT_S: f64 = 60.0;
/// A worker renews its leases three times in `[source] failover_ms`, and reads the lease table each time.
const LEASE_ROUND_S: f64 = 10.0 / 3.0;
/// An item of the lease table.
const LEASE_BYTES: f64 = 300.0;

/// Units of DynamoDB a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Units {
    /// Of histories.
    pub(crate) writes: f64,
    pub(crate) reads: f64,
    /// Of checkpoints and leases.
    pub(crate) other_writes: f64,
    pub(crate) other_reads: f64,
}

impl Units {
    /// At the mean rate.
    pub(crate) fn of(shape: Shape, streaming: &Streaming, input: &Input<'_>) -> Self {
        let users = input.scenario.events_per_second / input.scenario.events_per_write;
        let calls = streaming.calls.map_or(0.0, |calls| calls.per_second);
        let machines = streaming.fleet.as_ref().map_or(0, |fleet| fleet.count) as f64;
        let shards = streaming.shards as f64;
        let (other_writes, other_reads) = match shape {
            Shape::Mapping => (calls, 0.0),
            Shape::Objects => (calls, calls),
            Shape::Transform => (0.0, 0.0),
            Shape::Fargate | Shape::Ec2 => {
                let scan = (shards * LEASE_BYTES / 4096.0).ceil();
                (streaming.cuts_per_second + shards / LEASE_ROUND_S, machines * scan / LEASE_ROUND_S)
            }
        };
        let (writes, reads) = (users * input.sizes.write_units as f64, users * input.sizes.read_units as f64);
        Self { writes, reads, other_writes, other_reads }
    }
}

/// The lines of DynamoDB.
pub(crate) fn dynamodb(bill: &mut Bill, units: &Units, input: &Input<'_>) {
    let (scenario, sizes, prices) = (input.scenario, input.sizes, &input.prices.prices);
    let part = Part::DynamoDb;
    let users = number(scenario.events_per_second * SECONDS / scenario.events_per_write / 1e6);
    let item = bytes(sizes.item_bytes as f64);
    if scenario.dynamodb == Capacity::OnDemand {
        let words = format!("{users} million writes × {} of 1 KB ({item})", count(sizes.write_units, "unit"));
        bill.charge(part, "histories written", &prices.dynamodb_write_million, units.writes * SECONDS / 1e6, &words);
        let words = format!("{users} million reads × {} of 4 KB", count(sizes.read_units, "unit"));
        bill.charge(part, "histories read", &prices.dynamodb_read_million, units.reads * SECONDS / 1e6, &words);
        for (name, a_second, price) in [
            ("checkpoints, leases written", units.other_writes, &prices.dynamodb_write_million),
            ("checkpoints, leases read", units.other_reads, &prices.dynamodb_read_million),
        ] {
            if a_second > 0.0 {
                let words = format!("{} a second × {} million s", number(a_second), number(SECONDS / 1e6));
                bill.charge(part, name, price, a_second * SECONDS / 1e6, &words);
            }
        }
    } else {
        let fill = input.figures.provisioned_fill.value;
        for (name, a_second, price) in [
            ("write capacity", units.writes + units.other_writes, &prices.dynamodb_wcu_hour),
            ("read capacity", units.reads + units.other_reads, &prices.dynamodb_rcu_hour),
        ] {
            let capacity = capacity(a_second, input);
            let words = format!(
                "{} a second × {} peak / {} full = {} units × {} h",
                number(a_second),
                number(scenario.peak_ratio),
                number(fill),
                number(capacity),
                number(HOURS)
            );
            bill.charge(part, name, price, capacity * HOURS, &words);
        }
    }
    let gb = scenario.users as f64 * sizes.stored_bytes as f64 / GB;
    let words =
        format!("{} users × {} = {} GB", number(scenario.users as f64), bytes(sizes.stored_bytes as f64), number(gb));
    bill.charge(part, "storage", &prices.dynamodb_gb_month, gb, &words);
    bill.charge(part, "point-in-time recovery", &prices.dynamodb_pitr_gb_month, gb, &format!("{} GB", number(gb)));
}

/// Units to provision for so many a second, so that the peak leaves room.
pub(crate) fn capacity(a_second: f64, input: &Input<'_>) -> f64 {
    (a_second * input.scenario.peak_ratio / input.figures.provisioned_fill.value).ceil()
}

/// PUTs a second of delivered objects.
pub(crate) fn puts_per_second(shape: Shape, streaming: &Streaming, input: &Input<'_>) -> f64 {
    match shape {
        Shape::Mapping | Shape::Transform => {
            let lists = input.scenario.events_per_second * input.scenario.lists_per_event();
            (lists * input.sizes.line_bytes as f64 / FIREHOSE_OBJECT_BYTES).max(1.0 / FIREHOSE_OBJECT_S)
        }
        Shape::Objects => streaming.calls.map_or(0.0, |calls| calls.per_second),
        Shape::Fargate | Shape::Ec2 => streaming.cuts_per_second,
    }
}

/// The lines of S3.
pub(crate) fn s3(bill: &mut Bill, shape: Shape, streaming: &Streaming, input: &Input<'_>) {
    let (scenario, sizes, prices) = (input.scenario, input.sizes, &input.prices.prices);
    let part = Part::S3;
    let puts = puts_per_second(shape, streaming, input);
    let words = match shape {
        Shape::Mapping | Shape::Transform => "an object each 64 MB or 60 s".to_owned(),
        Shape::Objects => "an object an invocation".to_owned(),
        Shape::Fargate | Shape::Ec2 => {
            format!("a cut each {} s of {}", number(scenario.cut_s), count(streaming.shards, "shard"))
        }
    };
    let words = format!("{words} = {} million", number(puts * SECONDS / 1e6));
    bill.charge(part, "objects put", &prices.s3_put_thousand, puts * SECONDS / 1e3, &words);
    if shape == Shape::Objects {
        let words = format!("the chain looked at, {} million", number(puts * SECONDS / 1e6));
        bill.charge(part, "objects looked for", &prices.s3_get_thousand, puts * SECONDS / 1e3, &words);
    }
    let compressed = input.figures.compressed.value;
    let kept = |bytes_per_second: f64| bytes_per_second * 86_400.0 * scenario.keep_days * compressed / GB;
    let lists = kept(scenario.events_per_second * scenario.lists_per_event() * sizes.line_bytes as f64);
    let raw = kept(scenario.events_per_second * scenario.record_bytes as f64);
    let users = scenario.users as f64;
    let bulk = if scenario.is_bulk { users * sizes.line_bytes as f64 * compressed } else { 0.0 };
    let lake =
        (users * sizes.history_bytes as f64 + bulk + scenario.snapshots_kept as f64 * sizes.snapshot_bytes as f64) / GB;
    // One charge, so that tiers count once.
    let words = format!(
        "lists of {} days {} GB + events {} GB + histories, bulk lists and {} {} GB = {} GB",
        number(scenario.keep_days),
        number(lists),
        number(raw),
        count(scenario.snapshots_kept, "snapshot"),
        number(lake),
        number(lists + raw + lake)
    );
    bill.charge(part, "storage", &prices.s3_gb_month, lists + raw + lake, &words);
}

/// The lines of CloudWatch and KMS.
pub(crate) fn watching(bill: &mut Bill, streaming: &Streaming, input: &Input<'_>) {
    let (figures, prices) = (input.figures, &input.prices.prices);
    let part = Part::CloudWatch;
    if let Some(calls) = &streaming.calls {
        let invocations = calls.per_second * SECONDS;
        let gb = invocations * figures.emf_bytes.value / GB;
        let words = format!(
            "{} million invocations × {} = {} GB",
            number(invocations / 1e6),
            bytes(figures.emf_bytes.value),
            number(gb)
        );
        bill.charge(part, "logs", &prices.logs_gb, gb, &words);
        let metrics = figures.metrics.value;
        bill.charge(part, "metrics", &prices.metric_month, metrics, &format!("{} metrics", number(metrics)));
    }
    let alarms = figures.alarms.value;
    bill.charge(part, "alarms", &prices.alarm_month, alarms, &format!("{} alarms", number(alarms)));
    bill.charge(part, "dashboard", &prices.dashboard_month, 1.0, "1 dashboard");
    let keys = figures.kms_keys.value;
    bill.charge(Part::Kms, "keys", &prices.kms_key_month, keys, &count(keys as u64, "key"));
}
