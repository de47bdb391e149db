//! Every decoder of bytes that come from outside or from storage, on arbitrary bytes.
//!
//! A [`Target`] is a plain function: it decodes, and asserts laws. What decodes encodes to bytes that decode equal; what
//! is claimed by a length is not allocated before it is there; books balance; every record is answered. A law that does
//! not hold panics. The same functions run in three places: over the corpora in `make test` (`tests/corpora.rs`), over
//! mutations of them there, and under libFuzzer (`make fuzz`).
//!
//! Formats behind a checksum are run twice, as they are and with the checksum made right, or nothing behind the checksum
//! would ever be reached.
//!
//! Not here: what the decoded means (each crate's own tests), and the network.

pub mod mutate;
pub mod seal;
pub mod seeds;
mod targets;

pub use targets::TARGETS;

/// What a target did with its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It decoded, at least in part.
    Decoded,
    /// It was refused, with an error that says why.
    Refused,
}

impl Verdict {
    /// Decoded if any part was.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self == Self::Decoded { self } else { other }
    }

    fn of<T, E: std::fmt::Display>(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Decoded,
            Err(error) => {
                said(&error.to_string());
                Self::Refused
            }
        }
    }
}

/// Checks that an error says something, and is not as long as the input makes it.
fn said(error: &str) {
    assert!(!error.is_empty(), "an error says nothing");
    assert!(error.len() <= ERROR_BYTES_MAX, "an error of {} bytes", error.len());
}

/// The longest message of an error. Some quote a name that was found; none a whole input.
const ERROR_BYTES_MAX: usize = 16 << 10;

/// A decoder with its laws.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder in `corpus/`.
    pub name: &'static str,
    /// Decodes and asserts.
    pub run: fn(&[u8]) -> Verdict,
    /// Mutations of each file of its corpus in the replay; fewer where a run writes files.
    pub mutations: u32,
    /// Bytes on the heap beyond what was there before a run.
    pub heap_bytes_max: usize,
}

/// The target named `name`.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
