//! `anabranch plan`: what a deployment on AWS needs and costs. Touches no account and no state.

use std::path::Path;

use crate::args::{PlanArgs, Printed};
use crate::compose::Context;
use crate::failure::Failure;
use crate::plan::data::{Figures, Prices, figures_text, prices_text};
use crate::plan::scenario::Scenario;
use crate::plan::{Ground, page, plan};
use crate::settings::Settings;
use crate::ui::print_line;

pub(crate) fn run(context: &Context, arguments: &PlanArgs) -> Result<(), Failure> {
    match arguments.print {
        Some(Printed::Prices) => return print_line(prices_text().trim_end()),
        Some(Printed::Figures) => return print_line(figures_text().trim_end()),
        None => {}
    }
    let prices = loaded(arguments.prices.as_deref(), "the prices", Prices::load)?;
    let figures = loaded(arguments.figures.as_deref(), "the figures", Figures::load)?;
    let scenario = scenario(&context.settings, arguments);
    scenario.check().map_err(Failure::input)?;
    let ground = Ground {
        types: &context.types,
        events: &context.settings.events,
        learn: &context.settings.model,
        figures: &figures,
        prices: &prices,
    };
    context.ui.answer(&plan(&scenario, &ground), |plan| page::text(plan, arguments.shape))
}

/// What the program holds, with what the user's file says in its place.
fn loaded<T>(file: Option<&Path>, what: &str, load: fn(Option<&str>) -> Result<T, String>) -> Result<T, Failure> {
    let text = match file {
        Some(path) => Some(std::fs::read_to_string(path).map_err(|e| Failure::io(&format!("read {what}"), path, &e))?),
        None => None,
    };
    let place = file.map_or_else(|| what.to_owned(), |path| path.display().to_string());
    load(text.as_deref()).map_err(|problem| Failure::input(format!("{place}: {problem}")))
}

/// The arguments, and the settings where they say nothing.
fn scenario(settings: &Settings, arguments: &PlanArgs) -> Scenario {
    Scenario {
        events_per_second: arguments.events_per_second,
        peak_ratio: arguments.peak,
        items: arguments.items,
        users: arguments.users,
        dim: arguments.dimensions.unwrap_or(settings.model.ials.dim as u64),
        neighbours: arguments.neighbours.unwrap_or(settings.model.neighbours.count as u64),
        iterations: arguments.iterations.unwrap_or(settings.model.ials.iterations as u64),
        list_length: arguments.list_length.unwrap_or(settings.stream.list_length as u64),
        is_per_event: settings.stream.mode == anabranch_stream::settings::Mode::PerEvent && !arguments.per_user,
        record_bytes: arguments.record_bytes,
        history_entries: arguments.history_entries,
        events_per_write: arguments.events_per_write,
        item_id_bytes: arguments.item_id_bytes,
        user_id_bytes: arguments.user_id_bytes,
        text_bytes: arguments.text_bytes,
        batch_records: arguments.batch_records,
        window_s: arguments.window_s,
        cut_s: arguments.cut_s.unwrap_or(settings.stream.cut_after_ms as f64 / 1000.0),
        retention_hours: arguments.retention_hours,
        keep_days: arguments.keep_days,
        lambda_mb: arguments.lambda_mb,
        architecture: arguments.architecture,
        kinesis: arguments.kinesis,
        dynamodb: arguments.dynamodb,
        delivered: arguments.delivered,
        glue: arguments.glue,
        job_hours: arguments.job_hours,
        is_bulk: !arguments.no_bulk,
        vectors: arguments.vectors,
        is_users_stored: arguments.user_vectors,
        similar_per_event: arguments.similar_per_event,
        snapshots_kept: arguments.snapshots_kept,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser as _;

    use super::*;
    use crate::args::{Arguments, Command};
    use crate::plan::scenario::Shape;

    /// The page of a command line, under the default settings.
    fn page_of(arguments: &[&str]) -> String {
        let Command::Plan(arguments) = Arguments::try_parse_from(arguments).unwrap().command else { panic!() };
        let (settings, prices, figures) =
            (Settings::default(), Prices::load(None).unwrap(), Figures::load(None).unwrap());
        let types = settings.events.compile().unwrap();
        let ground = Ground {
            types: &types,
            events: &settings.events,
            learn: &settings.model,
            figures: &figures,
            prices: &prices,
        };
        let scenario = scenario(&settings, &arguments);
        scenario.check().unwrap();
        page::text(&plan(&scenario, &ground), arguments.shape)
    }

    /// The page of the shop (100 events/s, 41,000 items), as it is printed. After a meant change, print it again with
    /// `anabranch plan > crates/cli/src/plan/golden/shop.txt` and read what moved.
    #[test]
    fn the_page_of_the_shop() {
        let found = page_of(&["anabranch", "plan"]);
        let golden = include_str!("../plan/golden/shop.txt");
        assert!(found.trim_end() == golden.trim_end(), "the page is now:\n{found}");
    }

    #[test]
    fn arguments_stand_over_settings() {
        let settings = Settings::default();
        let of = |line: &[&str]| {
            let Command::Plan(arguments) = Arguments::try_parse_from(line).unwrap().command else { panic!() };
            scenario(&settings, &arguments)
        };
        let plain = of(&["anabranch", "plan"]);
        assert_eq!((plain.dim, plain.list_length, plain.neighbours, plain.is_per_event), (64, 20, 100, true));
        let other = of(&["anabranch", "plan", "--dimensions", "128", "--list-length", "10", "--per-user"]);
        assert_eq!((other.dim, other.list_length, other.is_per_event), (128, 10, false));
        for shape in Shape::ALL {
            assert!(
                page_of(&["anabranch", "plan", "--shape", shape.name()])
                    .contains(&format!("{} line by line", shape.name()))
            );
        }
    }
}
