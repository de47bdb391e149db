//! `GET /metrics`: OpenMetrics text, as Prometheus scrapes it. Names, units and meanings are those of
//! `docs/operations.md`, which a test compares with a scrape.
//!
//! What is scraped is taken as a whole first ([`Scrape::of`]) and written then, so the counts of one answer are of one
//! moment and conserve in every answer. Counters of a registry, each raised by itself, would not.

use std::fmt;
use std::sync::Arc;

use anabranch_stream::measures::{Counted, Distributions, Histogram};
use anabranch_stream::notify::NotifyCounts;
use anabranch_stream::ports::ShardId;
use anabranch_stream::shared::ShardStatus;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::app::App;
use crate::observe::{ingest_room, lag, log_room, number, trouble};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const MICROSECONDS: f64 = 1e6;

/// `GET /metrics`.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], Scrape::of(&app).render())
}

/// All that one answer tells.
#[derive(Debug)]
struct Scrape {
    now_ms: i64,
    counted: Counted,
    distributions: Distributions,
    shards: Vec<(ShardId, ShardStatus)>,
    notices: NotifyCounts,
    notices_waiting_ms: u64,
    snapshot_version: String,
    snapshot_ms: i64,
    ingest_room: Option<usize>,
    log_room: Option<u64>,
    is_blocked: bool,
}

impl Scrape {
    fn of(app: &App) -> Self {
        let shared = app.stream().shared();
        let model = shared.model();
        let now_ms = shared.clock.now_ms();
        Self {
            now_ms,
            counted: shared.counted(),
            distributions: shared.distributions(),
            shards: shared.statuses(),
            notices: shared.notices(),
            notices_waiting_ms: shared.notices_waiting_ms(now_ms),
            snapshot_version: model.version().to_owned(),
            snapshot_ms: model.snapshot().meta().as_of_ms,
            ingest_room: ingest_room(app),
            log_room: log_room(app),
            is_blocked: trouble(app).is_some(),
        }
    }

    fn render(self) -> String {
        let mut registry = Registry::with_prefix("anabranch");
        registry.register_collector(Box::new(self));
        let mut page = String::new();
        text::encode(&mut page, &registry).expect("writing into memory does not fail");
        page
    }

    fn counts(&self, page: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Counted { counts, tally } = &self.counted;
        for (name, help, value) in [
            ("records", "Records covered by committed cuts.", counts.records),
            ("records_erased", "Records whose content was erased before they were processed.", counts.erased),
            ("events_in", "Events of committed cuts, refused ones too.", tally.events_in),
            ("events_applied", "Events that were new in their history and earned a list.", tally.applied),
            ("events_duplicate", "Events that their history held already.", counts.duplicate),
            ("events_late", "Events older than their history can hold, or erased.", counts.late),
            ("events_dead_lettered", "Events that were refused and went to the dead letters.", counts.rejected),
            ("events_superseded", "Applied events whose list a later one of their user got.", counts.superseded),
            ("lists_made", "Lists made.", tally.lists_made),
            ("lists_full", "Lists made that are as long as was asked for.", tally.lists_full),
            ("lists_delivered", "Lists delivered.", counts.delivered),
        ] {
            let mut family = page.encode_descriptor(name, help, None, MetricType::Counter)?;
            family.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn shards(&self, page: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let now_ms = self.now_ms;
        self.per_shard(
            page,
            ("iterator_age", Some(Unit::Seconds), "How old the oldest record may be that is not read yet."),
            |status| Some(status.iterator_age_ms(now_ms)? as f64 / 1e3),
        )?;
        self.per_shard(page, ("lag_records", None, "Records of the log that are not processed yet."), |status| {
            lag(status).map(|lag| lag as f64)
        })?;
        self.per_shard(
            page,
            ("uncommitted_records", None, "Records of the log that are processed and not committed yet."),
            |status| Some(number(status.processed)?.saturating_sub(number(status.committed)?) as f64),
        )?;
        self.per_shard(page, ("stalled", None, "1 while the shard waits for its reader, state or sink."), |status| {
            Some(f64::from(u8::from(status.stalled.is_some())))
        })?;
        let mut family = page.encode_descriptor("objects", "Objects delivered.", None, MetricType::Counter)?;
        for (shard, status) in &self.shards {
            let labels = [("shard", shard.to_string())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&status.objects, None)?;
        }
        Ok(())
    }

    /// A gauge of every shard that has it; no family if none has.
    fn per_shard(
        &self,
        page: &mut DescriptorEncoder<'_>,
        (name, unit, help): (&str, Option<Unit>, &str),
        value: impl Fn(&ShardStatus) -> Option<f64>,
    ) -> fmt::Result {
        let samples: Vec<_> = self.shards.iter().filter_map(|(shard, status)| Some((shard, value(status)?))).collect();
        if samples.is_empty() {
            return Ok(());
        }
        let mut family = page.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (shard, value) in samples {
            family.encode_family(&[("shard", shard.to_string())])?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn distributions(&self, page: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Distributions { batch_size, from_event, from_arrival, to_readable } = &self.distributions;
        let records = Unit::Other("records".to_owned());
        histogram(page, ("batch_size", &records, "Records of a delivered cut."), batch_size, 1.0)?;
        for (name, help, times) in [
            ("latency_from_event", "From an event's own time to its list being delivered.", from_event),
            (
                "latency_from_arrival",
                "From a record's arrival in the stream to its list being delivered.",
                from_arrival,
            ),
            ("latency_to_readable", "From an event's receipt over HTTP to its list being answered.", to_readable),
        ] {
            histogram(page, (name, &Unit::Seconds, help), times, MICROSECONDS)?;
        }
        Ok(())
    }

    fn notifications(&self, page: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let notices = &self.notices;
        let help = "What became of notices.";
        let mut family = page.encode_descriptor("notifications", help, None, MetricType::Counter)?;
        for (outcome, value) in
            [("queued", notices.queued), ("sent", notices.sent), ("retried", notices.retried), ("dead", notices.dead)]
        {
            family.encode_family(&[("outcome", outcome)])?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        let help = "Notices that were decided against.";
        let mut family = page.encode_descriptor("notifications_dropped", help, None, MetricType::Counter)?;
        for (reason, value) in &notices.dropped {
            let labels = [("reason", reason.to_string())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)?;
        }
        let help = "How long the oldest due notice has waited; 0 where another process sends.";
        let age_s = self.notices_waiting_ms as f64 / 1e3;
        let name = "notifications_waiting_age";
        page.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?.encode_gauge(&age_s)
    }

    fn process(&self, page: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let age_s = self.now_ms.saturating_sub(self.snapshot_ms) as f64 / 1e3;
        let help = "Age of the newest event that the serving model was trained on.";
        page.encode_descriptor("snapshot_age", help, Some(&Unit::Seconds), MetricType::Gauge)?.encode_gauge(&age_s)?;
        let labels = [("version", self.snapshot_version.as_str())];
        let help = "The model that serves.";
        page.encode_descriptor("snapshot", help, None, MetricType::Info)?.encode_info(&labels)?;
        if let Some(room) = self.ingest_room {
            let help = "Events that the ingest queue takes before producers are slowed down.";
            let mut family = page.encode_descriptor("ingest_room_events", help, None, MetricType::Gauge)?;
            family.encode_gauge(&(room as f64))?;
        }
        if let Some(room) = self.log_room {
            let help = "Bytes that the log takes before producers are slowed down.";
            let unit = Some(&Unit::Bytes);
            page.encode_descriptor("log_room", help, unit, MetricType::Gauge)?.encode_gauge(&(room as f64))?;
        }
        let help = "1 while the stream takes no events or has stopped; /healthz says why.";
        let is_blocked = f64::from(u8::from(self.is_blocked));
        page.encode_descriptor("blocked", help, None, MetricType::Gauge)?.encode_gauge(&is_blocked)
    }
}

impl Collector for Scrape {
    fn encode(&self, mut page: DescriptorEncoder<'_>) -> fmt::Result {
        self.counts(&mut page)?;
        self.shards(&mut page)?;
        self.distributions(&mut page)?;
        self.notifications(&mut page)?;
        self.process(&mut page)
    }
}

/// A histogram whose values are `scale` times what the unit says.
fn histogram(
    page: &mut DescriptorEncoder<'_>,
    (name, unit, help): (&str, &Unit, &str),
    values: &Histogram,
    scale: f64,
) -> fmt::Result {
    let buckets: Vec<(f64, u64)> = values
        .buckets()
        .map(|(bound, count)| (bound.map_or(f64::INFINITY, |bound| bound as f64 / scale), count))
        .collect();
    let mut family = page.encode_descriptor(name, help, Some(unit), MetricType::Histogram)?;
    family.encode_histogram::<NoLabelSet>(values.sum() as f64 / scale, values.count(), &buckets, None)
}
