//! `anabranch models list|promote|rollback`.

use anabranch_events::wire::time::format_time_ms;
use anabranch_stores::registry::ModelEntry;
use serde_json::json;

use crate::args::{ModelsAction, ModelsArgs};
use crate::compose::Context;
use crate::failure::Failure;
use crate::ui::{grouped, table};

pub(crate) fn run(context: &Context, arguments: &ModelsArgs) -> Result<(), Failure> {
    let registry = context.registry()?;
    let now_ms = anabranch_stream::Clock::now_ms(&*context.clock);
    let pointer = match &arguments.action {
        ModelsAction::List => return list(context, &registry.list()?),
        ModelsAction::Promote { version } => registry.promote(version, "promoted by hand", now_ms)?,
        ModelsAction::Rollback => registry.rollback("rolled back by hand", now_ms)?,
    };
    context.ui.answer(&pointer, |pointer| {
        format!(
            "model {} is current (promotion {}); running streams take it over by themselves",
            pointer.version, pointer.number
        )
    })
}

fn list(context: &Context, entries: &[ModelEntry]) -> Result<(), Failure> {
    let value: Vec<_> = entries
        .iter()
        .map(|entry| {
            json!({
                "version": entry.manifest.version,
                "bytes": entry.manifest.size,
                "publishedMs": entry.manifest.published_at_ms,
                "isCurrent": entry.is_current,
                "promotions": entry.promotions,
                "metrics": entry.metrics,
            })
        })
        .collect();
    context.ui.answer(&value, |_| {
        if entries.is_empty() {
            return format!("no model in {}; run `anabranch train`", context.registry_location());
        }
        let rows: Vec<Vec<String>> = entries
            .iter()
            .map(|entry| {
                vec![
                    if entry.is_current { "*" } else { "" }.to_owned(),
                    entry.manifest.version.to_string(),
                    format_time_ms(entry.manifest.published_at_ms).into_owned(),
                    format!("{} KB", grouped(entry.manifest.size / 1000)),
                    entry.promotions.iter().map(u64::to_string).collect::<Vec<_>>().join(" "),
                ]
            })
            .collect();
        table(&["", "version", "published", "size", "promotions"], &rows)
    })
}
