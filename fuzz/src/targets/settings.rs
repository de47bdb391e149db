//! What people write: mappings, and settings from a file or the environment.

use anabranch_batch::mapping::Mapping;
use anabranch_events::EventSettings;
use anabranch_lambda::settings::Settings;
use anabranch_stream::StreamSettings;
use anabranch_stream::notify::NotifySettings;
use anabranch_stream::tree;

use super::types;
use crate::Verdict;

/// The TOML of a mapping.
pub(super) fn mapping(bytes: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(bytes) else { return Verdict::Refused };
    let result = Mapping::parse(text);
    let Ok(mapping) = &result else { return Verdict::of(&result) };
    let again = toml::to_string(mapping).expect("a mapping has a TOML form");
    assert_eq!(&Mapping::parse(&again).expect("what was written"), mapping);
    Verdict::Decoded
}

/// Lines `NAME=VALUE` of the environment, for a function and for a stream.
pub(super) fn settings(bytes: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(bytes) else { return Verdict::Refused };
    let pairs = || text.lines().filter_map(|line| line.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned()));
    let mut tree = toml::Table::new();
    let overlaid = tree::overlay(&mut tree, pairs());
    if overlaid.is_ok() {
        let again = toml::to_string(&tree).expect("settings have a TOML form");
        assert_eq!(again.parse::<toml::Table>().map(|table| table.len()), Ok(tree.len()), "{again}");
        let mut twice = tree.clone();
        tree::overlay(&mut twice, pairs()).expect("the same variables again");
        assert_eq!(toml::to_string(&twice).as_ref(), Ok(&again), "the same variables again");
    }
    let section = |name: &str| tree.get(name).cloned().unwrap_or_else(|| toml::Value::Table(toml::Table::new()));
    if let Ok(settings) = section("stream").try_into::<StreamSettings>() {
        Verdict::of(&settings.check());
    }
    if let Ok(settings) = section("events").try_into::<EventSettings>() {
        Verdict::of(&settings.compile());
    }
    if let Ok(settings) = section("notify").try_into::<NotifySettings>() {
        Verdict::of(&settings.compile(types()));
    }
    Verdict::of(&Settings::load(pairs()))
}
