//! What an event type means, as data: weight, class, value transform, whether it hides the item.
//!
//! [`EventSettings`] is what a person writes (`[events]` in `anabranch.toml`); [`EventTypes`] is the same,
//! checked and compiled for the inner loops. Both arms and the snapshot use one set of settings: a history
//! folded under one set is comparable only with histories folded under the same set.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Event types are few; their codes fit a byte with room to spare.
pub const EVENT_TYPES_MAX: usize = 64;
/// Largest quota: an encoded history of this many entries stays near 2.5 MB. `unlimited` in evaluation uses it.
pub const QUOTA_MAX: usize = 131_072;

/// How an event's value changes its weight. Values below zero count as zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueTransform {
    /// The value is ignored: factor 1.
    #[default]
    None,
    /// Factor v.
    Linear,
    /// Factor √v.
    Sqrt,
    /// Factor ln(1 + v).
    Log1p,
}

/// One event type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventTypeSettings {
    /// Weight of one event of this type; 0 keeps it in the history without letting it teach.
    pub weight: f32,
    /// Class whose quota it shares; the type's own name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// How `eventValue` scales the weight. Without a value the factor is 1.
    #[serde(default)]
    pub value: ValueTransform,
    /// Whether the item enters the seen set (hidden from lists when hiding is on).
    #[serde(default)]
    pub hides: bool,
}

/// Event settings as a person writes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventSettings {
    /// Event types by name.
    pub types: BTreeMap<String, EventTypeSettings>,
    /// The type of events and rows that name none.
    pub default_type: String,
    /// Newest entries kept in each class.
    pub quota: usize,
    /// Quotas of single classes, over `quota`.
    pub quotas: BTreeMap<String, usize>,
    /// Days after which an entry weighs half; 0 means that age does not matter.
    pub half_life_days: f64,
    /// Items remembered as seen beyond the history's horizon.
    pub seen_max: usize,
    /// Sessions remembered of one user.
    pub sessions_max: usize,
}

impl Default for EventSettings {
    fn default() -> Self {
        let mut types = BTreeMap::new();
        for (name, weight, hides) in [
            ("view", 1.0, false),
            ("click", 1.0, false),
            ("watch", 2.0, false),
            ("cart", 3.0, false),
            ("purchase", 5.0, true),
        ] {
            let settings = EventTypeSettings { weight, class: None, value: ValueTransform::None, hides };
            types.insert(name.to_owned(), settings);
        }
        Self {
            types,
            default_type: "view".to_owned(),
            quota: 256,
            quotas: BTreeMap::new(),
            half_life_days: 90.0,
            seen_max: 512,
            sessions_max: 8,
        }
    }
}

/// Settings that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("[events] {field}: {problem}")]
pub struct SettingsError {
    /// The setting's path below `[events]`.
    pub field: String,
    /// What is wrong and what is accepted.
    pub problem: String,
}

/// One event type, compiled.
#[derive(Clone, Debug, PartialEq)]
pub struct EventType {
    /// Its name.
    pub name: Box<str>,
    /// Index of its class in [`EventTypes::classes`].
    pub class: u8,
    /// Weight of one event.
    pub weight: f32,
    /// How the value scales the weight.
    pub value: ValueTransform,
    /// Whether the item enters the seen set.
    pub hides: bool,
}

/// A class and its quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventClass {
    /// Its name.
    pub name: Box<str>,
    /// Newest entries kept.
    pub quota: usize,
}

/// Checked, compiled event settings. Codes are ranks of names, so code order is name order.
#[derive(Clone, Debug, PartialEq)]
pub struct EventTypes {
    types: Vec<EventType>,
    classes: Vec<EventClass>,
    default_type: u8,
    /// Milliseconds after which an entry weighs half; infinite if age does not matter.
    pub half_life_ms: f64,
    /// Items remembered as seen.
    pub seen_max: usize,
    /// Sessions remembered of one user.
    pub sessions_max: usize,
}

impl EventSettings {
    /// The same settings with every class's quota set to `quota` (evaluation compares quotas).
    #[must_use]
    pub fn with_quota(mut self, quota: usize) -> Self {
        self.quota = quota;
        self.quotas.clear();
        self
    }

    /// Checks and compiles.
    pub fn compile(&self) -> Result<EventTypes, SettingsError> {
        let fail = |field: &str, problem: String| Err(SettingsError { field: field.to_owned(), problem });
        if self.types.is_empty() || self.types.len() > EVENT_TYPES_MAX {
            return fail("types", format!("{} event types; give 1 to {EVENT_TYPES_MAX}", self.types.len()));
        }
        if !(0.0..=100_000.0).contains(&self.half_life_days) {
            return fail("half_life_days", format!("{} is not between 0 (off) and 100000", self.half_life_days));
        }
        if self.seen_max > QUOTA_MAX || self.sessions_max > 64 {
            return fail("seen_max", format!("seen_max is at most {QUOTA_MAX}, sessions_max at most 64"));
        }
        let mut classes: Vec<EventClass> = Vec::new();
        let mut class_names: Vec<&str> =
            self.types.iter().map(|(name, t)| t.class.as_deref().unwrap_or(name)).collect();
        class_names.sort_unstable();
        class_names.dedup();
        for name in class_names {
            let quota = self.quotas.get(name).copied().unwrap_or(self.quota);
            if !(1..=QUOTA_MAX).contains(&quota) {
                return fail(&format!("quotas.{name}"), format!("{quota} is not between 1 and {QUOTA_MAX}"));
            }
            classes.push(EventClass { name: name.into(), quota });
        }
        if let Some(unused) = self.quotas.keys().find(|name| classes.iter().all(|c| &*c.name != name.as_str())) {
            return fail(&format!("quotas.{unused}"), "no event type has this class".to_owned());
        }
        let mut types = Vec::with_capacity(self.types.len());
        for (name, settings) in &self.types {
            if name.is_empty() || name.len() > 64 {
                return fail(&format!("types.{name}"), "a name has 1 to 64 bytes".to_owned());
            }
            if !settings.weight.is_finite() || !(0.0..=1e6).contains(&settings.weight) {
                return fail(&format!("types.{name}.weight"), format!("{} is not between 0 and 1e6", settings.weight));
            }
            let class_name = settings.class.as_deref().unwrap_or(name);
            let class =
                classes.iter().position(|c| &*c.name == class_name).expect("each type's class was collected above");
            types.push(EventType {
                name: name.as_str().into(),
                class: class as u8,
                weight: settings.weight,
                value: settings.value,
                hides: settings.hides,
            });
        }
        let Some(default_type) = types.iter().position(|t| *t.name == *self.default_type) else {
            return fail("default_type", format!("{:?} is not among the event types", self.default_type));
        };
        let half_life_ms = if self.half_life_days == 0.0 { f64::INFINITY } else { self.half_life_days * 86_400_000.0 };
        Ok(EventTypes {
            types,
            classes,
            default_type: default_type as u8,
            half_life_ms,
            seen_max: self.seen_max,
            sessions_max: self.sessions_max,
        })
    }
}

impl EventTypes {
    /// Code of the type named `name`.
    pub fn code(&self, name: &str) -> Option<u8> {
        // A handful of names: a scan beats a map, and the order (ranks of names) allows a binary search.
        self.types.binary_search_by(|t| (*t.name).cmp(name)).ok().map(|i| i as u8)
    }

    /// Code of the type that events without one have.
    pub const fn default_code(&self) -> u8 {
        self.default_type
    }

    /// The type with this code. Codes come from [`EventTypes::code`] of the same settings.
    pub fn get(&self, code: u8) -> &EventType {
        &self.types[usize::from(code)]
    }

    /// All types, in code order.
    pub fn types(&self) -> &[EventType] {
        &self.types
    }

    /// All classes, in order of their names.
    pub fn classes(&self) -> &[EventClass] {
        &self.classes
    }

    /// Index of a type's class.
    pub fn class_of(&self, code: u8) -> usize {
        usize::from(self.get(code).class)
    }
}
