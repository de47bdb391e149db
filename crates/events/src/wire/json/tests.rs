#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::ids::EventKey;
use crate::settings::EventSettings;

const NOW: i64 = 1_700_000_000_000;

fn decode(text: &str) -> Vec<Result<Event<'_>, Rejection>> {
    let types = EventSettings::default().compile().unwrap();
    let mut out = Vec::new();
    decode_record(text.as_bytes(), &types, NOW, |event| out.push(event));
    out
}

fn code(text: &str) -> RejectionCode {
    decode(text).remove(0).unwrap_err().code
}

#[test]
fn personalize_names_and_file_names() {
    let api = decode(
        r#"{"userId":"u","sessionId":"s","itemId":"i","eventType":"purchase","eventValue":2.5,"eventId":"e","sentAt":1699999999,"properties":"{}","impression":["a"]}"#,
    );
    let event = api[0].as_ref().unwrap();
    assert_eq!((event.user.as_deref(), event.session.as_deref(), &*event.item), (Some("u"), Some("s"), "i"));
    assert_eq!((event.time_ms, event.value, event.key), (1_699_999_999_000, Some(2.5), EventKey::of("e")));
    let file = decode(r#"{"USER_ID":7,"ITEM_ID":8,"TIMESTAMP":"2023-11-14T22:13:19Z"}"#);
    let event = file[0].as_ref().unwrap();
    assert_eq!((event.user.as_deref(), &*event.item, event.time_ms), (Some("7"), "8", 1_699_999_999_000));
    assert_eq!(event.key, EventKey::derived("7", "8", "view", 1_699_999_999_000, None));
}

#[test]
fn envelopes_hand_down_user_and_session() {
    let events = decode(
        r#"{"trackingId":"t","userId":"u","sessionId":"s","eventList":[
            {"itemId":"a","eventType":"view","sentAt":1699999999},
            {"eventType":"view","sentAt":1699999999},
            7]}"#,
    );
    assert_eq!(events.len(), 3);
    assert_eq!(events[0].as_ref().unwrap().user.as_deref(), Some("u"));
    assert_eq!(events[1].as_ref().unwrap_err().code, RejectionCode::MissingItem);
    assert_eq!(events[2].as_ref().unwrap_err().code, RejectionCode::Unparsable);
    assert_eq!(code(r#"{"userId":"u","eventList":[]}"#), RejectionCode::Unparsable);

    let text = br#"{"userId":"u","sessionId":"s","eventList":[{"itemId":"a","sentAt":1},{"itemId":"b","sentAt":2,"userId":"w"}]}"#;
    let split = split_envelope(text).unwrap();
    assert_eq!(split.len(), 2);
    assert_eq!(partition_key(&split[0]).as_deref(), Some("u"));
    assert_eq!(partition_key(&split[1]).as_deref(), Some("w"));
}

/// The law of the fuzz target of envelopes, broken when it was written down: the door and the stream saw other events in
/// the same envelope.
#[test]
fn an_envelope_taken_apart_holds_the_events_that_it_holds_whole() {
    let types = EventSettings::default().compile().unwrap();
    let good = |text: &[u8]| {
        let mut events = Vec::new();
        decode_record(text, &types, NOW, |event| events.extend(event.map(Event::into_owned)));
        events
    };
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for inner in [
        r#"{"userId":null,"itemId":"i","sentAt":1699999999}"#,
        r#"{"USER_ID":"w","itemId":"i","sentAt":1699999999}"#,
        r#"{"USER_ID":null,"SESSION_ID":null,"itemId":"i","sentAt":1699999999}"#,
        r#"{"itemId":"i","sentAt":1699999999,"eventList":[{"userId":"x","itemId":"j","sentAt":1699999999}]}"#,
        &format!(r#"{{"itemId":"i","sentAt":1699999999,"properties":{deep}}}"#),
    ] {
        let envelope = format!(r#"{{"userId":"u","sessionId":"s","eventList":[{inner}]}}"#);
        let whole = good(envelope.as_bytes());
        assert_eq!(whole.len(), 1, "{inner}");
        let parts = split_envelope(envelope.as_bytes()).unwrap();
        assert_eq!(parts.iter().flat_map(|part| good(part)).collect::<Vec<_>>(), whole, "{inner}");
    }
    let twice = br#"{"userId":"u","eventList":[{"itemId":"i","itemId":"j","sentAt":1699999999}]}"#;
    assert!(good(twice).is_empty() && good(&split_envelope(twice).unwrap()[0]).is_empty());
}

/// A dead letter holds the record itself; its detail must not hold it again.
#[test]
fn a_refusal_quotes_no_whole_text() {
    let text = format!(r#"{{"userId":"u","eventList":"{}"}}"#, "é".repeat(100_000));
    let rejections: Vec<Rejection> = decode(&text).into_iter().filter_map(Result::err).collect();
    assert_eq!(rejections.len(), 1);
    assert!(rejections[0].detail.len() < 300, "{} bytes", rejections[0].detail.len());
    assert!(rejections[0].detail.contains("at line 1 column"), "{}", rejections[0].detail);
}

#[test]
fn bad_events_say_why() {
    for (text, expected) in [
        ("", RejectionCode::Unparsable),
        ("nonsense", RejectionCode::Unparsable),
        ("[1,2]", RejectionCode::Unparsable),
        ("\u{0}", RejectionCode::Unparsable),
        (r#"{"userId":{"a":1}}"#, RejectionCode::Unparsable),
        (r#"{"itemId":"i","sentAt":1699999999}"#, RejectionCode::MissingUser),
        (r#"{"userId":"","itemId":"i","sentAt":1699999999}"#, RejectionCode::MissingUser),
        (r#"{"userId":"u","sentAt":1699999999}"#, RejectionCode::MissingItem),
        (r#"{"userId":"u","itemId":"i"}"#, RejectionCode::MissingTime),
        (r#"{"userId":"u","itemId":"i","sentAt":"soon"}"#, RejectionCode::BadTime),
        (r#"{"userId":"u","itemId":"i","sentAt":1e40}"#, RejectionCode::BadTime),
        (r#"{"userId":"u","itemId":"i","sentAt":900000000}"#, RejectionCode::TimeTooOld),
        (r#"{"userId":"u","itemId":"i","sentAt":1700086401}"#, RejectionCode::TimeTooNew),
        (r#"{"userId":"u","itemId":"i","eventType":"ogle","sentAt":1699999999}"#, RejectionCode::UnknownEventType),
        (r#"{"userId":"u","itemId":"i","eventValue":"much","sentAt":1699999999}"#, RejectionCode::BadValue),
        (r#"{"userId":"u","itemId":"i","eventValue":"NaN","sentAt":1699999999}"#, RejectionCode::BadValue),
        (r#"{"userId":"u","itemId":"i","eventValue":1e39,"sentAt":1699999999}"#, RejectionCode::BadValue),
    ] {
        assert_eq!(code(text), expected, "{text}");
    }
    let long = format!(r#"{{"userId":"{}","itemId":"i","sentAt":1699999999}}"#, "ü".repeat(129));
    assert_eq!(code(&long), RejectionCode::IdTooLong);
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let types = EventSettings::default().compile().unwrap();
        let mut count = 0;
        decode_record(&bytes, &types, NOW, |_| count += 1);
        prop_assert!(count >= 1);
        let _ = split_envelope(&bytes);
    }

    #[test]
    fn written_events_read_back(user in "\\PC{1,20}", item in "\\PC{1,20}", seconds in 0..700_000_000_i64, value in prop::option::of(-1e6..1e6_f32), id in prop::option::of("[a-z]{1,9}")) {
        let types = EventSettings::default().compile().unwrap();
        let fields = Fields {
            user: Some(user.into()),
            item: Some(item.into()),
            event_id: id.map(Into::into),
            time: TimeField::Ms(1_000_000_000_000 + seconds * 1000),
            value: value.map_or(ValueField::Absent, |v| ValueField::Number(f64::from(v))),
            ..Fields::default()
        };
        let event = Event::from_fields(fields, &types, NOW).unwrap();
        let bytes = encode_event(&event, &types);
        let mut read = Vec::new();
        decode_record(&bytes, &types, NOW, |event| read.push(event.unwrap()));
        prop_assert_eq!(read, vec![event]);
    }
}
