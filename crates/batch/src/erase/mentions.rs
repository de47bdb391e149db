//! Whether text that nobody could parse names somebody: the question that the quarantine and the report ask.
//!
//! A refused row has no columns, so its bytes are searched for the id as a whole token. What is in doubt counts as
//! named: a refused row of somebody else is a smaller loss than a name that stays. Ids that are cut in two (the raw row
//! is kept up to a limit) are not found.

use std::collections::BTreeSet;

use anabranch_events::HistoryKey;
use base64::Engine as _;
use memchr::memmem::Finder;
use serde_json::Value;

use crate::etl::Quarantined;

/// The ids looked for, in every form in which a row may spell them.
#[derive(Debug)]
pub(super) struct Mentions {
    finders: Vec<Finder<'static>>,
}

impl Mentions {
    pub(super) fn new(owners: &BTreeSet<HistoryKey>) -> Self {
        let mut forms = BTreeSet::new();
        for id in owners.iter().map(HistoryKey::id) {
            forms.insert(id.to_owned());
            // As CSV, JSON and our own messages write it if it holds quotes or control characters.
            forms.insert(id.replace('"', "\"\""));
            forms.insert(id.escape_debug().to_string());
            let json = Value::from(id).to_string();
            forms.insert(json[1..json.len() - 1].to_owned());
        }
        Self { finders: forms.iter().map(|form| Finder::new(form.as_bytes()).into_owned()).collect() }
    }

    /// Whether `text` holds an id with no letter or digit (ASCII) of the same word before or after it.
    pub(super) fn in_text(&self, text: &[u8]) -> bool {
        self.finders.iter().any(|finder| {
            let mut from = 0;
            while let Some(found) = text.get(from..).and_then(|rest| finder.find(rest)) {
                let (start, end) = (from + found, from + found + finder.needle().len());
                let joined = |inner: usize, outer: Option<usize>| {
                    let is_word = |index: usize| text.get(index).is_some_and(u8::is_ascii_alphanumeric);
                    is_word(inner) && outer.is_some_and(is_word)
                };
                if !joined(start, start.checked_sub(1)) && !joined(end - 1, Some(end)) {
                    return true;
                }
                from = start + 1;
            }
            false
        })
    }

    /// Whether an entry of the quarantine names somebody, in its row or in the reason.
    pub(super) fn in_entry(&self, entry: &Quarantined) -> bool {
        let encoded = entry.raw_base64.as_ref().map(|text| base64::engine::general_purpose::STANDARD.decode(text));
        self.in_text(entry.detail.as_bytes())
            || entry.raw.as_ref().is_some_and(|raw| self.in_row(raw.as_bytes()))
            || encoded.is_some_and(|raw| raw.map_or(true, |raw| self.in_row(&raw)))
    }

    /// Also looks behind JSON's escapes, which can spell one id in many ways.
    fn in_row(&self, raw: &[u8]) -> bool {
        let parsed = || serde_json::from_slice::<Value>(raw).is_ok_and(|value| self.in_value(&value));
        self.in_text(raw) || (raw.contains(&b'\\') && parsed())
    }

    fn in_value(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.in_text(text.as_bytes()),
            Value::Array(values) => values.iter().any(|value| self.in_value(value)),
            Value::Object(fields) => {
                fields.iter().any(|(name, value)| self.in_text(name.as_bytes()) || self.in_value(value))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mentions(id: &str) -> Mentions {
        Mentions::new(&BTreeSet::from([HistoryKey::User(id.into())]))
    }

    #[test]
    fn whole_tokens_only() {
        let ann = mentions("ann");
        for text in ["ann", "ann,tea", "\"ann\"", "x ann", "ann-2", "ann_2", "annie,ann", "annann ann", "ü ann\u{e9}"]
        {
            assert!(ann.in_text(text.as_bytes()), "{text}");
        }
        for text in ["", "an", "annie", "joann", "ann2", "Ann"] {
            assert!(!ann.in_text(text.as_bytes()), "{text}");
        }
        assert!(mentions("1-1").in_text(b"x1-1-1"), "the second of two that overlap");
        assert!(mentions("+49 (1)").in_text(b"a+49 (1)b"), "an id that begins with a sign needs no gap before it");
    }

    #[test]
    fn every_spelling_of_an_id() {
        let odd = mentions("a\"b\\c");
        assert!(odd.in_text(br#"x,"a""b\c",1"#));
        assert!(odd.in_row(br#"{"userId":"a\"b\\c"}"#));
        assert!(mentions("ann").in_row(br#"{"userId":"\u0061nn"}"#));
        assert!(mentions("ann").in_row(br#"[{"x":["\nann"]}]"#));
        assert!(!mentions("ann").in_row(br#"{"userId":"\u0061nni"}"#));
    }

    #[test]
    fn entries_in_text_and_in_base64() {
        let entry = |raw: Option<&str>, base64: Option<&[u8]>, detail: &str| Quarantined {
            table: "interactions".to_owned(),
            file: "f".to_owned(),
            offset: Some(0),
            row: None,
            code: "unparsable".to_owned(),
            detail: detail.to_owned(),
            raw: raw.map(str::to_owned),
            raw_base64: base64.map(|raw| base64::engine::general_purpose::STANDARD.encode(raw)),
        };
        let ann = mentions("ann");
        assert!(ann.in_entry(&entry(Some("ann,"), None, "")));
        assert!(ann.in_entry(&entry(None, Some(b"\xff,ann"), "")));
        assert!(ann.in_entry(&entry(None, None, "the type \"ann\" is unknown")));
        assert!(!ann.in_entry(&entry(Some("bob,"), Some(b"\xff,annie"), "")));
    }
}
