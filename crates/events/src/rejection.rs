//! Why an event was refused: one list of reasons for the quarantine of the batch arm and the dead letters of
//! the stream arm, so that a bad row is explained in the same words wherever it arrives.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Stable code of a reason; the text form (kebab case) stands in reports, quarantine files and dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RejectionCode {
    /// The row or JSON text cannot be parsed.
    Unparsable,
    /// Neither a user nor a session id.
    MissingUser,
    /// No item id.
    MissingItem,
    /// No event time.
    MissingTime,
    /// An id longer than 256 bytes.
    IdTooLong,
    /// An event type that the settings do not name.
    UnknownEventType,
    /// A time that is neither seconds, milliseconds nor RFC 3339.
    BadTime,
    /// An event time before the year 2000.
    TimeTooOld,
    /// An event time more than a day after its arrival.
    TimeTooNew,
    /// A value that is not a finite number.
    BadValue,
    /// A record larger than the limit.
    TooLarge,
}

impl RejectionCode {
    /// The code as written in files and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unparsable => "unparsable",
            Self::MissingUser => "missing-user",
            Self::MissingItem => "missing-item",
            Self::MissingTime => "missing-time",
            Self::IdTooLong => "id-too-long",
            Self::UnknownEventType => "unknown-event-type",
            Self::BadTime => "bad-time",
            Self::TimeTooOld => "time-too-old",
            Self::TimeTooNew => "time-too-new",
            Self::BadValue => "bad-value",
            Self::TooLarge => "too-large",
        }
    }
}

impl fmt::Display for RejectionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refused event: the code, and a sentence naming the field, what was found and what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Rejection {
    /// The reason's code.
    pub code: RejectionCode,
    /// What was found and what would be accepted.
    pub detail: String,
}

impl Rejection {
    /// A rejection with its explanation.
    pub fn new(code: RejectionCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// At most `max` bytes of a text for an error message, cut at a character.
pub(crate) fn excerpt(text: &str) -> &str {
    const EXCERPT_BYTES_MAX: usize = 64;
    let mut end = text.len().min(EXCERPT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
