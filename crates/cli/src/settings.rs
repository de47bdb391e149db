//! The settings: one documented tree, from `anabranch.toml`, with overrides from the environment ([`tree`]).

use std::path::{Path, PathBuf};

use anabranch_batch::etl::EtlSettings;
use anabranch_batch::train::TrainingSettings;
use anabranch_events::EventSettings;
use anabranch_models::learn::LearnSettings;
use anabranch_stores::vectors::VectorSettings;
use anabranch_stream::StreamSettings;
use anabranch_stream::notify::NotifySettings;
use anabranch_stream::tree::{self, LogSettings, Places};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

mod source;

pub(crate) use source::{SourceKind, SourceSettings, erasure_key};

const DEFAULT_FILE: &str = "anabranch.toml";

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Where things lie.
    pub(crate) places: Places,
    /// What events mean.
    pub(crate) events: EventSettings,
    /// The ETL.
    pub(crate) etl: EtlSettings,
    /// The model.
    pub(crate) model: LearnSettings,
    /// Training and evaluation.
    pub(crate) training: TrainingSettings,
    /// The vector database.
    pub(crate) vectors: VectorSettings,
    /// Where the stream's records come from.
    pub(crate) source: SourceSettings,
    /// The stream.
    pub(crate) stream: StreamSettings,
    /// Notifications.
    pub(crate) notify: NotifySettings,
    /// HTTP.
    pub(crate) server: ServerSettings,
    /// The log.
    pub(crate) log: LogSettings,
}

/// HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerSettings {
    /// Address and port. Keep it on loopback, or put a proxy that knows your users in front.
    pub(crate) listen: String,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8080".to_owned() }
    }
}

/// Reads the settings: defaults, then the file, then the environment, then `--home`.
pub(crate) fn load(
    file: Option<&Path>,
    home: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Settings, Failure> {
    let path = match file {
        Some(path) => Some(path.to_owned()),
        None => Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.is_file()),
    };
    let mut tree = match &path {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| Failure::io("read the settings", path, &e))?;
            toml::from_str::<toml::Table>(&text).map_err(|e| Failure::input(format!("{}: {e}", path.display())))?
        }
        None => toml::Table::new(),
    };
    tree::overlay(&mut tree, environment).map_err(Failure::input)?;
    let mut settings: Settings = toml::Value::Table(tree).try_into().map_err(|e: toml::de::Error| {
        let place = path.as_deref().map_or("the environment".to_owned(), |path| path.display().to_string());
        Failure::input(format!("{place}: {e}"))
    })?;
    if let Some(home) = home {
        home.clone_into(&mut settings.places.home);
    }
    settings.stream.check().map_err(Failure::input)?;
    settings.source.check().map_err(Failure::input)?;
    settings.vectors.check().map_err(Failure::input)?;
    let types = settings.events.compile()?;
    let rules = settings.notify.compile(&types).map_err(Failure::input)?;
    settings.notify.check_secret_file().map_err(Failure::input)?;
    settings.source.check_outbox(!rules.is_empty()).map_err(Failure::input)?;
    Ok(settings)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use anabranch_stream::tree::LogFormat;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn file_then_environment_then_argument() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        std::fs::write(&file, "[stream]\nshards = 3\nname = \"a\"\n[events.types.view]\nweight = 2.0\n").unwrap();
        let pairs = [
            ("ANABRANCH__STREAM__SHARDS", "5"),
            ("ANABRANCH__PLACES__LAKE", "s3://b/p"),
            ("ANABRANCH__LOG__FORMAT", "json"),
            ("OTHER", "1"),
        ];
        let settings = load(Some(&file), Some(Path::new("/h")), environment(&pairs)).unwrap();
        assert_eq!((settings.log.format, settings.log.level_or("warn")), (LogFormat::Json, "warn"));
        assert_eq!((settings.stream.shards, settings.stream.name.as_str()), (5, "a"));
        assert_eq!((settings.places.lake.as_str(), settings.places.home.as_path()), ("s3://b/p", Path::new("/h")));
        assert_eq!(settings.events.types.len(), 1, "a file that names types names all of them");
    }

    #[test]
    fn mistakes_name_their_place() {
        for (pairs, part) in [
            ([("ANABRANCH__STREAM__SHARD", "5")], "shard"),
            ([("ANABRANCH__STREAM__SHARDS", "0")], "shards = 0"),
            ([("ANABRANCH__STREAM__SHARDS", "many")], "shards"),
            ([("ANABRANCH__EVENTS__DEFAULT_TYPE", "ogle")], "default_type"),
            ([("ANABRANCH__NOTIFY__RULES__R__EVENT_TYPES", "['ogle']")], "[notify.rules.r] event_types"),
            ([("ANABRANCH__LOG__FORMAT", "yaml")], "format"),
            ([("ANABRANCH__SOURCE__KIND", "kinesis")], "[source] stream is missing"),
            ([("ANABRANCH__SOURCE__ERASURE_KEY", "00ff")], "64 hexadecimal digits"),
            ([("ANABRANCH__SOURCE__READS_PER_SECOND", "6")], "1 to 5"),
            ([("ANABRANCH__VECTORS__KIND", "postgres")], "[vectors] postgres.url is empty"),
            ([("ANABRANCH__VECTORS__KIND", "s3-vectors")], "[vectors] s3.bucket is empty"),
        ] {
            let error = format!("{:?}", load(None, None, environment(&pairs)).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn rules_need_what_their_way_needs() {
        let rule = ("ANABRANCH__NOTIFY__RULES__R__EVENT_TYPES", "['cart']");
        let webhook =
            [rule, ("ANABRANCH__NOTIFY__CHANNEL", "webhook"), ("ANABRANCH__NOTIFY__WEBHOOK__URL", "http://h")];
        let error = format!("{:?}", load(None, None, environment(&webhook)).unwrap_err());
        assert!(error.contains("secret_file is empty"), "{error}");
        let kinesis = [
            rule,
            ("ANABRANCH__SOURCE__KIND", "kinesis"),
            ("ANABRANCH__SOURCE__STREAM", "clicks"),
            ("ANABRANCH__SOURCE__TABLE", "state"),
            ("ANABRANCH__SOURCE__LEASE_TABLE", "leases"),
        ];
        load(None, None, environment(&kinesis[1..])).unwrap();
        let error = format!("{:?}", load(None, None, environment(&kinesis)).unwrap_err());
        assert!(error.contains("[source] outbox_table is missing"), "{error}");
        let with_outbox = [&kinesis[..], &[("ANABRANCH__SOURCE__OUTBOX_TABLE", "outbox")]].concat();
        assert_eq!(load(None, None, environment(&with_outbox)).unwrap().source.outbox_table, "outbox");
    }

    /// The example of the documentation is one that works.
    #[test]
    fn the_documented_notifications_compile() {
        let text = include_str!("../../../docs/notifications.md");
        let (_, rest) = text.split_once("```toml\n").unwrap();
        let example = rest.split_once("```").unwrap().0;
        let settings: Settings = toml::from_str(example).unwrap();
        let rules = settings.notify.compile(&settings.events.compile().unwrap()).unwrap();
        assert!(rules.get("abandoned-cart").is_some_and(|rule| rule.delay_ms == 30 * 60_000));
    }

    #[test]
    fn a_secret_is_read_and_not_printed() {
        let pair = ("ANABRANCH__SOURCE__ERASURE_KEY", "0f".repeat(32));
        let password = ("ANABRANCH__VECTORS__POSTGRES__PASSWORD", "0f0f-password");
        let settings = load(None, None, environment(&[(pair.0, &pair.1), password])).unwrap();
        assert_eq!(settings.vectors.postgres.password, password.1);
        assert!(!format!("{settings:?}").contains(password.1));
        assert_eq!(erasure_key(&settings.source.erasure_key), Some([15; 32]));
        assert!(!toml::to_string_pretty(&settings).unwrap().contains("0f0f"));
    }

    #[test]
    fn printed_settings_read_back() {
        let text = toml::to_string_pretty(&Settings::default()).unwrap();
        assert_eq!(toml::from_str::<Settings>(&text).unwrap(), Settings::default());
    }
}
