//! The log of a function: JSON on stderr whatever the settings say, as CloudWatch Logs Insights reads it, in the grammar
//! of `docs/operations.md`. Metrics are lines of their own on stdout.

use anabranch_stream::tree::LogSettings;
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The level of a function that nobody set one for.
const DEFAULT_LEVEL: &str = "info";

/// Begins to log. A level that is none is told in the log, and the default holds.
pub fn init(settings: &LogSettings) {
    let level = settings.level_or(DEFAULT_LEVEL);
    let parsed = EnvFilter::try_new(level);
    let error = parsed.as_ref().err().map(ToString::to_string);
    let filter = parsed.unwrap_or_else(|_| EnvFilter::new(DEFAULT_LEVEL));
    // A process has one log; whoever set one before has it.
    let _ = tracing::subscriber::set_global_default(subscriber(filter, std::io::stderr));
    if let Some(error) = error {
        tracing::warn!(error, "the setting of the log's level is no filter");
    }
}

fn subscriber<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    builder.json().flatten_event(true).with_span_list(false).finish()
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

    #[test]
    fn a_line_is_one_object_and_names_its_invocation() {
        let lines = Lines::default();
        let writer = lines.clone();
        tracing::subscriber::with_default(subscriber(EnvFilter::new("info"), move || writer.clone()), || {
            let _invocation = tracing::info_span!("invocation", request_id = "8f0c").entered();
            tracing::warn!(shard = 7, "delivery failed in part");
        });
        let line: serde_json::Value = serde_json::from_slice(&lines.0.lock().unwrap()).unwrap();
        assert_eq!((line["message"].as_str(), line["shard"].as_u64()), (Some("delivery failed in part"), Some(7)));
        assert_eq!((line["level"].as_str(), line["span"]["request_id"].as_str()), (Some("WARN"), Some("8f0c")));
    }
}
