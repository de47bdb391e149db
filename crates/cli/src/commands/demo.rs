//! `anabranch demo`: raw files → etl → train → stream → a click that changes a list. Every part is the real one, and
//! running it again goes on where it stood.

use std::path::PathBuf;
use std::sync::Arc;

use anabranch_batch::dataset::Dataset;
use anabranch_batch::etl::read_events;
use anabranch_batch::generate::{ShopSettings, shop};
use anabranch_batch::input::{InputOptions, resolve};
use anabranch_batch::mapping::Mapping;
use anabranch_events::wire::time::format_time_ms;
use anabranch_events::{EventSettings, HistoryKey};
use anabranch_models::Model;
use anabranch_server::RecommendAnswer;
use serde::Serialize;
use serde_json::json;

use super::recommend::list_text;
use super::replay::{self, Replayed, Window};
use super::stream::{Server, finish};
use super::{etl, train};
use crate::account::refuse;
use crate::args::DemoArgs;
use crate::compose::Context;
use crate::failure::Failure;
use crate::remote::{Remote, ServerFile};
use crate::ui::{cut, print_line};

const DAY_MS: i64 = 86_400_000;
/// Clicks of the demonstration.
const CLICKS: usize = 3;
/// How often the new list is asked for until it shows the click.
const ASKS_MAX: usize = 2000;

/// What the demonstration showed; also its `--json` answer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    user: String,
    clicks: Vec<Click>,
    before: RecommendAnswer,
    after: RecommendAnswer,
    replayed: Replayed,
    places: Vec<(&'static str, String)>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Click {
    item_id: String,
    title: String,
    /// Milliseconds from sending the click to holding a list that knows it, over HTTP, the sync included.
    milliseconds: f64,
}

pub(crate) fn run(context: &Context, arguments: &DemoArgs) -> Result<(), Failure> {
    refuse(context, "demo", "run it without these settings")?;
    let (input, mapping) = raw_files(context, arguments)?;

    context.ui.step("1  Raw files → clean interactions, catalogue, histories (anabranch etl)");
    let last_ms = newest_event(context, &input, &mapping)?;
    let cut_over_ms = last_ms - i64::from(arguments.replay_days) * DAY_MS;
    let outcome = etl::publish(
        context,
        &input,
        &mapping,
        &etl::Options { until_ms: Some(cut_over_ms), ..etl::Options::default() },
    )?;
    outcome.report.check_files()?;
    context.ui.say(etl::text(&outcome.report).trim_end());
    context.ui.say(format!("  what happened after {} is left to the stream", format_time_ms(cut_over_ms)));

    context.ui.step("2  Histories → model and embeddings, evaluated on held-out days (anabranch train)");
    let trained = train::train(context, true, true, true)?;
    context.ui.say(train::text(context, &trained).trim_end());

    context.ui.step("3  The held-out days as a stream, as fast as it goes (anabranch replay)");
    let state = context.state()?;
    let imported = context.warm(&state, &*context.lake()?)?;
    context.ui.say(format!("  warm start: {} histories", crate::ui::grouped(imported)));
    let stream = Arc::new(context.start_stream(state, None, None)?);
    let window = Window { after_ms: cut_over_ms, until_ms: last_ms };
    let replayed = replay::through(context, &stream, &input, &mapping, window)?;
    replay::check(&replayed.counts)?;
    context.ui.say(replay::text(&replayed));

    context.ui.step("4  A shopper clicks (POST /events, then GET /recommendations)");
    let server =
        Server::start(context, Arc::clone(&stream) as Arc<dyn anabranch_stream::LiveStream>, &arguments.listen)?;
    let remote = Remote::new(ServerFile { url: server.url.clone(), token: String::new(), pid: std::process::id() });
    let model = stream.shared().model();
    let user = shopper(context, &stream)?;
    let before = list(&remote, &user)?;
    context.ui.say(format!("  before, for {user}:\n{}", list_text(&before)));
    let mut clicks = Vec::new();
    let mut time_ms = last_ms;
    for item in items_to_click(&model, &before) {
        time_ms += 60_000;
        let milliseconds = click(context, &remote, &user, model.snapshot().item_id(item), time_ms)?;
        let title = model.snapshot().item_title(item).unwrap_or_default().to_owned();
        let item_id = model.snapshot().item_id(item).to_owned();
        context.ui.say(format!("  click on {item_id} {}: new list after {milliseconds:.1} ms", cut(&title, 50)));
        clicks.push(Click { item_id, title, milliseconds });
    }
    let after = list(&remote, &user)?;
    context.ui.say(format!("\n  after:\n{}", list_text(&after)));

    context.ui.step("5  Where everything lies");
    let places = places(context, &stream.shared().namespace);
    for (what, place) in &places {
        context.ui.say(format!("  {what:<16} {place}"));
    }
    context.ui.say(format!(
        "\n  Try:  anabranch --home {home} recommend --user {user} --explain\n        \
         anabranch --home {home} similar --item {item}\n        \
         anabranch --home {home} history --user {user}\n        \
         anabranch --home {home} forget --user {user}",
        home = context.home().display(),
        user = user.id(),
        item = clicks.first().map_or("ID", |click| click.item_id.as_str()),
    ));
    let shown = Shown { user: user.id().to_owned(), clicks, before, after, replayed, places };
    if context.ui.is_json() {
        context.ui.answer(&shown, |_| String::new())?;
    }
    if !arguments.exit {
        print_line(&format!("\nserving at {} until Ctrl-C", server.url))?;
        server.wait_for_signal(&*stream);
    }
    drop(model);
    server.stop();
    finish(context, stream)
}

/// The user's own files, or the built-in shop.
fn raw_files(context: &Context, arguments: &DemoArgs) -> Result<(InputOptions, Mapping), Failure> {
    if arguments.data.data.is_some() {
        return context.input(&arguments.data);
    }
    let folder: PathBuf = context.home().join("shop");
    context.ui.step("0  A generated shop (anabranch generate)");
    let truth = shop(&ShopSettings::default(), &folder)?;
    context.ui.say(format!(
        "  {} rows in {}, {} of them repeated and {} bad on purpose",
        crate::ui::grouped(truth.rows),
        folder.display(),
        crate::ui::grouped(truth.duplicates),
        crate::ui::grouped(truth.bad.values().sum()),
    ));
    // The shop's files use Personalize's names: no mapping is needed.
    Ok((context.input_at(&folder.display().to_string()), Mapping::default()))
}

/// Time of the newest interaction that the ETL would take.
fn newest_event(context: &Context, input: &InputOptions, mapping: &Mapping) -> Result<i64, Failure> {
    let files = resolve(input, &mapping.interactions.files, false)?;
    let as_of_ms = anabranch_stream::Clock::now_ms(&*context.clock);
    let mut newest = None;
    read_events(&files, &mapping.interactions, &context.types, as_of_ms, &context.scratch(), &mut |event| {
        newest = newest.max(event.ok().map(|event| event.time_ms));
        Ok(())
    })?;
    newest.ok_or_else(|| Failure::input("the files hold no clean interaction; `anabranch etl` tells why"))
}

/// Somebody with a small history: enough to have a taste, little enough for a few clicks to show. Always the same one.
fn shopper(context: &Context, stream: &anabranch_stream::RunningStream) -> Result<HistoryKey, Failure> {
    let lake = context.lake()?;
    let bots = Dataset::current(&*lake)?.bots()?;
    let mut sizes = Vec::new();
    for stored in stream.state().histories(&context.types) {
        let stored = stored?;
        if let HistoryKey::User(user) = &stored.key
            && !bots.contains(&**user)
        {
            sizes.push((stored.history.len(), stored.key));
        }
    }
    sizes.sort_unstable();
    // The first with at least eight entries; else the one with most.
    let place = sizes.partition_point(|(size, _)| *size < 8).min(sizes.len().saturating_sub(1));
    sizes.into_iter().nth(place).map(|(_, key)| key).ok_or_else(|| Failure::missing("no user has a history"))
}

/// Popular items of one category that the first list does not show: a taste that is new for this shopper.
fn items_to_click(model: &Model, before: &RecommendAnswer) -> Vec<u32> {
    let snapshot = model.snapshot();
    let shown: Vec<&str> = before.items.iter().map(|item| item.item_id.as_str()).collect();
    let shown_categories: Vec<&str> = before.items.iter().filter_map(|item| item.category.as_deref()).collect();
    let popular = anabranch_models::popularity_order(snapshot.popularity());
    let is_new = |item: &u32| !shown.contains(&snapshot.item_id(*item));
    let category = popular
        .iter()
        .filter(|item| is_new(item))
        .filter_map(|item| snapshot.item_category(*item))
        .find(|category| !shown_categories.contains(category))
        .or_else(|| popular.iter().filter(|item| is_new(item)).find_map(|item| snapshot.item_category(*item)));
    popular
        .iter()
        .copied()
        .filter(is_new)
        .filter(|item| category.is_none() || snapshot.item_category(*item) == category)
        .take(CLICKS)
        .collect()
}

fn list(remote: &Remote, user: &HistoryKey) -> Result<RecommendAnswer, Failure> {
    // What the shopper has just looked at is hidden, so that the list shows what else the click brought up.
    remote.get(&["recommendations", user.id()], &[("n", "10".to_owned()), ("hide", "everything".to_owned())])
}

/// Sends a click and asks for the list until it knows the click; the milliseconds in between.
fn click(context: &Context, remote: &Remote, user: &HistoryKey, item: &str, time_ms: i64) -> Result<f64, Failure> {
    let event = json!({
        "userId": user.id(),
        "itemId": item,
        "eventType": click_type(&context.settings.events),
        "sentAt": time_ms,
    });
    let before = context.clock.seconds();
    let _: serde_json::Value = remote.post("/events", &event)?;
    for _ in 0..ASKS_MAX {
        if list(remote, user)?.newest_event_ms.is_some_and(|newest| newest >= time_ms) {
            return Ok((context.clock.seconds() - before) * 1000.0);
        }
    }
    Err(Failure::of(anabranch_stores::ErrorKind::Retry, "the click did not reach the list; see anabranch status"))
}

fn click_type(settings: &EventSettings) -> &str {
    ["click", "view"].into_iter().find(|name| settings.types.contains_key(*name)).unwrap_or(&settings.default_type)
}

fn places(context: &Context, namespace: &str) -> Vec<(&'static str, String)> {
    let (lake, delivered) = (context.lake_location(), context.delivered_location());
    vec![
        ("clean rows", format!("{lake}/interactions/  (Parquet by day)")),
        ("quarantine", format!("{lake}/quarantine/  and {lake}/report.json")),
        ("models", format!("{}/models/", context.registry_location())),
        ("embeddings", context.vectors_place()),
        ("log, histories", context.state_folder().display().to_string()),
        ("delivered lists", format!("{delivered}/recommendations/{namespace}/  (JSON Lines, zstd)")),
        ("dead letters", format!("{delivered}/dead-letters/{namespace}/  (none if nothing was refused)")),
    ]
}
