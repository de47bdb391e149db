//! A bill: lines, each with the formula that it comes from, in words and numbers.

use serde::Serialize;

use super::data::Price;

/// What AWS calls the services, as the bill groups its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    Kinesis,
    Lambda,
    Workers,
    Firehose,
    DynamoDb,
    S3,
    Glue,
    Vectors,
    CloudWatch,
    Kms,
    /// Not ours: what Amazon Personalize bills.
    Personalize,
}

impl Part {
    /// Ours, in the order of the page.
    pub(crate) const ALL: [Self; 10] = [
        Self::Kinesis,
        Self::Lambda,
        Self::Workers,
        Self::Firehose,
        Self::DynamoDb,
        Self::S3,
        Self::Glue,
        Self::Vectors,
        Self::CloudWatch,
        Self::Kms,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kinesis => "Kinesis",
            Self::Lambda => "Lambda",
            Self::Workers => "workers",
            Self::Firehose => "Firehose",
            Self::DynamoDb => "DynamoDB",
            Self::S3 => "S3",
            Self::Glue => "Glue",
            Self::Vectors => "vector database",
            Self::CloudWatch => "CloudWatch",
            Self::Kms => "KMS",
            Self::Personalize => "Personalize",
        }
    }
}

/// A line of a bill.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    /// The service.
    pub(crate) part: Part,
    /// What is paid.
    pub(crate) name: String,
    /// How many units a month.
    pub(crate) units: f64,
    /// Dollars a month.
    pub(crate) dollars: f64,
    /// The formula.
    pub(crate) formula: String,
    /// The price of the unit.
    pub(crate) price: Price,
}

/// Lines in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Bill(pub(crate) Vec<Line>);

impl Bill {
    /// Charges `units` of `price`; `words` say how many those are.
    pub(crate) fn charge(&mut self, part: Part, name: &str, price: &Price, units: f64, words: &str) {
        self.0.push(Line {
            part,
            name: name.to_owned(),
            units,
            dollars: price.of(units),
            formula: format!("= {words} × {}", price.factor()),
            price: price.clone(),
        });
    }

    /// Dollars of all lines.
    pub(crate) fn total(&self) -> f64 {
        self.0.iter().map(|line| line.dollars).sum()
    }
}
