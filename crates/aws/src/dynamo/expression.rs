//! Conditions and updates in DynamoDB's expression language. Names and values go through placeholders always: every
//! other short word is reserved there, and nothing stored can change what an expression means.

use super::api::{Condition, Update, Value};

/// What the placeholders of a request's expressions stand for: `#n0` is the first name, `:v0` the first value.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Placeholders {
    pub(super) names: Vec<&'static str>,
    pub(super) values: Vec<Value>,
}

impl Placeholders {
    /// The text of an update's changes; `None` if it changes nothing.
    pub(super) fn update(&mut self, update: &Update) -> Option<String> {
        let set: Vec<String> =
            update.set.iter().map(|(name, value)| format!("{} = {}", self.name(name), self.value(value))).collect();
        let remove: Vec<String> = update.remove.iter().map(|name| self.name(name)).collect();
        let clause = |keyword: &str, parts: &[String]| {
            if parts.is_empty() { String::new() } else { format!("{keyword} {}", parts.join(", ")) }
        };
        let text = format!("{} {}", clause("SET", &set), clause("REMOVE", &remove));
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// The text of a condition; `None` if it always holds, as no part inside does: [`Condition::and`] and
    /// [`Condition::or`] see to that.
    pub(super) fn condition(&mut self, condition: &Condition) -> Option<String> {
        Some(match condition {
            Condition::Always => return None,
            Condition::Absent(name) => format!("attribute_not_exists({})", self.name(name)),
            Condition::Present(name) => format!("attribute_exists({})", self.name(name)),
            Condition::Equals(name, value) => format!("{} = {}", self.name(name), self.value(value)),
            Condition::Below(name, value) => format!("{} < {}", self.name(name), self.value(value)),
            Condition::And(both) => match (self.condition(&both.0), self.condition(&both.1)) {
                (Some(left), Some(right)) => format!("({left} AND {right})"),
                (left, right) => return left.or(right),
            },
            Condition::Or(either) => format!("({} OR {})", self.condition(&either.0)?, self.condition(&either.1)?),
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
                Condition::Present("h")
                    .and(Condition::Always)
                    .and(Condition::Equals("h", number.clone()).or(Condition::Equals("h", number))),
                "(attribute_exists(#n0) AND (#n0 = :v0 OR #n0 = :v1))",
                1,
                2,
            ),
        ];
        for (condition, text, names, values) in table {
            let mut placeholders = Placeholders::default();
            assert_eq!(placeholders.condition(&condition).unwrap(), text);
            assert_eq!((placeholders.names.len(), placeholders.values.len()), (names, values), "{text}");
        }
    }

    #[test]
    fn a_condition_that_always_holds_is_no_expression() {
        let always = Condition::Always;
        for condition in [always.clone(), always.clone().and(Condition::Always), Condition::Absent("k").or(always)] {
            let mut placeholders = Placeholders::default();
            assert_eq!(placeholders.condition(&condition), None);
            assert_eq!(placeholders, Placeholders::default(), "DynamoDB refuses placeholders that nothing uses");
        }
    }

    #[test]
    fn updates_share_their_placeholders_with_the_condition() {
        let update = Update {
            key: Value::S("shard".to_owned()),
            set: vec![("leaseOwner", Value::S("me".to_owned())), ("leaseCounter", Value::number(2))],
            remove: vec!["checkpointSubSequenceNumber", "x"],
            condition: Condition::Equals("leaseCounter", Value::number(1)),
        };
        let mut placeholders = Placeholders::default();
        assert_eq!(placeholders.update(&update).unwrap(), "SET #n0 = :v0, #n1 = :v1 REMOVE #n2, #n3");
        assert_eq!(placeholders.condition(&update.condition).unwrap(), "#n1 = :v2");
        assert_eq!(placeholders.values[2], Value::number(1));
        let removal = Update { set: vec![], ..update.clone() };
        assert_eq!(Placeholders::default().update(&removal).unwrap(), "REMOVE #n0, #n1");
        let nothing = Update { set: vec![], remove: vec![], ..update };
        assert_eq!(Placeholders::default().update(&nothing), None);
    }
}
