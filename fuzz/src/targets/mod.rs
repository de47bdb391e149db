//! The targets, by where their bytes come from.

mod batch;
mod dynamo;
mod lambda;
mod objects;
mod producers;
mod settings;
mod snapshot;
mod state;

pub(crate) use dynamo::item_bytes;

use std::sync::LazyLock;

use anabranch_events::EventTypes;
use anabranch_stream::testing;

use crate::Target;

const MIB: usize = 1 << 20;

const fn target(name: &'static str, run: fn(&[u8]) -> crate::Verdict) -> Target {
    Target { name, run, mutations: 96, heap_bytes_max: 32 * MIB }
}

/// Every target.
pub const TARGETS: &[Target] = &[
    // What producers send.
    target("event_json", producers::event_json),
    target("post_events", producers::post_events),
    target("put_records", producers::put_records),
    target("event_time", producers::event_time),
    target("kpl_aggregate", producers::kpl_aggregate),
    // What Lambda hands over.
    Target { mutations: 48, ..target("kinesis_event", lambda::kinesis_event) },
    Target { mutations: 48, ..target("firehose_event", lambda::firehose_event) },
    // What is stored.
    target("history", state::history),
    target("history_file", state::history_file),
    target("log_record", state::log_record),
    target("outbox_entry", state::outbox_entry),
    target("checkpoint", state::checkpoint),
    target("position", state::position),
    target("backup", state::backup),
    target("dynamo_item", dynamo::dynamo_item),
    // What is delivered.
    target("recommendation", objects::recommendation),
    target("delivered_lines", objects::delivered_lines),
    // A page's header may claim 2 GiB, which the Parquet decoder reserves before it reads.
    Target { heap_bytes_max: 5 << 30, ..target("delivered_parquet", objects::delivered_parquet) },
    target("dead_letters", objects::dead_letters),
    // What training leaves.
    Target { mutations: 48, ..target("snapshot", snapshot::snapshot) },
    target("registry_record", snapshot::registry_record),
    // What the ETL reads and writes.
    Target { mutations: 12, heap_bytes_max: 512 * MIB, ..target("etl_csv", batch::etl_csv) },
    Target { mutations: 12, heap_bytes_max: 512 * MIB, ..target("etl_json_lines", batch::etl_json_lines) },
    Target { mutations: 12, heap_bytes_max: 5 << 30, ..target("etl_parquet", batch::etl_parquet) },
    target("etl_report", batch::etl_report),
    // What people write.
    target("mapping", settings::mapping),
    target("settings", settings::settings),
];

/// The default event types.
fn types() -> &'static EventTypes {
    static TYPES: LazyLock<EventTypes> = LazyLock::new(testing::types);
    &TYPES
}
