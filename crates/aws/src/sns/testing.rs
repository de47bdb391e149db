//! SNS in memory, for tests and simulations. No part of the API: hidden from the docs, and it may panic on misuse or
//! change at any time.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;

use super::{BATCH_MAX, BYTES_MAX, Message, Publisher, is_fifo};
use crate::api::{ApiError, ApiErrorKind};

/// What happens to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hit {
    /// All its messages are published.
    Pass,
    /// These fail, by their place in the request, in this way; the others are published.
    Partly(Vec<usize>, ApiErrorKind),
    /// It is refused; nothing is published.
    Refuse(ApiErrorKind),
    /// All its messages are published and the answer is lost.
    Lose,
}

#[derive(Debug, Default)]
struct World {
    published: Vec<(String, Message)>,
    deduplicated: BTreeSet<(String, String)>,
    requests: Vec<usize>,
    script: VecDeque<Hit>,
}

/// The service.
#[derive(Debug, Default)]
pub struct MemoryPublisher(Mutex<World>);

impl MemoryPublisher {
    /// What happens to the next requests, one each; then all pass.
    pub fn script(&self, hits: impl IntoIterator<Item = Hit>) {
        self.0.lock().unwrap().script.extend(hits);
    }

    /// What receivers got, with its topic: repeats on a FIFO topic are dropped.
    pub fn published(&self) -> Vec<(String, Message)> {
        self.0.lock().unwrap().published.clone()
    }

    /// How many messages each request had.
    pub fn requests(&self) -> Vec<usize> {
        self.0.lock().unwrap().requests.clone()
    }
}

impl World {
    fn take(&mut self, topic: &str, message: &Message) -> String {
        let is_new = self.deduplicated.insert((topic.to_owned(), message.id.clone()));
        if is_new || !is_fifo(topic) {
            self.published.push((topic.to_owned(), message.clone()));
        }
        format!("sns-{}", self.published.len())
    }
}

impl Publisher for MemoryPublisher {
    fn publish(&self, topic: &str, message: &Message) -> Result<String, ApiError> {
        self.publish_batch(topic, &[message])?.pop().unwrap()
    }

    fn publish_batch(&self, topic: &str, messages: &[&Message]) -> Result<Vec<Result<String, ApiError>>, ApiError> {
        let mut world = self.0.lock().unwrap();
        let error = |kind| ApiError::new(kind, "PublishBatch", format!("topic {topic}"), "scripted");
        let bytes: usize = messages.iter().map(|message| message.bytes()).sum();
        if messages.is_empty() || messages.len() > BATCH_MAX || bytes > BYTES_MAX {
            return Err(error(ApiErrorKind::FixInput));
        }
        world.requests.push(messages.len());
        let (failing, kind) = match world.script.pop_front().unwrap_or(Hit::Pass) {
            Hit::Pass => (Vec::new(), ApiErrorKind::Retry),
            Hit::Partly(failing, kind) => (failing, kind),
            Hit::Refuse(kind) => return Err(error(kind)),
            Hit::Lose => {
                for message in messages {
                    world.take(topic, message);
                }
                return Err(error(ApiErrorKind::Retry));
            }
        };
        let answer = |(index, message): (usize, &&Message)| {
            if failing.contains(&index) { Err(error(kind)) } else { Ok(world.take(topic, message)) }
        };
        Ok(messages.iter().enumerate().map(answer).collect())
    }
}
