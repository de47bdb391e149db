//! What a failed call of any service means: its HTTP status beside what [`crate::sdk`] reads.

use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

use crate::api::ApiError;
use crate::sdk;

/// The error of `operation` on `resource`.
pub(crate) fn api_error<E>(
    operation: &'static str,
    resource: impl AsRef<str>,
    error: &SdkError<E, HttpResponse>,
) -> ApiError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    sdk::api_error(error, operation, resource.as_ref(), status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ApiErrorKind;
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
        let response = HttpResponse::new(200.try_into().expect("a status"), "".into());
        let cut_off = SdkError::<PutItemError, HttpResponse>::response_error("half an answer", response);
        assert_eq!(api_error("PutItem", "table t", &cut_off).kind, ApiErrorKind::Retry);
        let construction = SdkError::<PutItemError, HttpResponse>::construction_failure("no region");
        let error = api_error("PutItem", "table t", &construction);
        assert_eq!(error.kind, ApiErrorKind::FixInput);
        assert!(error.to_string().contains("no region"), "{error}");
    }
}
