//! Metrics as log lines: CloudWatch's embedded metric format. Lambda's standard output becomes metrics, without a call.
//!
//! [`lines`] is a pure function; printing is the caller's. Limits of the format (specification of the embedded metric
//! format, and `PutMetricData`): 100 metrics a line, 100 values a metric, 30 dimensions, so more metrics or values make
//! more lines. Values that are not finite are left out, since CloudWatch would refuse the line; a metric left without
//! values too. Each set of dimension values is a metric of its own that costs money: never a user, item or event id.

use serde_json::{Map, Value, json};

/// Metrics in one line.
pub const METRICS_MAX: usize = 100;
/// Values of one metric in one line.
pub const VALUES_MAX: usize = 100;
/// Dimensions in one set.
pub const DIMENSIONS_MAX: usize = 30;
/// Characters of a name of namespace, dimension or metric.
pub const NAME_CHARS_MAX: usize = 255;

/// A metric's unit, in CloudWatch's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
    /// Hundredths.
    Percent,
    /// None of CloudWatch's.
    None,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::Count => "Count",
            Self::Milliseconds => "Milliseconds",
            Self::Seconds => "Seconds",
            Self::Bytes => "Bytes",
            Self::Percent => "Percent",
            Self::None => "None",
        }
    }
}

/// Values of one metric since the last line.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its unit.
    pub unit: Unit,
    /// What was measured.
    pub values: &'a [f64],
}

/// Metrics that CloudWatch would not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmfError {
    /// A name is empty, too long, or taken by the format or by another metric or dimension.
    #[error("{0:?} cannot name a metric, a dimension or a namespace here: 1 to {NAME_CHARS_MAX} characters, used once")]
    Name(String),
    /// Too many dimensions.
    #[error("{0} dimensions; CloudWatch takes {DIMENSIONS_MAX}")]
    Dimensions(usize),
    /// A dimension without a value: CloudWatch drops the metric.
    #[error("dimension {0:?} has no value")]
    DimensionValue(String),
}

/// The lines, without line ends, for metrics measured at `now_ms` (milliseconds since 1970).
pub fn lines(
    namespace: &str,
    dimensions: &[(&str, &str)],
    metrics: &[Metric<'_>],
    now_ms: i64,
) -> Result<Vec<String>, EmfError> {
    lines_with(namespace, dimensions, &[], metrics, now_ms)
}

/// The same with properties: members of each line that CloudWatch Logs finds but makes no metric of, so they may be
/// anything (a snapshot's version).
pub fn lines_with(
    namespace: &str,
    dimensions: &[(&str, &str)],
    properties: &[(&str, &str)],
    metrics: &[Metric<'_>],
    now_ms: i64,
) -> Result<Vec<String>, EmfError> {
    check(namespace, dimensions, properties, metrics)?;
    let mut rest: Vec<(&Metric<'_>, Vec<f64>)> = metrics
        .iter()
        .map(|metric| (metric, metric.values.iter().copied().filter(|value| value.is_finite()).collect()))
        .collect();
    let mut lines = Vec::new();
    loop {
        rest.retain(|(_, values)| !values.is_empty());
        if rest.is_empty() {
            return Ok(lines);
        }
        let now: Vec<(&Metric<'_>, Vec<f64>)> = rest
            .iter_mut()
            .take(METRICS_MAX)
            .map(|(metric, values)| (*metric, values.drain(..values.len().min(VALUES_MAX)).collect()))
            .collect();
        let mut root = line(namespace, dimensions, &now, now_ms);
        root.extend(properties.iter().map(|(name, value)| ((*name).to_owned(), json!(value))));
        lines.push(Value::Object(root).to_string());
    }
}

fn line(
    namespace: &str,
    dimensions: &[(&str, &str)],
    metrics: &[(&Metric<'_>, Vec<f64>)],
    now_ms: i64,
) -> Map<String, Value> {
    let definitions: Vec<Value> =
        metrics.iter().map(|(metric, _)| json!({"Name": metric.name, "Unit": metric.unit.name()})).collect();
    let names: Vec<&str> = dimensions.iter().map(|(name, _)| *name).collect();
    let directive = json!({"Namespace": namespace, "Dimensions": [names], "Metrics": definitions});
    let mut root = Map::new();
    root.insert("_aws".to_owned(), json!({"Timestamp": now_ms, "CloudWatchMetrics": [directive]}));
    for (name, value) in dimensions {
        root.insert((*name).to_owned(), json!(value));
    }
    for (metric, values) in metrics {
        let value = if let [value] = values[..] { json!(value) } else { json!(values) };
        root.insert(metric.name.to_owned(), value);
    }
    root
}

fn check(
    namespace: &str,
    dimensions: &[(&str, &str)],
    properties: &[(&str, &str)],
    metrics: &[Metric<'_>],
) -> Result<(), EmfError> {
    if dimensions.len() > DIMENSIONS_MAX {
        return Err(EmfError::Dimensions(dimensions.len()));
    }
    if let Some((name, _)) = dimensions.iter().find(|(_, value)| value.trim().is_empty()) {
        return Err(EmfError::DimensionValue((*name).to_owned()));
    }
    let mut used = std::collections::HashSet::from(["_aws"]);
    let pairs = dimensions.iter().chain(properties).map(|(name, _)| *name);
    let members = pairs.chain(metrics.iter().map(|metric| metric.name));
    for name in members {
        if !is_name(name) || !used.insert(name) {
            return Err(EmfError::Name(name.to_owned()));
        }
    }
    if is_name(namespace) { Ok(()) } else { Err(EmfError::Name(namespace.to_owned())) }
}

fn is_name(name: &str) -> bool {
    !name.trim().is_empty() && name.chars().count() <= NAME_CHARS_MAX
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    #[test]
    fn golden_line() {
        let metrics = [
            Metric { name: "EventsApplied", unit: Unit::Count, values: &[998.0] },
            Metric { name: "Latency", unit: Unit::Milliseconds, values: &[1.5, 2.0, f64::NAN, 3.25] },
            Metric { name: "Nothing", unit: Unit::None, values: &[f64::INFINITY] },
        ];
        let lines = lines("Anabranch", &[("Stream", "clicks")], &metrics, NOW_MS).unwrap();
        let golden = concat!(
            r#"{"EventsApplied":998.0,"Latency":[1.5,2.0,3.25],"Stream":"clicks","_aws":{"CloudWatchMetrics":[{"#,
            r#""Dimensions":[["Stream"]],"Metrics":[{"Name":"EventsApplied","Unit":"Count"},"#,
            r#"{"Name":"Latency","Unit":"Milliseconds"}],"Namespace":"Anabranch"}],"Timestamp":1700000000000}}"#,
        );
        assert_eq!(lines, [golden]);
    }

    #[test]
    fn limits_make_more_lines_and_lose_no_value() {
        let names: Vec<String> = (0..250).map(|number| format!("m{number}")).collect();
        let values: Vec<f64> = (0..205).map(f64::from).collect();
        let metrics: Vec<Metric<'_>> =
            names.iter().map(|name| Metric { name, unit: Unit::Count, values: &values }).collect();
        let mut found = std::collections::BTreeMap::<String, Vec<f64>>::new();
        for line in lines("Anabranch", &[], &metrics, NOW_MS).unwrap() {
            let line: Value = serde_json::from_str(&line).unwrap();
            let defined = line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap();
            assert!(defined.len() <= METRICS_MAX);
            for metric in defined {
                let name = metric["Name"].as_str().unwrap();
                let values = line[name].as_array().cloned().unwrap_or_else(|| vec![line[name].clone()]);
                assert!((1..=VALUES_MAX).contains(&values.len()));
                found.entry(name.to_owned()).or_default().extend(values.iter().map(|value| value.as_f64().unwrap()));
            }
        }
        assert_eq!(found.len(), 250);
        assert!(found.into_values().all(|found| found == values));
        assert_eq!(lines("Anabranch", &[], &[], NOW_MS), Ok(vec![]));
    }

    #[test]
    fn a_property_is_in_the_line_and_no_metric() {
        let metrics = [Metric { name: "a", unit: Unit::Count, values: &[1.0] }];
        let golden = concat!(
            r#"{"_aws":{"CloudWatchMetrics":[{"Dimensions":[[]],"Metrics":[{"Name":"a","Unit":"Count"}],"#,
            r#""Namespace":"A"}],"Timestamp":1700000000000},"a":1.0,"snapshotVersion":"0123"}"#,
        );
        assert_eq!(lines_with("A", &[], &[("snapshotVersion", "0123")], &metrics, NOW_MS).unwrap(), [golden]);
        assert!(lines_with("A", &[], &[("a", "0123")], &metrics, NOW_MS).is_err(), "a name is used once");
    }

    #[test]
    fn what_cloudwatch_refuses_is_refused_here() {
        let metric = |name| Metric { name, unit: Unit::Count, values: &[1.0] };
        let long = "n".repeat(256);
        for name in ["", " ", "_aws", "Stream", &long] {
            let error = lines("Anabranch", &[("Stream", "clicks")], &[metric(name)], NOW_MS).unwrap_err();
            assert_eq!(error, EmfError::Name(name.to_owned()));
        }
        assert!(lines("", &[], &[metric("a")], NOW_MS).is_err());
        assert!(lines("A", &[], &[metric("a"), metric("a")], NOW_MS).is_err());
        assert_eq!(lines("A", &[("d", "")], &[], NOW_MS), Err(EmfError::DimensionValue("d".to_owned())));
        let many = vec![("d", "v"); 31];
        assert_eq!(lines("A", &many, &[], NOW_MS), Err(EmfError::Dimensions(31)));
    }
}
