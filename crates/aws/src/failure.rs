//! What a failed call of the SDK means, for every service alike: AWS's code and status become an [`ApiErrorKind`], and the
//! message tells what lies beneath "service error".

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

use crate::api::{ApiError, ApiErrorKind};

/// The error of `operation` on `resource`.
pub(crate) fn api_error<E>(
    operation: &'static str,
    resource: impl Into<String>,
    error: &SdkError<E, HttpResponse>,
) -> ApiError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    of_status(operation, resource, error, error.raw_response().map(|response| response.status().as_u16()))
}

/// The same where there is no HTTP response: an event inside a stream.
pub(crate) fn of_status<E, R>(
    operation: &'static str,
    resource: impl Into<String>,
    error: &SdkError<E, R>,
    status: Option<u16>,
) -> ApiError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let kind = match error {
        // The request could not even be made: an argument or the client's configuration.
        SdkError::ConstructionFailure(_) => ApiErrorKind::FixInput,
        // An answer that broke off says nothing, whatever its status: a 400 may have been a throttle or a condition.
        SdkError::ResponseError(_) => ApiErrorKind::Retry,
        // Missing credentials are among the others: an instance's role may come, and waiting loses nothing.
        _ => ApiErrorKind::of(error.code(), status),
    };
    let message = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => chain(error),
    };
    ApiError::new(kind, operation, resource, message)
}

/// The error and what lies beneath it, which the SDK's own text leaves out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(beneath) = source {
        text.push_str(": ");
        text.push_str(&beneath.to_string());
        source = beneath.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_dynamodb::error::ErrorMetadata;
    use aws_sdk_dynamodb::operation::put_item::PutItemError;

    fn service(code: Option<&str>, status: u16) -> ApiErrorKind {
        let mut metadata = ErrorMetadata::builder().message("why");
        if let Some(code) = code {
            metadata = metadata.code(code);
        }
        let response = HttpResponse::new(status.try_into().expect("a status"), "".into());
        let error = SdkError::service_error(PutItemError::generic(metadata.build()), response);
        api_error("PutItem", "table t", &error).kind
    }

    #[test]
    fn codes_and_statuses_are_read() {
        assert_eq!(service(Some("ValidationException"), 400), ApiErrorKind::FixInput);
        assert_eq!(service(Some("ProvisionedThroughputExceededException"), 400), ApiErrorKind::Throttled);
        assert_eq!(service(Some("AccessDeniedException"), 400), ApiErrorKind::Denied);
        assert_eq!(service(None, 503), ApiErrorKind::Retry);
    }

    #[test]
    fn a_call_without_an_answer_may_be_made_again_and_one_that_cannot_be_made_not() {
        let timeout = SdkError::<PutItemError, HttpResponse>::timeout_error("slow");
        assert_eq!(api_error("PutItem", "table t", &timeout).kind, ApiErrorKind::Retry);
        for status in [200, 400, 403, 503] {
            let response = HttpResponse::new(status.try_into().expect("a status"), "".into());
            let cut_off = SdkError::<PutItemError, HttpResponse>::response_error("half an answer", response);
            assert_eq!(api_error("PutItem", "table t", &cut_off).kind, ApiErrorKind::Retry, "{status}");
        }
        let construction = SdkError::<PutItemError, HttpResponse>::construction_failure("no region");
        let error = api_error("PutItem", "table t", &construction);
        assert_eq!(error.kind, ApiErrorKind::FixInput);
        assert!(error.to_string().contains("no region"), "{error}");
    }
}
