//! `anabranch history`: what is remembered of a user.

use anabranch_events::history::effective;
use anabranch_server::answers::{self, HistoryAnswer};

use super::recommend::{from_dataset, kind};
use crate::args::HistoryArgs;
use crate::compose::{Context, owner};
use crate::failure::Failure;
use crate::remote::{Holder, holder};
use crate::ui::{cut, table};

pub(crate) fn run(context: &Context, arguments: &HistoryArgs) -> Result<(), Failure> {
    let key = owner(arguments.user.as_deref(), arguments.session.as_deref())?;
    let history = match holder(context)? {
        Holder::Running(remote) => {
            let answer: HistoryAnswer = remote.get(&["history", key.id()], &[("kind", kind(&key).to_owned())])?;
            return tell(context, arguments, &answer);
        }
        Holder::Here(state) => effective(&key, &context.types, &mut |key| {
            Ok::<_, Failure>(state.history(key, &context.types)?.map(|held| held.history))
        })?,
        Holder::Table(table) => table.effective(context, &key)?,
        Holder::Nobody => from_dataset(context, &key)?,
    };
    let Some(history) = history else {
        return Err(Failure::missing(format!("nothing is remembered of {key}")));
    };
    // Without a model items are shown by their hashes.
    let model = context.model().ok();
    let snapshot = model.as_ref().map(anabranch_models::Model::snapshot);
    tell(context, arguments, &answers::history(&context.types, snapshot, &key, &history))
}

fn tell(context: &Context, arguments: &HistoryArgs, answer: &HistoryAnswer) -> Result<(), Failure> {
    context.ui.answer(answer, |answer| {
        let rows: Vec<Vec<String>> = answer
            .entries
            .iter()
            .take(arguments.length)
            .map(|entry| {
                vec![
                    entry.time.clone(),
                    entry.event_type.clone(),
                    entry.item_id.clone(),
                    cut(entry.title.as_deref().unwrap_or(""), 44),
                    entry.value.map(|value| value.to_string()).unwrap_or_default(),
                ]
            })
            .collect();
        let floor = answer
            .floor_ms
            .map(|floor| format!(", erased up to {}", anabranch_events::wire::time::format_time_ms(floor)))
            .unwrap_or_default();
        format!(
            "{}  {} entries, {} seen items, {} sessions{floor}",
            table(&["time", "type", "item", "title", "value"], &rows),
            answer.entries.len(),
            answer.seen_count,
            answer.sessions.len()
        )
    })
}
