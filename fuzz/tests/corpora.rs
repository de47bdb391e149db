//! Every target over its committed corpus and over mutations of each file, from seeds that do not change.
//!
//! A failure names the target and leaves the input in the file that it names; so does an abort (too much heap): the
//! input under way always lies in `fuzz-<target>` in cargo's folder for temporary files. One input again:
//! `ANABRANCH_FUZZ_INPUT=<file> cargo test -p anabranch-fuzz --test corpora <target> -- --exact --nocapture`.
//! `ANABRANCH_FUZZ_MUTATIONS=100000` tries more mutations of each file, without libFuzzer and its guidance.

use std::alloc::System;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

use anabranch_fuzz::mutate::{Chance, mutate};
use anabranch_fuzz::{TARGETS, Target, Verdict, find};
use cap::Cap;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// A panic that is told needs memory for its backtrace: it is told without the limit.
fn tell_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let _ = HEAP.set_limit(usize::MAX);
            tell(info);
        }));
    });
}

/// One test measures the heap at a time, where all are threads of one process (`cargo test`).
static HEAP_IS_MEASURED: Mutex<()> = Mutex::new(());

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The files of a folder, by name.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.expect("a folder that lists").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, fs::read(&path).expect("a file that reads"))
        })
        .collect();
    files.sort();
    files
}

fn replay(name: &str) {
    let _measured = HEAP_IS_MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    tell_panics();
    let target = find(name).expect("a target of this name");
    let under_way = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
    if let Ok(path) = std::env::var("ANABRANCH_FUZZ_INPUT") {
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        println!("{path}: {:?}", run(target, &bytes));
        return;
    }
    let more = std::env::var("ANABRANCH_FUZZ_MUTATIONS").ok().and_then(|count| count.parse().ok());
    let mutations = more.unwrap_or(target.mutations);
    (target.run)(b"");
    let corpus = files(&corpus().join(name));
    for (index, (file, bytes)) in corpus.iter().enumerate() {
        fs::write(&under_way, bytes).expect("cargo's folder takes a file");
        let verdict = run_named(target, file, &under_way, bytes);
        assert!(
            verdict == Verdict::Decoded || !file.starts_with("seed-"),
            "{name}/{file} does not decode any longer: write the seeds again (fuzz/README.md)"
        );
        for seed in 0..mutations {
            let other = &corpus[(index + seed as usize) % corpus.len()].1;
            let mutated = mutate(bytes, other, &mut Chance::new(u64::from(seed) << 32 | index as u64));
            fs::write(&under_way, &mutated).expect("cargo's folder takes a file");
            run_named(target, file, &under_way, &mutated);
        }
    }
    fs::remove_file(&under_way).expect("the file that was written");
}

fn run_named(target: &Target, file: &str, under_way: &Path, bytes: &[u8]) -> Verdict {
    let result = std::panic::catch_unwind(|| run(target, bytes));
    result
        .unwrap_or_else(|_| panic!("{} fails on {file} or a mutation of it: see {}", target.name, under_way.display()))
}

/// With a limit on the heap: what claims a length must not get it unseen.
fn run(target: &Target, bytes: &[u8]) -> Verdict {
    HEAP.set_limit(HEAP.allocated().saturating_add(target.heap_bytes_max)).expect("more than is in use");
    let verdict = (target.run)(bytes);
    HEAP.set_limit(usize::MAX).expect("more than is in use");
    verdict
}

macro_rules! targets {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { replay(stringify!($name)); })*
    };
}

targets! {
    event_json post_events put_records event_time kpl_aggregate kinesis_event firehose_event history history_file log_record
    outbox_entry checkpoint position backup dynamo_item recommendation delivered_lines delivered_parquet dead_letters
    snapshot registry_record etl_csv etl_json_lines etl_parquet etl_report mapping settings
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let targets: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(NAMES.iter().copied().collect::<BTreeSet<_>>(), targets, "a target that is not replayed");
    let folders = fs::read_dir(corpus()).expect("the corpora");
    let folders: BTreeSet<String> =
        folders.map(|entry| entry.expect("a folder that lists").file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(folders.iter().map(String::as_str).collect::<BTreeSet<_>>(), targets);
    for name in targets {
        let seeds = files(&corpus().join(name)).into_iter().filter(|(file, _)| file.starts_with("seed-"));
        assert!(seeds.count() > 0, "{name} has no seed");
    }
}

/// The allocator must refuse, or the replay would not notice a length that is believed.
#[test]
fn too_much_heap_is_refused() {
    let _measured = HEAP_IS_MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bytes: Vec<u8> = Vec::new();
    HEAP.set_limit(HEAP.allocated() + (1 << 30)).expect("more than is in use");
    assert!(bytes.try_reserve_exact(2 << 30).is_err());
    HEAP.set_limit(usize::MAX).expect("more than is in use");
    assert!(bytes.try_reserve_exact(1 << 20).is_ok());
}
