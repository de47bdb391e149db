//! Every line by hand, on sizes and times that are round; laws that hold for any scenario.
#![allow(clippy::unwrap_used)]

use anabranch_events::EventSettings;
use anabranch_models::learn::LearnSettings;
use proptest::prelude::*;

use super::bill::Part;
use super::*;
use scenario::{Delivered, StreamMode, Vectors};

/// A shop on provisioned shards and small functions, for which the lines below are reckoned by hand.
pub(crate) fn shop() -> Scenario {
    Scenario {
        events_per_second: 100.0,
        peak_ratio: 2.0,
        items: 41_000,
        users: 1_000_000,
        dim: 64,
        neighbours: 100,
        iterations: 8,
        list_length: 20,
        is_per_event: true,
        record_bytes: 500,
        history_entries: 64,
        events_per_write: 1.0,
        item_id_bytes: 12,
        user_id_bytes: 16,
        text_bytes: 40,
        batch_records: 1000,
        window_s: 1.0,
        cut_s: 1.0,
        retention_hours: 24,
        keep_days: 30.0,
        lambda_mb: 512,
        architecture: Architecture::Arm64,
        kinesis: StreamMode::Provisioned,
        dynamodb: Capacity::OnDemand,
        delivered: Delivered::Parquet,
        glue: 5,
        job_hours: 1.0,
        is_bulk: true,
        vectors: Vectors::S3,
        is_users_stored: false,
        similar_per_event: 0.01,
        snapshots_kept: 30,
    }
}

/// Round sizes: a snapshot of 50 MiB, lists of 1,280 bytes, items of two write units.
fn round_sizes() -> Sizes {
    Sizes {
        snapshot_bytes: 50 << 20,
        factors_bytes: 10 << 20,
        line_bytes: 1280,
        history_bytes: 1300,
        item_bytes: 1400,
        stored_bytes: 1500,
        largest_item_bytes: 50_000,
        write_units: 2,
        read_units: 1,
        vector_bytes: 300,
    }
}

/// Round times: 100 µs an event in a function, 250 in a worker, 504 s a night.
fn round_cpu() -> Cpu {
    Cpu { list_us: 80.0, function_us: 100.0, worker_us: 250.0, etl_s: 24.0, train_s: 400.0, bulk_s: 80.0 }
}

fn by_hand(scenario: &Scenario, shape: Shape) -> ShapePlan {
    let (figures, prices) = (Figures::load(None).unwrap(), Prices::load(None).unwrap());
    let (sizes, cpu) = (round_sizes(), round_cpu());
    shape_plan(shape, &Input { scenario, sizes: &sizes, cpu: &cpu, figures: &figures, prices: &prices })
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 2e-5 * expected.abs().max(1e-3), "{found} is not {expected}");
}

#[track_caller]
fn costs(plan: &ShapePlan, part: Part, name: &str, expected: f64) {
    let found: Vec<&Line> = plan.lines.iter().filter(|line| line.part == part && line.name == name).collect();
    assert_eq!(found.len(), 1, "{part:?} {name}: {:?}", plan.lines);
    close(found[0].dollars, expected);
}

/// A plan of the program's own sizes and times.
fn planned(scenario: &Scenario) -> Plan {
    let (figures, prices) = (Figures::load(None).unwrap(), Prices::load(None).unwrap());
    let events = EventSettings::default();
    let types = events.compile().unwrap();
    let learn = LearnSettings::default();
    plan(scenario, &Ground { types: &types, events: &events, learn: &learn, figures: &figures, prices: &prices })
}

/// 100 events/s: 262.8 million a month of 2,628,000 s.
#[test]
fn kinesis_by_hand() {
    // 200 events/s at the peak: 0.25 of a shard of 800 records, 0.125 of one of 800 KB: 1 shard × 730 h × $0.015.
    let plan = by_hand(&shop(), Shape::Mapping);
    costs(&plan, Part::Kinesis, "shard hours", 10.95);
    // A unit of 25 KB each: 262.8 × $0.014.
    costs(&plan, Part::Kinesis, "payload units", 3.6792);
    // Records of 4,100 bytes at 2,000/s at the peak: 2.5 shards of records, 10.25 of bytes: 11. 30 days of retention: 11 ×
    // 730 × $0.02 to 7 days, then 552 h × 3,600 s × 1,000/s × 4,100 B / 2^30 = 7,587.97 GB × $0.023.
    let larger = Scenario { events_per_second: 1000.0, record_bytes: 4100, retention_hours: 720, ..shop() };
    let plan = by_hand(&larger, Shape::Transform);
    assert_eq!(plan.streaming.shards, 11);
    costs(&plan, Part::Kinesis, "shard hours", 120.45);
    costs(&plan, Part::Kinesis, "retention to 7 days", 160.6);
    costs(&plan, Part::Kinesis, "retention beyond", 174.5233);
    // On demand: 730 × $0.04; 262.8 million × 1 KB = 250.6256 GB × $0.08, and × $0.04; of 72 h 48 cost: 172,800 s × 50,000
    // B/s = 8.046627 GB × $0.10.
    let plan = by_hand(&Scenario { kinesis: StreamMode::OnDemand, retention_hours: 72, ..shop() }, Shape::Mapping);
    costs(&plan, Part::Kinesis, "stream hours", 29.2);
    costs(&plan, Part::Kinesis, "data in", 20.05005);
    costs(&plan, Part::Kinesis, "data out", 10.02502);
    costs(&plan, Part::Kinesis, "retention to 7 days", 0.804_662_7);
    assert_eq!(plan.streaming.shards, 4, "a stream on demand begins with four");
    // Advantage: 25 MB a second at least: 2,628,000 × 25 / 1,024 = 64,160.16 GB × $0.032, and × $0.016.
    let plan = by_hand(&Scenario { kinesis: StreamMode::Advantage, ..shop() }, Shape::Mapping);
    costs(&plan, Part::Kinesis, "data in", 2053.125);
    costs(&plan, Part::Kinesis, "data out", 1026.5625);
    assert!(!plan.lines.iter().any(|line| line.name == "shard hours"));
}

/// An invocation of `stream`: 1 s of one shard is 100 records.
///
/// Memory: 34 + 64 + 2 × 50 = 198 MB, so the 512 that were asked for: 512 / 1,769 = 0.289429 vCPU. CPU: 1,000 + 100 ×
/// 100 + (1 read + 100 writes + 1 put + 1 checkpoint) × 120 = 23,360 µs, on that share 80.711 ms. Waiting: DynamoDB 1 + 4
/// rounds of 5 ms, Firehose 20, checkpoint 5: 50 ms. Together 130.711 ms, once a second.
#[test]
fn an_invocation_of_the_mapping_by_hand() {
    let plan = by_hand(&shop(), Shape::Mapping);
    let calls = plan.streaming.calls.unwrap();
    close(calls.records, 100.0);
    close(calls.per_second, 1.0);
    close(calls.duration_s, 0.130_711);
    close(calls.wait_s, 0.05);
    assert_eq!((calls.needed_mb, calls.memory_mb, calls.tmp_mb), (198, 512, 100));
    // Full, 1,000 records: 1,000 + 100,000 + 1,012 × 120 = 222,440 µs = 768.547 ms; waiting 33 × 5 + 25 = 190 ms.
    close(calls.records_max, 1000.0);
    close(calls.longest_s, 0.958_547);
    // The peak fills 200 / 1,000 × 0.9585 / 0.7 = 0.27 of a lane; 200 records take 0.222 s of each second.
    assert_eq!((calls.lanes, calls.concurrency, plan.streaming.factor, plan.streaming.shards), (1, 1, 1, 1));
    // 2.628 million × $0.20; 2.628 million × 0.130711 s × 0.5 GB × $0.0000133334.
    costs(&plan, Part::Lambda, "invocations", 0.5256);
    costs(&plan, Part::Lambda, "GB-seconds", 2.290_067);
    assert!(!plan.lines.iter().any(|line| line.name == "/tmp"));
}

/// 20,000 events/s at the peak: full batches of 0.9585 s: 20 × 0.9585 / 0.7 = 27.4, so 28 lanes on 25 shards: two batches
/// of a shard side by side, or, where objects ask for one at a time, more shards.
#[test]
fn a_busy_stream_has_batches_side_by_side_or_more_shards() {
    let busy = Scenario { events_per_second: 10_000.0, ..shop() };
    let streaming = by_hand(&busy, Shape::Mapping).streaming;
    assert_eq!((streaming.shards_in, streaming.shards, streaming.factor), (25, 25, 2));
    // An invocation that writes objects takes 1.024377 s with 1,000 records: 20 × 1.0244 / 0.7 = 29.3.
    let streaming = by_hand(&busy, Shape::Objects).streaming;
    assert_eq!((streaming.shards_in, streaming.shards, streaming.factor), (25, 30, 1));
    assert_eq!(by_hand(&busy, Shape::Transform).streaming.shards, 25);
}

/// Objects: two calls more and 90 ms of waiting in place of 25. CPU 1,000 + 10,000 + 105 × 120 = 23,600 µs = 81.540 ms;
/// waiting 25 + 90 = 115 ms.
#[test]
fn objects_by_hand() {
    let plan = by_hand(&shop(), Shape::Objects);
    close(plan.streaming.calls.unwrap().duration_s, 0.196_540);
    // One object an invocation, one a second: 2,628 thousand × $0.005, and as many looked for × $0.0004.
    costs(&plan, Part::S3, "objects put", 13.14);
    costs(&plan, Part::S3, "objects looked for", 1.0512);
    // The checkpoint is written and read.
    costs(&plan, Part::DynamoDb, "checkpoints, leases written", 1.6425);
    costs(&plan, Part::DynamoDb, "checkpoints, leases read", 0.3285);
    assert!(!plan.lines.iter().any(|line| line.part == Part::Firehose));
}

/// Lists of 1,280 bytes, 204 in a record of 256 KB; 100 of them are 128,000 bytes, 25 steps of 5 KB, no rounding: 128,000
/// B/s × 2,628,000 s / 2^30 = 313.2820 GB × $0.029, and × $0.018.
#[test]
fn firehose_by_hand() {
    let plan = by_hand(&shop(), Shape::Mapping);
    costs(&plan, Part::Firehose, "data in", 9.085_178);
    costs(&plan, Part::Firehose, "to Parquet", 5.639_076);
    // The transform takes each record as it comes: 5,120 bytes: 1,253.128 GB.
    let plan = by_hand(&shop(), Shape::Transform);
    costs(&plan, Part::Firehose, "data in", 36.340_71);
    // 0.2 MB of 500 bytes are 419 records; an answer of 6 MB would hold 6,291,456 / (1,708 + 260) = 3,196 lists.
    close(plan.streaming.calls.unwrap().records_max, 419.0);
    let plan = by_hand(&Scenario { delivered: Delivered::Json, ..shop() }, Shape::Transform);
    assert!(!plan.lines.iter().any(|line| line.name == "to Parquet"));
}

/// 262.8 million writes of 2 units × $0.625, as many reads of 1 unit × $0.125, a checkpoint a second.
#[test]
fn dynamodb_by_hand() {
    let plan = by_hand(&shop(), Shape::Mapping);
    costs(&plan, Part::DynamoDb, "histories written", 328.5);
    costs(&plan, Part::DynamoDb, "histories read", 32.85);
    costs(&plan, Part::DynamoDb, "checkpoints, leases written", 1.6425);
    // 1,000,000 × 1,500 bytes = 1.396984 GB × $0.25, and × $0.20.
    costs(&plan, Part::DynamoDb, "storage", 0.349_246);
    costs(&plan, Part::DynamoDb, "point-in-time recovery", 0.279_397);
    close(plan.peak_write_units, 402.0);
    close(plan.write_capacity, 575.0);
    // Provisioned: 201 a second × 2 / 0.7 = 574.3, so 575 × 730 × $0.00065; 100 × 2 / 0.7 = 285.7: 286 × 730 × $0.00013.
    let plan = by_hand(&Scenario { dynamodb: Capacity::Provisioned, ..shop() }, Shape::Mapping);
    costs(&plan, Part::DynamoDb, "write capacity", 272.8375);
    costs(&plan, Part::DynamoDb, "read capacity", 27.1414);
    // Two events of a user in a write halve both.
    let plan = by_hand(&Scenario { events_per_write: 2.0, ..shop() }, Shape::Mapping);
    costs(&plan, Part::DynamoDb, "histories written", 164.25);
}

/// Objects of Firehose: 128,000 B/s fill 64 MB in 524 s, so one each 60 s: 43.8 thousand × $0.005. Storage: lists
/// 128,000 × 86,400 × 30 × 0.15 = 46.34857 GB, events 50,000 B/s: 18.10491 GB; lake 1.3 + 0.192 + 30 × 0.0524288 billion
/// bytes = 2.854377 GB; 67.30786 GB × $0.023.
#[test]
fn s3_by_hand() {
    let plan = by_hand(&shop(), Shape::Mapping);
    costs(&plan, Part::S3, "objects put", 0.219);
    costs(&plan, Part::S3, "storage", 1.548_081);
    let plan = by_hand(&Scenario { keep_days: 0.0, is_bulk: false, ..shop() }, Shape::Mapping);
    // 1.3 + 1.572864 billion bytes = 2.675564 GB.
    costs(&plan, Part::S3, "storage", 0.061_538);
}

/// Workers: 250 µs an event, 0.05 cores at the peak, one shard; two machines anyway.
#[test]
fn workers_by_hand() {
    let plan = by_hand(&shop(), Shape::Fargate);
    let fleet = plan.streaming.fleet.as_ref().unwrap();
    // (221 + 100 + 2 × 50) MiB fit into the least task of 1 vCPU: 2 GB.
    assert_eq!((fleet.vcpus, fleet.memory_gb, fleet.count), (1, 2, 2));
    // 2 × 730 × $0.04048; 2 × 2 × 730 × $0.004445.
    costs(&plan, Part::Workers, "vCPU hours", 59.1008);
    costs(&plan, Part::Workers, "GB hours", 12.9794);
    // A cut a second: 2,628 thousand × $0.005; 1 checkpoint and 0.3 leases a second × 2.628 × $0.625; two workers read
    // the lease table 0.3 times a second.
    costs(&plan, Part::S3, "objects put", 13.14);
    costs(&plan, Part::DynamoDb, "checkpoints, leases written", 2.135_25);
    costs(&plan, Part::DynamoDb, "checkpoints, leases read", 0.1971);
    // EC2: 2 × 730 × $0.1785; disks of 20 + 3 × 50 MiB: 2 × 20.146484 GB × $0.08.
    let plan = by_hand(&shop(), Shape::Ec2);
    assert_eq!(plan.streaming.fleet.as_ref().unwrap().machine, "c7i.xlarge");
    costs(&plan, Part::Workers, "c7i.xlarge", 260.61);
    costs(&plan, Part::Workers, "disks", 3.223_438);
    // 20,000 events/s at the peak are 5 cores, 7.1 vCPU at 0.7, whatever the task; the two of 4 vCPU are the fewest. A
    // thread takes 4,000 × 0.7: 7.1 shards of processor, 25 of records; 13 in a task need 1.6 GB, the least task has 8.
    let busy = by_hand(&Scenario { events_per_second: 10_000.0, ..shop() }, Shape::Fargate);
    let fleet = busy.streaming.fleet.as_ref().unwrap();
    close(fleet.cores, 5.0);
    assert_eq!((busy.streaming.shards, fleet.vcpus, fleet.count, fleet.memory_gb), (25, 4, 2, 8));
}

/// 504 CPU s at half a processor are 1,008; two workers of 4 vCPU: 90 + 1,008 / 8 = 216 s, 2 × 216 / 3,600 = 0.12
/// DPU-hours, × 30.41667 nights × $0.44.
#[test]
fn glue_by_hand() {
    let plan = by_hand(&shop(), Shape::Mapping);
    costs(&plan, Part::Glue, "nightly job", 1.606);
    costs(&by_hand(&Scenario { glue: 6, ..shop() }, Shape::Mapping), Part::Glue, "nightly job", 1.1242);
}

/// 41,000 vectors × 300 bytes = 0.01145527 GB: twice × $0.06; put 30.41667 times (82 calls of 128 KB would be less) ×
/// $0.20; a query a second: 2.628 × $2.50; each processes all of it: 29.39907 TB × $0.004.
#[test]
fn vectors_by_hand() {
    let plan = by_hand(&shop(), Shape::Mapping);
    costs(&plan, Part::Vectors, "storage", 0.001_374_632);
    costs(&plan, Part::Vectors, "put", 0.069_686_2);
    costs(&plan, Part::Vectors, "queries", 6.57);
    costs(&plan, Part::Vectors, "processed", 0.117_596);
    // A million items: the first 100,000 at one price, 900,000 at half of it: 2.628e6 × 900,000 × 300 / 2^40 = 645.3450 TB.
    let many = by_hand(&Scenario { items: 1_000_000, ..shop() }, Shape::Mapping);
    costs(&many, Part::Vectors, "processed beyond", 1.290_69);
    // Aurora: the least half ACU × 730 h × $0.12.
    let aurora = by_hand(&Scenario { vectors: Vectors::Aurora, ..shop() }, Shape::Mapping);
    costs(&aurora, Part::Vectors, "ACU hours", 43.8);
    let none = by_hand(&Scenario { vectors: Vectors::None, ..shop() }, Shape::Mapping);
    assert!(!none.lines.iter().any(|line| line.part == Part::Vectors));
}

/// 2.628 million invocations × 3,000 bytes = 7.342550 GB × $0.50; 24 metrics, 14 alarms, a dashboard, a key.
#[test]
fn watching_by_hand() {
    let plan = by_hand(&shop(), Shape::Mapping);
    costs(&plan, Part::CloudWatch, "logs", 3.671_275);
    costs(&plan, Part::CloudWatch, "metrics", 7.2);
    costs(&plan, Part::CloudWatch, "alarms", 1.4);
    costs(&plan, Part::CloudWatch, "dashboard", 3.0);
    costs(&plan, Part::Kms, "keys", 1.0);
    let plan = by_hand(&shop(), Shape::Fargate);
    assert!(!plan.lines.iter().any(|line| line.name == "logs" || line.name == "metrics"));
}

/// A snapshot of 400 MB needs 800 of /tmp: 288 MB beyond the free 512, for each second of each invocation.
#[test]
fn a_large_snapshot_pays_for_tmp() {
    let (figures, prices) = (Figures::load(None).unwrap(), Prices::load(None).unwrap());
    let (sizes, cpu) = (Sizes { snapshot_bytes: 400 << 20, ..round_sizes() }, round_cpu());
    let scenario = shop();
    let input = Input { scenario: &scenario, sizes: &sizes, cpu: &cpu, figures: &figures, prices: &prices };
    let plan = shape_plan(Shape::Mapping, &input);
    let calls = plan.streaming.calls.unwrap();
    // 34 + 64 + 800 = 898, in steps of 64: 960.
    assert_eq!((calls.needed_mb, calls.memory_mb, calls.tmp_mb), (898, 960, 800));
    // 23,360 µs on 960 / 1,769 vCPU = 43.045 ms, and 50: 0.093045 s × 2.628 million × 0.28125 GB × $0.0000000309.
    costs(&plan, Part::Lambda, "/tmp", 0.002_125_03);
}

/// Events 122.3758 GB × $0.05; 4.345238 trainings × 64 million × $0.002 a thousand; a list each: 262.8 million × $0.15 a
/// thousand; of older recipes 72 million × $0.0556 + 190.8 million × $0.0278 a thousand.
#[test]
fn personalize_by_hand() {
    let theirs = planned(&shop()).personalize;
    let found: Vec<f64> = theirs.lines.iter().map(|line| line.dollars).collect();
    for (found, expected) in found.iter().zip([6.118_788, 556.190_5, 39_420.0]) {
        close(*found, expected);
    }
    close(theirs.total, 39_982.309_3);
    close(theirs.older_lists, 4003.2 + 5304.24);
    assert!(theirs.beyond.is_empty());
    // One list a second is the least that a campaign bills: 2.628 million × $0.15 a thousand.
    let quiet = planned(&Scenario { events_per_second: 0.1, ..shop() }).personalize;
    close(quiet.lines[2].dollars, 394.2);
    let large =
        planned(&Scenario { events_per_second: 1e6, users: 100_000_000, items: 6_000_000, ..shop() }).personalize;
    assert_eq!(large.beyond.len(), 4);
    // Trainings on the 3 billion interactions that it considers: 4.345238 × 3 million thousands × $0.002.
    close(large.lines[1].dollars, 26_071.43);
}

/// Sizes are those of the code that writes them: a snapshot of 41,000 × 64 by its formula, a list as a line, a history by
/// its codec (64 entries of 20 bytes, names and frame).
#[test]
fn sizes_are_those_of_the_codecs() {
    let events = EventSettings::default();
    let (types, learn) = (events.compile().unwrap(), LearnSettings::default());
    let of = |scenario: &Scenario| Sizes::of(scenario, &types, &events, &learn);
    let sizes = of(&shop());
    let shape = sizes::snapshot(&shop(), &events, &learn);
    assert_eq!((sizes.snapshot_bytes, shape.neighbours), (shape.bytes(), 4_100_000));
    // Factors 41,008 × 64 × 4, neighbours 4.1 million × 8, per item 8 + 8 + 4 + 8 + 4 + 4 + 8 + 8, ids 12, texts 40.
    let roughly = 41_008 * 256 + 32_800_000 + 41_000 * (52 + 52) + 64 * 64 * 8;
    assert!(sizes.snapshot_bytes.abs_diff(roughly) < 5000, "{} {roughly}", sizes.snapshot_bytes);
    assert!((64 * 20..64 * 20 + 80).contains(&sizes.history_bytes), "{}", sizes.history_bytes);
    assert!((sizes.history_bytes + 30..sizes.history_bytes + 80).contains(&sizes.item_bytes), "{}", sizes.item_bytes);
    assert_eq!((sizes.write_units, sizes.read_units), (2, 1));
    // Twenty items more of 12 + 10 characters and their JSON.
    let longer = of(&Scenario { list_length: 40, ..shop() });
    let an_item = r#"{"itemId":"iiiiiiiiiiii","score":0.12345679},"#.len() as u64;
    assert_eq!(longer.line_bytes - sizes.line_bytes, 20 * an_item);
}

/// What cannot run says so, and what is reached says what to do.
#[test]
fn limits_are_found_where_they_are() {
    let reached = |scenario: &Scenario, shape: Shape| -> Vec<String> {
        let plan = planned(scenario);
        let of = plan.shapes.into_iter().find(|of| of.shape == shape).unwrap();
        of.limits.into_iter().filter(|limit| limit.is_reached).map(|limit| limit.what).collect()
    };
    assert_eq!(reached(&shop(), Shape::Mapping), Vec::<String>::new());
    assert_eq!(reached(&shop(), Shape::Ec2), Vec::<String>::new());
    let large = Scenario { events_per_second: 1e6, users: 100_000_000, user_id_bytes: 16, ..shop() };
    let found = reached(&large, Shape::Mapping);
    for what in
        ["Lambda concurrency", "DynamoDB writes", "DynamoDB reads", "bytes put into Firehose", "queries of S3 Vectors"]
    {
        assert!(found.iter().any(|found| found == what), "{what}: {found:?}");
    }
    // 10 million items × 128: a snapshot of 14 GB holds no function, and no machine of 8 GB.
    let wide = Scenario { items: 10_000_000, dim: 128, job_hours: 2.0, ..shop() };
    assert_eq!(reached(&wide, Shape::Mapping), ["memory of a function", "/tmp of a function"]);
    let plan = planned(&wide);
    let obstacle = |shape: Shape| plan.shapes.iter().find(|of| of.shape == shape).unwrap().obstacle.clone();
    assert_eq!(obstacle(Shape::Mapping).as_deref(), Some("memory of a function"));
    assert_eq!(obstacle(Shape::Ec2), None);
    let fleet = plan.shapes[4].streaming.fleet.as_ref().unwrap();
    assert!(fleet.memory_gb >= 32, "{fleet:?}");
    // 100 million items hold no machine of the file.
    let plan = planned(&Scenario { items: 100_000_000, dim: 128, ..shop() });
    assert!(plan.shapes.iter().all(|of| of.obstacle.is_some()));
    assert!(page::text(&plan, Shape::Fargate).contains("does not run"));
}

/// The events/s at which a limit is said to be reached is where it is reached: half of it is fine, twice it is not.
#[test]
fn a_limit_is_reached_where_it_says() {
    let scenario = Scenario { events_per_second: 1000.0, ..shop() };
    let of =
        |events_per_second: f64| by_hand(&Scenario { events_per_second, ..scenario.clone() }, Shape::Mapping).limits;
    for (place, limit) in of(1000.0).iter().enumerate() {
        if let Some(at) = limit.reached_at {
            assert!(!of(at / 2.0)[place].is_reached, "{}: not at half of {at}", limit.what);
            assert!(of(at * 2.0)[place].is_reached, "{}: at twice {at}", limit.what);
        }
    }
}

/// A user's figures and prices move the lines that they are in.
#[test]
fn other_prices_and_figures_count() {
    let scenario = shop();
    let figures =
        Figures::load(Some("[call_us]\nvalue = 0\n[dynamodb_ms]\nvalue = 0\n[firehose_ms]\nvalue = 0\n")).unwrap();
    let prices = Prices::load(Some("[prices.lambda_request_million]\ndollars = 2.0\n")).unwrap();
    let (sizes, cpu) = (round_sizes(), round_cpu());
    let input = Input { scenario: &scenario, sizes: &sizes, cpu: &cpu, figures: &figures, prices: &prices };
    let plan = shape_plan(Shape::Mapping, &input);
    // (1,000 + 10,000) µs / 0.289429.
    close(plan.streaming.calls.unwrap().duration_s, 0.038_006);
    costs(&plan, Part::Lambda, "invocations", 5.256);
}

#[test]
fn nonsense_is_refused_by_its_option() {
    for (scenario, option) in [
        (Scenario { events_per_second: 0.0, ..shop() }, "--events-per-second"),
        (Scenario { events_per_second: f64::NAN, ..shop() }, "--events-per-second"),
        (Scenario { peak_ratio: 0.5, ..shop() }, "--peak"),
        (Scenario { items: 0, ..shop() }, "--items"),
        (Scenario { dim: 2000, ..shop() }, "--dimensions"),
        (Scenario { glue: 4, ..shop() }, "--glue"),
        (Scenario { lambda_mb: 20_000, ..shop() }, "--lambda-mb"),
    ] {
        assert!(scenario.check().unwrap_err().starts_with(option));
    }
    assert_eq!(shop().check(), Ok(()));
}

fn any_scenario() -> impl Strategy<Value = Scenario> {
    let traffic = (0.1_f64..1e6, 1.0_f64..5.0, 10_u64..50_000, 1_u64..100_000_000);
    let model = (1_u64..256, 1_u64..200, 1_u64..100, 1_u64..512);
    let shape = (1_u64..5000, 1.0_f64..8.0, 1_u64..10_000, 0.0_f64..20.0, 0.1_f64..60.0, any::<[bool; 5]>());
    (traffic, model, shape).prop_map(|(traffic, model, shape)| {
        let (record_bytes, events_per_write, batch_records, window_s, cut_s, flags) = shape;
        Scenario {
            events_per_second: traffic.0,
            peak_ratio: traffic.1,
            items: traffic.2,
            users: traffic.3,
            dim: model.0,
            neighbours: model.1,
            list_length: model.2,
            history_entries: model.3,
            record_bytes,
            events_per_write,
            batch_records,
            window_s,
            cut_s,
            is_per_event: flags[0],
            kinesis: if flags[1] { StreamMode::OnDemand } else { StreamMode::Provisioned },
            dynamodb: if flags[2] { Capacity::OnDemand } else { Capacity::Provisioned },
            vectors: if flags[3] { Vectors::Aurora } else { Vectors::S3 },
            is_users_stored: flags[4],
            ..shop()
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The total is its lines, the parts are the total, a line is its units at its price, and nothing is negative or not a
    /// number.
    #[test]
    fn a_bill_adds_up(scenario in any_scenario()) {
        for of in planned(&scenario).shapes {
            let sum: f64 = of.lines.iter().map(|line| line.dollars).sum();
            prop_assert!((sum - of.total).abs() <= 1e-9 * sum);
            let parts: f64 = Part::ALL.iter().map(|part| of.lines.iter().filter(|l| l.part == *part).map(|l| l.dollars).sum::<f64>()).sum();
            prop_assert!((parts - of.total).abs() <= 1e-9 * sum);
            for line in &of.lines {
                prop_assert!(line.dollars >= 0.0 && line.dollars.is_finite(), "{:?}", line);
                prop_assert!((line.price.of(line.units) - line.dollars).abs() <= 1e-9 * line.dollars.max(1.0));
            }
            prop_assert!((of.per_million * scenario.events_per_second * SECONDS / 1e6 - of.total).abs() <= 1e-6 * of.total);
        }
    }

    /// More users, items, dimensions, entries, days, events, or a larger record or peak never need less: no size is smaller
    /// and no list cheaper to make. (The bill itself may fall by a little: batches grow while a function is busy, and
    /// larger machines are fewer, so that they read the lease table less often.)
    #[test]
    fn more_never_needs_less(scenario in any_scenario(), which in 0_usize..8) {
        let mut more = scenario.clone();
        match which {
            0 => more.events_per_second *= 2.0,
            1 => more.users *= 2,
            2 => more.items *= 2,
            3 => more.dim = (more.dim * 2).min(1024),
            4 => more.history_entries *= 2,
            5 => more.keep_days *= 2.0,
            6 => more.record_bytes *= 2,
            _ => more.peak_ratio *= 2.0,
        }
        let (before, after) = (planned(&scenario), planned(&more));
        let sizes = |of: &Plan| {
            let sizes = &of.sizes;
            [
                sizes.snapshot_bytes,
                sizes.factors_bytes,
                sizes.line_bytes,
                sizes.history_bytes,
                sizes.item_bytes,
                sizes.stored_bytes,
                sizes.write_units,
                sizes.read_units,
                sizes.vector_bytes,
            ]
        };
        for (before, after) in sizes(&before).into_iter().zip(sizes(&after)) {
            prop_assert!(after >= before, "{which}: {before} then {after}");
        }
        prop_assert!(after.cpu.list_us >= before.cpu.list_us * (1.0 - 1e-9), "{which}: {} then {}", before.cpu.list_us, after.cpu.list_us);
        prop_assert!(after.personalize.total >= before.personalize.total * (1.0 - 1e-9));
    }

    /// Any scenario that is accepted has a page, and the page's shape is there in JSON.
    #[test]
    fn every_scenario_has_a_page(scenario in any_scenario(), shape in prop::sample::select(Shape::ALL.to_vec())) {
        let plan = planned(&scenario);
        let text = page::text(&plan, shape);
        prop_assert!(text.contains("together") && !text.contains("NaN"), "{}", text);
        let json = serde_json::to_value(&plan).unwrap();
        prop_assert_eq!(json["shapes"].as_array().unwrap().len(), 5);
    }
}

/// One table of prices: those of `crates/aws/src/dynamo/size.rs` are these.
#[test]
fn the_prices_in_the_arithmetic_of_items_are_these() {
    use anabranch_aws::dynamo::size::{DOLLARS_PER_MILLION_READ_UNITS, DOLLARS_PER_MILLION_WRITE_UNITS};
    let prices = Prices::load(None).unwrap().prices;
    close(prices.dynamodb_write_million.dollars, DOLLARS_PER_MILLION_WRITE_UNITS);
    close(prices.dynamodb_read_million.dollars, DOLLARS_PER_MILLION_READ_UNITS);
}
