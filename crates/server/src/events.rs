//! The plain door: events as JSON, each judged at the door, so that a producer hears of a bad event at once instead of
//! finding it among the dead letters.
//!
//! One body is an event, an array of events, a Personalize `PutEvents` envelope, or JSON Lines of events and envelopes.

use std::sync::Arc;

use anabranch_events::wire::{decode_record, partition_key, split_envelope};
use anabranch_events::{EventTypes, Rejection, RejectionCode};
use anabranch_stream::ingest::check_event;
use anabranch_stream::{IngestError, NewEvent};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::app::App;
use crate::reply::{Refusal, Taken, by_size};

/// Events of one request; bounds the answer's list of rejections.
pub(crate) const EVENTS_MAX: usize = 10_000;

/// An event that was not taken.
#[derive(Debug, Serialize)]
pub(crate) struct Rejected {
    /// Its place in the request, counted over all events, from 0.
    index: usize,
    code: RejectionCode,
    detail: String,
}

/// What became of a request's events.
#[derive(Debug, Serialize)]
struct EventsAnswer {
    accepted: usize,
    rejected: Vec<Rejected>,
}

/// `POST /events`.
pub(crate) async fn door(State(app): State<Arc<App>>, body: Taken) -> Result<Response, Refusal> {
    let Taken { bytes, room } = body;
    if let Some(error) = app.embedded().map_err(|error| not_taken(&error))?.appender().hopeless(bytes.len()) {
        return Err(not_taken(&error));
    }
    let call = Arc::clone(&app);
    let (events, rejected) = by_size(bytes.len(), move || {
        let shared = call.stream().shared();
        judge(&bytes, &shared.types, shared.clock.now_ms())
    })
    .await??;
    let accepted = events.len();
    if accepted > 0 {
        app.append(events, room).await.map_err(|error| not_taken(&error))?;
    }
    let status = if accepted > 0 { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    Ok((status, Json(EventsAnswer { accepted, rejected })).into_response())
}

fn not_taken(error: &IngestError) -> Refusal {
    let code = match error {
        IngestError::Busy | IngestError::Full { .. } => "busy",
        IngestError::Blocked(_) => "blocked",
        IngestError::Stopping => "stopping",
        IngestError::Elsewhere(_) => return Refusal::elsewhere(error),
        IngestError::Refused(why) => return Refusal::bad_request(why.clone()),
        IngestError::Failed(why) => return Refusal::internal(why.clone()),
    };
    Refusal::unavailable(code, format!("{error}; no event of this request was taken"))
}

/// Splits a body into events and judges each by its arrival at `arrival_ms`.
pub(crate) fn judge(
    bytes: &[u8],
    types: &EventTypes,
    arrival_ms: i64,
) -> Result<(Vec<NewEvent>, Vec<Rejected>), Refusal> {
    let mut judged = Judged { types, arrival_ms, index: 0, events: Vec::new(), rejected: Vec::new() };
    // A whole body that parses is one value; one that does not is lines, of which each stands for itself.
    if let Ok(value) = serde_json::from_slice::<&RawValue>(bytes) {
        if value.get().starts_with('[') {
            let list: Vec<&RawValue> = serde_json::from_slice(bytes)
                .map_err(|error| Refusal::bad_request(format!("the array could not be read: {error}")))?;
            list.into_iter().try_for_each(|event| judged.take(event.get().as_bytes()))?;
        } else {
            judged.take(value.get().as_bytes())?;
        }
    } else {
        bytes
            .split(|&byte| byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty())
            .try_for_each(|line| judged.take(line))?;
    }
    if judged.index == 0 {
        return Err(Refusal::bad_request(
            "the body holds no event; send a JSON event, an array, a PutEvents envelope or JSON Lines",
        ));
    }
    Ok((judged.events, judged.rejected))
}

struct Judged<'a> {
    types: &'a EventTypes,
    arrival_ms: i64,
    index: usize,
    events: Vec<NewEvent>,
    rejected: Vec<Rejected>,
}

impl Judged<'_> {
    /// Takes one event or envelope.
    fn take(&mut self, record: &[u8]) -> Result<(), Refusal> {
        match split_envelope(record) {
            Ok(events) => events.into_iter().try_for_each(|event| {
                let verdict = self.verdict(event);
                self.count(verdict)
            }),
            Err(rejection) => self.count(Err(rejection)),
        }
    }

    fn verdict(&self, data: Vec<u8>) -> Result<NewEvent, Rejection> {
        let mut fault = None;
        decode_record(&data, self.types, self.arrival_ms, |decoded| {
            if let Err(rejection) = decoded {
                fault.get_or_insert(rejection);
            }
        });
        if let Some(rejection) = fault {
            return Err(rejection);
        }
        let key = partition_key(&data)
            .ok_or_else(|| Rejection::new(RejectionCode::MissingUser, "an event needs a userId or a sessionId"))?;
        let event = NewEvent { partition_key: key, explicit_hash_key: None, data };
        check_event(&event).map_err(|error| Rejection::new(RejectionCode::TooLarge, error.to_string()))?;
        Ok(event)
    }

    fn count(&mut self, verdict: Result<NewEvent, Rejection>) -> Result<(), Refusal> {
        if self.index == EVENTS_MAX {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-many",
                format!("more than {EVENTS_MAX} events; none was taken: send them in several requests"),
            ));
        }
        match verdict {
            Ok(event) => self.events.push(event),
            Err(Rejection { code, detail }) => self.rejected.push(Rejected { index: self.index, code, detail }),
        }
        self.index += 1;
        Ok(())
    }
}
