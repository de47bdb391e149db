//! Valid instances of every format, made by the code that writes them: `cargo run -p anabranch-fuzz --example seeds`
//! writes them into `corpus/` again when a format changes.
//!
//! A seed's file is named `seed-…`; the replay asserts that each decodes. What the fuzzer found has other names.

use std::collections::BTreeMap;
use std::io::Write as _;

use anabranch_aws::dynamo::{fuzzing as items, item};
use anabranch_aws::kinesis::kpl::Aggregator;
use anabranch_aws::kinesis::lease::{Lease, LeaseCheckpoint};
use anabranch_events::erasure::ErasureKey;
use anabranch_events::wire::decode_record;
use anabranch_events::{Event, EventKey, HistoryKey, Recommendation, RecommendedItem, Trigger, apply_event, codec};
use anabranch_models::ials::IalsSettings;
use anabranch_models::learn::{ItemIndex, LearnSettings, Provenance, learn};
use anabranch_models::{Interactions, Kernels};
use anabranch_stores::fuzzing;
use anabranch_stores::history_file::HistoryFileWriter;
use anabranch_stores::registry::{Manifest, Pointer, Version};
use anabranch_stores::state::State;
use anabranch_stores::state::log::LogRecord;
use anabranch_stream::object::{self, Counts, Form, Trailer};
use anabranch_stream::ports::{Checkpoint, Position, SequenceNumber, ShardId};
use anabranch_stream::settings::{Compression, Format};
use anabranch_stream::testing::{self, NOW_MS, event, notice, types};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::targets::item_bytes;

/// A file of a corpus.
#[derive(Clone, Debug)]
pub struct Seed {
    /// The target.
    pub target: &'static str,
    /// The file's name.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

const NUMBER: &str = "49590338271490256608559692538361571095921575989136588898";
const SHA256: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// One of every format, and of every variant.
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let mut add = |target, name, bytes: Vec<u8>| seeds.push(Seed { target, name, bytes });
    producers(&mut add);
    lambda(&mut add);
    stored(&mut add);
    dynamo(&mut add);
    delivered(&mut add);
    trained(&mut add);
    batch(&mut add);
    seeds
}

type Add<'a> = dyn FnMut(&'static str, &'static str, Vec<u8>) + 'a;

fn envelope() -> Vec<u8> {
    let text = json!({ "userId": "u1", "sessionId": "s1", "trackingId": "t", "eventList": [
        { "eventType": "view", "itemId": "i1", "sentAt": 1_699_999_999, "eventId": "e1" },
        { "userId": null, "eventType": "cart", "itemId": 7, "sentAt": "2023-11-14T22:13:19Z", "eventValue": 2.5 },
        { "USER_ID": "u2", "ITEM_ID": "i3", "TIMESTAMP": 1_699_999_999_000_i64, "properties": { "a": [1] } },
    ] });
    text.to_string().into_bytes()
}

fn producers(add: &mut Add<'_>) {
    let one = event("u1", "i1", "view", NOW_MS - 5000);
    add("event_json", "seed-event", one.clone());
    add("event_json", "seed-envelope", envelope());
    add("event_json", "seed-session", br#"{"sessionId":"s1","itemId":"i2","eventType":"purchase","sentAt":1.6999e9,"eventValue":"3.5","eventId":"e"}"#.to_vec());
    add("post_events", "seed-event", one.clone());
    add("post_events", "seed-envelope", envelope());
    add("post_events", "seed-array", [b"[", &one[..], b",", &one[..], b"]"].concat());
    add("post_events", "seed-lines", [&one[..], b"\nnonsense\n", &one[..], b"\n"].concat());
    let record = json!({ "Data": STANDARD.encode(&one), "PartitionKey": "u1", "ExplicitHashKey": "340282366920938463463374607431768211455" });
    add(
        "put_records",
        "seed-call",
        json!({ "StreamName": "clicks", "Records": [record, record] }).to_string().into_bytes(),
    );
    add("put_records", "seed-arn", json!({ "StreamARN": "arn:aws:kinesis:eu-west-1:000000000000:stream/clicks", "Records": [{ "Data": "", "PartitionKey": "k" }] }).to_string().into_bytes());
    for (name, text) in [
        ("seed-seconds", "1700000000.25"),
        ("seed-milliseconds", "1700000000123"),
        ("seed-rfc3339", "2023-11-14T22:13:20.123+02:00"),
        ("seed-date", "2023-11-14"),
        ("seed-civil", "2023-11-14 22:13:20"),
    ] {
        add("event_time", name, text.into());
    }
    let mut aggregator = Aggregator::new("u1");
    for part in [&one[..], b"", b"no json"] {
        aggregator.push(part);
    }
    add("kpl_aggregate", "seed-three", aggregator.finish());
    add("kpl_aggregate", "seed-empty", Aggregator::new("k").finish());
    // Explicit hash keys and a tag, as the KPL writes them.
    add("kpl_aggregate", "seed-hash-keys", crate::seal::aggregate(b"\x0a\x01a\x0a\x01b\x12\x0212\x1a\x08\x08\x00\x10\x00\x1a\x02xy\x1a\x0a\x08\x01\x1a\x01z\x22\x03\x0a\x01t0123456789abcdef"));
}

fn lambda(add: &mut Add<'_>) {
    let mut aggregator = Aggregator::new("u1");
    for i in 0..3 {
        aggregator.push(&event("u1", &format!("i{i}"), "view", NOW_MS - 9000 + i));
    }
    let data = [event("u1", "i1", "view", NOW_MS - 5000), aggregator.finish(), envelope(), b"no json".to_vec()];
    let number = |index: usize| format!("4959033827149025660855969253836157{:022}", index + 1);
    let kinesis: Vec<_> = data
        .iter()
        .enumerate()
        .map(|(index, data)| {
            json!({ "eventID": format!("shardId-000000000006:{}", number(index)), "eventSource": "aws:kinesis", "kinesis": {
                "partitionKey": "u1", "sequenceNumber": number(index), "data": STANDARD.encode(data),
                "approximateArrivalTimestamp": NOW_MS as f64 / 1000.0, "kinesisSchemaVersion": "1.0",
            } })
        })
        .collect();
    add("kinesis_event", "seed-batch", json!({ "Records": kinesis }).to_string().into_bytes());
    add("kinesis_event", "seed-one", json!({ "Records": [kinesis[0]] }).to_string().into_bytes());
    let data = [
        event("u1", "i1", "view", NOW_MS - 5000),
        envelope(),
        event("u1", "i1", "view", NOW_MS - 5000),
        b"no json".to_vec(),
    ];
    let firehose: Vec<_> = data
        .iter()
        .enumerate()
        .map(|(index, data)| {
            json!({ "recordId": number(index), "approximateArrivalTimestamp": NOW_MS, "data": STANDARD.encode(data),
                "kinesisRecordMetadata": { "shardId": "shardId-000000000006", "partitionKey": "u1", "sequenceNumber": number(index),
                    "subsequenceNumber": "", "approximateArrivalTimestamp": "2023-11-14T22:13:20Z" } })
        })
        .collect();
    add("firehose_event", "seed-kinesis", json!({ "invocationId": "x", "records": firehose }).to_string().into_bytes());
    let direct = json!({ "recordId": "1", "approximateArrivalTimestamp": NOW_MS, "data": STANDARD.encode(&data[0]) });
    add(
        "firehose_event",
        "seed-direct",
        json!({ "invocationId": "x", "deliveryStreamArn": "a", "region": "r", "records": [direct] })
            .to_string()
            .into_bytes(),
    );
}

/// Histories of a user and of a session that became theirs.
fn histories() -> BTreeMap<HistoryKey, Vec<u8>> {
    let types = types();
    let mut held = BTreeMap::new();
    let mut records: Vec<Vec<u8>> = (0..6)
        .map(|i| event("u1", &format!("i{i}"), ["view", "cart", "purchase"][i % 3], NOW_MS - 100_000 * i as i64))
        .collect();
    records.push(envelope());
    records.push(br#"{"sessionId":"s2","itemId":"i2","sentAt":1699999999,"eventValue":1.5}"#.to_vec());
    for record in &records {
        let mut events = Vec::new();
        decode_record(record, &types, NOW_MS, |event| events.extend(event.map(Event::into_owned)));
        for event in &events {
            apply_event(event, &types, &mut |key, change| {
                change(held.entry(key.clone()).or_insert_with(anabranch_events::History::new));
            });
        }
    }
    held.entry(HistoryKey::User("u2".into())).or_default().erase(NOW_MS - 1_000_000);
    held.iter().map(|(key, history)| (key.clone(), codec::encode(history, &types))).collect()
}

fn stored(add: &mut Add<'_>) {
    let histories = histories();
    for (name, key) in [
        ("seed-user", HistoryKey::User("u1".into())),
        ("seed-alias", HistoryKey::Session("s1".into())),
        ("seed-session", HistoryKey::Session("s2".into())),
        ("seed-floor", HistoryKey::User("u2".into())),
    ] {
        add("history", name, histories[&key].clone());
    }
    let mut writer = HistoryFileWriter::new(Vec::new()).expect("memory does not fail");
    let by_bytes: BTreeMap<_, _> = histories.iter().map(|(key, bytes)| (key.to_bytes(), (key, bytes))).collect();
    for (key, bytes) in by_bytes.values() {
        writer.push(key, bytes).expect("keys ascend");
    }
    add("history_file", "seed-file", writer.finish().expect("memory does not fail"));
    let record = LogRecord {
        sequence: 7,
        arrival_ms: NOW_MS,
        partition_key: "u1".to_owned(),
        data: Some(event("u1", "i1", "view", NOW_MS)),
    };
    add("log_record", "seed-record", fuzzing::log_record_bytes(&record));
    add("log_record", "seed-erased", fuzzing::log_record_bytes(&LogRecord { data: None, ..record }));
    let (key, value) = fuzzing::outbox_entry_bytes(&notice(9, NOW_MS, "u1").to_entry());
    add("outbox_entry", "seed-notice", [key, value].concat());
    let far: SequenceNumber = NUMBER.parse().expect("a number of Kinesis");
    for (name, checkpoint) in [
        ("seed-log", Checkpoint::After(Position::whole(SequenceNumber::from(42)))),
        ("seed-part", Checkpoint::After(Position { number: far, sub: Some(7) })),
        ("seed-end", Checkpoint::ShardEnd(Position::whole(far))),
    ] {
        add("checkpoint", name, anabranch_stream::fuzzing::checkpoint_bytes(checkpoint));
    }
    for (name, text) in
        [("seed-part", "49590338271490256608559692538361571095921575989136588898.7"), ("seed-number", "42")]
    {
        add("position", name, text.into());
    }
    add("position", "shard", b"shardId-000000000007".to_vec());
    add(
        "position",
        "object",
        object::object_name(
            "recommendations/c",
            ShardId(7),
            Position { number: far, sub: Some(3) },
            NOW_MS,
            Compression::Zstd,
        )
        .into(),
    );
    let erased = ErasureKey::new([7; 32]).name(&HistoryKey::User("u1".into()));
    add("position", "erased", erased.to_string().into());
    add("position", "key", b"uu1".to_vec());
    add("backup", "seed-backup", backup());
}

fn backup() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let state: std::sync::Arc<State> = testing::state(folder.path(), 1);
    let mut bytes = Vec::new();
    state.backup(&mut bytes).expect("memory does not fail");
    bytes
}

fn dynamo(add: &mut Add<'_>) {
    let key = HistoryKey::User("u1".into());
    add("dynamo_item", "seed-history", item_bytes(&item::history_item(&key, histories()[&key].clone(), 1_700_000_000)));
    let name = ErasureKey::new([7; 32]).name(&key);
    add("dynamo_item", "seed-floor", item_bytes(&item::floor_item(&name, NOW_MS).0));
    let position = Position { number: NUMBER.parse().expect("a number of Kinesis"), sub: Some(7) };
    let checkpoint = Checkpoint::ShardEnd(position);
    add("dynamo_item", "seed-checkpoint", item_bytes(&item::checkpoint_item("clicks", ShardId(3), checkpoint).0));
    let lease = Lease {
        key: ShardId(3),
        owner: Some("worker-1".to_owned()),
        counter: 12,
        checkpoint: LeaseCheckpoint::After(position),
        parents: vec![ShardId(1), ShardId(2)],
        owner_switches: 1,
        hash_keys: (0, u128::MAX),
    };
    add("dynamo_item", "seed-lease", item_bytes(&items::lease_item(&lease)));
    add("dynamo_item", "seed-notice", item_bytes(&items::notice_item(&notice(9, NOW_MS, "u1"))));
}

fn list(index: u64) -> Recommendation<'static> {
    Recommendation {
        recommendation_id: format!("{index:032x}").into(),
        user_id: (index.is_multiple_of(2)).then(|| format!("u{index}").into()),
        session_id: (index % 2 == 1).then(|| "s1".into()),
        event_id: EventKey(index).to_string().into(),
        event_type: "view".into(),
        event_item_id: "i1".into(),
        event_time_ms: NOW_MS - 1000,
        arrival_time_ms: NOW_MS,
        trigger: if index < 2 { Trigger::Event } else { Trigger::User },
        shard_id: ShardId(7).to_string().into(),
        sequence_number: NUMBER.into(),
        sub_sequence_number: (index == 1).then_some(3),
        snapshot_version: "0123456789abcdef".into(),
        overlay_version: "0".into(),
        items: (0..index)
            .map(|i| RecommendedItem { item_id: format!("i{i}").into(), score: 1.5 / (i + 1) as f32 })
            .collect(),
    }
}

fn object_of(count: u64, form: Form) -> Vec<u8> {
    let mut lines = Vec::new();
    for index in 0..count {
        serde_json::to_writer(&mut lines, &list(index)).expect("a list has a JSON form");
        lines.push(b'\n');
    }
    let number: SequenceNumber = NUMBER.parse().expect("a number of Kinesis");
    let trailer = Trailer {
        version: object::VERSION,
        shard: ShardId(7),
        after: Position::START,
        first: Position { number, sub: Some(0) },
        last: Position::whole(number),
        counts: Counts { records: count, accepted: count, delivered: count, ..Counts::default() },
        snapshot_version: "0123456789abcdef".to_owned(),
        overlay_version: "0".to_owned(),
        bytes: lines.len() as u64,
        digest: object::digest(&lines),
    };
    object::encode(&lines, &trailer, form).expect("memory does not fail")
}

fn delivered(add: &mut Add<'_>) {
    add("recommendation", "seed-list", serde_json::to_vec(&list(3)).expect("a list has a JSON form"));
    add("recommendation", "seed-session", serde_json::to_vec(&list(1)).expect("a list has a JSON form"));
    let form = |format, compression| Form { format, compression };
    add("delivered_lines", "seed-zstd", object_of(3, form(Format::Jsonl, Compression::Zstd)));
    add("delivered_lines", "seed-gzip", object_of(3, form(Format::Jsonl, Compression::Gzip)));
    add("delivered_lines", "seed-empty", object_of(0, form(Format::Jsonl, Compression::Zstd)));
    add("delivered_parquet", "seed-zstd", object_of(3, form(Format::Parquet, Compression::Zstd)));
    add("delivered_parquet", "seed-gzip", object_of(2, form(Format::Parquet, Compression::Gzip)));
    add("delivered_parquet", "seed-empty", object_of(0, form(Format::Parquet, Compression::Zstd)));
    let raw = String::from_utf8(envelope()).expect("JSON is text");
    let letters = [
        json!({ "shardId": "shardId-000000000007", "sequenceNumber": NUMBER, "arrivalTimeMs": NOW_MS, "partitionKey": "u1", "code": "unparsable", "detail": "d", "raw": "x" }),
        json!({ "partitionKey": "k", "code": "bad-time", "detail": "d", "raw": raw }),
        json!({ "partitionKey": "k", "code": "unparsable", "detail": "d", "rawBase64": STANDARD.encode(b"\xffu1") }),
    ];
    add("dead_letters", "seed-letters", letters.map(|letter| format!("{letter}\n")).concat().into_bytes());
    add("dead_letters", "record", envelope());
}

fn trained(add: &mut Add<'_>) {
    const CATALOGUE: [(&str, &str); 5] =
        [("Tea", "Drinks"), ("", ""), ("Crème brûlée", ""), ("", "Drinks"), ("Tea", "é")];
    for (name, titles) in [("seed-small", &[][..]), ("seed-catalogue", &CATALOGUE[..])] {
        let index = ItemIndex::new((0..5).map(|i| format!("i{i}")).collect()).expect("ids are distinct");
        let rows = (0..6_u32)
            .map(|user| (0..5).filter(|item| (item + user) % 3 != 0).map(|item| (item, 1.0)).collect::<Vec<_>>());
        let rows = Interactions::from_rows(5, rows.collect::<Vec<_>>()).expect("items ascend");
        let ials = IalsSettings { dim: 2, iterations: 2, ..IalsSettings::default() };
        let settings = LearnSettings { ials, ..LearnSettings::default() };
        let events = testing::events();
        let provenance =
            Provenance { events: &events, as_of_ms: NOW_MS, demand: None, titles, metrics: BTreeMap::new() };
        let learned =
            learn(Kernels::best(), &rows, &index, &settings, &provenance, |_| {}).expect("a small model trains");
        add("snapshot", name, learned.snapshot);
    }
    let version = Version::parse("0123456789abcdef").expect("sixteen hexadecimal digits");
    let pointer = Pointer {
        format: 1,
        number: 42,
        version: version.clone(),
        sha256: SHA256.to_owned(),
        size: 1000,
        promoted_at_ms: NOW_MS,
        reason: "better".to_owned(),
        previous: Version::parse("fedcba9876543210"),
    };
    add("registry_record", "seed-pointer", fuzzing::pointer_bytes(&pointer));
    let manifest = Manifest { format: 1, version, sha256: SHA256.to_owned(), size: 1000, published_at_ms: NOW_MS };
    add("registry_record", "seed-manifest", fuzzing::manifest_bytes(&manifest));
}

fn batch(add: &mut Add<'_>) {
    const CSV: &[u8] = b"USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,SESSION_ID,EVENT_VALUE\n\
        ann,tea,1600000000,view,s1,\nann,tea,1600000100,purchase,s1,2.5\nbob,\"milk, fresh\",1600100000,view,,\n\
        ,tea,1600000050,view,s2,\nann,tea,1600000000,view,s1,\nann,tea,soon,view,,\n";
    add("etl_csv", "seed-table", CSV.to_vec());
    let lines: Vec<Vec<u8>> = (0..3).map(|i| event("u1", &format!("i{i}"), "view", NOW_MS - i)).collect();
    add(
        "etl_json_lines",
        "seed-lines",
        [lines.join(&b'\n'), b"\n{\"USER_ID\":1,\"ITEM_ID\":2,\"TIMESTAMP\":\"2023-11-14\"}\nnonsense\n".to_vec()]
            .concat(),
    );
    add("etl_parquet", "seed-lists", object_of(4, Form { format: Format::Parquet, compression: Compression::Zstd }));
    let report = anabranch_batch::etl::report::EtlReport::default();
    add("etl_report", "seed-report", serde_json::to_vec(&report).expect("a report has a JSON form"));
    let file = json!({ "path": "interactions/day=2023-11-14/a.parquet", "kind": "interactions", "bytes": 10, "sha256": SHA256, "rows": 3 });
    add(
        "etl_report",
        "seed-manifest",
        json!({ "format": 1, "files": [file], "report": report }).to_string().into_bytes(),
    );
    add("mapping", "seed-full", b"[interactions]\nfiles = [\"a/*.csv\", \"s3://b/c\"]\nevent_type = \"view\"\ndelimiter = \";\"\n[interactions.columns]\nuser = \"u\"\nitem = \"i\"\ntime = \"t\"\n[items]\nfiles = [\"items*\"]\n[items.columns]\nid = \"ITEM\"\ntitle = [\"a\", \"b\"]\nbrand = \"BRAND\"\n".to_vec());
    let mut environment = Vec::new();
    for (name, value) in [
        ("PLACES__LAKE", "s3://lake/p"),
        ("PLACES__DELIVERED", "s3://lists"),
        ("LAMBDA__TABLE", "state"),
        ("LAMBDA__OUTBOX_TABLE", "outbox"),
        ("LAMBDA__ERASURE_KEY", "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"),
        ("LAMBDA__PARTITION", "hour"),
        ("STREAM__LIST_LENGTH", "7"),
        ("STREAM__MODE", "per-user"),
        ("EVENTS__HALF_LIFE_DAYS", "30"),
        ("NOTIFY__RULES__CART__EVENT_TYPES", "[\"cart\"]"),
        ("NOTIFY__RULES__CART__QUIET_HOURS", "22:00-08:00"),
    ] {
        writeln!(environment, "ANABRANCH__{name}={value}").expect("memory does not fail");
    }
    add("settings", "seed-function", environment);
}
