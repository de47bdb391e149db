//! Workers that stay: how many machines of which kind read the shards.
//!
//! A shard is one thread, so a core of a machine carries several quiet shards or one busy one. The cheapest machines that
//! have the cores and the memory are taken; there are always two, since one may fail.

use serde::Serialize;

use super::data::Instance;
use super::scenario::Shape;
use super::{GB, Input};

/// Machines that there are at least.
const MACHINES_MIN: u64 = 2;
/// Fargate's sizes: vCPUs, and the GB that go with them.
const FARGATE: [(u64, u64, u64); 5] = [(1, 2, 8), (2, 4, 16), (4, 8, 30), (8, 16, 60), (16, 32, 120)];

/// Machines of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fleet {
    /// The kind.
    pub(crate) machine: String,
    pub(crate) vcpus: u64,
    pub(crate) memory_gb: u64,
    pub(crate) count: u64,
    /// Cores in use in the busiest minutes.
    pub(crate) cores: f64,
    /// Dollars an hour of one.
    pub(crate) dollars_per_hour: f64,
}

impl Fleet {
    /// The cheapest fleet for so many shards, or none if no machine holds the snapshot.
    pub(crate) fn of(shape: Shape, shards: u64, input: &Input<'_>) -> Option<Self> {
        let Input { scenario, figures, cpu, prices, .. } = *input;
        let cores = scenario.peak() * cpu.worker_us * 1e-6;
        let needed_gb = |count: u64| needed_gb(shards.div_ceil(count), input);
        let fleet = |machine: String, vcpus: u64, least_gb: u64, most_gb: u64, dollars: &dyn Fn(u64) -> f64| {
            let of_cores = (cores / (vcpus as f64 * figures.cpu_fill.value)).ceil() as u64;
            let least = of_cores.max(MACHINES_MIN);
            // With a machine for each shard more machines need no less.
            let most = shards.max(least);
            if needed_gb(most) > most_gb as f64 {
                return None;
            }
            let count = least_that(least, most, |count| needed_gb(count) <= most_gb as f64);
            let memory_gb = (needed_gb(count).ceil() as u64).max(least_gb);
            Some(Self { machine, vcpus, memory_gb, count, cores, dollars_per_hour: dollars(memory_gb) })
        };
        let fleets: Vec<Self> = if shape == Shape::Fargate {
            let (vcpu, gb) = (prices.prices.fargate_vcpu_hour.dollars, prices.prices.fargate_gb_hour.dollars);
            let task = |(vcpus, least_gb, most_gb): (u64, u64, u64)| {
                let dollars = |memory_gb: u64| vcpu * vcpus as f64 + gb * memory_gb as f64;
                fleet(format!("task of {vcpus} vCPU"), vcpus, least_gb, most_gb, &dollars)
            };
            FARGATE.into_iter().filter_map(task).collect()
        } else {
            let machine = |kind: &Instance| {
                fleet(kind.name.clone(), kind.vcpus, kind.memory_gb, kind.memory_gb, &|_| kind.dollars)
            };
            prices.instances.iter().filter_map(machine).collect()
        };
        // Micro-dollars, so that equal prices are equal: then the fewer machines are taken.
        fleets
            .into_iter()
            .min_by_key(|fleet| ((fleet.dollars_per_hour * fleet.count as f64 * 1e6).round() as u64, fleet.count))
    }
}

/// Memory that a machine with so many shards needs: itself, its shards, two snapshots while one is replaced.
pub(crate) fn needed_gb(shards: u64, input: &Input<'_>) -> f64 {
    let figures = input.figures;
    let mib = figures.worker_mib.value + figures.worker_shard_mib.value * shards as f64;
    mib / 1024.0 + 2.0 * input.sizes.snapshot_bytes as f64 / GB
}

/// Memory of the largest machine.
pub(crate) fn largest_gb(shape: Shape, input: &Input<'_>) -> u64 {
    if shape == Shape::Fargate {
        FARGATE.into_iter().map(|(_, _, most_gb)| most_gb).max().unwrap_or(0)
    } else {
        input.prices.instances.iter().map(|kind| kind.memory_gb).max().unwrap_or(0)
    }
}

/// The least number from `low` to `high` that does; `high` does, and so does every number above one that does.
fn least_that(mut low: u64, mut high: u64, does: impl Fn(u64) -> bool) -> u64 {
    while low < high {
        let middle = low + (high - low) / 2;
        if does(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_number_is_found() {
        for (low, high, least) in [(2, 2, 2), (2, 100, 2), (2, 100, 57), (2, 100, 100)] {
            assert_eq!(least_that(low, high, |count| count >= least), least);
        }
    }
}
