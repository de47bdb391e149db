//! Filters in the service's language.
//!
//! The translation is a necessary condition, not always the whole one: whatever satisfies the filter satisfies it, and
//! each candidate is checked with [`Filter::matches`] afterwards. Only what the user guide's page "Metadata filtering"
//! defines is relied on: `$eq` (with a list: any element), `$gte` and `$lte` on a number, `$exists`, `$and`, `$or`. It
//! does not say what `$ne` and `$nin` do where the field is missing or a list, so a negated condition is left out.

use serde_json::{Value, json};

use super::record::{LOOSE_ALL, LOOSE_KEY, may_be_copied};
use crate::vectors::Filter;
use crate::vectors::filter::Scalar;

/// Most comparisons sent; what goes beyond is left out of the condition and checked here.
const COMPARISONS_MAX: usize = 64;

/// What has to hold of whatever satisfies a filter.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    /// Nothing satisfies the filter.
    Never,
    /// Nothing is known that had to hold.
    Any,
    /// This, in the service's language.
    Ask(Value),
}

/// The necessary condition of `filter`, which was checked.
pub(super) fn necessary(filter: &Filter) -> Condition {
    let mut room = COMPARISONS_MAX;
    condition(filter, false, &mut room)
}

fn condition(filter: &Filter, negated: bool, room: &mut usize) -> Condition {
    match filter {
        Filter::Not(filter) => condition(filter, !negated, room),
        // De Morgan: not all is some not, not any is all not.
        Filter::And(filters) if negated => any_of(filters.iter().map(|filter| condition(filter, true, room))),
        Filter::Or(filters) if negated => all_of(filters.iter().map(|filter| condition(filter, true, room))),
        Filter::And(filters) => all_of(filters.iter().map(|filter| condition(filter, false, room))),
        Filter::Or(filters) => any_of(filters.iter().map(|filter| condition(filter, false, room))),
        Filter::In { values, .. } if values.is_empty() => {
            if negated {
                Condition::Any
            } else {
                Condition::Never
            }
        }
        Filter::Eq { .. } | Filter::In { .. } | Filter::Range { .. } if negated => Condition::Any,
        Filter::Eq { field, value } => {
            on_field(field, std::slice::from_ref(value).iter().filter_map(equals).collect(), room)
        }
        Filter::In { field, values } => on_field(field, values.iter().filter_map(equals).collect(), room),
        Filter::Range { field, min, max } => on_field(field, vec![within(*min, *max)], room),
    }
}

/// Some of the comparisons holds of the field, or the record's filterable copy does not decide that.
fn on_field(field: &str, comparisons: Vec<Value>, room: &mut usize) -> Condition {
    let needed = comparisons.len() + 2;
    let Some(left) = room.checked_sub(needed) else { return Condition::Any };
    *room = left;
    let mut choices: Vec<Value> = Vec::with_capacity(needed);
    if may_be_copied(field) {
        choices.extend(comparisons.into_iter().map(|comparison| json!({ field: comparison })));
    }
    // A name that would not be kept short in the list is covered by the star as well.
    choices.extend([field, LOOSE_ALL].map(|name| json!({ LOOSE_KEY: { "$eq": name } })));
    Condition::Ask(json!({ "$or": choices }))
}

/// `None` for an infinite number, which no stored number equals.
fn equals(value: &Scalar) -> Option<Value> {
    match value {
        Scalar::Bool(value) => Some(json!({ "$eq": value })),
        Scalar::Number(number) => number.is_finite().then(|| json!({ "$eq": number + 0.0 })),
        Scalar::Text(text) => Some(json!({ "$eq": text })),
    }
}

/// Infinite bounds are left out: JSON has no name for them.
fn within(min: Option<f64>, max: Option<f64>) -> Value {
    let (min, max) = (min.filter(|min| min.is_finite()), max.filter(|max| max.is_finite()));
    match (min, max) {
        (Some(min), Some(max)) => json!({ "$gte": min, "$lte": max }),
        (Some(min), None) => json!({ "$gte": min }),
        (None, Some(max)) => json!({ "$lte": max }),
        (None, None) => json!({ "$exists": true }),
    }
}

fn all_of(conditions: impl Iterator<Item = Condition>) -> Condition {
    let mut asked = Vec::new();
    for condition in conditions {
        match condition {
            Condition::Never => return Condition::Never,
            Condition::Any => {}
            Condition::Ask(value) => asked.push(value),
        }
    }
    joined("$and", asked).map_or(Condition::Any, Condition::Ask)
}

fn any_of(conditions: impl Iterator<Item = Condition>) -> Condition {
    let mut asked = Vec::new();
    for condition in conditions {
        match condition {
            Condition::Never => {}
            Condition::Any => return Condition::Any,
            Condition::Ask(value) => asked.push(value),
        }
    }
    joined("$or", asked).map_or(Condition::Never, Condition::Ask)
}

/// The service refuses empty lists; one condition needs none.
fn joined(operator: &str, mut asked: Vec<Value>) -> Option<Value> {
    if asked.len() > 1 { Some(json!({ operator: asked })) } else { asked.pop() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::vectors::s3::record::{NON_FILTERABLE, to_stored};
    use crate::vectors::s3::testing::holds;
    use crate::vectors::testing::record;
    use crate::vectors::{Metadata, VectorRecord};
    use proptest::prelude::*;

    fn text(field: &str, value: &str) -> Filter {
        Filter::Eq { field: field.to_owned(), value: Scalar::Text(value.to_owned()) }
    }

    #[test]
    fn conditions_read_as_in_the_guide() {
        let asked = necessary(&Filter::And(vec![
            text("genre", "drama"),
            Filter::Range { field: "year".to_owned(), min: Some(2020.0), max: Some(f64::INFINITY) },
            Filter::Not(Box::new(text("genre", "opera"))),
        ]));
        let expected = json!({"$and": [
            {"$or": [{"genre": {"$eq": "drama"}}, {"ab-loose": {"$eq": "genre"}}, {"ab-loose": {"$eq": "*"}}]},
            {"$or": [{"year": {"$gte": 2020.0}}, {"ab-loose": {"$eq": "year"}}, {"ab-loose": {"$eq": "*"}}]},
        ]});
        assert_eq!(asked, Condition::Ask(expected));
        assert_eq!(necessary(&Filter::And(vec![])), Condition::Any);
        assert_eq!(necessary(&Filter::Or(vec![])), Condition::Never);
        assert_eq!(necessary(&Filter::Not(Box::new(Filter::And(vec![])))), Condition::Never);
        let many = Filter::In { field: "genre".to_owned(), values: vec![Scalar::Bool(true); 1000] };
        assert_eq!(necessary(&many), Condition::Any);
    }

    fn scalar() -> impl Strategy<Value = Scalar> {
        prop_oneof![
            any::<bool>().prop_map(Scalar::Bool),
            prop_oneof![(-2i32..3).prop_map(f64::from), Just(0.5), Just(-0.0), Just(f64::INFINITY)]
                .prop_map(Scalar::Number),
            prop_oneof![Just("x"), Just("y"), Just("true"), Just("1"), Just("*")]
                .prop_map(|text| Scalar::Text(text.to_owned())),
        ]
    }

    fn field() -> impl Strategy<Value = String> {
        prop_oneof![Just("a"), Just("b"), Just("c d"), Just("ab-loose"), Just("*")].prop_map(str::to_owned)
    }

    fn value() -> impl Strategy<Value = Value> {
        let plain = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2i32..3).prop_map(Value::from),
            Just(json!(0.5)),
            Just(json!({"deep": 1})),
            prop_oneof![Just("x"), Just("y"), Just("true"), Just("1"), Just("*")].prop_map(Value::from),
            (1900usize..2000).prop_map(|len| Value::from("x".repeat(len))),
        ];
        prop_oneof![3 => plain.clone(), 1 => prop::collection::vec(plain, 0..4).prop_map(Value::from)]
    }

    fn filter() -> impl Strategy<Value = Filter> {
        let bound = || prop::option::of((-2i32..3).prop_map(f64::from));
        let leaf = prop_oneof![
            (field(), scalar()).prop_map(|(field, value)| Filter::Eq { field, value }),
            (field(), prop::collection::vec(scalar(), 0..4)).prop_map(|(field, values)| Filter::In { field, values }),
            (field(), bound(), bound()).prop_map(|(field, min, max)| Filter::Range { field, min, max }),
        ];
        leaf.prop_recursive(4, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Filter::And),
                prop::collection::vec(inner.clone(), 0..4).prop_map(Filter::Or),
                inner.prop_map(|filter| Filter::Not(Box::new(filter))),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// `holds` reads the service's language in its strictest sense: what the guide does not define is false.
        #[test]
        fn whatever_satisfies_the_filter_satisfies_the_condition(
            filter in filter(),
            metadata in prop::collection::btree_map(field(), value(), 0..4),
        ) {
            let metadata: Metadata = metadata.into_iter().collect();
            let matches = filter.matches(&metadata);
            let (stored, _) = to_stored(&VectorRecord { metadata, ..record("a", &[1.0], json!({})) }).unwrap();
            let found = match necessary(&filter) {
                Condition::Never => false,
                Condition::Any => true,
                Condition::Ask(asked) => holds(&asked, &stored, &NON_FILTERABLE).unwrap(),
            };
            prop_assert!(found || !matches, "{filter:?} misses {stored:?}");
        }

        /// Where every field has a faithful copy and nothing is negated, the condition is the filter.
        #[test]
        fn plain_fields_are_decided_by_the_service(value in prop_oneof![Just(json!("x")), Just(json!(1)), Just(json!(true)), Just(json!(["x", "y"]))], asked in scalar()) {
            let filter = Filter::Eq { field: "a".to_owned(), value: asked };
            let given = record("a", &[1.0], json!({ "a": value }));
            let (stored, _) = to_stored(&given).unwrap();
            let Condition::Ask(condition) = necessary(&filter) else { panic!("a comparison is asked") };
            prop_assert_eq!(holds(&condition, &stored, &NON_FILTERABLE).unwrap(), filter.matches(&given.metadata));
        }
    }
}
