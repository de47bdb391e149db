//! What the lines say, read as JSON and nothing else.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use anabranch_aws::firehose::testing::Faults;
use anabranch_stream::StreamSettings;
use anabranch_stream::settings::Mode;
use anabranch_stream::testing::{self, NOW_MS, event};
use serde_json::Value;

use super::*;
use crate::settings::Partition;
use crate::testing::{Put, World, firehose_event, kinesis_event, settings, some_puts};

const COUNTS: [&str; 8] = [
    "EventsIn",
    "EventsApplied",
    "EventsDuplicate",
    "EventsLate",
    "EventsDeadLettered",
    "ListsDelivered",
    "EventsSuperseded",
    "ListsUndeliverable",
];

/// A line's counts. One line holds everything: no metric of a report has more values than a line takes.
fn counts(line: &str) -> BTreeMap<&'static str, i64> {
    let line: Value = serde_json::from_str(line).unwrap();
    COUNTS.iter().map(|name| (*name, line[*name].as_f64().unwrap() as i64)).collect()
}

/// The two equations of docs/operations.md, or how far they are off.
fn conserves(counts: &BTreeMap<&'static str, i64>) -> Result<(), (i64, i64)> {
    let of = |name: &str| counts[name];
    let events = of("EventsApplied") + of("EventsDuplicate") + of("EventsLate") + of("EventsDeadLettered");
    let lists = of("ListsDelivered") + of("EventsSuperseded") + of("ListsUndeliverable");
    let off = (of("EventsIn") - events, of("EventsApplied") - lists);
    if off == (0, 0) { Ok(()) } else { Err(off) }
}

/// Adds up the lines of invocations, each of which must conserve by itself.
#[derive(Default)]
struct Log(BTreeMap<&'static str, i64>);

impl Log {
    fn add(&mut self, report: &Report) {
        let lines = report.lines("Anabranch", "clicks", &testing::model(), NOW_MS).unwrap();
        assert_eq!(lines.len(), 1);
        let counts = counts(&lines[0]);
        assert_eq!(conserves(&counts), Ok(()), "{}", lines[0]);
        for (name, count) in counts {
            *self.0.entry(name).or_default() += count;
        }
    }
}

/// Events of every fate: new, repeated, refused, and one that is older than the rest of its user's fit.
fn puts() -> Vec<Put> {
    let mut puts = some_puts(60);
    let views = 0..testing::types().classes()[0].quota as i64 + 40;
    puts.extend(views.map(|i| Put::one("u9", event("u9", &format!("i{}", i % 20), "view", NOW_MS - 5_000 + i))));
    puts.push(Put::one("u9", event("u9", "i3", "view", NOW_MS - 9_000_000)));
    puts
}

#[test]
fn counts_conserve_by_the_lines_alone() {
    let (model, puts) = (testing::model(), puts());
    let mut log = Log::default();
    for mode in [Mode::PerEvent, Mode::PerUser] {
        let world = World::new();
        let function = world.stream_with(StreamSettings { mode, ..settings() });
        world.firehose.set_faults(Faults { record: 10, refuse: 10, lose: 10 });
        // What the mapping hands over again, and once more though it was done.
        for _ in 0..8 {
            for (from, batch) in (0..).step_by(16).zip(puts.chunks(16)) {
                log.add(&function.handle(&kinesis_event(from, batch), &model).unwrap().report);
            }
        }
    }
    let world = World::new();
    for _ in 0..2 {
        for (from, batch) in (0..).step_by(16).zip(puts.chunks(16)) {
            let mut event = kinesis_event(from, batch);
            event.records[2].kinesis.data = "not base64!".to_owned();
            log.add(&world.objects().handle(&event, &model).unwrap().report);
        }
    }
    let world = World::new();
    for bytes_max in [usize::MAX, 20_000, 4_000] {
        let mut function = world.transform(Partition::None);
        function.bytes_max = bytes_max;
        let mut event = firehose_event(0, &puts);
        event.records[1].data = "%%%".to_owned();
        log.add(&function.handle(&event, &model).unwrap().report);
    }
    for name in COUNTS {
        assert!(log.0[name] > 0 || name == "ListsUndeliverable", "{name}: {:?}", log.0);
        // No count can be wrong alone.
        let mut wrong = log.0.clone();
        *wrong.get_mut(name).unwrap() += 1;
        assert!(conserves(&wrong).is_err(), "{name}");
    }
    assert_eq!(conserves(&log.0), Ok(()));
}

/// Forty lists and an eventful invocation: every metric is in the line.
fn full() -> Value {
    let report = World::new().stream().handle(&kinesis_event(0, &some_puts(60)), &testing::model()).unwrap().report;
    let lines = report.lines("Anabranch", "clicks", &testing::model(), NOW_MS).unwrap();
    serde_json::from_str(&lines[0]).unwrap()
}

#[test]
fn a_line_keeps_cloudwatchs_limits() {
    let events = (0..400).map(|i| Put::one("k", event(&format!("u{i}"), "i1", "view", NOW_MS - i)));
    let events: Vec<Put> = events.collect();
    let report = World::new().stream().handle(&kinesis_event(0, &events), &testing::model()).unwrap().report;
    let lines = report.lines("Anabranch", "clicks", &testing::model(), NOW_MS).unwrap();
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    let directive = &line["_aws"]["CloudWatchMetrics"][0];
    assert!(directive["Metrics"].as_array().unwrap().len() <= emf::METRICS_MAX);
    assert!(directive["Dimensions"][0].as_array().unwrap().len() <= emf::DIMENSIONS_MAX);
    let latency = line["LatencyFromEvent"].as_array().unwrap();
    assert_eq!((latency.len(), latency[0].as_f64(), latency[99].as_f64()), (emf::VALUES_MAX, Some(0.0), Some(399.0)));
}

/// `docs/operations.md` lists what is written, and nothing else.
#[test]
fn every_metric_is_documented() {
    let line = full();
    let metrics = line["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap();
    let report = NotifyReport { counts: Some(NotifyCounts::default()), waiting_ms: 1 };
    let notify = Metrics::lines(&report, "Anabranch", "clicks", &testing::model(), NOW_MS).unwrap();
    let notify: Value = serde_json::from_str(&notify[0]).unwrap();
    let metrics = metrics.iter().chain(notify["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap());
    let written: BTreeSet<&str> = metrics.map(|metric| metric["Name"].as_str().unwrap()).collect();
    let documented: BTreeSet<&str> = include_str!("../../../docs/operations.md")
        .lines()
        .filter(|line| line.starts_with('|') && line.matches('|').count() == 7)
        .filter_map(|row| row.split('|').nth(1)?.trim().strip_prefix('`')?.split('`').next())
        .collect();
    assert_eq!(written, documented);
}

#[test]
fn latencies_are_of_lists_and_a_wrong_clock_counts_a_day() {
    let world = World::new();
    let puts = [
        Put { arrival_ms: NOW_MS - 30, ..Put::one("a", event("a", "i1", "view", NOW_MS - 50)) },
        Put { arrival_ms: NOW_MS - 20, ..Put::one("a", event("a", "i1", "view", NOW_MS - 50)) },
        Put { arrival_ms: NOW_MS - 10, ..Put::one("b", event("b", "i1", "view", NOW_MS + 1_000)) },
        Put { arrival_ms: NOW_MS - 10, ..Put::one("c", event("c", "i1", "view", NOW_MS - 400_000_000)) },
    ];
    let report = world.stream().handle(&kinesis_event(0, &puts), &testing::model()).unwrap().report;
    assert_eq!(report.from_event_ms, [50, 0, 86_400_000]);
    assert_eq!(report.from_arrival_ms, [30, 10, 10], "the repeat makes no list");
}

#[test]
fn quantiles_keep_the_ends_and_the_order() {
    assert_eq!(quantiles(&[3, 1, 2]), [1.0, 2.0, 3.0]);
    let many: Vec<u64> = (0..10_000).rev().collect();
    let found = quantiles(&many);
    assert_eq!((found.len(), found[0], found[99]), (100, 0.0, 9_999.0));
    assert!(found.is_sorted());
    assert!((found[50] - 5_050.0).abs() < 2.0);
}

#[test]
fn a_lost_event_is_noticed() {
    let report = Report { events_in: 4, applied: 2, duplicate: 1, late: 1, delivered: 2, ..Report::default() };
    assert!(report.conserves());
    assert!(!Report { events_in: 5, ..report.clone() }.conserves());
    assert!(!Report { delivered: 1, ..report }.conserves());
}
