//! The `[notify]` settings.
//!
//! ```toml
//! [notify]
//! channel = "webhook"
//! utc_offset_minutes = 60
//!
//! [notify.webhook]
//! url = "https://shop.example/hooks/anabranch"
//! secret_file = "keys/webhook.secret"
//!
//! [notify.rules.abandoned-cart]
//! event_types = ["cart"]
//! delay_minutes = 30
//! unless = ["purchase"]
//! cool_down_minutes = 1440
//! quiet_hours = "22:00-08:00"
//! items_max = 5
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use anabranch_events::EventTypes;
use serde::{Deserialize, Serialize};

use super::rule::{QuietHours, Rule, Rules};

const MINUTE_MS: i64 = 60_000;
/// A year: longer than any rule waits.
const MINUTES_MAX: u32 = 366 * 24 * 60;
/// Rules of one stream; each is looked at for every event of its types.
const RULES_MAX: usize = 64;
/// Items of one notification.
const ITEMS_MAX: usize = 100;

/// Where notifications go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelKind {
    /// A line of the log.
    #[default]
    Log,
    /// A signed POST.
    Webhook,
    /// A topic of Amazon SNS.
    Sns,
}

/// Settings of notifications. Without a rule there are none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NotifySettings {
    /// Where notifications go.
    pub channel: ChannelKind,
    /// Local time of quiet hours, in minutes ahead of UTC; −720 to 840.
    pub utc_offset_minutes: i32,
    /// Attempts of one notification, the first included, before it goes to the dead letters; 1 to 30.
    pub attempts_max: u32,
    /// The webhook.
    pub webhook: WebhookSettings,
    /// The topic.
    pub sns: SnsSettings,
    /// Rules by name.
    pub rules: BTreeMap<String, RuleSettings>,
}

impl Default for NotifySettings {
    fn default() -> Self {
        Self {
            channel: ChannelKind::default(),
            utc_offset_minutes: 0,
            attempts_max: 8,
            webhook: WebhookSettings::default(),
            sns: SnsSettings::default(),
            rules: BTreeMap::new(),
        }
    }
}

/// Settings of the webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookSettings {
    /// Where to POST: `https://`, or `http://` inside a network that you trust.
    pub url: String,
    /// The file that holds the secret of the signature: 16 bytes or more, a final line break not counted.
    pub secret_file: PathBuf,
    /// How long one POST may take, in milliseconds; 100 to 60,000.
    pub timeout_ms: u64,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self { url: String::new(), secret_file: PathBuf::new(), timeout_ms: 5000 }
    }
}

/// Settings of the topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnsSettings {
    /// The topic's ARN. Receivers of a FIFO topic (`….fifo`) get no repeats within five minutes.
    pub topic: String,
}

/// One rule, with its units in its names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleSettings {
    /// Types of the events that trigger it.
    pub event_types: Vec<String>,
    /// How long after the event's arrival it is due, in minutes.
    pub delay_minutes: u32,
    /// Types of events that cancel it: one at or after the triggering event's time, while it has not gone out.
    pub unless: Vec<String>,
    /// What the user's own history must add to the score of the list's first item: its score less the share of its
    /// popularity. A list of popular items alone has a lift of 0.
    pub lift_min: f32,
    /// Nothing goes out by this rule for so long after the user's last notification, whatever its rule, in minutes.
    pub cool_down_minutes: u32,
    /// `"22:00-08:00"`, in local time: what is due then is due at their end. Empty for none.
    pub quiet_hours: String,
    /// Items of a notification, 1 to 100; fewer if the list is shorter.
    pub items_max: usize,
    /// An event that arrived later than this after its own time triggers nothing, in minutes.
    pub event_age_max_minutes: u32,
    /// What could not go out for so long after it was due is dropped, in minutes.
    pub expire_after_minutes: u32,
}

impl Default for RuleSettings {
    fn default() -> Self {
        Self {
            event_types: Vec::new(),
            delay_minutes: 0,
            unless: Vec::new(),
            lift_min: 0.0,
            cool_down_minutes: 1440,
            quiet_hours: String::new(),
            items_max: 5,
            event_age_max_minutes: 60,
            expire_after_minutes: 1440,
        }
    }
}

impl NotifySettings {
    /// Checks every range and compiles the rules; the error names the setting, what was found and what is accepted.
    pub fn compile(&self, types: &EventTypes) -> Result<Rules, String> {
        let WebhookSettings { url, timeout_ms, .. } = &self.webhook;
        let is_on = !self.rules.is_empty();
        let is_url = url.starts_with("https://") || url.starts_with("http://");
        let needs = |kind, is_there| !is_on || self.channel != kind || is_there;
        let checks = [
            (
                (-720..=840).contains(&self.utc_offset_minutes),
                format!("utc_offset_minutes = {}: -720 to 840", self.utc_offset_minutes),
            ),
            ((1..=30).contains(&self.attempts_max), format!("attempts_max = {}: 1 to 30", self.attempts_max)),
            ((100..=60_000).contains(timeout_ms), format!("webhook.timeout_ms = {timeout_ms}: 100 to 60000")),
            (needs(ChannelKind::Webhook, is_url), format!("webhook.url = {url:?}: an https:// or http:// address")),
            (
                needs(ChannelKind::Sns, self.sns.topic.starts_with("arn:")),
                format!("sns.topic = {:?}: the ARN of a topic", self.sns.topic),
            ),
            (self.rules.len() <= RULES_MAX, format!("{} rules: at most {RULES_MAX}", self.rules.len())),
        ];
        if let Some((_, problem)) = checks.into_iter().find(|(ok, _)| !ok) {
            return Err(format!("[notify] {problem}"));
        }
        let rules = self.rules.iter().map(|(name, rule)| {
            rule.compile(name, self.utc_offset_minutes, types)
                .map_err(|problem| format!("[notify.rules.{name}] {problem}"))
        });
        Ok(Rules::new(rules.collect::<Result<_, _>>()?, types))
    }
}

impl NotifySettings {
    /// Checks that a webhook has its secret's file; for programs that have files.
    pub fn check_secret_file(&self) -> Result<(), String> {
        let is_webhook = self.channel == ChannelKind::Webhook && !self.rules.is_empty();
        if is_webhook && self.webhook.secret_file.as_os_str().is_empty() {
            return Err("[notify] webhook.secret_file is empty: name the file that holds the secret".to_owned());
        }
        Ok(())
    }
}

impl RuleSettings {
    fn compile(&self, name: &str, utc_offset_minutes: i32, types: &EventTypes) -> Result<Rule, String> {
        let is_name = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !is_name {
            return Err("a rule's name has 1 to 64 letters, digits, '-' or '_'".to_owned());
        }
        let codes = |setting: &str, names: &[String]| {
            names
                .iter()
                .map(|name| types.code(name).ok_or_else(|| format!("{setting}: {name:?} is not in [events.types]")))
                .collect::<Result<Vec<u8>, _>>()
        };
        let (triggers, unless) = (codes("event_types", &self.event_types)?, codes("unless", &self.unless)?);
        if triggers.is_empty() {
            return Err("event_types is empty: name the types that trigger it".to_owned());
        }
        if let Some(both) = self.unless.iter().find(|name| self.event_types.contains(name)) {
            return Err(format!("{both:?} is in event_types and in unless: the event would cancel itself"));
        }
        if !unless.is_empty() && self.delay_minutes == 0 {
            return Err("unless needs a delay_minutes: without one nothing can happen in between".to_owned());
        }
        if !(0.0..=1e6).contains(&self.lift_min) {
            return Err(format!("lift_min = {}: 0 to 1000000", self.lift_min));
        }
        if !(1..=ITEMS_MAX).contains(&self.items_max) {
            return Err(format!("items_max = {}: 1 to {ITEMS_MAX}", self.items_max));
        }
        let ms = |setting: &str, minutes: u32| {
            let is_in_range = minutes <= MINUTES_MAX;
            is_in_range
                .then_some(i64::from(minutes) * MINUTE_MS)
                .ok_or_else(|| format!("{setting} = {minutes}: 0 to {MINUTES_MAX}"))
        };
        Ok(Rule {
            name: name.into(),
            triggers,
            unless,
            delay_ms: ms("delay_minutes", self.delay_minutes)?,
            lift_min: self.lift_min,
            cool_down_ms: ms("cool_down_minutes", self.cool_down_minutes)?,
            quiet: QuietHours::parse(&self.quiet_hours, utc_offset_minutes)?,
            items_max: self.items_max,
            event_age_max_ms: ms("event_age_max_minutes", self.event_age_max_minutes)?,
            expire_after_ms: ms("expire_after_minutes", self.expire_after_minutes)?,
        })
    }
}
