//! [`DynamoApi`] over the official SDK. Translates requests, answers and errors; decides nothing and retries nothing
//! (give it a client whose own retries are off, or they multiply with the callers').
//!
//! Calls block on a handle of a tokio runtime, so they must not be made from that runtime's async tasks.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes, ReturnValuesOnConditionCheckFailure};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::api::{Condition, DynamoApi, DynamoError, Got, Item, Put, Scanned, Table, Update, Value};
use super::expression::Placeholders;
use crate::api::{ApiError, ApiErrorKind};
use crate::failure::api_error;

/// Requests under way at once: at 5 ms a request 6,400 writes a second, and far fewer connections than a function has.
const SIDE_BY_SIDE: usize = 32;

type Attributes = HashMap<String, AttributeValue>;

/// DynamoDB through the SDK.
#[derive(Clone, Debug)]
pub struct SdkDynamo {
    client: Client,
    runtime: Handle,
}

impl SdkDynamo {
    /// Calls of `client` on `runtime`.
    pub const fn new(client: Client, runtime: Handle) -> Self {
        Self { client, runtime }
    }

    /// Runs requests side by side, and answers in their order.
    fn side_by_side<T, A, F>(&self, requests: Vec<T>, mut start: impl FnMut(T) -> F, lost: A) -> Vec<A>
    where
        A: Clone + Send + 'static,
        F: Future<Output = A> + Send + 'static,
    {
        let mut answers = vec![lost; requests.len()];
        let permits = Arc::new(Semaphore::new(SIDE_BY_SIDE));
        let mut running = JoinSet::new();
        for (index, request) in requests.into_iter().enumerate() {
            let (permits, request) = (Arc::clone(&permits), start(request));
            let with_permit = async move {
                // The semaphore is never closed.
                let _permit = permits.acquire().await;
                (index, request.await)
            };
            running.spawn_on(with_permit, &self.runtime);
        }
        self.runtime.block_on(async {
            while let Some(done) = running.join_next().await {
                if let Ok((index, answer)) = done {
                    answers[index] = answer;
                }
            }
        });
        answers
    }
}

/// The answer to a request whose task ended without one (the runtime is shutting down).
fn lost(operation: &'static str, table: &Table) -> DynamoError {
    ApiError::new(ApiErrorKind::Retry, operation, table.resource(), "the request was given up").into()
}

impl DynamoApi for SdkDynamo {
    fn get(&self, table: &Table, chunks: &[Vec<Value>]) -> Vec<Result<Got, DynamoError>> {
        let start = |keys: Vec<Value>| {
            let keys = keys.into_iter().map(|key| Attributes::from([(table.key.to_owned(), attribute(key))])).collect();
            let keys = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
            let (client, table) = (self.client.clone(), table.clone());
            async move {
                let keys = keys.map_err(|error| refused("BatchGetItem", &table, &error))?;
                let sent = client.batch_get_item().request_items(&table.name, keys).send().await;
                let output = sent.map_err(|error| failure("BatchGetItem", &table, &error))?;
                let items = output.responses.into_iter().flatten().flat_map(|(_, items)| items).map(item_of).collect();
                let unprocessed = output.unprocessed_keys.into_iter().flatten().flat_map(|(_, left)| left.keys);
                let unprocessed = unprocessed.filter_map(|mut key| value_of(key.remove(table.key)?)).collect();
                Ok(Got { items, unprocessed })
            }
        };
        self.side_by_side(chunks.to_vec(), start, Err(lost("BatchGetItem", table)))
    }

    fn put(&self, table: &Table, puts: Vec<Put>) -> Vec<Result<(), DynamoError>> {
        let start = |put: Put| {
            let mut placeholders = Placeholders::default();
            let condition = placeholders.condition(&put.condition);
            let (names, values) = maps(placeholders);
            let request = self
                .client
                .put_item()
                .table_name(&table.name)
                .set_item(Some(attributes(put.item)))
                .set_condition_expression(condition)
                .set_expression_attribute_names(names)
                .set_expression_attribute_values(values)
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            let table = table.clone();
            async move {
                let sent = request.send().await;
                sent.map(drop).map_err(|error| {
                    let condition = error.as_service_error().and_then(|error| match error {
                        aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(
                            exception,
                        ) => Some(exception.item.clone().map(item_of)),
                        _ => None,
                    });
                    condition.map_or_else(|| failure("PutItem", &table, &error), DynamoError::ConditionFailed)
                })
            }
        };
        self.side_by_side(puts, start, Err(lost("PutItem", table)))
    }

    fn update(&self, table: &Table, update: Update) -> Result<(), DynamoError> {
        let mut placeholders = Placeholders::default();
        let changes = placeholders.update(&update);
        let condition = placeholders.condition(&update.condition);
        let (names, values) = maps(placeholders);
        let request = self
            .client
            .update_item()
            .table_name(&table.name)
            .key(table.key, attribute(update.key))
            .set_update_expression(changes)
            .set_condition_expression(condition)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values(values);
        let sent = self.runtime.block_on(request.send());
        sent.map(drop).map_err(|error| failure("UpdateItem", table, &error))
    }

    fn delete(&self, table: &Table, key: Value, condition: Condition) -> Result<(), DynamoError> {
        let mut placeholders = Placeholders::default();
        let condition = placeholders.condition(&condition);
        let (names, values) = maps(placeholders);
        let request = self
            .client
            .delete_item()
            .table_name(&table.name)
            .key(table.key, attribute(key))
            .set_condition_expression(condition)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values(values);
        let sent = self.runtime.block_on(request.send());
        sent.map(drop).map_err(|error| failure("DeleteItem", table, &error))
    }

    fn scan(&self, table: &Table, from: Option<Value>) -> Result<Scanned, DynamoError> {
        let from = from.map(|key| Attributes::from([(table.key.to_owned(), attribute(key))]));
        let request = self.client.scan().table_name(&table.name).consistent_read(true).set_exclusive_start_key(from);
        let output = self.runtime.block_on(request.send()).map_err(|error| failure("Scan", table, &error))?;
        let items = output.items.unwrap_or_default().into_iter().map(item_of).collect();
        let next = output.last_evaluated_key.and_then(|mut key| value_of(key.remove(table.key)?));
        Ok(Scanned { items, next })
    }
}

/// What a failed call means.
fn failure<E>(operation: &'static str, table: &Table, error: &SdkError<E, HttpResponse>) -> DynamoError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let mut failed = api_error(operation, table.resource(), error);
    match error.code() {
        Some("ConditionalCheckFailedException") => return DynamoError::ConditionFailed(None),
        // A transaction, or a write in another region, holds the item for this moment.
        Some("TransactionConflictException" | "ReplicatedWriteConflictException") => failed.kind = ApiErrorKind::Retry,
        _ => {}
    }
    failed.into()
}

fn refused(operation: &'static str, table: &Table, error: &dyn std::error::Error) -> DynamoError {
    ApiError::new(ApiErrorKind::FixInput, operation, table.resource(), error.to_string()).into()
}

/// Names and values as the SDK takes them; DynamoDB refuses empty maps.
fn maps(placeholders: Placeholders) -> (Option<HashMap<String, String>>, Option<Attributes>) {
    let names = placeholders.names.into_iter().enumerate().map(|(i, name)| (format!("#n{i}"), name.to_owned()));
    let values = placeholders.values.into_iter().enumerate().map(|(i, value)| (format!(":v{i}"), attribute(value)));
    let (names, values): (HashMap<_, _>, Attributes) = (names.collect(), values.collect());
    ((!names.is_empty()).then_some(names), (!values.is_empty()).then_some(values))
}

fn attributes(item: Item) -> Attributes {
    item.into_iter().map(|(name, value)| (name, attribute(value))).collect()
}

fn attribute(value: Value) -> AttributeValue {
    match value {
        Value::S(text) => AttributeValue::S(text),
        Value::N(digits) => AttributeValue::N(digits),
        Value::B(bytes) => AttributeValue::B(Blob::new(bytes)),
        Value::Bool(value) => AttributeValue::Bool(value),
        Value::Ss(texts) => AttributeValue::Ss(texts.into_iter().collect()),
    }
}

/// An item without the attributes of types that we never write.
fn item_of(attributes: Attributes) -> Item {
    attributes.into_iter().filter_map(|(name, value)| Some((name, value_of(value)?))).collect()
}

fn value_of(value: AttributeValue) -> Option<Value> {
    Some(match value {
        AttributeValue::S(text) => Value::S(text),
        AttributeValue::N(digits) => Value::N(digits),
        AttributeValue::B(bytes) => Value::B(bytes.into_inner()),
        AttributeValue::Bool(value) => Value::Bool(value),
        AttributeValue::Ss(texts) => Value::Ss(texts.into_iter().collect()),
        _ => return None,
    })
}
