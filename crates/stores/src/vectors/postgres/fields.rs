//! Metadata as it is filtered, and filters as SQL on it.
//!
//! The column `fields` holds a record's top-level fields as arrays of the scalars that a condition can match, numbers
//! as f64: `{"genre": ["drama", "comedy"], "price": [2.5]}`. Containment (`@>`) on it is then exactly the port's `Eq`: of
//! any element, strict in types, texts byte for byte. Numbers are written in the shortest form that gives the f64 back,
//! which keeps their order and equality as decimals. jsonb has no U+0000, so it is written as U+0001 U+0002, and
//! U+0001 as itself twice; the column `metadata` keeps the exact text.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Map, Number, Value, json};

use super::session::Param;
use crate::vectors::{Filter, Metadata, Scalar};

/// The text of `fields` for a record's metadata.
pub(super) fn fields_text(metadata: &Metadata) -> String {
    let mut fields = Map::new();
    for (name, value) in metadata {
        let mut seen = BTreeSet::new();
        let mut scalars: Vec<Value> = Scalar::all_of(value).iter().filter_map(value_of).collect();
        scalars.retain(|scalar| seen.insert(scalar.to_string()));
        if !scalars.is_empty() {
            fields.insert(without_nul(name).into_owned(), Value::Array(scalars));
        }
    }
    Value::Object(fields).to_string()
}

/// A condition on the column `fields` that is never NULL; its values are added to `params`.
pub(super) fn condition(filter: &Filter, params: &mut Vec<Param>) -> String {
    match filter {
        Filter::Eq { field, value } => equals(field, value, params),
        Filter::In { field, values } => {
            any(&values.iter().map(|value| equals(field, value, params)).collect::<Vec<_>>())
        }
        Filter::Range { field, min, max } => in_range(field, *min, *max, params),
        Filter::And(filters) => all(&filters.iter().map(|filter| condition(filter, params)).collect::<Vec<_>>()),
        Filter::Or(filters) => any(&filters.iter().map(|filter| condition(filter, params)).collect::<Vec<_>>()),
        Filter::Not(filter) => format!("(NOT {})", condition(filter, params)),
    }
}

fn any(conditions: &[String]) -> String {
    if conditions.is_empty() { "false".to_owned() } else { format!("({})", conditions.join(" OR ")) }
}

fn all(conditions: &[String]) -> String {
    if conditions.is_empty() { "true".to_owned() } else { format!("({})", conditions.join(" AND ")) }
}

fn equals(field: &str, value: &Scalar, params: &mut Vec<Param>) -> String {
    // No metadata holds an infinite number.
    let Some(value) = value_of(value) else { return "false".to_owned() };
    let wanted = Value::Object(Map::from_iter([(without_nul(field).into_owned(), Value::Array(vec![value]))]));
    format!("(fields @> {}::jsonb)", add(params, Param::Text(wanted.to_string())))
}

fn in_range(field: &str, min: Option<f64>, max: Option<f64>, params: &mut Vec<Param>) -> String {
    if min == Some(f64::INFINITY) || max == Some(f64::NEG_INFINITY) {
        return "false".to_owned();
    }
    let min = min.filter(|bound| bound.is_finite());
    let max = max.filter(|bound| bound.is_finite());
    // A comparison between types is unknown in a path, which is no match.
    let path = match (min, max) {
        (Some(_), Some(_)) => "$[*] ? (@ >= $min && @ <= $max)",
        (Some(_), None) => "$[*] ? (@ >= $min)",
        (None, Some(_)) => "$[*] ? (@ <= $max)",
        (None, None) => "$[*] ? (@.type() == \"number\")",
    };
    let bounds = json!({"min": min, "max": max});
    let field = add(params, Param::Text(without_nul(field).into_owned()));
    let bounds = add(params, Param::Text(bounds.to_string()));
    format!("coalesce(jsonb_path_exists(fields -> {field}, '{path}', {bounds}::jsonb), false)")
}

fn add(params: &mut Vec<Param>, param: Param) -> String {
    params.push(param);
    format!("${}", params.len())
}

fn value_of(scalar: &Scalar) -> Option<Value> {
    match scalar {
        Scalar::Bool(value) => Some(Value::Bool(*value)),
        // −0 becomes 0, as in `Scalar::of`.
        Scalar::Number(value) => Number::from_f64(value + 0.0).map(Value::Number),
        Scalar::Text(value) => Some(Value::String(without_nul(value).into_owned())),
    }
}

fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains(['\0', '\u{1}']) {
        Cow::Owned(text.replace('\u{1}', "\u{1}\u{1}").replace('\0', "\u{1}\u{2}"))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(metadata: Value) -> String {
        let Value::Object(metadata) = metadata else { panic!("metadata is an object") };
        fields_text(&metadata)
    }

    #[test]
    fn only_what_can_match_is_kept() {
        assert_eq!(
            fields(json!({"a": 1, "b": [true, null, "x", {"y": 1}, [2], "x"], "c": null, "d": [], "e": {"f": 1}})),
            r#"{"a":[1.0],"b":[true,"x"]}"#
        );
        assert_eq!(fields(json!({"n": [-0.0, 0, 1e300, u64::MAX]})), r#"{"n":[0.0,1e+300,1.8446744073709552e+19]}"#);
        assert_eq!(fields(json!({"\0": "\u{1}\0"})), "{\"\\u0001\\u0002\":[\"\\u0001\\u0001\\u0001\\u0002\"]}");
    }

    #[test]
    fn conditions_are_never_null_and_hold_no_value() {
        let mut params = vec![Param::Float(0.0)];
        let filter = Filter::Not(Box::new(Filter::Or(vec![
            Filter::Eq { field: "a'b".into(), value: Scalar::Text("'); DROP".into()) },
            Filter::Range { field: "\"x".into(), min: Some(1.0), max: None },
            Filter::Eq { field: "y".into(), value: Scalar::Number(f64::INFINITY) },
            Filter::And(vec![]),
        ])));
        let sql = condition(&filter, &mut params);
        assert_eq!(
            sql,
            "(NOT ((fields @> $2::jsonb) OR coalesce(jsonb_path_exists(fields -> $3, '$[*] ? (@ >= $min)', $4::jsonb), false) OR false OR true))"
        );
        assert_eq!(params.len(), 4);
    }
}
