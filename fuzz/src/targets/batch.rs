//! What the ETL reads, through the whole ETL, and what it writes.

use std::fs;
use std::time::SystemTime;

use anabranch_batch::dataset::Dataset;
use anabranch_batch::etl::report::EtlReport;
use anabranch_batch::etl::{EtlRequest, EtlSettings, FILE_CODE, Manifest, run};
use anabranch_batch::input::InputOptions;
use anabranch_batch::mapping::Mapping;
use anabranch_stores::lake::{MemoryStore, S3Options, StoreOptions};
use anabranch_stream::testing::NOW_MS;

use super::types;
use crate::{Verdict, said};

/// The mapping under which a delivered file is a table of interactions.
const DELIVERED: &str = "[interactions.columns]
user = \"userId\"
item = \"eventItemId\"
time = \"eventTimeMs\"
event_type = \"eventType\"
session = \"sessionId\"
";

pub(super) fn etl_csv(bytes: &[u8]) -> Verdict {
    etl("interactions.csv", bytes, &Mapping::default())
}

pub(super) fn etl_json_lines(bytes: &[u8]) -> Verdict {
    etl("interactions.jsonl", bytes, &Mapping::default())
}

pub(super) fn etl_parquet(bytes: &[u8]) -> Verdict {
    etl("interactions.parquet", bytes, &Mapping::parse(DELIVERED).expect("the mapping is a constant that parses"))
}

/// One file of interactions through the ETL: every row is clean, a duplicate, in the quarantine or left out, and the
/// dataset reads back as counted.
fn etl(name: &str, bytes: &[u8], mapping: &Mapping) -> Verdict {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    fs::create_dir(&data).and_then(|()| fs::write(data.join(name), bytes)).expect("the temporary folder takes a file");
    let scratch = folder.path().join("scratch");
    let input = InputOptions {
        data: data.display().to_string(),
        store: StoreOptions { process_started: SystemTime::UNIX_EPOCH, s3: S3Options::default() },
    };
    let request = EtlRequest {
        input: &input,
        mapping,
        types: types(),
        settings: &EtlSettings { keep_going: true, ..EtlSettings::default() },
        as_of_ms: Some(NOW_MS),
        until_ms: None,
        erased: &|_| None,
        scratch: &scratch,
        threads: 1,
        memory_bytes: 64 << 20,
        progress: &|_| {},
        clock_s: &|| 0.0,
    };
    let store = MemoryStore::new();
    let outcome = run(&request, &store);
    let left = fs::read_dir(&scratch).map_or(0, Iterator::count);
    assert_eq!(left, 0, "scratch files are removed");
    let Ok(outcome) = &outcome else { return Verdict::of(&outcome) };
    let report = &outcome.report;
    report.check().expect("the books balance");
    let dataset = Dataset::current(&store).expect("what was published");
    let mut rows = 0;
    for row in dataset.interactions(None) {
        row.expect("what was published");
        rows += 1;
    }
    assert_eq!(rows, report.interactions.clean);
    let quarantine = dataset.quarantine().expect("what was published");
    let refused = quarantine.iter().filter(|entry| entry.code != FILE_CODE).count() as u64;
    assert_eq!(refused, report.interactions.quarantined);
    for entry in &quarantine {
        said(&entry.detail);
    }
    if rows > 0 { Verdict::Decoded } else { Verdict::Refused }
}

/// The report of an ETL, and a dataset's manifest.
pub(super) fn etl_report(bytes: &[u8]) -> Verdict {
    let report = serde_json::from_slice::<EtlReport>(bytes);
    if let Ok(report) = &report {
        let text = serde_json::to_vec(report).expect("a report has a JSON form");
        assert_eq!(&serde_json::from_slice::<EtlReport>(&text).expect("what was written"), report);
        Verdict::of(&report.check());
        Verdict::of(&report.check_files());
    }
    let manifest = serde_json::from_slice::<Manifest>(bytes);
    if let Ok(manifest) = &manifest {
        let text = serde_json::to_vec(manifest).expect("a manifest has a JSON form");
        assert_eq!(&serde_json::from_slice::<Manifest>(&text).expect("what was written"), manifest);
    }
    Verdict::of(&report).or(Verdict::of(&manifest))
}
