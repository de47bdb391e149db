//! Publishing to a topic of SNS.
//!
//! A notification has an id that its making determines, so a repeat has the same: a FIFO topic drops it by that id (its
//! deduplication id, within five minutes), a standard topic hands it on as the attribute [`ID_ATTRIBUTE`], by which a
//! receiver drops it. `PublishBatch` answers 200 with failures inside; [`publish_all`] sends those alone again, in
//! their order.
//!
//! [`channel`] brings the stream's notifications out this way. Not here: what is worth a notification, and the outbox that
//! remembers what was not sent (`anabranch_stream::notify`).

use std::collections::BTreeMap;
use std::fmt::Debug;

use anabranch_stores::backoff::Patience;

use crate::api::{ApiError, ApiErrorKind};

pub mod channel;
pub mod sdk;

#[doc(hidden)]
pub mod testing;

/// Messages of one `PublishBatch`.
pub const BATCH_MAX: usize = 10;
/// Bytes of one message, and of all messages of a batch together: bodies and attributes.
pub const BYTES_MAX: usize = 256 << 10;
/// Characters of a subject.
pub const SUBJECT_CHARS_MAX: usize = 100;
/// Characters of an id and of a group.
pub const ID_CHARS_MAX: usize = 128;
/// The attribute that carries the id on every topic.
pub const ID_ATTRIBUTE: &str = "notificationId";
/// The type of our attributes, part of their size.
pub(crate) const ATTRIBUTE_TYPE: &str = "String";

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The same for a repeat of the same notification; 1 to 128 printable ASCII characters.
    pub id: String,
    /// Messages of one group are delivered in order on a FIFO topic: the user; 1 to 128 printable ASCII characters.
    pub group: String,
    /// The subject line that receivers by e-mail see.
    pub subject: Option<String>,
    /// The body.
    pub body: String,
    /// Attributes, by which subscriptions filter.
    pub attributes: BTreeMap<String, String>,
}

/// Why a message can never be published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpublishable {
    /// Too long.
    #[error("a message of {bytes} bytes with its attributes; SNS takes {BYTES_MAX}: shorten the list or its fields")]
    TooLarge {
        /// How many it has.
        bytes: usize,
    },
    /// SNS takes no empty body and no empty attribute.
    #[error("{what} is empty; SNS refuses that")]
    Empty {
        /// What.
        what: &'static str,
    },
    /// Not a subject.
    #[error("the subject {subject:?} is not 1 to {SUBJECT_CHARS_MAX} printable ASCII characters")]
    Subject {
        /// The subject.
        subject: String,
    },
    /// Not an id.
    #[error("{what} {id:?} is not 1 to {ID_CHARS_MAX} printable ASCII characters; hash it first")]
    Id {
        /// Which.
        what: &'static str,
        /// The text.
        id: String,
    },
}

impl Message {
    /// Checks what SNS would refuse.
    pub fn check(&self) -> Result<(), Unpublishable> {
        let is_printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        for (what, id) in [("the id", &self.id), ("the group", &self.group)] {
            if !(1..=ID_CHARS_MAX).contains(&id.len()) || !is_printable(id) {
                return Err(Unpublishable::Id { what, id: id.clone() });
            }
        }
        if let Some(subject) = &self.subject
            && !((1..=SUBJECT_CHARS_MAX).contains(&subject.len())
                && subject.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
                && !subject.starts_with(' '))
        {
            return Err(Unpublishable::Subject { subject: subject.clone() });
        }
        if self.body.is_empty() {
            return Err(Unpublishable::Empty { what: "the body" });
        }
        if self.attributes.iter().any(|(name, value)| name.is_empty() || value.is_empty()) {
            return Err(Unpublishable::Empty { what: "an attribute" });
        }
        let bytes = self.bytes();
        if bytes > BYTES_MAX { Err(Unpublishable::TooLarge { bytes }) } else { Ok(()) }
    }

    /// What counts towards [`BYTES_MAX`]: the body, and name, type and value of every attribute, the id's too.
    pub fn bytes(&self) -> usize {
        let attribute = |name: &str, value: &str| name.len() + ATTRIBUTE_TYPE.len() + value.len();
        let attributes: usize = self.attributes.iter().map(|(name, value)| attribute(name, value)).sum();
        self.body.len() + attribute(ID_ATTRIBUTE, &self.id) + attributes
    }
}

/// Whether messages to this topic carry group and deduplication id: the names of FIFO topics end so, and only they.
pub fn is_fifo(topic: &str) -> bool {
    topic.strip_suffix(".fifo").is_some()
}

/// Publishes to topics, named by their ARNs.
pub trait Publisher: Send + Sync + Debug {
    /// Publishes one message. Its id with SNS.
    fn publish(&self, topic: &str, message: &Message) -> Result<String, ApiError>;

    /// Publishes 1 to [`BATCH_MAX`] messages of [`BYTES_MAX`] together; one answer for each, in their order.
    fn publish_batch(&self, topic: &str, messages: &[&Message]) -> Result<Vec<Result<String, ApiError>>, ApiError>;
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// SNS has it, under this id of its own.
    Sent(String),
    /// It can never be published.
    Refused(Unpublishable),
    /// It was not published, or nobody knows: publish it again later, under the same id.
    Failed(ApiError),
}

/// Publishes messages in batches, in their order; what failed is sent again alone, as long as patience lasts. One answer
/// for each message.
pub fn publish_all(
    publisher: &dyn Publisher,
    topic: &str,
    messages: &[Message],
    patience: &Patience,
) -> Vec<Published> {
    let unsent = || Published::Failed(error(ApiErrorKind::Retry, topic, "not sent: an earlier one failed"));
    let mut answers: Vec<Published> = Vec::with_capacity(messages.len());
    let mut waiting = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        match message.check() {
            Ok(()) => {
                waiting.push(index);
                answers.push(unsent());
            }
            Err(refusal) => answers.push(Published::Refused(refusal)),
        }
    }
    let mut attempt = 0;
    while !waiting.is_empty() {
        let length = batch_length(waiting.iter().map(|&index| &messages[index]));
        let rest = waiting.split_off(length);
        let batch: Vec<&Message> = waiting.iter().map(|&index| &messages[index]).collect();
        let outcomes = match publisher.publish_batch(topic, &batch) {
            Ok(outcomes) if outcomes.len() == batch.len() => outcomes,
            Ok(_) => vec![Err(error(ApiErrorKind::Malformed, topic, "answers do not fit the request")); batch.len()],
            Err(error) => vec![Err(error); batch.len()],
        };
        let before = waiting.len();
        let mut is_worth_waiting = true;
        let mut left = Vec::new();
        for (&index, outcome) in waiting.iter().zip(outcomes) {
            answers[index] = match outcome {
                Ok(id) => Published::Sent(id),
                Err(error) => {
                    // A message that SNS refuses for itself costs only itself; a refusal of everything comes as often.
                    let is_passing = error.kind.kind() == anabranch_stores::ErrorKind::Retry;
                    is_worth_waiting &= is_passing || before > 1;
                    if is_passing {
                        left.push(index);
                    }
                    Published::Failed(error)
                }
            };
        }
        attempt = if left.len() < before { 1 } else { attempt + 1 };
        let is_stuck = !left.is_empty();
        waiting = left;
        waiting.extend(rest);
        if is_stuck && !(is_worth_waiting && patience.wait_after(attempt)) {
            break;
        }
    }
    answers
}

/// How many of the first messages fit into one batch; at least one, if there is one.
fn batch_length<'a>(messages: impl Iterator<Item = &'a Message>) -> usize {
    let mut bytes = 0;
    let fits = |message: &&Message| {
        bytes += message.bytes();
        bytes <= BYTES_MAX
    };
    messages.take(BATCH_MAX).take_while(fits).count()
}

fn error(kind: ApiErrorKind, topic: &str, message: &str) -> ApiError {
    ApiError::new(kind, "PublishBatch", format!("topic {topic}"), message)
}

#[cfg(test)]
mod tests;
