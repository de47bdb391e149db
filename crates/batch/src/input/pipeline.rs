//! All threads through all files: each thread pulls a unit (a chunk of text or a row group) from an open file and
//! parses it outside the lock. Every thread has an open file of its own and helps with the others' when its own is
//! busy, so many small files, one huge file and one slow gzip file all keep the cores at work.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::columns::{Columns, Found};
use super::parquet::ParquetSource;
use super::text::{Chunk, Framing, TextSource};
use super::{Compression, Format, InputFile, Location, Place, RowSink, csv, json};
use crate::BatchError;
use crate::etl::Progress;

/// What became of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileOutcome {
    /// Why (the rest of) it could not be read.
    pub(crate) failed: Option<String>,
}

/// How to read.
pub(crate) struct Reading<'a> {
    pub(crate) files: &'a [InputFile],
    pub(crate) columns: &'a Columns,
    /// Folder for remote Parquet files, which need seeking.
    pub(crate) scratch: &'a Path,
    pub(crate) progress: &'a (dyn Fn(Progress) + Sync),
}

/// Reads every row of every file into the sinks, one thread each.
pub(crate) fn read_rows<S: RowSink>(reading: &Reading<'_>, sinks: &mut [S]) -> Result<Vec<FileOutcome>, BatchError> {
    let shared = Shared {
        reading,
        slots: sinks.iter().map(|_| Mutex::new(None)).collect(),
        next_file: AtomicUsize::new(0),
        outcomes: Mutex::new(vec![FileOutcome::default(); reading.files.len()]),
        stop: AtomicBool::new(false),
        done_bytes: AtomicU64::new(0),
        total_bytes: reading.files.iter().map(|file| file.size).sum(),
    };
    let mut results = Vec::new();
    match sinks {
        [one] => results.push(shared.work(0, one)),
        many => std::thread::scope(|scope| {
            let shared = &shared;
            let workers: Vec<_> =
                many.iter_mut().enumerate().map(|(i, sink)| scope.spawn(move || shared.work(i, sink))).collect();
            results.extend(workers.into_iter().map(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }));
        }),
    }
    results.into_iter().collect::<Result<(), _>>()?;
    Ok(shared.outcomes.into_inner().unwrap_or_else(PoisonError::into_inner))
}

struct Shared<'a> {
    reading: &'a Reading<'a>,
    slots: Vec<Mutex<Option<OpenFile>>>,
    next_file: AtomicUsize,
    outcomes: Mutex<Vec<FileOutcome>>,
    stop: AtomicBool,
    done_bytes: AtomicU64,
    total_bytes: u64,
}

struct OpenFile {
    index: u32,
    source: Source,
}

enum Source {
    Text { source: TextSource, plan: Arc<TextPlan> },
    Parquet(Arc<ParquetSource>, usize),
}

/// How the chunks of a text file are parsed.
struct TextPlan {
    format: TextFormat,
    /// Stored bytes for each decoded byte, for progress.
    plain: bool,
}

enum TextFormat {
    Csv { delimiter: u8, columns: usize, found: Found },
    JsonLines,
}

enum Unit {
    Text { file: u32, chunk: Chunk, plan: Arc<TextPlan> },
    Group { file: u32, source: Arc<ParquetSource>, group: usize },
}

impl Shared<'_> {
    fn work<S: RowSink>(&self, own: usize, sink: &mut S) -> Result<(), BatchError> {
        let mut buffer = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let Some(unit) = self.next_unit(own, &mut buffer)? else { break };
            let result = self.parse(&unit, &buffer, sink).and_then(|()| sink.unit_done());
            if result.is_err() {
                self.stop.store(true, Ordering::Relaxed);
                return result;
            }
            if let Unit::Text { plan, .. } = &unit
                && plan.plain
            {
                self.report(buffer.len() as u64);
            }
        }
        Ok(())
    }

    fn report(&self, bytes: u64) {
        let done_bytes = self.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.reading.progress)(Progress { phase: "read", done: done_bytes, total: self.total_bytes });
    }

    /// The next unit of this thread's file, of another's if this one is busy or done, or of the next file.
    fn next_unit(&self, own: usize, buffer: &mut Vec<u8>) -> Result<Option<Unit>, BatchError> {
        loop {
            for step in 0..self.slots.len() {
                let slot = &self.slots[(own + step) % self.slots.len()];
                if let Ok(mut open) = slot.try_lock() {
                    if open.is_none() && step == 0 {
                        *open = self.open_next()?;
                    }
                    if let Some(unit) = self.pull(&mut open, buffer) {
                        return Ok(Some(unit));
                    }
                }
            }
            // Nothing at once: wait for each busy file in turn; when all are done and none is left, so are we.
            let mut any_open = false;
            for step in 0..self.slots.len() {
                let mut open = lock(&self.slots[(own + step) % self.slots.len()]);
                if let Some(unit) = self.pull(&mut open, buffer) {
                    return Ok(Some(unit));
                }
                any_open |= open.is_some();
            }
            if !any_open && self.next_file.load(Ordering::SeqCst) >= self.reading.files.len() {
                return Ok(None);
            }
        }
    }

    fn open_next(&self) -> Result<Option<OpenFile>, BatchError> {
        loop {
            let index = self.next_file.fetch_add(1, Ordering::SeqCst);
            let Some(file) = self.reading.files.get(index) else { return Ok(None) };
            match open(file, self.reading) {
                Ok(source) => return Ok(Some(OpenFile { index: index as u32, source })),
                Err(Failure::File(reason)) => self.fail(index as u32, reason),
                Err(Failure::Run(error)) => {
                    self.stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
    }

    fn fail(&self, file: u32, reason: String) {
        let mut outcomes = lock(&self.outcomes);
        let failed = &mut outcomes[file as usize].failed;
        // Of several row groups that fail, the same one is named whatever the order of threads.
        if failed.as_ref().is_none_or(|held| reason < *held) {
            *failed = Some(reason);
        }
    }

    fn pull(&self, open: &mut Option<OpenFile>, buffer: &mut Vec<u8>) -> Option<Unit> {
        let file = open.as_mut()?;
        let index = file.index;
        let unit = match &mut file.source {
            Source::Text { source, plan } => match source.next_chunk(buffer) {
                Ok(chunk) => chunk.map(|chunk| Unit::Text { file: index, chunk, plan: Arc::clone(plan) }),
                Err(error) => {
                    self.fail(index, broken_off(&error));
                    None
                }
            },
            Source::Parquet(source, next) => (*next < source.group_count()).then(|| {
                *next += 1;
                Unit::Group { file: index, source: Arc::clone(source), group: *next - 1 }
            }),
        };
        if unit.is_none() {
            if !matches!(&file.source, Source::Text { plan, .. } if plan.plain) {
                self.report(self.reading.files[index as usize].size);
            }
            *open = None;
        }
        unit
    }

    fn parse<S: RowSink>(&self, unit: &Unit, buffer: &[u8], sink: &mut S) -> Result<(), BatchError> {
        match unit {
            Unit::Text { file, chunk: Chunk::TooLong { offset, unit }, .. } => {
                let place = Place { file: *file, unit: *unit, offset: *offset, is_row: false };
                let detail = format!("a row of more than {} bytes", super::RECORD_BYTES_MAX);
                let code = anabranch_events::RejectionCode::TooLarge;
                sink.bad_row(place, anabranch_events::Rejection::new(code, detail), buffer)
            }
            Unit::Text { file, chunk: Chunk::Records { offset, unit }, plan } => {
                let first = Place { file: *file, unit: *unit, offset: *offset, is_row: false };
                match &plan.format {
                    TextFormat::JsonLines => json::parse_chunk(buffer, first, self.reading.columns, sink),
                    TextFormat::Csv { delimiter, columns, found } => {
                        csv::parse_chunk(buffer, first, *delimiter, *columns, found, sink)
                    }
                }
            }
            Unit::Group { file, source, group } => match source.read_group(*file, *group, sink) {
                Ok(()) => Ok(()),
                Err(Failure::File(reason)) => {
                    self.fail(*file, reason);
                    Ok(())
                }
                Err(Failure::Run(error)) => Err(error),
            },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked is about to end the run; its half-read file is not used again.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a file or the whole run cannot go on.
pub(crate) enum Failure {
    File(String),
    Run(BatchError),
}

impl From<BatchError> for Failure {
    fn from(error: BatchError) -> Self {
        Self::Run(error)
    }
}

fn broken_off(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            format!("it is truncated: {error}. The rows before that point were read; fetch the file again")
        }
        _ => format!("it cannot be read on: {error}. The rows before that point were read"),
    }
}

fn open(file: &InputFile, reading: &Reading<'_>) -> Result<Source, Failure> {
    let Some((format, compression)) = file.format else {
        return Err(Failure::File(
            "its name ends in none of .csv, .tsv, .txt, .jsonl, .ndjson, .json, .parquet (each with .gz or .zst if \
             compressed)"
                .to_owned(),
        ));
    };
    if file.size == 0 {
        return Err(Failure::File("it is empty (0 bytes)".to_owned()));
    }
    if format == Format::Parquet {
        if compression != Compression::None {
            return Err(Failure::File(
                "a Parquet file is compressed inside; unpack the .gz or .zst around it".to_owned(),
            ));
        }
        let source = ParquetSource::open(local_file(file, reading.scratch)?, reading.columns)?;
        return Ok(Source::Parquet(Arc::new(source), 0));
    }
    let raw = open_bytes(file)?;
    let unreadable = |error: std::io::Error| Failure::File(broken_off(&error));
    let (head, raw) = head_of(raw).map_err(unreadable)?;
    if let Some(problem) = mismatch(&head, compression) {
        return Err(Failure::File(problem));
    }
    let reader: Box<dyn Read + Send> = match compression {
        Compression::None => raw,
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(raw)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(raw).map_err(unreadable)?),
    };
    let mut source = TextSource::new(reader, Framing::Lines);
    if source.peek().map_err(unreadable)?.is_empty() {
        return Err(Failure::File("it holds no bytes once unpacked".to_owned()));
    }
    let bytes = source.peek().map_err(unreadable)?;
    if let Some(problem) = mismatch(&bytes[..bytes.len().min(16)], Compression::None) {
        return Err(Failure::File(problem));
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        source.skip(3);
    }
    let plain = compression == Compression::None;
    let format = text_format(&mut source, format, reading.columns)?;
    Ok(Source::Text { source, plan: Arc::new(TextPlan { format, plain }) })
}

fn text_format(source: &mut TextSource, format: Format, columns: &Columns) -> Result<TextFormat, Failure> {
    let bytes = source.peek().map_err(|error| Failure::File(broken_off(&error)))?;
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if format == Format::JsonLines {
        return match first {
            Some(b'[') => {
                Err(Failure::File("it is one JSON list; write one object a line (jq -c '.[]' does that)".to_owned()))
            }
            Some(b'{') | None => Ok(TextFormat::JsonLines),
            // A first line that is no object may be one bad row; a file without any object is no JSON Lines.
            Some(_) if memchr::memmem::find(bytes, b"\n{").is_some() => Ok(TextFormat::JsonLines),
            Some(_) => Err(Failure::File("its name says JSON Lines, but no line begins with '{'".to_owned())),
        };
    }
    let Format::Csv { delimiter } = format else {
        return Err(Failure::File("its name does not say that it is text".to_owned()));
    };
    let delimiter = columns.delimiter.unwrap_or(delimiter);
    let Some((header, length)) = csv::header(bytes, delimiter) else {
        return Err(Failure::File("its first line is no header in UTF-8".to_owned()));
    };
    if first == Some(&b'{') {
        return Err(Failure::File("its name says CSV, but it holds JSON; name it .jsonl".to_owned()));
    }
    let found = columns.find(&header).map_err(Failure::File)?;
    source.skip(length);
    source.set_framing(Framing::Csv { delimiter, columns: header.len() });
    Ok(TextFormat::Csv { delimiter, columns: header.len(), found })
}

fn open_bytes(file: &InputFile) -> Result<Box<dyn Read + Send>, Failure> {
    match &file.location {
        Location::Local(path) => match File::open(path) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => Err(Failure::File(format!("it cannot be opened: {error}"))),
        },
        Location::Remote(store, path) => {
            store.open(path).map_err(|error| Failure::File(format!("it cannot be opened: {error}")))
        }
    }
}

/// The file on this machine; a remote one is copied to the scratch folder first.
fn local_file(file: &InputFile, scratch: &Path) -> Result<File, Failure> {
    match &file.location {
        Location::Local(path) => {
            File::open(path).map_err(|error| Failure::File(format!("it cannot be opened: {error}")))
        }
        Location::Remote(..) => {
            let mut spool = tempfile::tempfile_in(scratch)
                .map_err(|error| BatchError::scratch("create a temporary file in", scratch, error))?;
            let mut remote = open_bytes(file)?;
            std::io::copy(&mut remote, &mut spool)
                .map_err(|error| Failure::File(format!("it cannot be read whole: {error}")))?;
            Ok(spool)
        }
    }
}

/// The first bytes, and a reader that gives them again.
fn head_of(mut raw: Box<dyn Read + Send>) -> std::io::Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut head = Vec::with_capacity(16);
    raw.by_ref().take(16).read_to_end(&mut head)?;
    Ok((head.clone(), Box::new(std::io::Cursor::new(head).chain(raw))))
}

/// What the first bytes are instead of what the name says.
fn mismatch(head: &[u8], named: Compression) -> Option<String> {
    let really = if head.starts_with(b"\x1f\x8b") {
        Compression::Gzip
    } else if head.starts_with(b"\x28\xb5\x2f\xfd") {
        Compression::Zstd
    } else {
        if head.starts_with(b"PAR1") {
            return Some("its bytes are Parquet; name it .parquet".to_owned());
        }
        if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
            return Some("its text is UTF-16; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)".to_owned());
        }
        if head.starts_with(b"PK\x03\x04") {
            return Some("its bytes are a ZIP archive; unpack it first".to_owned());
        }
        Compression::None
    };
    match (named, really) {
        (named, really) if named == really => None,
        (_, Compression::Gzip) => Some("its bytes are gzip; name it .gz".to_owned()),
        (_, Compression::Zstd) => Some("its bytes are zstd; name it .zst".to_owned()),
        (Compression::Gzip, _) => Some("its name says gzip, its bytes do not".to_owned()),
        (_, Compression::None) => Some("its name says zstd, its bytes do not".to_owned()),
    }
}
