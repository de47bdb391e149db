//! ETL throughput: `etl_bench generate <folder> <rows> [days]`, then `/usr/bin/time -v etl_bench run <folder> <out> [threads]`.
//! The peers' side of the same job is `bench/etl_peers.py`.

use std::path::Path;
use std::time::{Instant, SystemTime};

use anabranch_batch::etl::{EtlRequest, EtlSettings, MEMORY_BYTES_DEFAULT, run};
use anabranch_batch::generate::{ScaleSettings, scale};
use anabranch_batch::input::InputOptions;
use anabranch_batch::mapping::Mapping;
use anabranch_events::EventSettings;
use anabranch_stores::lake::{LocalStore, S3Options, StoreOptions};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize| arguments.get(index).map(String::as_str).ok_or("see the head of this file");
    let number = |index: usize, default: u64| arguments.get(index).map_or(Ok(default), |text| text.parse());
    match argument(0)? {
        "generate" => {
            let settings = ScaleSettings { seed: 1, rows: number(2, 10_000_000)?, days: number(3, 60)? as u32 };
            let start = Instant::now();
            let truth = scale(&settings, Path::new(argument(1)?))?;
            println!("{} rows in {:.2} s", truth.rows, start.elapsed().as_secs_f64());
        }
        "run" => etl(argument(1)?, argument(2)?, number(3, 2)? as usize)?,
        _ => return Err("see the head of this file".into()),
    }
    Ok(())
}

fn etl(data: &str, out: &str, threads: usize) -> Result<(), Failure> {
    let store = LocalStore::open(out, SystemTime::now())?;
    let store_options = StoreOptions { process_started: SystemTime::now(), s3: S3Options::default() };
    // Completejourney and the like come with a mapping file beside this repository's examples.
    let mapping = match std::env::var("MAPPING") {
        Ok(file) => Mapping::parse(&std::fs::read_to_string(file)?)?,
        Err(_) => Mapping::default(),
    };
    let start = Instant::now();
    let outcome = run(
        &EtlRequest {
            input: &InputOptions { data: data.to_owned(), store: store_options },
            mapping: &mapping,
            types: &EventSettings::default().compile()?,
            settings: &EtlSettings::default(),
            as_of_ms: None,
            until_ms: None,
            erased: &|_| None,
            scratch: &Path::new(out).join(".scratch"),
            threads,
            memory_bytes: MEMORY_BYTES_DEFAULT,
            progress: &|_| {},
            clock_s: &|| start.elapsed().as_secs_f64(),
        },
        &store,
    )?;
    let seconds = start.elapsed().as_secs_f64();
    let counts = outcome.report.interactions;
    println!("{counts:?} {:?}", outcome.published);
    println!("histories {:?}, days {}", outcome.report.histories, outcome.report.days);
    println!("{seconds:.2} s, {:.0} rows/s, phases {:?}", counts.read as f64 / seconds, outcome.timings);
    outcome.report.check_files()?;
    Ok(())
}
