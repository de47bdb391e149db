//! What happened in a run, line by line: equal seeds give equal tapes, and a failure shows the last lines.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Lines that a failure shows.
const LINES_MAX: usize = 60;

/// A tape. Lines beyond the last few are kept as a hash.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    lines: Mutex<Lines>,
    is_aloud: bool,
}

#[derive(Debug, Default)]
struct Lines {
    hash: u64,
    last: VecDeque<String>,
    tally: BTreeMap<String, u64>,
}

impl Tape {
    /// A tape; one that is aloud is printed as it goes.
    pub(crate) fn new(is_aloud: bool) -> Self {
        Self { is_aloud, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line.
    pub(crate) fn say(&self, line: String) {
        if self.is_aloud {
            println!("{line}");
        }
        let mut lines = self.lock();
        lines.hash = xxh3_64_with_seed(line.as_bytes(), lines.hash);
        if lines.last.len() == LINES_MAX {
            lines.last.pop_front();
        }
        lines.last.push_back(line);
    }

    /// Counts something that happened.
    pub(crate) fn count(&self, what: &str, times: u64) {
        if times > 0 {
            *self.lock().tally.entry(what.to_owned()).or_default() += times;
        }
    }

    /// How often what happened.
    pub(crate) fn tally(&self) -> BTreeMap<String, u64> {
        self.lock().tally.clone()
    }

    /// Stands for all lines.
    pub(crate) fn hash(&self) -> u64 {
        self.lock().hash
    }

    /// The last lines.
    pub(crate) fn last_lines(&self) -> String {
        self.lock().last.iter().flat_map(|line| ["  ", line, "\n"]).collect()
    }
}
