//! The client's errors, translated by SQLSTATE (PostgreSQL documentation, appendix A).

use std::error::Error as StdError;
use std::io;

use tokio_postgres::Error;

use crate::ErrorKind;
use crate::vectors::VectorError;

/// SQLSTATE of a table that is not there: its collection was dropped a moment ago.
const UNDEFINED_TABLE: &str = "42P01";

/// What a statement's failure means.
pub(super) fn of_statement(place: &str, action: &'static str, error: &Error) -> VectorError {
    let Some(told) = error.as_db_error() else {
        // Without an answer of the server's the connection is gone, or what came is not this protocol.
        return VectorError::Backend { action, place: place.to_owned(), detail: with_sources(error) };
    };
    let code = told.code().code();
    let (kind, advice) = meaning(code);
    if kind == ErrorKind::Corrupt {
        return VectorError::Corrupt { place: place.to_owned(), detail: told.message().to_owned() };
    }
    VectorError::Server {
        action,
        place: place.to_owned(),
        code: code.to_owned(),
        detail: told.message().to_owned(),
        advice,
        kind,
    }
}

/// What a failure to connect means.
pub(super) fn of_connection(place: &str, error: &Error) -> VectorError {
    if error.as_db_error().is_some() {
        return of_statement(place, "connect to", error);
    }
    let detail = with_sources(error);
    match cause(error) {
        Cause::Certificate => VectorError::Setup {
            place: place.to_owned(),
            reason: format!(
                "{detail}; name the file of the authority that signs its certificate, and the host as the certificate does"
            ),
        },
        Cause::Network => VectorError::Backend { action: "connect to", place: place.to_owned(), detail },
        Cause::Settings => VectorError::Setup { place: place.to_owned(), reason: detail },
    }
}

/// Whether a statement failed because a collection's table has gone.
pub(super) fn is_gone(error: &VectorError) -> bool {
    matches!(error, VectorError::Server { code, .. } if code == UNDEFINED_TABLE)
}

/// Whether the connection itself has failed, so that another one may do.
pub(super) fn is_lost(error: &Error) -> bool {
    error.code().is_none_or(|code| ["08", "57P"].iter().any(|class| code.code().starts_with(class)))
}

/// The error and its causes in one line: the client's top line alone says nothing.
pub(super) fn with_sources(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

enum Cause {
    Certificate,
    Network,
    Settings,
}

fn cause(error: &Error) -> Cause {
    let mut source = error.source();
    // Some failures of the network carry no cause at all: a closed connection, a time-out.
    if source.is_none() {
        return Cause::Network;
    }
    while let Some(found) = source {
        if let Some(error) = found.downcast_ref::<io::Error>() {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            return match inner {
                Some(rustls::Error::InvalidCertificate(_)) => Cause::Certificate,
                _ => Cause::Network,
            };
        }
        source = found.source();
    }
    Cause::Settings
}

/// What a code asks of the caller, and what to say beside the server's own words.
fn meaning(code: &str) -> (ErrorKind, &'static str) {
    let class = code.get(..2).unwrap_or_default();
    match (class, code) {
        (_, "57014") => (ErrorKind::Retry, "; it took longer than the settings allow"),
        (_, "53300") => (ErrorKind::Retry, "; allow fewer connections in the settings, or more on the server"),
        (_, "53100") => (ErrorKind::Full, "; give the server more storage, or drop old versions"),
        (_, "42501") => (ErrorKind::FixInput, "; grant this to the user, or name another one"),
        (_, "25006") => (ErrorKind::FixInput, "; this is a copy for reading, name the server that writes"),
        (_, "3D000") => (ErrorKind::FixInput, "; create the database, or correct its name in the URL"),
        ("28", _) => (ErrorKind::FixInput, "; correct user and password"),
        ("22" | "0A" | "3F" | "54", _) => (ErrorKind::FixInput, ""),
        ("XX", "XX001" | "XX002") => (ErrorKind::Corrupt, ""),
        ("42" | "21" | "23" | "26" | "34", _) => (ErrorKind::Bug, ""),
        // Connections, transactions that met another, memory, an operator's hand, the server's own disk.
        _ => (ErrorKind::Retry, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_to_do() {
        for (code, kind) in [
            ("08006", ErrorKind::Retry),
            ("57P01", ErrorKind::Retry),
            ("40001", ErrorKind::Retry),
            ("40P01", ErrorKind::Retry),
            ("53200", ErrorKind::Retry),
            ("57014", ErrorKind::Retry),
            ("53100", ErrorKind::Full),
            ("28P01", ErrorKind::FixInput),
            ("42501", ErrorKind::FixInput),
            ("3D000", ErrorKind::FixInput),
            ("54000", ErrorKind::FixInput),
            ("42601", ErrorKind::Bug),
            ("23505", ErrorKind::Bug),
            ("XX001", ErrorKind::Corrupt),
            ("XX000", ErrorKind::Retry),
            ("", ErrorKind::Retry),
        ] {
            assert_eq!(meaning(code).0, kind, "{code}");
        }
    }
}
