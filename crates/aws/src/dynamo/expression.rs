//! Conditions and updates in DynamoDB's expression language. Names and values go through placeholders always: every
//! other short word is reserved there, and nothing stored can change what an expression means.

use super::api::{Condition, Update, Value};

/// An expression's text and what its placeholders stand for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expression {
    pub(super) text: String,
    pub(super) names: Vec<&'static str>,
    pub(super) values: Vec<Value>,
}

impl Expression {
    /// The condition; `None` if it always holds.
    pub(super) fn of_condition(condition: &Condition) -> Option<Self> {
        let mut expression = Self::default();
        expression.add_condition(condition)?;
        Some(expression)
    }

    /// The changes of an update; `None` if it changes nothing.
    pub(super) fn of_update(update: &Update) -> Option<Self> {
        let mut expression = Self::default();
        for (index, (name, value)) in update.set.iter().enumerate() {
            expression.text.push_str(if index == 0 { "SET " } else { ", " });
            let (name, value) = (expression.name(name), expression.value(value));
            expression.text.push_str(&format!("{name} = {value}"));
        }
        for (index, name) in update.remove.iter().enumerate() {
            let space = if expression.text.is_empty() { "" } else { " " };
            let joint = if index == 0 { format!("{space}REMOVE ") } else { ", ".to_owned() };
            let name = expression.name(name);
            expression.text.push_str(&format!("{joint}{name}"));
        }
        (!expression.text.is_empty()).then_some(expression)
    }

    /// Joins the placeholders of a condition after those of an update, which share one request.
    pub(super) fn add_condition(&mut self, condition: &Condition) -> Option<()> {
        let text = self.spell(condition)?;
        self.text = text;
        Some(())
    }

    /// `None` for a condition that always holds. [`Condition::and`] and [`Condition::or`] leave no such part inside.
    fn spell(&mut self, condition: &Condition) -> Option<String> {
        Some(match condition {
            Condition::Always => return None,
            Condition::Absent(name) => format!("attribute_not_exists({})", self.name(name)),
            Condition::Present(name) => format!("attribute_exists({})", self.name(name)),
            Condition::Equals(name, value) => format!("{} = {}", self.name(name), self.value(value)),
            Condition::Below(name, value) => format!("{} < {}", self.name(name), self.value(value)),
            Condition::And(both) => match (self.spell(&both.0), self.spell(&both.1)) {
                (Some(left), Some(right)) => format!("({left} AND {right})"),
                (left, right) => return left.or(right),
            },
            Condition::Or(either) => format!("({} OR {})", self.spell(&either.0)?, self.spell(&either.1)?),
        })
    }

    fn name(&mut self, name: &'static str) -> String {
        let index = self.names.iter().position(|held| *held == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        format!("#n{index}")
    }

    fn value(&mut self, value: &Value) -> String {
        self.values.push(value.clone());
        format!(":v{}", self.values.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn conditions_as_dynamodb_reads_them() {
        let number = Value::number(7);
        let table = [
            (Condition::Absent("k"), "attribute_not_exists(#n0)", 1, 0),
            (Condition::Equals("v", number.clone()), "#n0 = :v0", 1, 1),
            (
                Condition::Absent("k").or(Condition::Below("order", number.clone())),
                "(attribute_not_exists(#n0) OR #n1 < :v0)",
                2,
                1,
            ),
            (
                Condition::Present("h").and(Condition::Always).and(
                    Condition::Equals("h", number.clone()).or(Condition::Equals("h", number)),
                ),
                "(attribute_exists(#n0) AND (#n0 = :v0 OR #n0 = :v1))",
                1,
                2,
            ),
        ];
        for (condition, text, names, values) in table {
            let expression = Expression::of_condition(&condition).unwrap();
            assert_eq!(expression.text, text);
            assert_eq!((expression.names.len(), expression.values.len()), (names, values), "{text}");
        }
    }

    #[test]
    fn a_condition_that_always_holds_is_no_expression() {
        let always = Condition::Always;
        assert_eq!(Expression::of_condition(&always), None);
        assert_eq!(Expression::of_condition(&always.clone().and(Condition::Always)), None);
        assert_eq!(Expression::of_condition(&Condition::Absent("k").or(always)), None);
    }

    #[test]
    fn updates_share_their_placeholders_with_the_condition() {
        let update = Update {
            key: Value::S("shard".to_owned()),
            set: vec![("leaseOwner", Value::S("me".to_owned())), ("leaseCounter", Value::number(2))],
            remove: vec!["checkpointSubSequenceNumber", "x"],
            condition: Condition::Equals("leaseCounter", Value::number(1)),
        };
        let mut expression = Expression::of_update(&update).unwrap();
        assert_eq!(expression.text, "SET #n0 = :v0, #n1 = :v1 REMOVE #n2, #n3");
        expression.add_condition(&update.condition).unwrap();
        assert_eq!(expression.text, "#n1 = :v2");
        assert_eq!(expression.values[2], Value::number(1));
        let nothing = Update { set: vec![], remove: vec![], ..update };
        assert_eq!(Expression::of_update(&nothing), None);
    }
}
