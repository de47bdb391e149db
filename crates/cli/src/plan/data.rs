//! The two files that a plan counts with: AWS's prices and quotas (`prices.toml`), and what our own code costs
//! (`figures.toml`). Both are in the program; a file of the user's may hold only what differs.
//!
//! Guarantee: whatever a line needs is there, or loading says which name is missing; a name that nothing uses is refused,
//! so a misspelt price cannot be passed over.

use serde::{Deserialize, Serialize};

use super::words;

const PRICES: &str = include_str!("prices.toml");
const FIGURES: &str = include_str!("figures.toml");

/// The price file as it is in the program.
pub(crate) const fn prices_text() -> &'static str {
    PRICES
}

/// The file of figures as it is in the program.
pub(crate) const fn figures_text() -> &'static str {
    FIGURES
}

/// What a unit costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Price {
    /// Its name in the file.
    #[serde(default)]
    pub(crate) name: String,
    /// Dollars a unit.
    pub(crate) dollars: f64,
    /// The unit, in words.
    pub(crate) per: String,
    /// AWS's public page.
    pub(crate) page: String,
    /// Day of the record that confirms it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) read: Option<String>,
    /// What to know of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    /// Cheaper dollars beyond so many units a month, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tiers: Vec<Tier>,
}

/// From how many units a month on, what a unit costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tier {
    above: f64,
    dollars: f64,
}

impl Price {
    /// Dollars of `units` in a month: each unit at the price of its tier.
    pub(crate) fn of(&self, units: f64) -> f64 {
        let ends = self.tiers.iter().map(|tier| tier.above).chain([f64::INFINITY]);
        let starts = [Tier { above: 0.0, dollars: self.dollars }].into_iter().chain(self.tiers.iter().copied());
        starts.zip(ends).map(|(tier, end)| (units.min(end) - tier.above).max(0.0) * tier.dollars).sum()
    }

    /// As a factor at the end of a formula.
    pub(crate) fn factor(&self) -> String {
        let tiers = if self.tiers.is_empty() { "" } else { ", cheaper in tiers" };
        format!("${}{tiers}", words::price(self.dollars))
    }
}

/// A kind of machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) vcpus: u64,
    pub(crate) memory_gb: u64,
    pub(crate) dollars: f64,
    pub(crate) per: String,
    pub(crate) page: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) read: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

impl Instance {
    /// What an hour costs.
    pub(crate) fn price(&self) -> Price {
        let Self { name, dollars, per, page, read, note, .. } = self.clone();
        Price { name, dollars, per, page, read, note, tiers: Vec::new() }
    }
}

/// A quota of an account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Quota {
    pub(crate) value: f64,
    pub(crate) unit: String,
    pub(crate) page: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) read: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

/// A figure of our own code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    pub(crate) unit: String,
    pub(crate) source: String,
    /// Whether no measurement stands behind it.
    #[serde(default)]
    pub(crate) assumed: bool,
}

/// A struct whose every field is of one type, and the list of its fields.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident of $of:ident { $($field:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name { $(pub(crate) $field: $of),+ }

        impl $name {
            /// All of them, by name.
            pub(crate) fn all(&self) -> Vec<(&'static str, &$of)> {
                vec![$((stringify!($field), &self.$field)),+]
            }
        }
    };
}

table!(
    /// Prices by name.
    PriceTable of Price {
        kinesis_shard_hour, kinesis_put_unit_million, kinesis_retention_shard_hour, kinesis_long_retention_gb_month,
        kinesis_on_demand_hour, kinesis_on_demand_in_gb, kinesis_on_demand_out_gb,
        kinesis_on_demand_retention_gb_month, kinesis_advantage_in_gb, kinesis_advantage_out_gb, firehose_gb, firehose_parquet_gb,
        lambda_arm_gb_second, lambda_x86_gb_second, lambda_request_million, lambda_storage_gb_second, fargate_vcpu_hour,
        fargate_gb_hour, ebs_gb_month, dynamodb_write_million, dynamodb_read_million, dynamodb_wcu_hour,
        dynamodb_rcu_hour, dynamodb_gb_month, dynamodb_pitr_gb_month, s3_gb_month, s3_put_thousand, s3_get_thousand,
        glue_dpu_hour, glue_6_dpu_hour, s3_vectors_gb_month, s3_vectors_put_gb, s3_vectors_query_million,
        s3_vectors_processed_tb, s3_vectors_processed_more_tb, aurora_acu_hour, aurora_gb_month, logs_gb, metric_month,
        alarm_month, dashboard_month, kms_key_month, personalize_gb, personalize_training_thousand,
        personalize_list_thousand, personalize_old_list_thousand,
    }
);

table!(
    /// Quotas by name.
    QuotaTable of Quota {
        kinesis_shards, kinesis_on_demand_bytes_per_second, lambda_concurrency, dynamodb_table_units, firehose_bytes_per_second,
        firehose_requests_per_second, glue_dpus, s3_puts_per_second, s3_vectors_puts_per_second,
        s3_vectors_queries_per_second, personalize_lists_per_second, personalize_events_per_second, personalize_items,
        personalize_interactions,
    }
);

table!(
    /// Figures by name.
    Figures of Figure {
        fold_in_gflops, neighbour_ns, item_ns, scan_gflops, scan_kept, worker_event_us, worker_entry_us,
        function_event_us, function_entry_us, call_us, invocation_us, dynamodb_ms, firehose_ms, s3_ms, function_mib,
        runtime_mib, worker_mib, worker_shard_mib, compressed, emf_bytes, metrics, alarms, kms_keys, etl_us,
        train_gflops, spark_share, glue_start_s, shard_fill, cpu_fill, provisioned_fill,
    }
);

/// A region's prices and quotas of one day.
#[allow(clippy::struct_field_names)] // the fields are the file's sections
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prices {
    pub(crate) date: String,
    pub(crate) region: String,
    pub(crate) prices: PriceTable,
    pub(crate) instances: Vec<Instance>,
    pub(crate) quotas: QuotaTable,
}

impl Prices {
    /// The program's own, with what `overlay` says in their place. The error names what is wrong.
    pub(crate) fn load(overlay: Option<&str>) -> Result<Self, String> {
        let mut tree = merged(PRICES, overlay)?;
        if let Some(toml::Value::Table(prices)) = tree.get_mut("prices") {
            for (name, price) in prices {
                if let toml::Value::Table(price) = price {
                    price.insert("name".to_owned(), toml::Value::String(name.replace('_', " ")));
                }
            }
        }
        let found: Self = toml::Value::Table(tree).try_into().map_err(|error| format!("{error}"))?;
        found.check()?;
        Ok(found)
    }

    fn check(&self) -> Result<(), String> {
        for (name, price) in self.prices.all() {
            let starts = [0.0].into_iter().chain(price.tiers.iter().map(|tier| tier.above));
            let is_rising = starts.clone().zip(starts.skip(1)).all(|(before, next)| before < next);
            let dollars = [price.dollars].into_iter().chain(price.tiers.iter().map(|tier| tier.dollars));
            if !is_rising || !dollars.into_iter().all(is_amount) {
                return Err(format!("prices.{name}: dollars are 0 or more, and tiers begin above 0 and ascend"));
            }
        }
        for (name, quota) in self.quotas.all() {
            if !(is_amount(quota.value) && quota.value > 0.0) {
                return Err(format!("quotas.{name}: {} is no quota", quota.value));
            }
        }
        let is_machine = |machine: &Instance| is_amount(machine.dollars) && machine.vcpus > 0 && machine.memory_gb > 0;
        match self.instances.iter().find(|machine| !is_machine(machine)) {
            Some(machine) => Err(format!("instances: {} has no processor, no memory or no price", machine.name)),
            None if self.instances.is_empty() => Err("instances: name one at least".to_owned()),
            None => Ok(()),
        }
    }
}

impl Figures {
    /// The program's own, with what `overlay` says in their place. The error names what is wrong.
    pub(crate) fn load(overlay: Option<&str>) -> Result<Self, String> {
        let found: Self =
            toml::Value::Table(merged(FIGURES, overlay)?).try_into().map_err(|error| format!("{error}"))?;
        let zero = |name: &str| name.ends_with("_ms") || name.ends_with("_us") || name.ends_with("_ns");
        for (name, figure) in found.all() {
            let is_share = name.ends_with("_fill") || ["scan_kept", "compressed", "spark_share"].contains(&name);
            let is_fine = is_amount(figure.value)
                && (figure.value > 0.0 || zero(name))
                && (!is_share || figure.value <= 1.0)
                && figure.value < 1e12;
            if !is_fine {
                let range = if is_share { "above 0 and at most 1" } else { "a number above 0" };
                return Err(format!("{name}: {} is not {range}", figure.value));
            }
        }
        Ok(found)
    }

    /// Names of those that nobody measured.
    pub(crate) fn assumed(&self) -> Vec<&'static str> {
        self.all().into_iter().filter(|(_, figure)| figure.assumed).map(|(name, _)| name).collect()
    }
}

fn is_amount(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

fn merged(own: &str, overlay: Option<&str>) -> Result<toml::Table, String> {
    let mut tree: toml::Table = own.parse().map_err(|error| format!("the program's own file: {error}"))?;
    if let Some(text) = overlay {
        merge(&mut tree, text.parse().map_err(|error| format!("{error}"))?);
    }
    Ok(tree)
}

/// Puts `over` in the place of what `under` says. A price is replaced as a whole where it has dollars of its own: tiers,
/// note and date of the old one say nothing about it.
fn merge(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => {
                if new.contains_key("dollars") || new.contains_key("value") {
                    let had_source = old.contains_key("source");
                    old.retain(|name, _| ["per", "page", "unit"].contains(&name));
                    if had_source {
                        old.insert("source".to_owned(), toml::Value::String("the file of --figures".to_owned()));
                    }
                }
                merge(old, new);
            }
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{found} is not {expected}");
    }

    #[test]
    fn what_is_in_the_program_reads() {
        let prices = Prices::load(None).unwrap();
        assert_eq!(
            (prices.region.as_str(), prices.prices.kinesis_shard_hour.name.as_str()),
            ("us-east-1", "kinesis shard hour")
        );
        assert!(prices.prices.all().iter().all(|(_, price)| price.page.starts_with("https://")));
        let figures = Figures::load(None).unwrap();
        assert!(figures.assumed().contains(&"call_us"));
        assert!(!figures.assumed().contains(&"etl_us"));
    }

    /// 600,000 GB through Firehose: 512,000 × $0.029 + 88,000 × $0.025 = 14,848 + 2,200.
    #[test]
    fn each_unit_costs_what_its_tier_says() {
        let price = Prices::load(None).unwrap().prices.firehose_gb;
        close(price.of(600_000.0), 17_048.0);
        close(price.of(512_000.0), 14_848.0);
        close(price.of(0.0), 0.0);
        // 3,048,000 GB: 512,000 × 0.029 + 1,536,000 × 0.025 + 1,000,000 × 0.020.
        close(price.of(3_048_000.0), 14_848.0 + 38_400.0 + 20_000.0);
    }

    #[test]
    fn a_file_replaces_what_it_names() {
        let text =
            "region = \"eu-central-1\"\n[prices.firehose_gb]\ndollars = 0.033\n[quotas.kinesis_shards]\nvalue = 1000\n";
        let prices = Prices::load(Some(text)).unwrap();
        let firehose = &prices.prices.firehose_gb;
        assert_eq!(prices.region, "eu-central-1");
        close(firehose.of(600_000.0), 19_800.0);
        assert_eq!(
            (firehose.read.as_ref(), firehose.note.as_ref()),
            (None, None),
            "the old date confirms no new price"
        );
        assert!(firehose.page.contains("firehose"));
        close(prices.quotas.kinesis_shards.value, 1000.0);
        close(prices.prices.glue_dpu_hour.dollars, 0.44);
        let figures = Figures::load(Some("[call_us]\nvalue = 80\n")).unwrap();
        assert!(!figures.assumed().contains(&"call_us"));
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        for (text, part) in [
            ("[prices.kinesis_shard]\ndollars = 1\n", "kinesis_shard"),
            ("[prices.kinesis_shard_hour]\ndollars = -1\n", "prices.kinesis_shard_hour"),
            ("[prices.kinesis_shard_hour]\ndollars = nan\n", "prices.kinesis_shard_hour"),
            (
                "[prices.firehose_gb]\ndollars = 1\ntiers = [{ above = 9.0, dollars = 1 }, { above = 8.0, dollars = 1 }]\n",
                "ascend",
            ),
            ("[quotas.kinesis_shards]\nvalue = 0\n", "quotas.kinesis_shards"),
            ("instances = []\n", "instances"),
            ("date = 3\n", "date"),
            ("[", "TOML"),
        ] {
            let error = Prices::load(Some(text)).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        for (text, part) in [
            ("[shard_fill]\nvalue = 1.5\n", "shard_fill"),
            ("[scan_gflops]\nvalue = 0\n", "scan_gflops"),
            ("[call]\nvalue = 1\n", "call"),
        ] {
            let error = Figures::load(Some(text)).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Figures::load(Some("[call_us]\nvalue = 0\n")).is_ok());
    }
}
