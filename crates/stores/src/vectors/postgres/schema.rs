//! The schema: made on the first use, checked on every one.
//!
//! `format` holds the schema's version, `collections` one row for each collection and version, and `vectors_<number>`
//! its records; see docs/formats.md. Numbers are never used twice.

use tokio_postgres::Row;

use super::session::{Param, Server, Session, Statement};
use crate::ErrorKind;
use crate::vectors::VectorError;

/// Version of the tables.
pub(super) const FORMAT: u32 = 1;
/// Oldest pgvector: 0.8 goes on with a scan of the graph when a filter has left too few.
const EXTENSION_MIN: (u32, u32) = (0, 8);
/// Key of the lock under which the schema is made: two processes may start at once. Any number does.
const LOCK: i64 = 0x616e_6162_7261_6e63;

/// What is there.
struct Facts {
    encoding: String,
    /// Version and schema of the extension.
    extension: Option<(String, String)>,
    has_schema: bool,
    has_tables: bool,
}

/// Sees to it that extension, schema and tables are there, and returns the schema that holds pgvector's functions.
pub(super) fn prepare(server: &Server, schema: &str) -> Result<String, VectorError> {
    let (session, rows) = server.begin("BEGIN READ ONLY", facts_statement(schema))?;
    let mut facts = read_facts(&session, &rows)?;
    drop(session);
    if facts.extension.is_none() || !facts.has_tables {
        let lock = format!("BEGIN; SET LOCAL client_min_messages = warning; SELECT pg_advisory_xact_lock({LOCK})");
        let (session, rows) = server.begin(&lock, facts_statement(schema))?;
        let found = read_facts(&session, &rows)?;
        make(&session, schema, &found)?;
        facts = read_facts(&session, &session.rows("read", facts_statement(schema))?)?;
        session.commit()?;
    }
    let extension_schema = check(server, &facts)?;
    check_format(server, schema)?;
    Ok(extension_schema)
}

fn facts_statement(schema: &str) -> Statement {
    // The catalogue is read, not `to_regclass`: it asks for no right on the schema.
    let sql = "SELECT current_setting('server_encoding'), \
         (SELECT extversion FROM pg_extension WHERE extname = 'vector'), \
         (SELECT nspname::text FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'), \
         EXISTS (SELECT FROM pg_namespace WHERE nspname = $1), \
         EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                 WHERE nspname = $1 AND relname = 'format')";
    Statement::new(sql, vec![Param::Text(schema.to_owned())])
}

fn read_facts(session: &Session<'_>, rows: &[Row]) -> Result<Facts, VectorError> {
    let read = || {
        let row = rows.first()?;
        let version: Option<String> = row.try_get(1).ok()?;
        let extension_schema: Option<String> = row.try_get(2).ok()?;
        Some(Facts {
            encoding: row.try_get(0).ok()?,
            extension: version.zip(extension_schema),
            has_schema: row.try_get(3).ok()?,
            has_tables: row.try_get(4).ok()?,
        })
    };
    read().ok_or_else(|| setup(session.place(), "it does not answer as PostgreSQL does".to_owned()))
}

fn make(session: &Session<'_>, schema: &str, found: &Facts) -> Result<(), VectorError> {
    if found.extension.is_none() {
        let made = session.run("add the extension vector to", "CREATE EXTENSION vector");
        made.map_err(|error| explain_extension(session.place(), error))?;
    }
    // Each is made only if absent: "IF NOT EXISTS" asks for the right to make it even when it is there.
    if !found.has_schema {
        session.run("make the schema of", format!("CREATE SCHEMA {schema}"))?;
    }
    if !found.has_tables {
        let tables = format!(
            "SET LOCAL search_path = {schema}; \
             CREATE TABLE format (version integer NOT NULL); \
             INSERT INTO format VALUES ({FORMAT}); \
             CREATE TABLE collections ( \
                 number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
                 name text COLLATE \"C\" NOT NULL, \
                 version text COLLATE \"C\" NOT NULL, \
                 dim integer NOT NULL, \
                 indexed boolean NOT NULL, \
                 graph boolean NOT NULL, \
                 records bigint NOT NULL, \
                 UNIQUE (name, version))"
        );
        session.run("make the tables of", tables)?;
    }
    Ok(())
}

fn explain_extension(place: &str, error: VectorError) -> VectorError {
    let VectorError::Server { code, detail, .. } = &error else { return error };
    let reason = match code.as_str() {
        "42501" => format!(
            "the extension vector is not in this database, and this user may not add it ({detail}); \
             run CREATE EXTENSION vector; there as an administrator"
        ),
        "0A000" | "58P01" => format!(
            "pgvector is not installed on this server ({detail}); install version {}.{} or newer",
            EXTENSION_MIN.0, EXTENSION_MIN.1
        ),
        _ => return error,
    };
    setup(place, reason)
}

fn check(server: &Server, facts: &Facts) -> Result<String, VectorError> {
    let refuse = |reason: String| Err(setup(server.place(), reason));
    if facts.encoding != "UTF8" {
        return refuse(format!("its encoding is {}; create a database with ENCODING 'UTF8'", facts.encoding));
    }
    let Some((version, schema)) = &facts.extension else {
        return refuse("the extension vector is missing; run CREATE EXTENSION vector; there".to_owned());
    };
    if !is_recent(version) {
        return refuse(format!(
            "its extension vector is {version}, {}.{} is needed; install it and run ALTER EXTENSION vector UPDATE;",
            EXTENSION_MIN.0, EXTENSION_MIN.1
        ));
    }
    Ok(schema.clone())
}

fn is_recent(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next()) >= EXTENSION_MIN
}

fn check_format(server: &Server, schema: &str) -> Result<(), VectorError> {
    let statement = Statement::new(format!("SELECT version::bigint FROM {schema}.format"), vec![]);
    let (session, rows) = server.begin("BEGIN READ ONLY", statement)?;
    let found: Option<i64> = rows.first().and_then(|row| row.try_get(0).ok());
    match found {
        Some(found) if found == i64::from(FORMAT) => Ok(()),
        Some(found) => {
            Err(VectorError::Format { place: session.place().to_owned(), found: found.to_string(), expected: FORMAT })
        }
        None => Err(VectorError::Corrupt {
            place: session.place().to_owned(),
            detail: "its format is not recorded".to_owned(),
        }),
    }
}

fn setup(place: &str, reason: String) -> VectorError {
    let error = VectorError::Setup { place: place.to_owned(), reason };
    debug_assert_eq!(error.kind(), ErrorKind::FixInput);
    error
}

#[cfg(test)]
mod tests {
    use super::is_recent;

    #[test]
    fn versions_compare_by_number() {
        for version in ["0.8.0", "0.8.5", "0.10", "1.0.0"] {
            assert!(is_recent(version), "{version}");
        }
        for version in ["0.7.4", "0.5", "", "x"] {
            assert!(!is_recent(version), "{version}");
        }
    }
}
