//! Which files and columns hold what. A mapping is data that a person writes in TOML; without one, files in Amazon
//! Personalize's names are understood as they are.
//!
//! A column is looked up by its exact name first, then without regard to ASCII case. It does not decide what a cell
//! means: `anabranch_events::Event::from_fields` alone does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::BatchError;

/// Files and columns of one data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// Who did what to which item, when.
    #[serde(default)]
    pub interactions: InteractionsMapping,
    /// The catalogue, if there is one.
    #[serde(default)]
    pub items: Option<TableMapping>,
    /// Attributes of users, if there are any.
    #[serde(default)]
    pub users: Option<TableMapping>,
}

/// The interaction files and their columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InteractionsMapping {
    /// Files, folders and globs, relative to the data location; or `s3://…`.
    #[serde(default = "default_interactions")]
    pub files: Vec<String>,
    /// Event type of every row, where no column names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// Separator of CSV fields: one ASCII character; a comma, or a tab in `.tsv` files, by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// Columns, where they are not named as Personalize names them.
    #[serde(default)]
    pub columns: InteractionColumns,
}

/// Names of the interaction columns. Absent ones are looked for under Personalize's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InteractionColumns {
    /// `USER_ID`.
    pub user: Option<String>,
    /// `ITEM_ID`.
    pub item: Option<String>,
    /// `TIMESTAMP`.
    pub time: Option<String>,
    /// `EVENT_TYPE`.
    pub event_type: Option<String>,
    /// `EVENT_VALUE`.
    pub value: Option<String>,
    /// `EVENT_ID`.
    pub event_id: Option<String>,
    /// `SESSION_ID`.
    pub session: Option<String>,
}

/// The item or user files and their columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableMapping {
    /// Files, folders and globs, relative to the data location; or `s3://…`.
    pub files: Vec<String>,
    /// Separator of CSV fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// Whether columns that are not mapped are kept under their own names.
    #[serde(default = "yes")]
    pub keep_other_columns: bool,
    /// Columns.
    #[serde(default)]
    pub columns: TableColumns,
    /// Whether finding no file is fine.
    #[serde(skip)]
    pub optional: bool,
}

/// Names of an item's or user's columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TableColumns {
    /// `ITEM_ID` or `USER_ID`.
    pub id: Option<String>,
    /// Columns that make the title, joined by a space.
    pub title: Option<OneOrMany>,
    /// The category.
    pub category: Option<String>,
    /// The price.
    pub price: Option<String>,
    /// Further attributes: name = column.
    #[serde(flatten)]
    pub attributes: BTreeMap<String, String>,
}

/// One column or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several, joined by a space.
    Many(Vec<String>),
}

fn yes() -> bool {
    true
}

fn default_interactions() -> Vec<String> {
    vec!["interactions*".to_owned()]
}

impl Default for InteractionsMapping {
    fn default() -> Self {
        Self {
            files: default_interactions(),
            event_type: None,
            delimiter: None,
            columns: InteractionColumns::default(),
        }
    }
}

impl Default for Mapping {
    /// Files in Personalize's names: `interactions*`, and `items*` and `users*` if they are there.
    fn default() -> Self {
        let table = |files: &str| TableMapping {
            files: vec![files.to_owned()],
            delimiter: None,
            keep_other_columns: true,
            columns: TableColumns::default(),
            optional: true,
        };
        Self {
            interactions: InteractionsMapping::default(),
            items: Some(table("items*")),
            users: Some(table("users*")),
        }
    }
}

impl Mapping {
    /// Reads a mapping file's text.
    pub fn parse(text: &str) -> Result<Self, BatchError> {
        let mapping: Self = toml::from_str(text).map_err(|error| BatchError::Mapping { problem: error.to_string() })?;
        let delimiters = [Some(&mapping.interactions.delimiter), mapping.items.as_ref().map(|t| &t.delimiter)];
        let users = mapping.users.as_ref().map(|t| &t.delimiter);
        for delimiter in delimiters.into_iter().chain([users]).flatten().flatten() {
            if !delimiter.is_ascii() || matches!(delimiter, '"' | '\n' | '\r' | '\0') {
                return Err(BatchError::Mapping {
                    problem: format!("delimiter {delimiter:?} is not one plain ASCII character"),
                });
            }
        }
        let has_type = mapping.interactions.columns.event_type.is_some();
        if has_type && mapping.interactions.event_type.is_some() {
            return Err(BatchError::Mapping {
                problem: "[interactions] event_type and [interactions.columns] event_type exclude each other"
                    .to_owned(),
            });
        }
        Ok(mapping)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_mapping_as_people_write_it() {
        let mapping = Mapping::parse(
            r#"
            [interactions]
            files = ["t.parquet"]
            event_type = "purchase"
            [interactions.columns]
            user = "household_id"
            [items]
            files = ["p.parquet"]
            [items.columns]
            id = "product_id"
            title = ["product_type", "package_size"]
            brand = "brand"
            "#,
        )
        .unwrap();
        assert_eq!(mapping.interactions.columns.user.as_deref(), Some("household_id"));
        let items = mapping.items.unwrap();
        assert_eq!(items.columns.attributes["brand"], "brand");
        assert!(items.keep_other_columns && mapping.users.is_none());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("[interactions]\nfile = [\"x\"]", "file"),
            ("[interactions.columns]\nusr = \"x\"", "usr"),
            ("[interactions]\ndelimiter = \"é\"", "delimiter"),
            ("[interactions]\nevent_type = \"a\"\n[interactions.columns]\nevent_type = \"b\"", "exclude"),
        ] {
            let error = Mapping::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
