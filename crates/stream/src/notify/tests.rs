//! Rules by tables; the dispatcher over a world that crashes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::{NotifySettings, RuleSettings, Rules};
use crate::testing;

mod dispatch;
mod rules;
mod simulated;

const MINUTE_MS: i64 = 60_000;

/// One rule, by its settings.
fn settings(name: &str, rule: RuleSettings) -> NotifySettings {
    NotifySettings { rules: BTreeMap::from([(name.to_owned(), rule)]), ..NotifySettings::default() }
}

/// Half an hour after something was put into a cart, unless something was bought.
fn abandoned_cart() -> RuleSettings {
    RuleSettings {
        event_types: vec!["cart".to_owned()],
        delay_minutes: 30,
        unless: vec!["purchase".to_owned()],
        cool_down_minutes: 120,
        ..RuleSettings::default()
    }
}

/// At once after anything was bought.
fn bought() -> RuleSettings {
    RuleSettings { event_types: vec!["purchase".to_owned()], cool_down_minutes: 0, ..RuleSettings::default() }
}

fn compile(settings: &NotifySettings) -> Rules {
    settings.compile(&testing::types()).unwrap()
}
