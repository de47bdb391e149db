//! Asking a running stream over loopback: one process holds the state, every other command asks it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_aws::dynamo::histories::DynamoState;
use anabranch_events::history::effective;
use anabranch_events::{History, HistoryKey};
use anabranch_stores::ErrorKind;
use anabranch_stores::state::{State, StateError};
use anabranch_stream::ports;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::account::{Account, is_kinesis};
use crate::compose::{Context, write_private};
use crate::failure::Failure;

/// How to reach the process that holds the state; lies in the state folder while it serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServerFile {
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) pid: u32,
}

const FILE: &str = "server.json";
/// An erasure compacts the log; everything else answers at once.
const TIMEOUT: Duration = Duration::from_mins(10);

impl ServerFile {
    pub(crate) fn write(&self, state_folder: &Path) -> Result<(), Failure> {
        let json = serde_json::to_vec(self)
            .map_err(|e| Failure::of(ErrorKind::Bug, format!("the server file is no JSON: {e}")))?;
        write_private(&state_folder.join(FILE), &json)
    }

    pub(crate) fn remove(state_folder: &Path) {
        // Left behind, it is harmless: the state's lock decides who holds it.
        drop(std::fs::remove_file(state_folder.join(FILE)));
    }

    fn read(state_folder: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(state_folder.join(FILE)).ok()?).ok()
    }
}

/// Who answers.
pub(crate) enum Holder {
    /// Nobody holds the state: this process opened it.
    Here(Arc<State>),
    /// A running stream.
    Running(Remote),
    /// Histories lie in a table, whoever runs.
    Table(Box<Table>),
    /// There is no state yet.
    Nobody,
}

/// Histories in DynamoDB.
pub(crate) struct Table {
    pub(crate) state: Arc<DynamoState>,
    /// Carries the state's calls.
    _account: Account,
}

impl Table {
    /// The effective history of `key`.
    pub(crate) fn effective(&self, context: &Context, key: &HistoryKey) -> Result<Option<History>, Failure> {
        effective(key, &context.types, &mut |key| Ok::<_, Failure>(ports::history(&*self.state, key, &context.types)?))
    }
}

/// A running stream.
pub(crate) struct Remote {
    file: ServerFile,
    agent: ureq::Agent,
}

/// Finds who answers for the state.
pub(crate) fn holder(context: &Context) -> Result<Holder, Failure> {
    if is_kinesis(context) {
        let account = Account::connect(context)?;
        return Ok(Holder::Table(Box::new(Table { state: account.state(context)?, _account: account })));
    }
    let folder = context.state_folder();
    if !State::exists(&folder) {
        return Ok(Holder::Nobody);
    }
    match State::open_existing(&folder) {
        Ok(state) => Ok(Holder::Here(Arc::new(state))),
        Err(locked @ StateError::Locked { .. }) => match ServerFile::read(&folder) {
            Some(file) => Ok(Holder::Running(Remote::new(file))),
            None => Err(locked.into()),
        },
        Err(other) => Err(other.into()),
    }
}

impl Remote {
    /// The worker of Kinesis that runs on this home, if one left its address.
    pub(crate) fn worker(context: &Context) -> Option<Self> {
        ServerFile::read(&context.server_folder()).map(Self::new)
    }

    pub(crate) fn new(file: ServerFile) -> Self {
        let agent =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT)).build().new_agent();
        Self { file, agent }
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, segments: &[&str], query: &[(&str, String)]) -> Result<T, Failure> {
        let mut path = String::new();
        for segment in segments {
            path.push('/');
            path.push_str(&escape(segment));
        }
        let mut request = self.agent.get(format!("{}{path}", self.file.url));
        for (name, value) in query {
            request = request.query(*name, value);
        }
        self.read(&path, request.call())
    }

    pub(crate) fn post<T: DeserializeOwned>(&self, path: &str, body: &serde_json::Value) -> Result<T, Failure> {
        let request = self
            .agent
            .post(format!("{}{path}", self.file.url))
            .header("authorization", format!("Bearer {}", self.file.token));
        self.read(path, request.send_json(body))
    }

    fn read<T: DeserializeOwned>(
        &self,
        path: &str,
        response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, Failure> {
        let silent = |error: &dyn std::fmt::Display| {
            Failure::of(
                ErrorKind::Retry,
                format!(
                    "process {} holds the state but does not answer at {}{path}: {error}; try again, or stop it",
                    self.file.pid, self.file.url
                ),
            )
        };
        let mut response = response.map_err(|e| silent(&e))?;
        let status = response.status();
        if status.is_success() {
            return response.body_mut().read_json().map_err(|e| silent(&e));
        }
        let body: serde_json::Value = response.body_mut().read_json().unwrap_or_default();
        let message = body["message"].as_str().or(body["error"].as_str()).unwrap_or("no reason given").to_owned();
        let kind = match status.as_u16() {
            404 => ErrorKind::NotFound,
            429 | 503 => ErrorKind::Retry,
            400..=499 => ErrorKind::FixInput,
            _ => ErrorKind::Bug,
        };
        Err(Failure::of(kind, format!("{message} (asked the running stream at {})", self.file.url)))
    }
}

/// Percent-encodes everything but unreserved characters (RFC 3986, section 2.3).
fn escape(segment: &str) -> String {
    segment.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_survive_a_path() {
        assert_eq!(super::escape("a/b ü?"), "a%2Fb%20%C3%BC%3F");
    }
}
