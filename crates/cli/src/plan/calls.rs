//! How the functions are invoked: how many records an invocation gets, how long it takes, how many run at once, and how
//! much memory they need.
//!
//! The processor time of an invocation is `cpu.rs`'s law and its calls of AWS; a function gets `memory / 1,769 MB` of a
//! vCPU, at most one here (an invocation joins and scores on one thread). Waiting is added and not overlapped, so a
//! duration errs on the long side.

use serde::Serialize;

use super::cpu::{Cpu, KEYS_A_READ};
use super::data::Figures;
use super::scenario::{Scenario, Shape};
use super::sizes::Sizes;

/// Bytes of a request or answer of Lambda.
const PAYLOAD_BYTES: f64 = (6 << 20) as f64;
/// What stands around a record's data in a batch of the mapping, and in one of Firehose or its answer.
const MAPPING_ENVELOPE_BYTES: f64 = 560.0;
const FIREHOSE_ENVELOPE_BYTES: f64 = 260.0;
/// Firehose gathers this much for an invocation of its processor, for as long at most (`terraform/`'s defaults).
const PROCESSOR_BYTES: f64 = 0.2 * (1 << 20) as f64;
const PROCESSOR_S: f64 = 61.0;
/// Memory that brings a whole vCPU.
const VCPU_MB: f64 = 1769.0;
/// Memory is asked for in such steps here; Lambda takes any MB.
const STEP_MB: u64 = 64;
/// Batches of one shard that the mapping runs side by side at most.
pub(crate) const FACTOR_MAX: u64 = 10;
/// Calls of DynamoDB that run side by side (`crates/aws/src/dynamo/sdk.rs`).
const SIDE_BY_SIDE: f64 = 32.0;
/// Bytes of a `PutRecordBatch`.
const FIREHOSE_BATCH_BYTES: f64 = (4 << 20) as f64;
/// /tmp that costs nothing.
pub(crate) const TMP_FREE_MB: u64 = 512;

/// Invocations of a function.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Calls {
    /// Records of an invocation, at the mean and at most.
    pub(crate) records: f64,
    /// Records that fit into one.
    pub(crate) records_max: f64,
    /// Invocations a second.
    pub(crate) per_second: f64,
    /// Time of one, in seconds, waiting included.
    pub(crate) duration_s: f64,
    /// Of it waiting.
    pub(crate) wait_s: f64,
    /// Time of one with as many records as fit.
    pub(crate) longest_s: f64,
    /// Memory.
    pub(crate) memory_mb: u64,
    /// Memory that the model and the records need, whatever Lambda gives.
    pub(crate) needed_mb: u64,
    /// /tmp.
    pub(crate) tmp_mb: u64,
    /// At once in the busiest minutes.
    pub(crate) concurrency: u64,
    /// Batches side by side that keep up in the busiest minutes.
    pub(crate) lanes: u64,
}

/// What an invocation is made of.
pub(crate) struct Model<'a> {
    pub(crate) shape: Shape,
    pub(crate) scenario: &'a Scenario,
    pub(crate) figures: &'a Figures,
    pub(crate) sizes: &'a Sizes,
    pub(crate) cpu: &'a Cpu,
}

impl Model<'_> {
    /// Batches side by side that keep up at the peak.
    pub(crate) fn lanes(&self) -> u64 {
        let most = self.records_max();
        let (duration_s, _) = self.duration_s(most);
        (self.scenario.peak() / most * duration_s / self.figures.cpu_fill.value).ceil().max(1.0) as u64
    }

    /// Invocations over so many lanes (shards × factor).
    pub(crate) fn calls(&self, lanes: u64) -> Calls {
        let records_max = self.records_max();
        let at = |events_per_second: f64| self.records_at(events_per_second / lanes as f64);
        let records = at(self.scenario.events_per_second);
        let (duration_s, wait_s) = self.duration_s(records);
        let at_peak = at(self.scenario.peak());
        let peak_s = self.duration_s(at_peak).0;
        Calls {
            records,
            records_max,
            per_second: self.scenario.events_per_second / records,
            duration_s,
            wait_s,
            longest_s: self.duration_s(records_max).0,
            memory_mb: self.memory_mb(),
            needed_mb: self.needed_mb(),
            tmp_mb: self.tmp_mb(),
            concurrency: (self.scenario.peak() / at_peak * peak_s).ceil().max(1.0) as u64,
            lanes,
        }
    }

    /// Records that fit into an invocation.
    fn records_max(&self) -> f64 {
        let base64 = |bytes: u64| (bytes.div_ceil(3) * 4) as f64;
        let (record, line) = (base64(self.scenario.record_bytes), base64(self.sizes.line_bytes));
        let most = if self.shape == Shape::Transform {
            let asked = PAYLOAD_BYTES / (record + FIREHOSE_ENVELOPE_BYTES);
            let answered = PAYLOAD_BYTES / (line * self.scenario.lists_per_event() + FIREHOSE_ENVELOPE_BYTES);
            asked.min(answered).min(PROCESSOR_BYTES / self.scenario.record_bytes as f64)
        } else {
            (PAYLOAD_BYTES / (record + MAPPING_ENVELOPE_BYTES)).min(self.scenario.batch_records as f64)
        };
        most.floor().max(1.0)
    }

    /// Records of an invocation on a lane with so many events a second: what came in the window, or while the invocation
    /// before it ran.
    fn records_at(&self, events_per_second: f64) -> f64 {
        let most = self.records_max();
        let window_s = if self.shape == Shape::Transform { PROCESSOR_S } else { self.scenario.window_s };
        let gathered = |s: f64| (events_per_second * s).clamp(1.0, most);
        let mut records = gathered(window_s);
        for _ in 0..32 {
            records = gathered(window_s.max(self.duration_s(records).0));
        }
        records
    }

    /// Seconds that an invocation with so many records takes, and how many of them it waits.
    fn duration_s(&self, records: f64) -> (f64, f64) {
        let Self { scenario, figures, .. } = *self;
        let users = (records / scenario.events_per_write).max(1.0);
        let reads = (users / KEYS_A_READ).ceil();
        let mut calls = reads + users;
        let mut wait_ms = figures.dynamodb_ms.value * ((reads / SIDE_BY_SIDE).ceil() + (users / SIDE_BY_SIDE).ceil());
        match self.shape {
            Shape::Mapping => {
                let bytes = records * scenario.lists_per_event() * self.sizes.line_bytes as f64;
                let puts = (bytes / FIREHOSE_BATCH_BYTES).ceil();
                calls += puts + 1.0;
                wait_ms += puts * figures.firehose_ms.value + figures.dynamodb_ms.value;
            }
            // Checkpoint read, chain looked at, object put, checkpoint written.
            Shape::Objects => {
                calls += 4.0;
                wait_ms += 2.0 * figures.s3_ms.value + 2.0 * figures.dynamodb_ms.value;
            }
            Shape::Transform | Shape::Fargate | Shape::Ec2 => {}
        }
        let cpu_us = figures.invocation_us.value + records * self.cpu.function_us + calls * figures.call_us.value;
        let share = (self.memory_mb() as f64 / VCPU_MB).min(1.0);
        let wait_s = wait_ms * 1e-3;
        (cpu_us * 1e-6 / share + wait_s, wait_s)
    }

    /// The function beside two snapshots: while it takes a newer one over, both are mapped.
    fn needed_mb(&self) -> u64 {
        let beside = self.figures.function_mib.value + self.figures.runtime_mib.value;
        (beside.ceil() as u64).saturating_add(self.tmp_mb())
    }

    fn memory_mb(&self) -> u64 {
        let needed = self.needed_mb();
        needed.checked_next_multiple_of(STEP_MB).unwrap_or(needed).max(self.scenario.lambda_mb)
    }

    /// Two snapshots lie in /tmp while one is taken over.
    fn tmp_mb(&self) -> u64 {
        self.sizes.snapshot_bytes.saturating_mul(2).div_ceil(1 << 20)
    }
}
