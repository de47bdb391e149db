//! The stream's notifications to a topic. The id goes with each as [`ID_ATTRIBUTE`](super::ID_ATTRIBUTE) and, on a FIFO
//! topic, as deduplication id; the group keeps one receiver's in order; the attribute `rule` is what subscriptions filter
//! by.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_stream::notify::{Channel, Notification, SendError};

use super::{Message, Publisher};
use crate::api::ApiErrorKind;

/// The attribute that carries the rule.
pub const RULE_ATTRIBUTE: &str = "rule";

/// Publishes notifications to a topic.
#[derive(Debug)]
pub struct SnsChannel {
    publisher: Arc<dyn Publisher>,
    topic: String,
}

impl SnsChannel {
    /// To the topic of this ARN.
    pub fn new(publisher: Arc<dyn Publisher>, topic: impl Into<String>) -> Self {
        Self { publisher, topic: topic.into() }
    }
}

impl Channel for SnsChannel {
    /// Only what is wrong with this very message is a refusal: a topic that is not there yet, or not allowed yet, may be
    /// repaired.
    fn send(&mut self, notification: &Notification, _now_ms: i64) -> Result<(), SendError> {
        let message = Message {
            id: notification.id.clone(),
            group: notification.group.clone(),
            subject: None,
            body: notification.body.clone(),
            attributes: BTreeMap::from([(RULE_ATTRIBUTE.to_owned(), notification.rule.clone())]),
        };
        message.check().map_err(|refusal| SendError::Refused(refusal.to_string()))?;
        match self.publisher.publish(&self.topic, &message) {
            Ok(_) => Ok(()),
            Err(error) if error.kind == ApiErrorKind::FixInput => Err(SendError::Refused(error.to_string())),
            Err(error) => Err(SendError::Retry(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sns::testing::{Hit, MemoryPublisher};

    const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:hints.fifo";

    fn notification(body: &str) -> Notification {
        let id = "0123456789abcdef0123456789abcdef".to_owned();
        Notification { id, group: "00112233".to_owned(), rule: "abandoned-cart".to_owned(), body: body.to_owned() }
    }

    #[test]
    fn a_repeat_has_the_same_id_and_a_fifo_topic_drops_it() {
        let publisher = Arc::new(MemoryPublisher::default());
        let mut channel = SnsChannel::new(publisher.clone(), TOPIC);
        publisher.script([Hit::Lose]);
        assert!(matches!(channel.send(&notification("{}"), 0), Err(SendError::Retry(_))), "nobody knows");
        channel.send(&notification("{}"), 0).unwrap();
        let published = publisher.published();
        assert_eq!(published.len(), 1);
        let (topic, message) = &published[0];
        assert_eq!((topic.as_str(), message.body.as_str(), message.group.as_str()), (TOPIC, "{}", "00112233"));
        assert_eq!(message.id, "0123456789abcdef0123456789abcdef");
        assert_eq!(message.attributes[RULE_ATTRIBUTE], "abandoned-cart");
    }

    #[test]
    fn only_the_message_itself_is_refused() {
        let publisher = Arc::new(MemoryPublisher::default());
        let mut channel = SnsChannel::new(publisher.clone(), TOPIC);
        for kind in [ApiErrorKind::Retry, ApiErrorKind::Throttled, ApiErrorKind::NotFound] {
            publisher.script([Hit::Refuse(kind)]);
            assert!(matches!(channel.send(&notification("{}"), 0), Err(SendError::Retry(_))), "{kind:?}");
        }
        publisher.script([Hit::Refuse(ApiErrorKind::FixInput)]);
        assert!(matches!(channel.send(&notification("{}"), 0), Err(SendError::Refused(_))));
        let long = "x".repeat(super::super::BYTES_MAX);
        for body in ["", long.as_str()] {
            assert!(matches!(channel.send(&notification(body), 0), Err(SendError::Refused(_))));
        }
        assert!(publisher.published().is_empty());
    }
}
