//! Random metadata and filters, over few names and values so that they meet, with the awkward ones among them.

use anabranch_stores::vectors::{Filter, Metadata, Scalar};
use proptest::prelude::*;
use serde_json::{Value, json};

fn field() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "nul\0", "nul\u{1}\u{2}", "$\"'", ""]).prop_map(str::to_owned)
}

fn text() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "x", "X", "é", "e\u{301}", "1", "true", "\0", "\u{1}\u{2}", "\u{1}", "a\"b\\"])
        .prop_map(str::to_owned)
}

fn number() -> impl Strategy<Value = f64> {
    let awkward =
        vec![0.0, -0.0, 1.0, 2.5, -3.0, 1e300, -1e300, 5e-324, 9_007_199_254_740_993.0, 1.8e19, 0.1, 0.1 + 0.2];
    prop_oneof![prop::sample::select(awkward), -3.0..3.0]
}

fn scalar() -> impl Strategy<Value = Scalar> {
    let bound = prop_oneof![9 => number(), 1 => prop::sample::select(vec![f64::INFINITY, f64::NEG_INFINITY])];
    prop_oneof![any::<bool>().prop_map(Scalar::Bool), bound.prop_map(Scalar::Number), text().prop_map(Scalar::Text)]
}

fn value() -> impl Strategy<Value = Value> {
    let plain = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number().prop_map(Value::from),
        prop::sample::select(vec![
            json!(0),
            json!(1),
            json!(u64::MAX),
            json!(9_007_199_254_740_993_u64),
            json!(i64::MIN)
        ]),
        text().prop_map(Value::from),
        Just(json!({"a": 1})),
    ];
    let nested = prop_oneof![4 => plain.clone(), 1 => prop::collection::vec(plain, 0..3).prop_map(Value::from)];
    prop_oneof![3 => nested.clone(), 1 => prop::collection::vec(nested, 0..4).prop_map(Value::from)]
}

/// Metadata of the records of one collection.
pub(crate) fn records() -> impl Strategy<Value = Vec<Metadata>> {
    let fields = prop::collection::vec((field(), value()), 0..5).prop_map(Metadata::from_iter);
    prop::collection::vec(fields, 1..30)
}

fn filter() -> impl Strategy<Value = Filter> {
    let bound = || prop::option::of(prop_oneof![9 => number(), 1 => Just(f64::INFINITY), 1 => Just(f64::NEG_INFINITY)]);
    let leaf = prop_oneof![
        (field(), scalar()).prop_map(|(field, value)| Filter::Eq { field, value }),
        (field(), prop::collection::vec(scalar(), 0..4)).prop_map(|(field, values)| Filter::In { field, values }),
        (field(), bound(), bound()).prop_map(|(field, min, max)| Filter::Range { field, min, max }),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::And),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Filter::Or),
            inner.prop_map(|inner| Filter::Not(Box::new(inner))),
        ]
    })
}

/// Filters to try on them.
pub(crate) fn many() -> impl Strategy<Value = Vec<Filter>> {
    prop::collection::vec(filter(), 25)
}
