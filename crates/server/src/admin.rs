//! What only the owner of the stream may ask: erasing a user, writing a backup. Both take one at a time.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_stream::RunningStream;
use anabranch_stream::running::AskError;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use crate::answers::Owner;
use crate::app::App;
use crate::questions::OwnerKind;
use crate::reply::{Refusal, Taken, blocking};

fn admit(app: &App, headers: &HeaderMap) -> Result<OwnedSemaphorePermit, Refusal> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    if !token.is_some_and(|token| app.is_admin(token)) {
        return Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this needs the header `Authorization: Bearer <token>`; the token lies in the state folder's server.json",
        ));
    }
    Arc::clone(app.operating()).try_acquire_owned().map_err(|_| {
        Refusal::new(StatusCode::CONFLICT, "busy", "an erasure or a backup is under way; ask again when it is done")
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8], example: &str) -> Result<T, Refusal> {
    serde_json::from_slice(bytes)
        .map_err(|error| Refusal::bad_request(format!("the body is not as {example}: {error}")))
}

fn refused(error: &AskError) -> Refusal {
    match error {
        AskError::Stopped(_) => Refusal::unavailable("stopping", error.to_string()),
        _ => Refusal::internal(error.to_string()),
    }
}

/// What a stream of another source does instead.
fn elsewhere(app: &App, instead: &str) -> Refusal {
    let source = app.stream().embedded().err().unwrap_or("another source");
    Refusal::new(StatusCode::CONFLICT, "elsewhere", format!("a stream that reads {source} {instead}"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ForgetCall {
    user_id: Option<String>,
    session_id: Option<String>,
}

/// `POST /forget`: erases an owner from log, histories and dead letters, and says under which names and floors, for
/// the caller to erase what lies elsewhere.
pub(crate) async fn forget(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Taken,
) -> Result<Json<Value>, Refusal> {
    let permit = admit(&app, &headers)?;
    let call: ForgetCall = parse(&body.bytes, r#"{"userId":"…"} or {"sessionId":"…"}"#)?;
    let key = match (&call.user_id, &call.session_id) {
        (Some(user), None) => OwnerKind::User.key(user)?,
        (None, Some(session)) => OwnerKind::Session.key(session)?,
        _ => return Err(Refusal::bad_request("name either a userId or a sessionId")),
    };
    // Erasing begins by committing the open cuts, which a blocked stream cannot.
    if let Some(why) = app.stream().shared().blocked() {
        return Err(Refusal::unavailable("blocked", format!("nothing was erased, the stream is blocked: {why}")));
    }
    app.embedded().map_err(|_| elsewhere(&app, "erases users in its own tables: run `anabranch forget`"))?;
    blocking(move || {
        // Held here, so that a caller who goes away does not let a second erasure in.
        let _permit = permit;
        let stream = app.embedded().map_err(|error| Refusal::elsewhere(&error))?;
        let (forgotten, dead_letters) = stream.forget(&key).map_err(|error| refused(&error))?;
        let names: Vec<Value> = forgotten
            .names
            .iter()
            .map(|(name, floor_ms)| json!({ "name": name.to_string(), "floorMs": floor_ms }))
            .collect();
        Ok(Json(json!({
            "keys": forgotten.keys.iter().map(Owner::from).collect::<Vec<_>>(),
            "names": names,
            "histories": forgotten.histories,
            "logRecords": forgotten.log_records,
            "notices": forgotten.notices,
            "deadLetters": dead_letters,
        })))
    })
    .await?
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupCall {
    path: PathBuf,
}

/// `POST /backup`: a consistent copy of the running state in one file on the server's machine.
pub(crate) async fn backup(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Taken,
) -> Result<Json<Value>, Refusal> {
    let permit = admit(&app, &headers)?;
    let call: BackupCall = parse(&body.bytes, r#"{"path":"/folder/file"}"#)?;
    if !call.path.is_absolute() || call.path.file_name().is_none() {
        return Err(Refusal::bad_request("path must be absolute and name a file: the server's folder is not yours"));
    }
    app.embedded().map_err(|_| elsewhere(&app, "keeps its state in tables: use their point-in-time recovery"))?;
    blocking(move || {
        let _permit = permit;
        write_backup(app.embedded().map_err(|error| Refusal::elsewhere(&error))?, &call.path)
    })
    .await?
}

/// The file appears whole or not at all: a temporary neighbour is synced first, then renamed, then its folder synced.
fn write_backup(stream: &RunningStream, path: &Path) -> Result<Json<Value>, Refusal> {
    let failed = |error: io::Error| {
        Refusal::internal(format!("writing the backup {}: {error}; check the folder and its disk", path.display()))
    };
    if path.try_exists().map_err(failed)? {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            "exists",
            format!("{} exists; name another file", path.display()),
        ));
    }
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".partial");
    let temporary = path.with_file_name(name);
    let written = (|| {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary).map_err(failed)?);
        let summary = stream.backup(&mut out).map_err(|error| refused(&error))?;
        out.flush().map_err(failed)?;
        out.get_ref().sync_all().map_err(failed)?;
        fs::rename(&temporary, path).map_err(failed)?;
        if let Some(folder) = path.parent() {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        Ok(Json(json!({ "path": path, "entries": summary.entries, "bytes": summary.bytes })))
    })();
    if written.is_err() {
        // Best effort: what failed above is told, a leftover is overwritten by the next backup.
        drop(fs::remove_file(&temporary));
    }
    written
}
