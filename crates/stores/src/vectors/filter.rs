//! Conditions on metadata.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Metadata, VectorError};

/// Most conditions in one filter, nested ones included.
const CONDITIONS_MAX: usize = 1000;

/// A value that a field can be compared with. Numbers compare as f64 (integers past 2⁵³ lose
/// their last digits), so 1 equals 1.0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text, compared byte for byte.
    Text(String),
}

impl Scalar {
    /// The scalar in a JSON value; `None` for null, arrays and objects, which no condition matches.
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(Self::Bool(*value)),
            // −0 becomes 0, so that equal numbers have equal keys.
            Value::Number(value) => value.as_f64().map(|value| Self::Number(value + 0.0)),
            Value::String(value) => Some(Self::Text(value.clone())),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// All scalars of a field: its own, or those of its elements if it is an array.
    pub(super) fn all_of(value: &Value) -> Vec<Self> {
        match value {
            Value::Array(values) => values.iter().filter_map(Self::of).collect(),
            other => Self::of(other).into_iter().collect(),
        }
    }
}

/// A condition on a record's metadata. A field that is an array satisfies a condition if any of its
/// elements does; a missing field satisfies none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The field equals the value.
    Eq {
        /// Name of a top-level field.
        field: String,
        /// The value.
        value: Scalar,
    },
    /// The field equals one of the values.
    In {
        /// Name of a top-level field.
        field: String,
        /// The values; none of them matches nothing.
        values: Vec<Scalar>,
    },
    /// The field is a number from `min` to `max`, both included; a missing bound is open.
    Range {
        /// Name of a top-level field.
        field: String,
        /// Smallest number.
        #[serde(default)]
        min: Option<f64>,
        /// Largest number.
        #[serde(default)]
        max: Option<f64>,
    },
    /// All conditions hold (an empty list holds).
    And(Vec<Filter>),
    /// Some condition holds (an empty list does not).
    Or(Vec<Filter>),
    /// The condition does not hold.
    Not(Box<Filter>),
}

impl Filter {
    /// Whether `metadata` satisfies the filter: the plain definition, which indexes are tested
    /// against.
    pub fn matches(&self, metadata: &Metadata) -> bool {
        let scalars = |field: &String| metadata.get(field).map(Scalar::all_of).unwrap_or_default();
        match self {
            Self::Eq { field, value } => scalars(field).contains(value),
            Self::In { field, values } => scalars(field).iter().any(|found| values.contains(found)),
            Self::Range { field, min, max } => scalars(field).iter().any(|found| match found {
                Scalar::Number(number) => min.is_none_or(|min| *number >= min) && max.is_none_or(|max| *number <= max),
                Scalar::Bool(_) | Scalar::Text(_) => false,
            }),
            Self::And(filters) => filters.iter().all(|filter| filter.matches(metadata)),
            Self::Or(filters) => filters.iter().any(|filter| filter.matches(metadata)),
            Self::Not(filter) => !filter.matches(metadata),
        }
    }

    /// Refuses NaN, which has no order, and filters without measure.
    pub(super) fn check(&self) -> Result<(), VectorError> {
        let mut pending = vec![self];
        let mut condition_count = 0;
        let refuse = |reason: String| Err(VectorError::BadSearch { reason });
        while let Some(filter) = pending.pop() {
            let (numbers, weight): (Vec<f64>, usize) = match filter {
                Self::Eq { value: Scalar::Number(number), .. } => (vec![*number], 1),
                Self::Eq { .. } => (vec![], 1),
                Self::In { values, .. } => {
                    let number = |value: &Scalar| match value {
                        Scalar::Number(number) => Some(*number),
                        _ => None,
                    };
                    (values.iter().filter_map(number).collect(), values.len().max(1))
                }
                Self::Range { min, max, .. } => (min.iter().chain(max).copied().collect(), 1),
                Self::And(filters) | Self::Or(filters) => {
                    pending.extend(filters);
                    (vec![], 1)
                }
                Self::Not(filter) => {
                    pending.push(filter);
                    (vec![], 1)
                }
            };
            if numbers.iter().any(|number| number.is_nan()) {
                return refuse("the filter compares with NaN, which equals nothing".to_owned());
            }
            condition_count += weight;
            if condition_count > CONDITIONS_MAX {
                return refuse(format!("the filter has more than {CONDITIONS_MAX} conditions and values"));
            }
        }
        Ok(())
    }
}
