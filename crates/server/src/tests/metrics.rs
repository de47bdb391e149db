//! What a scrape says, read by a parser that knows nothing of the writer.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_events::HistoryKey;
use anabranch_stream::{Mode, NewEvent, StreamSettings};

use super::{World, event, settings};

/// Samples by name, summed over their labels; buckets keep theirs.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let name = if name.contains("_bucket{") { name } else { name.split('{').next().unwrap() };
        *samples.entry(name.to_owned()).or_default() += value.parse::<f64>().unwrap();
    }
    samples
}

/// The two equations of docs/operations.md, or how far they are off.
fn conserves(samples: &BTreeMap<String, f64>) -> Result<(), (i64, i64)> {
    let of = |name: &str| samples[&format!("anabranch_{name}_total")] as i64;
    let events = of("events_applied") + of("events_duplicate") + of("events_late") + of("events_dead_lettered");
    let lists = of("lists_delivered") + of("events_superseded");
    let off = (of("events_in") - events, of("events_applied") - lists);
    if off == (0, 0) { Ok(()) } else { Err(off) }
}

async fn scrape(world: &World) -> String {
    let got = world.get("/metrics").await;
    assert_eq!(got.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    got.text().to_owned()
}

impl World {
    /// Puts records past the door's judgement, as another producer may.
    async fn append(&self, records: impl IntoIterator<Item = (String, String)>) {
        let events: Vec<NewEvent> = records
            .into_iter()
            .map(|(partition_key, data)| NewEvent { partition_key, explicit_hash_key: None, data: data.into_bytes() })
            .collect();
        let app = std::sync::Arc::clone(&self.app);
        tokio::task::spawn_blocking(move || app.embedded().unwrap().appender().append(events).unwrap()).await.unwrap();
    }

    async fn forget(&self, user: &str) {
        let (app, key) = (std::sync::Arc::clone(&self.app), HistoryKey::User(user.into()));
        tokio::task::spawn_blocking(move || app.embedded().unwrap().forget(&key).unwrap()).await.unwrap();
    }
}

/// Forty events of four users, some twice; and what is no event.
fn some_records() -> Vec<(String, String)> {
    let mut records: Vec<(String, String)> = (0..40)
        .map(|i| {
            let user = format!("u{}", i % 4);
            let data = event(&user, &format!("i{}", i % 20), "view", -1000 + i / 2 * 2);
            (user, data)
        })
        .collect();
    let again = records[..7].to_vec();
    records.extend(again);
    records.extend((0..3).map(|i| ("u1".to_owned(), format!("no json {i}"))));
    let envelope =
        r#"{"userId":"u2","trackingId":"t","sessionId":"s","eventList":[{"itemId":"i3","sentAt":1699999000},{}]}"#;
    records.push(("u2".to_owned(), envelope.to_owned()));
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_conserve_by_the_metrics_alone() {
    for mode in [Mode::PerEvent, Mode::PerUser] {
        let world = World::new(StreamSettings { mode, ..settings() });
        world.append(some_records()).await;
        world.flush().await;
        let first = samples(&scrape(&world).await);
        assert_eq!(conserves(&first), Ok(()), "{mode:?}");
        world.forget("u0").await;
        world.append(some_records()).await;
        world.flush().await;
        let text = scrape(&world).await;
        let second = samples(&text);
        assert_eq!(conserves(&second), Ok(()), "{mode:?}");

        let of = |name: &str| second[&format!("anabranch_{name}")] as u64;
        assert_eq!(of("records_total"), 2 * 51);
        assert_eq!(of("events_in_total"), 2 * 52, "the envelope holds two");
        assert_eq!(of("events_dead_lettered_total"), 2 * 4);
        assert_eq!(of("events_late_total"), 12, "what was forgotten does not come back");
        assert!(of("events_duplicate_total") > 40 && of("events_applied_total") > 20, "{text}");
        assert_eq!(of("events_superseded_total") > 0, mode == Mode::PerUser);
        assert_eq!(of("lists_delivered_total"), world.lines("recommendations").len() as u64);
        assert_eq!(
            (of("lists_made_total"), of("lists_full_total")),
            (of("lists_delivered_total"), of("lists_made_total"))
        );
        for name in ["latency_from_event_seconds_count", "latency_from_arrival_seconds_count"] {
            assert_eq!(of(name), of("lists_delivered_total"), "{name}");
        }
        assert_eq!(of("batch_size_records_count"), of("objects_total"));
        assert_eq!(of("batch_size_records_sum"), of("records_total"));

        // No count can be wrong alone.
        for name in ["events_in", "events_applied", "events_duplicate", "events_late", "events_dead_lettered"]
            .into_iter()
            .chain(["events_superseded", "lists_delivered"])
        {
            let mut wrong = second.clone();
            *wrong.get_mut(&format!("anabranch_{name}_total")).unwrap() += 1.0;
            assert!(conserves(&wrong).is_err(), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_is_well_formed() {
    let world = World::new(settings());
    world.post("/events", event("a", "i1", "view", -1500)).await;
    world.flush().await;
    let text = scrape(&world).await;
    let mut family = "";
    let mut met = BTreeSet::new();
    assert!(text.ends_with("# EOF\n"));
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# ") {
            let (kind, rest) = rest.split_once(' ').unwrap();
            family = rest.split(' ').next().unwrap();
            assert!(kind != "TYPE" || met.insert(family), "{family} comes twice");
            continue;
        }
        assert!(line.starts_with(family), "{line} stands under {family}");
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().unwrap().is_finite(), "{line}");
    }
    for line in [
        "anabranch_events_in_total 1",
        "anabranch_lists_delivered_total 1",
        "anabranch_blocked 0.0",
        "anabranch_lag_records{shard=\"shardId-000000000000\"} 0.0",
        "anabranch_iterator_age_seconds{shard=\"shardId-000000000000\"} 0.0",
        "anabranch_snapshot_info{version=\"0123456789abcdef\"} 1",
        "anabranch_snapshot_age_seconds 0.0",
        // The event is one and a half seconds old; it arrived now.
        "anabranch_latency_from_event_seconds_sum 1.5",
        "anabranch_latency_from_event_seconds_bucket{le=\"1.0\"} 0",
        "anabranch_latency_from_event_seconds_bucket{le=\"2.5\"} 1",
        "anabranch_latency_from_event_seconds_bucket{le=\"+Inf\"} 1",
        "anabranch_latency_from_arrival_seconds_bucket{le=\"0.0005\"} 1",
        "anabranch_batch_size_records_bucket{le=\"1.0\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}

/// `docs/operations.md` lists what is scraped, and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_measure_is_documented() {
    let text = scrape(&World::new(settings()).await_first_read().await).await;
    let scraped: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE anabranch_")?.split_once(' '))
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect();
    let document = include_str!("../../../../docs/operations.md");
    let documented: BTreeSet<String> = document
        .lines()
        .filter(|line| line.starts_with('|') && line.matches('|').count() == 7)
        .filter_map(|row| row.split('|').nth(2)?.trim().strip_prefix('`')?.split(['`', '{']).next())
        .map(str::to_owned)
        .collect();
    assert_eq!(scraped, documented);
}

impl World {
    /// A shard tells its age once it was read.
    async fn await_first_read(self) -> Self {
        for _ in 0..2000 {
            if self.get("/metrics").await.text().contains("iterator_age") {
                return self;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("no shard was read");
    }
}
