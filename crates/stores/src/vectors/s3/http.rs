//! The operations over HTTPS: one signed POST of JSON each ([`SignedClient`]).

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::api::{
    ApiError, ApiErrorKind, CreateIndex, FoundVector, IndexInfo, LIST_INDEXES_MAX, LIST_VECTORS_MAX, ListVectors, Page,
    PutVector, QueryVectors, S3VectorsApi, StoredVector,
};
use super::options::S3VectorsOptions;
use crate::ErrorKind;
use crate::backoff::Pause;
use crate::own_runtime::OwnRuntime;
use crate::signed::{PostError, SignedClient};
use crate::vectors::VectorError;

/// The name that signatures are made for.
const SERVICE: &str = "s3vectors";
/// Most characters of an answer that is no JSON, in a message.
const SHOWN_CHARS_MAX: usize = 200;

/// The service, of one bucket.
#[derive(Debug)]
pub struct HttpS3Vectors {
    bucket: String,
    client: SignedClient,
}

impl HttpS3Vectors {
    /// Prepares a client; nothing is sent until the first call.
    pub fn new(options: &S3VectorsOptions) -> Result<Self, VectorError> {
        let region = options.s3.region.as_deref().unwrap_or("us-east-1");
        let endpoint = options.endpoint.clone().unwrap_or_else(|| endpoint_of(region));
        let client = SignedClient::new(SERVICE, &endpoint, region, &options.s3, "anabranch-s3-vectors");
        let client = client.map_err(|detail| VectorError::Service {
            action: "prepare a client for",
            place: place(&options.bucket),
            detail,
            kind: ErrorKind::FixInput,
        })?;
        Ok(Self { bucket: options.bucket.clone(), client })
    }

    /// Waits on the client's own runtime.
    pub fn pause(&self) -> Arc<dyn Pause> {
        Arc::new(RuntimePause(self.client.runtime()))
    }

    /// One POST; a refusal is an error.
    fn post<A: DeserializeOwned>(&self, operation: &'static str, body: &impl Serialize) -> Result<A, ApiError> {
        let body = serde_json::to_vec(body).map_err(|error| ApiError::new(ApiErrorKind::Invalid, error.to_string()))?;
        let sent = self.client.post(&format!("/{operation}"), "application/json", None, body);
        let answer = sent.map_err(|error| match error {
            PostError::Unavailable(detail) => ApiError::new(ApiErrorKind::Unavailable, detail),
            PostError::Denied(detail) => ApiError::new(ApiErrorKind::Denied, detail),
            PostError::Invalid(detail) => ApiError::new(ApiErrorKind::Invalid, detail),
            PostError::TooLarge(detail) => ApiError::new(ApiErrorKind::Unreadable, format!("{operation}: {detail}")),
        })?;
        if (200..300).contains(&answer.status) {
            let read = serde_json::from_slice(&answer.body);
            return read.map_err(|error| ApiError::new(ApiErrorKind::Unreadable, format!("{operation}: {error}")));
        }
        Err(refusal(operation, answer.status, answer.error_type.as_deref(), &answer.body))
    }

    fn index<T>(&self, index: &str, more: T) -> OfIndex<'_, T>
    where
        T: Serialize,
    {
        OfIndex { vector_bucket_name: &self.bucket, index_name: index.to_owned(), more }
    }
}

fn place(bucket: &str) -> String {
    format!("the vector bucket {bucket:?}")
}

/// The region's own endpoint (dual stack, the only one there is).
fn endpoint_of(region: &str) -> String {
    let suffix = if region.starts_with("cn-") { "api.amazonwebservices.com.cn" } else { "api.aws" };
    format!("https://{SERVICE}.{region}.{suffix}")
}

/// What an answer that is no success says.
fn refusal(operation: &str, status: u16, code: Option<&str>, body: &[u8]) -> ApiError {
    #[derive(Deserialize)]
    struct Told {
        #[serde(alias = "__type")]
        code: Option<String>,
        #[serde(alias = "Message")]
        message: Option<String>,
    }
    let told: Option<Told> = serde_json::from_slice(body).ok();
    let (told_code, message) = told.map_or((None, None), |told| (told.code, told.message));
    // `ValidationException:http://…` in the header, `com.amazonaws…#ValidationException` in a body.
    let code = code.map(str::to_owned).or(told_code).unwrap_or_default();
    let code = code.split(':').next().unwrap_or_default().rsplit('#').next().unwrap_or_default();
    let kind = match (code, status) {
        ("TooManyRequestsException" | "ThrottlingException", _) | (_, 429) => ApiErrorKind::Throttled,
        ("NotFoundException", _) | (_, 404) => ApiErrorKind::NotFound,
        ("ConflictException", _) | (_, 409) => ApiErrorKind::Conflict,
        ("ServiceQuotaExceededException", _) | (_, 402) => ApiErrorKind::Quota,
        ("AccessDeniedException", _) | (_, 401 | 403) => ApiErrorKind::Denied,
        (_, 408 | 500..) => ApiErrorKind::Unavailable,
        (code, _) if code.starts_with("Kms") => ApiErrorKind::Denied,
        _ => ApiErrorKind::Invalid,
    };
    let message =
        message.unwrap_or_else(|| String::from_utf8_lossy(body).chars().take(SHOWN_CHARS_MAX).collect::<String>());
    ApiError::new(kind, format!("{operation} answered {status} {code}: {message}"))
}

#[derive(Debug)]
struct RuntimePause(Arc<OwnRuntime>);

impl Pause for RuntimePause {
    fn pause(&self, ms: u64) {
        // If the threads have stopped, the next attempt says so.
        let _ = self.0.wait(async move { tokio::time::sleep(Duration::from_millis(ms)).await });
    }
}

/// A request about one index.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OfIndex<'a, T: Serialize> {
    vector_bucket_name: &'a str,
    index_name: String,
    #[serde(flatten)]
    more: T,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Deserialize)]
struct Done {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewIndex<'a> {
    data_type: &'static str,
    dimension: usize,
    distance_metric: &'static str,
    metadata_configuration: MetadataConfiguration<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MetadataConfiguration<'a> {
    non_filterable_metadata_keys: &'a [&'a str],
}

#[derive(Deserialize)]
struct FoundIndex {
    index: IndexInfo,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Indexes<'a> {
    vector_bucket_name: &'a str,
    prefix: &'a str,
    max_results: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexesPage {
    indexes: Vec<IndexSummary>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IndexSummary {
    index_name: String,
}

#[derive(Serialize)]
struct Put<'a> {
    vectors: &'a [PutVector],
}

#[derive(Serialize)]
struct Keys<'a> {
    keys: &'a [&'a str],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Get<'a> {
    keys: &'a [&'a str],
    return_metadata: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    max_results: usize,
    segment_count: usize,
    segment_index: usize,
    return_metadata: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ask<'a> {
    top_k: usize,
    query_vector: Float32<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<&'a Value>,
    return_metadata: bool,
    return_distance: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<&'a str>,
}

#[derive(Serialize)]
struct Float32<'a> {
    float32: &'a [f32],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VectorsPage<T> {
    vectors: Vec<T>,
    next_token: Option<String>,
}

/// An empty token is none: "the field is empty if no further pagination is required".
fn page<T>(entries: Vec<T>, next_token: Option<String>) -> Page<T> {
    Page { entries, next: next_token.filter(|token| !token.is_empty()) }
}

impl S3VectorsApi for HttpS3Vectors {
    fn place(&self) -> String {
        place(&self.bucket)
    }

    fn create_index(&self, index: &CreateIndex<'_>) -> Result<(), ApiError> {
        let new = NewIndex {
            data_type: "float32",
            dimension: index.dimension,
            distance_metric: "cosine",
            metadata_configuration: MetadataConfiguration { non_filterable_metadata_keys: index.non_filterable },
        };
        self.post::<Value>("CreateIndex", &self.index(index.name, new)).map(|_| ())
    }

    fn get_index(&self, index: &str) -> Result<IndexInfo, ApiError> {
        Ok(self.post::<FoundIndex>("GetIndex", &self.index(index, Nothing {}))?.index)
    }

    fn list_indexes(&self, prefix: &str, next: Option<&str>) -> Result<Page<String>, ApiError> {
        let list =
            Indexes { vector_bucket_name: &self.bucket, prefix, max_results: LIST_INDEXES_MAX, next_token: next };
        let found: IndexesPage = self.post("ListIndexes", &list)?;
        Ok(page(found.indexes.into_iter().map(|index| index.index_name).collect(), found.next_token))
    }

    fn delete_index(&self, index: &str) -> Result<(), ApiError> {
        self.post::<Done>("DeleteIndex", &self.index(index, Nothing {})).map(|_| ())
    }

    fn put_vectors(&self, index: &str, vectors: &[PutVector]) -> Result<(), ApiError> {
        self.post::<Done>("PutVectors", &self.index(index, Put { vectors })).map(|_| ())
    }

    fn get_vectors(&self, index: &str, keys: &[&str], with_metadata: bool) -> Result<Vec<StoredVector>, ApiError> {
        let get = Get { keys, return_metadata: with_metadata };
        Ok(self.post::<VectorsPage<StoredVector>>("GetVectors", &self.index(index, get))?.vectors)
    }

    fn list_vectors(&self, index: &str, list: &ListVectors<'_>) -> Result<Page<StoredVector>, ApiError> {
        let list = List {
            max_results: LIST_VECTORS_MAX,
            segment_count: list.segment.count,
            segment_index: list.segment.index,
            return_metadata: list.with_metadata,
            next_token: list.next,
        };
        let found: VectorsPage<StoredVector> = self.post("ListVectors", &self.index(index, list))?;
        Ok(page(found.vectors, found.next_token))
    }

    fn delete_vectors(&self, index: &str, keys: &[&str]) -> Result<(), ApiError> {
        self.post::<Done>("DeleteVectors", &self.index(index, Keys { keys })).map(|_| ())
    }

    fn query_vectors(&self, index: &str, query: &QueryVectors<'_>) -> Result<Page<FoundVector>, ApiError> {
        let ask = Ask {
            top_k: query.top_k,
            query_vector: Float32 { float32: query.query },
            filter: query.filter,
            return_metadata: true,
            return_distance: true,
            next_token: query.next,
        };
        let found: VectorsPage<FoundVector> = self.post("QueryVectors", &self.index(index, ask))?;
        Ok(page(found.vectors, found.next_token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::S3Options;

    #[test]
    fn refusals_say_what_to_do() {
        use ApiErrorKind as K;
        let cases = [
            (429, Some("TooManyRequestsException"), K::Throttled),
            (503, Some("ServiceUnavailableException"), K::Unavailable),
            (500, Some("InternalServerException"), K::Unavailable),
            (408, Some("RequestTimeoutException"), K::Unavailable),
            (404, Some("NotFoundException"), K::NotFound),
            (409, Some("ConflictException"), K::Conflict),
            (402, Some("ServiceQuotaExceededException"), K::Quota),
            (403, Some("AccessDeniedException"), K::Denied),
            (400, Some("KmsDisabledException"), K::Denied),
            (400, Some("ValidationException:http://internal.amazon.com/"), K::Invalid),
            (400, Some("ThrottlingException"), K::Throttled),
            (400, Some("NotFoundException"), K::NotFound),
            (502, None, K::Unavailable),
            (301, None, K::Invalid),
        ];
        for (status, code, kind) in cases {
            let error = refusal("GetIndex", status, code, br#"{"message": "why"}"#);
            assert_eq!(error.kind, kind, "{status} {code:?}");
            assert!(error.detail.ends_with(": why"), "{error}");
        }
        let in_body = refusal("GetIndex", 400, None, br#"{"__type": "com.amazonaws.s3vectors#ConflictException"}"#);
        assert_eq!(in_body.kind, K::Conflict);
        assert!(refusal("GetIndex", 502, None, "<html>é".repeat(100).as_bytes()).detail.len() < 300);
    }

    #[test]
    fn settings_that_cannot_work_are_refused_at_once() {
        let options = |endpoint: &str| S3VectorsOptions {
            endpoint: Some(endpoint.to_owned()),
            ..S3VectorsOptions::new("vectors", S3Options::default())
        };
        for endpoint in ["", "vectors", "ftp://vectors", "http://", "http://vectors?x=1"] {
            let refused = HttpS3Vectors::new(&options(endpoint)).map(|_| ());
            assert!(refused.is_err_and(|error| error.kind() == ErrorKind::FixInput), "{endpoint}");
        }
        let mut badly_copied = options("http://127.0.0.1:1/");
        badly_copied.s3.session_token = Some("a\nb".to_owned());
        assert!(HttpS3Vectors::new(&badly_copied).is_err());
        assert!(HttpS3Vectors::new(&options("http://127.0.0.1:1/")).is_ok());
        assert_eq!(endpoint_of("eu-west-1"), "https://s3vectors.eu-west-1.api.aws");
    }

    #[test]
    fn nobody_there_is_passing_trouble() {
        let mut options = S3VectorsOptions::new("vectors", S3Options::default());
        options.endpoint = Some("http://127.0.0.1:1".to_owned());
        options.s3.access_key_id = Some("test".to_owned());
        options.s3.secret_access_key = Some("test".to_owned());
        let asked = HttpS3Vectors::new(&options).map(|client| client.get_index("x").map_err(|error| error.kind));
        assert!(asked.is_ok_and(|answer| answer == Err(ApiErrorKind::Unavailable)));
    }
}
