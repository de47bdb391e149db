//! Questions about users: lists, explanations, histories. Each is answered from the effective history as it stands,
//! uncommitted events included.

use std::sync::Arc;

use anabranch_events::ids::{ID_BYTES_MAX, IdFault, check_id};
use anabranch_events::{History, HistoryKey};
use anabranch_models::Hide;
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::answers::{self, AnswerError, ExplainAnswer, HistoryAnswer, LIST_LENGTH_MAX, RecommendAnswer};
use crate::app::App;
use crate::reply::{Refusal, Taken, blocking};

/// Personalize's default length of a list.
const PERSONALIZE_RESULTS: usize = 25;

/// Whose history an id names.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OwnerKind {
    #[default]
    User,
    Session,
}

impl OwnerKind {
    pub(crate) fn key(self, id: &str) -> Result<HistoryKey, Refusal> {
        check_id(id).map_err(|fault| match fault {
            IdFault::Empty => Refusal::bad_request("the id is empty"),
            IdFault::TooLong(found) => {
                Refusal::bad_request(format!("the id has {found} bytes; 1 to {ID_BYTES_MAX} are accepted"))
            }
        })?;
        Ok(match self {
            Self::User => HistoryKey::User(id.into()),
            Self::Session => HistoryKey::Session(id.into()),
        })
    }
}

/// The query of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    n: Option<usize>,
    hide: Option<Hide>,
    #[serde(default)]
    kind: OwnerKind,
}

/// The query of an explanation or a history.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OwnerQuery {
    #[serde(default)]
    kind: OwnerKind,
}

impl From<AnswerError> for Refusal {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::UnknownItem { .. } => Self::new(StatusCode::NOT_FOUND, "unknown-item", error.to_string()),
            AnswerError::Recommend(_) => Self::internal(error.to_string()),
        }
    }
}

/// `GET /recommendations/{user}?n=&hide=nothing|seen|everything&kind=user|session`.
pub(crate) async fn recommendations(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<RecommendAnswer>, Refusal> {
    let (Path(id), Query(query)) = (path?, query?);
    let key = query.kind.key(&id)?;
    let settings = &app.stream().shared().settings;
    let (length, hide) = (query.n.unwrap_or(settings.list_length), query.hide.unwrap_or(settings.hide));
    if !(1..=LIST_LENGTH_MAX).contains(&length) {
        return Err(Refusal::bad_request(format!("n = {length}: 1 to {LIST_LENGTH_MAX}")));
    }
    list(app, key, length, hide).await.map(Json)
}

async fn list(app: Arc<App>, key: HistoryKey, length: usize, hide: Hide) -> Result<RecommendAnswer, Refusal> {
    blocking(move || {
        let history = history_of(&app, &key)?;
        Ok(answers::recommend(&app.stream().shared().model(), &key, &history, length, hide)?)
    })
    .await?
}

fn history_of(app: &App, key: &HistoryKey) -> Result<History, Refusal> {
    let found = app.stream().shared().effective(key).map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(found.unwrap_or_default())
}

/// `GET /explain/{user}/{item}?kind=user|session`.
pub(crate) async fn explain(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String)>, PathRejection>,
    query: Result<Query<OwnerQuery>, QueryRejection>,
) -> Result<Json<ExplainAnswer>, Refusal> {
    let (Path((id, item)), Query(query)) = (path?, query?);
    let key = query.kind.key(&id)?;
    blocking(move || {
        let history = history_of(&app, &key)?;
        Ok(Json(answers::explain(&app.stream().shared().model(), &key, &history, &item)?))
    })
    .await?
}

/// `GET /history/{user}?kind=user|session`.
pub(crate) async fn history(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<OwnerQuery>, QueryRejection>,
) -> Result<Json<HistoryAnswer>, Refusal> {
    let (Path(id), Query(query)) = (path?, query?);
    let key = query.kind.key(&id)?;
    blocking(move || {
        let history = history_of(&app, &key)?;
        let shared = app.stream().shared();
        Ok(Json(answers::history(&shared.types, Some(shared.model().snapshot()), &key, &history)))
    })
    .await?
}

/// Personalize's `GetRecommendations`, as far as it means something here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct GetRecommendations {
    user_id: Option<String>,
    num_results: Option<usize>,
}

/// Its answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PersonalizeAnswer {
    item_list: Vec<PersonalizeItem>,
    recommendation_id: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PersonalizeItem {
    item_id: String,
    score: f32,
}

/// `POST /recommendations`.
pub(crate) async fn personalize(State(app): State<Arc<App>>, body: Taken) -> Result<Json<PersonalizeAnswer>, Refusal> {
    let asked: GetRecommendations = serde_json::from_slice(&body.bytes).map_err(|error| {
        Refusal::bad_request(format!("not a request as {{\"userId\":\"…\",\"numResults\":25}}: {error}"))
    })?;
    let id = asked.user_id.ok_or_else(|| Refusal::bad_request("userId is missing"))?;
    let key = OwnerKind::User.key(&id)?;
    // Personalize takes 0 for its default.
    let length = asked.num_results.filter(|asked| *asked > 0).unwrap_or(PERSONALIZE_RESULTS);
    if length > LIST_LENGTH_MAX {
        return Err(Refusal::bad_request(format!("numResults = {length}: at most {LIST_LENGTH_MAX}")));
    }
    let hide = app.stream().shared().settings.hide;
    let answer = list(app, key, length, hide).await?;
    // Equal answers have equal ids: what was shown is named, not the moment of asking.
    let said = serde_json::to_vec(&answer).map_err(|error| Refusal::internal(error.to_string()))?;
    let digest: [u8; 32] = Sha256::digest(said).into();
    let name = digest[..16].iter().fold(0_u128, |name, byte| (name << 8) | u128::from(*byte));
    let item_list =
        answer.items.into_iter().map(|item| PersonalizeItem { item_id: item.item_id, score: item.score }).collect();
    Ok(Json(PersonalizeAnswer { item_list, recommendation_id: format!("RID-{name:032x}") }))
}
