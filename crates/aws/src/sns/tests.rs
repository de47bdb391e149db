#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use anabranch_stores::backoff::Pause;

use super::testing::{Hit, MemoryPublisher};
use super::*;

const TOPIC: &str = "arn:aws:sns:us-east-1:000000000000:offers";

#[derive(Debug)]
struct NoPause;

impl Pause for NoPause {
    fn pause(&self, _: u64) {}
}

fn message(index: usize) -> Message {
    Message {
        id: format!("n{index}"),
        group: "u1".to_owned(),
        subject: Some("An offer".to_owned()),
        body: format!("{{\"n\":{index}}}"),
        attributes: BTreeMap::from([("rule".to_owned(), "abandoned-cart".to_owned())]),
    }
}

fn publish(publisher: &MemoryPublisher, topic: &str, messages: &[Message]) -> Vec<Published> {
    publish_all(publisher, topic, messages, &Patience::new(Arc::new(NoPause), 1))
}

fn ids(publisher: &MemoryPublisher) -> Vec<String> {
    publisher.published().into_iter().map(|(_, message)| message.id).collect()
}

#[test]
fn messages_go_in_tens_and_only_failures_again() {
    let publisher = MemoryPublisher::default();
    let messages: Vec<Message> = (0..12).map(message).collect();
    publisher.script([Hit::Partly(vec![1, 4], ApiErrorKind::Throttled), Hit::Refuse(ApiErrorKind::Retry)]);
    let answers = publish(&publisher, TOPIC, &messages);
    assert!(answers.iter().all(|answer| matches!(answer, Published::Sent(_))), "{answers:?}");
    assert_eq!(publisher.requests(), [10, 4, 4]);
    let mut ids = ids(&publisher);
    assert_eq!(ids[8..], ["n1", "n4", "n10", "n11"]);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 12);
}

#[test]
fn a_repeat_has_the_same_id_and_a_fifo_topic_drops_it() {
    for (topic, times) in [(TOPIC.to_owned(), 2), (format!("{TOPIC}.fifo"), 1)] {
        let publisher = MemoryPublisher::default();
        publisher.script([Hit::Lose]);
        let answers = publish(&publisher, &topic, &[message(1)]);
        assert!(matches!(answers[..], [Published::Sent(_)]));
        assert_eq!(ids(&publisher), vec!["n1"; times]);
    }
}

#[test]
fn what_sns_refuses_costs_itself_alone() {
    let publisher = MemoryPublisher::default();
    let mut messages: Vec<Message> = (0..3).map(message).collect();
    messages[1].body = "x".repeat(BYTES_MAX);
    publisher.script([Hit::Partly(vec![0], ApiErrorKind::FixInput)]);
    let answers = publish(&publisher, TOPIC, &messages);
    assert!(matches!(&answers[0], Published::Failed(error) if error.kind == ApiErrorKind::FixInput));
    assert!(matches!(&answers[1], Published::Refused(Unpublishable::TooLarge { .. })));
    assert!(matches!(&answers[2], Published::Sent(_)));
}

#[test]
fn trouble_that_stays_ends_and_every_message_is_answered() {
    let publisher = MemoryPublisher::default();
    publisher.script(std::iter::repeat_n(Hit::Refuse(ApiErrorKind::Throttled), 8));
    let messages: Vec<Message> = (0..12).map(message).collect();
    let answers = publish(&publisher, TOPIC, &messages);
    assert!(answers.iter().all(|answer| matches!(answer, Published::Failed(_))));
    assert_eq!((publisher.requests(), ids(&publisher).len()), (vec![10; 8], 0));
    publisher.script([Hit::Refuse(ApiErrorKind::Denied)]);
    let answers = publish(&publisher, TOPIC, &messages[..2]);
    assert!(matches!(&answers[0], Published::Failed(error) if error.kind == ApiErrorKind::Denied));
}

#[test]
fn batches_stay_under_a_quarter_of_a_megabyte() {
    let publisher = MemoryPublisher::default();
    let messages: Vec<Message> = (0..5).map(|i| Message { body: "x".repeat(100_000), ..message(i) }).collect();
    assert!(publish(&publisher, TOPIC, &messages).iter().all(|answer| matches!(answer, Published::Sent(_))));
    assert_eq!(publisher.requests(), [2, 2, 1]);
}

#[test]
fn messages_are_checked_before_they_are_sent() {
    let good = message(1);
    assert_eq!(good.check(), Ok(()));
    let attributes = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let bad = [
        Message { id: String::new(), ..good.clone() },
        Message { id: "x".repeat(129), ..good.clone() },
        Message { group: "a b".to_owned(), ..good.clone() },
        Message { group: "ü".to_owned(), ..good.clone() },
        Message { subject: Some(String::new()), ..good.clone() },
        Message { subject: Some("two\nlines".to_owned()), ..good.clone() },
        Message { subject: Some("x".repeat(101)), ..good.clone() },
        Message { body: String::new(), ..good.clone() },
        Message { attributes: attributes("rule", ""), ..good.clone() },
        Message { attributes: attributes("rule", &"x".repeat(BYTES_MAX)), ..good.clone() },
    ];
    for message in bad {
        assert!(message.check().is_err(), "{message:?}");
    }
    let overhead = Message { attributes: BTreeMap::new(), body: String::new(), ..good.clone() }.bytes();
    let fits = Message { attributes: BTreeMap::new(), body: "x".repeat(BYTES_MAX - overhead), ..good.clone() };
    assert_eq!((fits.bytes(), fits.check()), (BYTES_MAX, Ok(())));
    assert!(Message { body: format!("{}x", fits.body), ..fits }.check().is_err());
}
