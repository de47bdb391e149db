//! The vector database's errors.

use crate::ErrorKind;

/// Why a vector store call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VectorError {
    /// A collection name or version is malformed.
    #[error("{text:?} is no collection name or version: use 1 to 64 letters, digits, '-', '_' or '.'")]
    BadName {
        /// The text given.
        text: String,
    },
    /// A record was refused, and with it its whole call.
    #[error("record {id:?} was refused: {reason}; nothing was written")]
    Refused {
        /// The record's id.
        id: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A record has the wrong dimension.
    #[error("record {id:?} has {found} dimensions, its collection {expected}; nothing was written")]
    Dimension {
        /// The record's id.
        id: String,
        /// The collection's dimension.
        expected: usize,
        /// The record's.
        found: usize,
    },
    /// A search was refused.
    #[error("the search was refused: {reason}")]
    BadSearch {
        /// What is wrong with it.
        reason: String,
    },
    /// The collection does not exist.
    #[error("no vectors {name:?} of version {version:?} are stored; publish that model's vectors first")]
    UnknownCollection {
        /// The collection's name.
        name: String,
        /// The version asked for.
        version: String,
    },
    /// Another process writes here.
    #[error("another process has the vector database in {place} open for writing; stop it, or ask it instead")]
    Locked {
        /// Where the database is.
        place: String,
    },
    /// The database was opened for reading.
    #[error("the vector database in {place} was opened for reading only")]
    ReadOnly {
        /// Where the database is.
        place: String,
    },
    /// No database is there.
    #[error("no vector database is in {place}")]
    Missing {
        /// Where it was looked for.
        place: String,
    },
    /// The map or the disk is full.
    #[error(
        "the vector database in {place} is full ({detail}); free disk space or raise its map size, now {map_bytes} bytes"
    )]
    Full {
        /// Where the database is.
        place: String,
        /// The map size it was opened with.
        map_bytes: usize,
        /// What the database said.
        detail: String,
    },
    /// All dense ids or collection slots were given out.
    #[error("{what} are used up; drop old versions")]
    UsedUp {
        /// What ran out.
        what: &'static str,
    },
    /// Written by a newer program.
    #[error(
        "the vector database in {place} has format {found}, this program reads format {expected}; use a newer anabranch"
    )]
    Format {
        /// Where the database is.
        place: String,
        /// The format found.
        found: String,
        /// The format known.
        expected: u32,
    },
    /// Stored bytes do not hold together.
    #[error("the vector database in {place} is damaged ({detail}); remove it and publish the vectors again")]
    Corrupt {
        /// Where the database is.
        place: String,
        /// What is wrong.
        detail: String,
    },
    /// The section `[vectors]` of the settings cannot be used.
    #[error("{problem}")]
    Settings {
        /// What is wrong and what to do.
        problem: String,
    },
    /// A server or what lies between is set up wrongly; the reason says how to mend it.
    #[error("the vector database in {place} cannot be used: {reason}")]
    Setup {
        /// Where the database is.
        place: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A server refused or failed.
    #[error("could not {action} the vector database in {place}: {detail} ({code}){advice}")]
    Server {
        /// What was tried.
        action: &'static str,
        /// Where the database is.
        place: String,
        /// The server's own code, such as an SQLSTATE.
        code: String,
        /// What the server said.
        detail: String,
        /// What to do about it, with its leading separator; may be empty.
        advice: &'static str,
        /// What the code asks of the caller.
        kind: ErrorKind,
    },
    /// A vector database that is a service failed, or refused.
    #[error("could not {action} {place}: {detail}")]
    Service {
        /// What was tried.
        action: &'static str,
        /// The service and its database, as a reader knows them.
        place: String,
        /// What the service or the connection said.
        detail: String,
        /// What the caller should do.
        kind: ErrorKind,
    },
    /// The system or the database failed otherwise.
    #[error("could not {action} the vector database in {place}: {detail}")]
    Backend {
        /// What was tried.
        action: &'static str,
        /// Where the database is.
        place: String,
        /// What the system or the database said.
        detail: String,
    },
}

impl VectorError {
    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BadName { .. }
            | Self::Refused { .. }
            | Self::Dimension { .. }
            | Self::BadSearch { .. }
            | Self::Settings { .. }
            | Self::ReadOnly { .. }
            | Self::Format { .. }
            | Self::Setup { .. } => ErrorKind::FixInput,
            Self::UnknownCollection { .. } | Self::Missing { .. } => ErrorKind::NotFound,
            Self::Locked { .. } => ErrorKind::Fenced,
            Self::Full { .. } | Self::UsedUp { .. } => ErrorKind::Full,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Server { kind, .. } | Self::Service { kind, .. } => *kind,
            Self::Backend { .. } => ErrorKind::Retry,
        }
    }
}
