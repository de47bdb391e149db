//! The log on stderr: `[log]` in the settings, which `--log` and `--log-json` override. Its grammar, one message and a
//! fixed vocabulary of fields, is told in `docs/operations.md` and held by `scripts/check_logs.py`.

use std::io::IsTerminal as _;

use anabranch_stream::tree::{LogFormat, LogSettings};
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::args::Arguments;
use crate::failure::Failure;

/// The level of a command that nobody set one for: people read its answers, not its log.
const DEFAULT_LEVEL: &str = "warn";

/// Begins to log.
pub(crate) fn init(arguments: &Arguments, settings: &LogSettings) -> Result<(), Failure> {
    let format = if arguments.log_json { LogFormat::Json } else { settings.format };
    let level = arguments.log.as_deref().unwrap_or(settings.level_or(DEFAULT_LEVEL));
    let subscriber = subscriber(format, level, std::io::stderr().is_terminal(), std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|error| Failure::of(anabranch_stores::ErrorKind::Bug, format!("the log: {error}")))
}

fn subscriber<W>(
    format: LogFormat,
    level: &str,
    is_terminal: bool,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, Failure>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(level).map_err(|error| {
        Failure::input(format!("[log] level = {level:?}: {error}; try info or anabranch_stream=debug"))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match format {
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_span_list(false).finish()),
        LogFormat::Text => Box::new(builder.with_ansi(is_terminal).finish()),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(format, level, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(shard = 7, error = "it \"broke\"", "a worker ended");
            tracing::debug!("nobody asked");
        });
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_has_one_object_a_line_with_the_fields_at_its_top() {
        let text = logged(LogFormat::Json, "info");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((line["message"].as_str(), line["level"].as_str()), (Some("a worker ended"), Some("WARN")));
        assert_eq!((line["shard"].as_u64(), line["error"].as_str()), (Some(7), Some("it \"broke\"")));
        assert!(line["timestamp"].is_string() && line["target"].is_string(), "{text}");
    }

    #[test]
    fn text_says_the_same_and_levels_are_kept() {
        let text = logged(LogFormat::Text, "info");
        assert!(text.contains("a worker ended") && text.contains("shard=7") && text.lines().count() == 1, "{text}");
        assert_eq!(logged(LogFormat::Text, "anabranch=debug").lines().count(), 2);
        let error = subscriber(LogFormat::Text, "anabranch=loud", false, std::io::stderr).err().unwrap();
        assert!(format!("{error:?}").contains("[log] level"), "{error:?}");
    }
}
