//! Processor time by laws whose constants were measured (`figures.toml`): a list, an event in a function and in a worker,
//! a nightly training.
//!
//! A list of a user with `h` entries from `n` items of `d` dimensions with `K` neighbours each takes
//!
//! ```text
//!   (h d² + d³ / 3 + 2 d²) / fold-in rate  +  h K · neighbour  +  n · item  +  kept · 2 n d / scan rate
//! ```
//!
//! fold-in; similarities added; passes over all items; the product of the user with those blocks of items that the bound
//! by norms does not pass over. A training takes, for `e` entries, `u` users and `n` items, per round
//! `2 e d² + (u + n) (d³ / 3 + 2 d²)` flops and a last half-step of the users.
//!
//! Not here: waiting, which is where things run (`stream.rs`).

use serde::Serialize;

use super::data::Figures;
use super::scenario::Scenario;

/// Processor time of a scenario, in µs of one core.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cpu {
    /// A list.
    pub(crate) list_us: f64,
    /// An event in a function with its list, calls of AWS aside.
    pub(crate) function_us: f64,
    /// An event in a worker with its list and its share of the calls.
    pub(crate) worker_us: f64,
    /// The ETL of a night's rows, in seconds.
    pub(crate) etl_s: f64,
    /// The training, in seconds.
    pub(crate) train_s: f64,
    /// Lists for every user, in seconds.
    pub(crate) bulk_s: f64,
}

impl Cpu {
    /// By the laws.
    pub(crate) fn of(scenario: &Scenario, figures: &Figures) -> Self {
        let entries = scenario.history_entries as f64;
        let list_us = list_us(scenario, figures);
        let lists = scenario.lists_per_event() * list_us;
        let event = |base: f64, entry: f64| base + entry * entries + lists;
        let calls = (1.0 + 1.0 / KEYS_A_READ) / scenario.events_per_write * figures.call_us.value;
        Self {
            list_us,
            function_us: event(figures.function_event_us.value, figures.function_entry_us.value),
            worker_us: event(figures.worker_event_us.value, figures.worker_entry_us.value) + calls,
            etl_s: scenario.events_per_second * 86_400.0 * figures.etl_us.value * 1e-6,
            train_s: train_flops(scenario) / (figures.train_gflops.value * 1e9),
            bulk_s: if scenario.is_bulk { scenario.users as f64 * list_us * 1e-6 } else { 0.0 },
        }
    }

    /// Lists a second that a core makes, events and their calls included.
    pub(crate) fn worker_events_per_second(&self) -> f64 {
        1e6 / self.worker_us
    }
}

/// Histories that one call reads.
pub(crate) const KEYS_A_READ: f64 = 100.0;

fn list_us(scenario: &Scenario, figures: &Figures) -> f64 {
    let (entries, items, dim) = (scenario.history_entries as f64, scenario.items as f64, scenario.dim as f64);
    let fold_in = entries * dim * dim + solve_flops(dim);
    let neighbours = entries * scenario.neighbours.min(scenario.items - 1) as f64;
    let scan = figures.scan_kept.value * 2.0 * items * dim;
    fold_in / figures.fold_in_gflops.value * 1e-3
        + neighbours * figures.neighbour_ns.value * 1e-3
        + items * figures.item_ns.value * 1e-3
        + scan / figures.scan_gflops.value * 1e-3
}

fn train_flops(scenario: &Scenario) -> f64 {
    let (users, items, dim) = (scenario.users as f64, scenario.items as f64, scenario.dim as f64);
    let entries = users * scenario.history_entries as f64;
    let user_step = entries * dim * dim + users * solve_flops(dim);
    let item_step = entries * dim * dim + items * solve_flops(dim);
    scenario.iterations as f64 * (user_step + item_step) + user_step
}

/// A Cholesky factorisation and two triangular systems.
fn solve_flops(dim: f64) -> f64 {
    dim.powi(3) / 3.0 + 2.0 * dim * dim
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::shop;
    use super::*;

    fn near(found: f64, expected: f64, share: f64) {
        assert!((found - expected).abs() <= share * expected, "{found} is not within {share} of {expected}");
    }

    /// The law gives what docs/explanation.md measured: lists of 81.6 and 185.5 µs, 104 ms for 1,000 records.
    #[test]
    fn the_law_gives_what_was_measured() {
        let figures = Figures::load(None).unwrap();
        let at = |history_entries| Cpu::of(&Scenario { history_entries, ..shop() }, &figures);
        near(at(64).list_us, 81.6, 0.03);
        near(at(256).list_us, 185.5, 0.12);
        near(at(64).function_us, 104.0, 0.03);
        // The table of training: 82,000 users × 41,000 items × 64, 3.9 million entries: 39.7 CPU s.
        let table = Scenario { users: 82_000, history_entries: 48, ..shop() };
        near(Cpu::of(&table, &figures).train_s, 39.7, 0.03);
    }

    /// By hand, 41,000 items × 64, 64 entries, 100 neighbours. Fold-in: 64 · 4,096 + 87,381.33 + 8,192 = 357,717.33
    /// flops at 17.5 GF/s = 20.441 µs. Neighbours: 6,400 · 4.25 ns = 27.2 µs. Items: 41,000 · 0.6 ns = 24.6 µs. Scan:
    /// 0.136 · 5,248,000 flops at 87 GF/s = 8.204 µs. Together 80.445 µs.
    #[test]
    fn a_list_by_hand() {
        near(list_us(&shop(), &Figures::load(None).unwrap()), 80.445, 1e-4);
    }
}
