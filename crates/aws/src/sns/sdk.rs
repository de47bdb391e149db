//! [`Publisher`] over the official SDK. Translates; decides nothing and retries nothing.
//!
//! Calls block on a handle of a tokio runtime, so they must not be made from that runtime's async tasks.

use std::collections::HashMap;

use aws_sdk_sns::Client;
use aws_sdk_sns::error::BuildError;
use aws_sdk_sns::types::{MessageAttributeValue, PublishBatchRequestEntry};
use tokio::runtime::Handle;

use super::{ATTRIBUTE_TYPE, ID_ATTRIBUTE, Message, Publisher, is_fifo};
use crate::api::{ApiError, ApiErrorKind};
use crate::failure::api_error;

/// SNS through the SDK.
#[derive(Clone, Debug)]
pub struct SdkPublisher {
    client: Client,
    runtime: Handle,
}

impl SdkPublisher {
    /// Calls of `client` on `runtime`.
    pub const fn new(client: Client, runtime: Handle) -> Self {
        Self { client, runtime }
    }
}

impl Publisher for SdkPublisher {
    fn publish(&self, topic: &str, message: &Message) -> Result<String, ApiError> {
        const OPERATION: &str = "Publish";
        let attributes = attributes(message).map_err(|error| unmade(OPERATION, topic, &error))?;
        let mut request = self
            .client
            .publish()
            .topic_arn(topic)
            .message(&message.body)
            .set_subject(message.subject.clone())
            .set_message_attributes(Some(attributes));
        if is_fifo(topic) {
            request = request.message_group_id(&message.group).message_deduplication_id(&message.id);
        }
        let sent = self.runtime.block_on(request.send());
        let output = sent.map_err(|error| api_error(OPERATION, resource(topic), &error))?;
        Ok(output.message_id.unwrap_or_default())
    }

    fn publish_batch(&self, topic: &str, messages: &[&Message]) -> Result<Vec<Result<String, ApiError>>, ApiError> {
        const OPERATION: &str = "PublishBatch";
        let entry = |(index, message): (usize, &&Message)| {
            let mut entry = PublishBatchRequestEntry::builder()
                .id(index.to_string())
                .message(&message.body)
                .set_subject(message.subject.clone())
                .set_message_attributes(Some(attributes(message)?));
            if is_fifo(topic) {
                entry = entry.message_group_id(&message.group).message_deduplication_id(&message.id);
            }
            entry.build()
        };
        let entries: Result<Vec<_>, BuildError> = messages.iter().enumerate().map(entry).collect();
        let entries = entries.map_err(|error| unmade(OPERATION, topic, &error))?;
        let request = self.client.publish_batch().topic_arn(topic).set_publish_batch_request_entries(Some(entries));
        let sent = self.runtime.block_on(request.send());
        let output = sent.map_err(|error| api_error(OPERATION, resource(topic), &error))?;
        // An entry that the answer does not name is not known to be published.
        let unnamed = ApiError::new(ApiErrorKind::Retry, OPERATION, resource(topic), "the answer leaves it out");
        let mut answers = vec![Err(unnamed); messages.len()];
        for entry in output.successful.unwrap_or_default() {
            if let Some(answer) = place(entry.id.as_deref(), &mut answers) {
                *answer = Ok(entry.message_id.unwrap_or_default());
            }
        }
        for entry in output.failed.unwrap_or_default() {
            // Without a status: codes that are not known are worth another try, unless the fault is ours.
            let status = entry.sender_fault.then_some(400);
            let message = format!("{}: {}", entry.code, entry.message.as_deref().unwrap_or_default());
            if let Some(answer) = place(Some(&entry.id), &mut answers) {
                let kind = ApiErrorKind::of(Some(&entry.code), status);
                *answer = Err(ApiError::new(kind, OPERATION, resource(topic), message));
            }
        }
        Ok(answers)
    }
}

fn place<'a, T>(id: Option<&str>, answers: &'a mut [T]) -> Option<&'a mut T> {
    answers.get_mut(id?.parse::<usize>().ok()?)
}

fn attributes(message: &Message) -> Result<HashMap<String, MessageAttributeValue>, BuildError> {
    let id = (ID_ATTRIBUTE, &message.id);
    let all = message.attributes.iter().map(|(name, value)| (name.as_str(), value)).chain([id]);
    all.map(|(name, value)| {
        let value = MessageAttributeValue::builder().data_type(ATTRIBUTE_TYPE).string_value(value).build()?;
        Ok((name.to_owned(), value))
    })
    .collect()
}

fn resource(topic: &str) -> String {
    format!("topic {topic}")
}

fn unmade(operation: &'static str, topic: &str, error: &BuildError) -> ApiError {
    ApiError::new(ApiErrorKind::FixInput, operation, resource(topic), error.to_string())
}
