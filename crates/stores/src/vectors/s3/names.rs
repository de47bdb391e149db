//! Names of indexes: `v1.<collection>.<version>`, and `….dot-p3` for the one of inner products.
//!
//! `v1` is the version of this layout. A name can be read back, so the versions of a collection come from a listing by
//! prefix alone, and the names of two collections never meet. The service allows lower-case letters, digits, `-` and `.`
//! in 3 to 63 characters; everything else is written as `-` and a digit (see [`encode`]). The bound of the norms is a
//! power of two in the name, because settings of an index cannot change: another bound is another index.

use crate::vectors::Collection;

use super::api::INDEX_NAME_MAX;

const LAYOUT: &str = "v1";
/// What `.dot-m149` takes, the longest of its kind.
const DOT_SUFFIX_MAX: usize = 9;
/// Characters for collection and version together, once written: `v1.` and the dot between them are beside.
pub(super) const PARTS_MAX: usize = INDEX_NAME_MAX - DOT_SUFFIX_MAX - LAYOUT.len() - 2;

/// An index's name, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) name: String,
    pub(super) version: String,
    /// The index of inner products whose norms lie below 2 to this power.
    pub(super) dot: Option<i32>,
}

/// Name of a collection's index; `None` if it does not fit.
pub(super) fn main_index(collection: Collection<'_>) -> Option<String> {
    let (name, version) = (encode(collection.name())?, encode(collection.version())?);
    (name.len() + version.len() <= PARTS_MAX).then(|| format!("{LAYOUT}.{name}.{version}"))
}

/// Name of the index of inner products beside `main`, for norms below 2 to the power `exponent`.
pub(super) fn dot_index(main: &str, exponent: i32) -> String {
    let sign = if exponent < 0 { 'm' } else { 'p' };
    format!("{main}.dot-{sign}{}", exponent.unsigned_abs())
}

/// What all indexes of inner products beside `main` begin with.
pub(super) fn dot_prefix(main: &str) -> String {
    format!("{main}.dot-")
}

/// What all indexes of the collections called `name` begin with; `None` if there can be none.
pub(super) fn prefix_of(name: &str) -> Option<String> {
    let name = encode(name).filter(|name| !name.is_empty() && name.len() < PARTS_MAX)?;
    Some(format!("{LAYOUT}.{name}."))
}

/// Reads a name back; `None` for an index that is not of this layout.
pub(super) fn parse(index: &str) -> Option<Parsed> {
    let mut parts = index.split('.');
    if parts.next() != Some(LAYOUT) {
        return None;
    }
    let (name, version) = (decode(parts.next()?)?, decode(parts.next()?)?);
    let dot = match parts.next() {
        Some(part) => Some(parse_exponent(part.strip_prefix("dot-")?)?),
        None => None,
    };
    // Only what would be written so: `p03`, `p-3` or an escape that was not needed are of someone else.
    let parsed = Parsed { name, version, dot };
    let main = main_index(Collection::new(&parsed.name, &parsed.version).ok()?)?;
    let written = parsed.dot.map_or_else(|| main.clone(), |exponent| dot_index(&main, exponent));
    (written == index).then_some(parsed)
}

fn parse_exponent(text: &str) -> Option<i32> {
    if let Some(digits) = text.strip_prefix('m') {
        return digits.parse::<i32>().ok().map(|exponent| -exponent);
    }
    text.strip_prefix('p')?.parse().ok()
}

/// Lower-case letters and digits stand for themselves, and `-` does before a lower-case letter. Else `-0` is `-`, `-1`
/// is `_`, `-2` is `.`, and `-3` before a letter is its capital.
fn encode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut written = String::with_capacity(text.len());
    for (index, &byte) in bytes.iter().enumerate() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' => written.push(char::from(byte)),
            b'-' if bytes.get(index + 1).is_some_and(u8::is_ascii_lowercase) => written.push('-'),
            b'-' => written.push_str("-0"),
            b'_' => written.push_str("-1"),
            b'.' => written.push_str("-2"),
            b'A'..=b'Z' => {
                written.push_str("-3");
                written.push(char::from(byte.to_ascii_lowercase()));
            }
            _ => return None,
        }
    }
    Some(written)
}

fn decode(written: &str) -> Option<String> {
    let mut text = String::with_capacity(written.len());
    let mut chars = written.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            'a'..='z' | '0'..='9' => text.push(char),
            '-' => match chars.peek()? {
                'a'..='z' => text.push('-'),
                _ => match chars.next()? {
                    '0' => text.push('-'),
                    '1' => text.push('_'),
                    '2' => text.push('.'),
                    '3' => text.push(chars.next().filter(char::is_ascii_lowercase)?.to_ascii_uppercase()),
                    _ => return None,
                },
            },
            _ => return None,
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn index(name: &str, version: &str) -> String {
        main_index(Collection::new(name, version).unwrap()).unwrap()
    }

    #[test]
    fn usual_names_stay_readable() {
        assert_eq!(index("items", "ba7816bf8f01cfea"), "v1.items.ba7816bf8f01cfea");
        assert_eq!(index("similar-items", "2026-01-31"), "v1.similar-items.2026-001-031");
        assert_eq!(dot_index("v1.items.7", 3), "v1.items.7.dot-p3");
        assert_eq!(dot_index("v1.items.7", -149), "v1.items.7.dot-m149");
        assert!(dot_index("v1.items.7", 3).starts_with(&dot_prefix("v1.items.7")));
        assert!(index("items", "7").starts_with(&prefix_of("items").unwrap()));
    }

    #[test]
    fn what_is_too_long_has_no_name_and_no_versions() {
        let long = "x".repeat(64);
        assert_eq!(main_index(Collection::new("items", &long).unwrap()), None);
        assert_eq!(prefix_of(&long), None);
        assert_eq!(prefix_of("no such name"), None);
        assert_eq!(prefix_of(""), None);
        let fits = "x".repeat(PARTS_MAX - 5);
        assert!(dot_index(&index("items", &fits), -149).len() <= INDEX_NAME_MAX);
    }

    #[test]
    fn names_of_others_are_not_ours() {
        for other in ["", "v1", "v1.items", "v2.items.7", "v1.items.7.dot-p03", "v1.items.7.dot-p+3", "v1.items.7.8"] {
            assert_eq!(parse(other), None, "{other}");
        }
        for other in ["v1..7", "v1.items.7.dot-p3.x", "v1.a-0b.7", "v1.items.-", "v1.items.-35", "v1.Items.7"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn names_are_read_back_and_allowed(name in "[A-Za-z0-9._-]{1,24}", version in "[a-z0-9._A-F-]{1,24}", dot in -149i32..=134) {
            let collection = Collection::new(&name, &version).unwrap();
            if let Some(main) = main_index(collection) {
                let expected = Parsed { name: name.clone(), version: version.clone(), dot: None };
                prop_assert_eq!(parse(&main), Some(expected.clone()));
                let beside = dot_index(&main, dot);
                prop_assert_eq!(parse(&beside), Some(Parsed { dot: Some(dot), ..expected }));
                for index in [&main, &beside] {
                    prop_assert!((3..=INDEX_NAME_MAX).contains(&index.len()));
                    prop_assert!(index.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)));
                    prop_assert!(index.ends_with(|end: char| end.is_ascii_alphanumeric()));
                }
            } else {
                prop_assert!(encode(&name).unwrap().len() + encode(&version).unwrap().len() > PARTS_MAX);
            }
        }

        #[test]
        fn nothing_breaks_the_reader(text in "[v1.a-z0-9.-]{0,70}") {
            if let Some(parsed) = parse(&text) {
                let main = main_index(Collection::new(&parsed.name, &parsed.version).unwrap()).unwrap();
                prop_assert_eq!(parsed.dot.map_or_else(|| main.clone(), |exponent| dot_index(&main, exponent)), text);
            }
        }
    }
}
