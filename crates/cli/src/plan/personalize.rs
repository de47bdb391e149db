//! The same traffic on Amazon Personalize: what its events, its trainings and its lists would cost.
//!
//! As like as can be: a list for each of our lists, trainings as often as its automatic training does, on as many
//! interactions as our histories hold. What it does beside (a model of another kind, no machines to run) is no dollar here.

use serde::Serialize;

use super::bill::{Bill, Line, Part};
use super::data::Quota;
use super::words::{bytes, number};
use super::{GB, HOURS, Input, SECONDS};

/// Its automatic training makes a new version every seven days.
const TRAININGS: f64 = HOURS / (24.0 * 7.0);
/// A campaign bills one list a second at least.
const LEAST_LISTS_PER_SECOND: f64 = 1.0;

/// Amazon Personalize's bill.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Personalize {
    /// The lines, recipes of the second version.
    pub(crate) lines: Vec<Line>,
    /// Dollars a month.
    pub(crate) total: f64,
    /// Dollars for a million events.
    pub(crate) per_million: f64,
    /// Lists of older recipes in place of those, in dollars a month; their trainings are billed by the hour and left out.
    pub(crate) older_lists: f64,
    /// Its quotas that this traffic is beyond.
    pub(crate) beyond: Vec<String>,
}

impl Personalize {
    /// Of a scenario.
    pub(crate) fn of(input: &Input<'_>) -> Self {
        let (scenario, prices, quotas) = (input.scenario, &input.prices.prices, &input.prices.quotas);
        let events = scenario.events_per_second * SECONDS;
        let mut bill = Bill::default();
        let gb = events * scenario.record_bytes as f64 / GB;
        let words = format!(
            "{} million events × {} = {} GB",
            number(events / 1e6),
            bytes(scenario.record_bytes as f64),
            number(gb)
        );
        bill.charge(Part::Personalize, "events", &prices.personalize_gb, gb, &words);
        let interactions =
            (scenario.users as f64 * scenario.history_entries as f64).min(quotas.personalize_interactions.value);
        let words = format!("{} trainings × {} million interactions", number(TRAININGS), number(interactions / 1e6));
        let price = &prices.personalize_training_thousand;
        bill.charge(Part::Personalize, "trainings", price, TRAININGS * interactions / 1e3, &words);
        let a_second = scenario.events_per_second * scenario.lists_per_event();
        let lists = a_second.max(LEAST_LISTS_PER_SECOND) * SECONDS;
        let words = format!("{} million lists, one a second at least", number(lists / 1e6));
        bill.charge(Part::Personalize, "lists", &prices.personalize_list_thousand, lists / 1e3, &words);
        let total = bill.total();
        let beyond = |what: &str, used: f64, quota: &Quota| {
            (used > quota.value).then(|| format!("{what}: {} of {} {}", number(used), number(quota.value), quota.unit))
        };
        Self {
            lines: bill.0,
            total,
            per_million: total / (events / 1e6),
            older_lists: prices.personalize_old_list_thousand.of(lists / 1e3),
            beyond: [
                beyond("lists", scenario.peak() * scenario.lists_per_event(), &quotas.personalize_lists_per_second),
                beyond("events", scenario.peak(), &quotas.personalize_events_per_second),
                beyond("items", scenario.items as f64, &quotas.personalize_items),
                beyond(
                    "interactions",
                    scenario.users as f64 * scenario.history_entries as f64,
                    &quotas.personalize_interactions,
                ),
            ]
            .into_iter()
            .flatten()
            .collect(),
        }
    }
}
