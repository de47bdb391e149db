use anabranch_events::event::{Fields, TimeField};
use anabranch_events::{Event, EventKey, History, HistoryKey};

use super::{MINUTE_MS, abandoned_cart, bought, compile, settings};
use crate::notify::rule::Triggering;
use crate::notify::{ChannelKind, DropReason, Notice, NotifySettings, RuleSettings, Rules, notice};
use crate::ports::ShardId;
use crate::testing::{self, NOW_MS};

/// 2023-11-14T00:00:00Z.
const MIDNIGHT_MS: i64 = 1_699_920_000_000;

fn at(hours: i64, minutes: i64) -> i64 {
    MIDNIGHT_MS + (hours * 60 + minutes) * MINUTE_MS
}

fn event(user: &str, item: &str, kind: &str, time_ms: i64) -> Event<'static> {
    let fields = Fields {
        user: Some(user.to_owned().into()),
        item: Some(item.to_owned().into()),
        event_type: Some(kind.to_owned().into()),
        time: TimeField::Ms(time_ms),
        ..Fields::default()
    };
    Event::from_fields(fields, &testing::types(), time_ms).unwrap()
}

fn triggered(rules: &Rules, event: &Event<'_>, arrival_ms: i64) -> Vec<Notice> {
    let (types, owner) = (testing::types(), event.history_key());
    let of = Triggering { namespace: "clicks-1", shard: ShardId(3), types: &types, event, owner: &owner, arrival_ms };
    rules.triggered(of).collect()
}

fn history(events: &[(&str, i64)]) -> History {
    let entries = events.iter().map(|(kind, time_ms)| event("u", "i1", kind, *time_ms).entry()).collect();
    History::from_entries(entries, &testing::types())
}

#[test]
fn quiet_hours_by_hand() {
    for (hours, offset_minutes, time_ms, expected) in [
        ("22:00-08:00", 0, at(21, 59), at(21, 59)),
        ("22:00-08:00", 0, at(22, 0), at(32, 0)),
        ("22:00-08:00", 0, at(23, 59), at(32, 0)),
        ("22:00-08:00", 0, at(24, 0), at(32, 0)),
        ("22:00-08:00", 0, at(7, 59), at(8, 0)),
        ("22:00-08:00", 0, at(8, 0), at(8, 0)),
        // 21:30 in London is 22:30 in Berlin, and 08:00 in Berlin is 07:00 in London.
        ("22:00-08:00", 60, at(21, 30), at(31, 0)),
        ("22:00-08:00", 60, at(7, 30), at(7, 30)),
        // 18:00 in New York.
        ("22:00-08:00", -300, at(23, 0), at(23, 0)),
        ("22:00-08:00", -300, at(3, 0), at(13, 0)),
        ("12:30-13:30", 0, at(12, 29), at(12, 29)),
        ("12:30-13:30", 0, at(13, 0), at(13, 30)),
        ("12:30-13:30", 0, at(13, 30), at(13, 30)),
        ("00:00-23:59", 0, at(0, 0), at(23, 59)),
        ("08:00-07:59", 0, at(8, 0), at(31, 59)),
        ("22:00-08:00", 0, at(23, 0) - 25_000 * 1440 * MINUTE_MS, at(32, 0) - 25_000 * 1440 * MINUTE_MS),
    ] {
        let rule = RuleSettings { quiet_hours: hours.to_owned(), ..bought() };
        let settings = NotifySettings { utc_offset_minutes: offset_minutes, ..settings("r", rule) };
        let quiet = compile(&settings).get("r").unwrap().quiet.unwrap();
        assert_eq!(quiet.over_at(time_ms), expected, "{hours} {offset_minutes} {}", time_ms - MIDNIGHT_MS);
        assert_eq!(quiet.over_at(expected), expected, "their end is not quiet");
    }
}

#[test]
fn an_event_triggers_the_rules_of_its_type_at_times_of_its_arrival() {
    let mut both =
        settings("abandoned-cart", RuleSettings { quiet_hours: "22:00-08:00".to_owned(), ..abandoned_cart() });
    both.rules.insert("any".to_owned(), RuleSettings { event_types: vec!["cart".into(), "view".into()], ..bought() });
    let rules = compile(&both);
    assert!(triggered(&rules, &event("u", "i1", "purchase", NOW_MS), NOW_MS).is_empty());
    let view = triggered(&rules, &event("u", "i1", "view", NOW_MS), NOW_MS + 5);
    assert_eq!(view.len(), 1);
    assert_eq!((view[0].rule.as_str(), view[0].due_ms, view[0].settled_ms), ("any", NOW_MS + 5, NOW_MS + 5));
    // Arrived at 21:45: decided on what arrived by 22:15, due in the morning.
    let cart = event("u", "i1", "cart", at(21, 40));
    let notices = triggered(&rules, &cart, at(21, 45));
    assert_eq!(notices.iter().map(|notice| notice.rule.as_str()).collect::<Vec<_>>(), ["abandoned-cart", "any"]);
    assert_eq!((notices[0].settled_ms, notices[0].due_ms), (at(22, 15), at(32, 0)));
    assert_eq!((notices[0].time_ms, notices[0].arrival_ms, notices[0].shard), (at(21, 40), at(21, 45), 3));
    // An hour is the default age; a clock that runs ahead is no age at all.
    assert_eq!(triggered(&rules, &cart, at(22, 40)).len(), 2);
    assert_eq!(triggered(&rules, &cart, at(22, 40) + 1).len(), 0);
    assert_eq!(triggered(&rules, &cart, at(21, 0)).len(), 2);
    for notice in notices {
        assert_eq!(Notice::from_entry(&notice.to_entry()), Some(notice));
    }
}

/// These values reach receivers; a change here makes them take a repeat for something new.
#[test]
fn ids_are_frozen_and_tell_everything_apart() {
    let user = HistoryKey::User("u1".into());
    let base = notice::id("s-1", "r", &user, "cart", EventKey(1));
    assert_eq!(notice::id_text(base), "a2ac41a386113c48cf4999e37400bf2f");
    let others = [
        notice::id("s-2", "r", &user, "cart", EventKey(1)),
        notice::id("s-1", "q", &user, "cart", EventKey(1)),
        notice::id("s-1", "r", &HistoryKey::Session("u1".into()), "cart", EventKey(1)),
        notice::id("s-1", "r", &user, "view", EventKey(1)),
        notice::id("s-1", "r", &user, "cart", EventKey(2)),
        notice::id("s-", "1r", &user, "cart", EventKey(1)),
    ];
    assert!(others.iter().all(|other| *other != base));
}

#[test]
fn what_stands_by_hand() {
    let rules = compile(&settings("r", abandoned_cart()));
    let rule = rules.get("r").unwrap();
    let mut notices = triggered(&rules, &event("u", "i1", "cart", NOW_MS), NOW_MS);
    let notice = notices.pop().unwrap();
    let cart = ("cart", NOW_MS);
    let cool_down_ms = 120 * MINUTE_MS;
    for (events, newest_sent_ms, expected) in [
        (vec![cart], None, Ok(())),
        (vec![cart, ("purchase", NOW_MS - 1), ("view", NOW_MS + 9), ("cart", NOW_MS + 9)], None, Ok(())),
        (vec![cart, ("purchase", NOW_MS)], None, Err(DropReason::Cancelled)),
        (vec![cart, ("purchase", NOW_MS + 99 * MINUTE_MS)], None, Err(DropReason::Cancelled)),
        (vec![cart], Some(notice.due_ms - cool_down_ms), Ok(())),
        (vec![cart], Some(notice.due_ms - cool_down_ms + 1), Err(DropReason::CoolDown)),
        (vec![cart], Some(notice.due_ms + 5), Err(DropReason::CoolDown)),
    ] {
        assert_eq!(rule.stands(&notice, &history(&events), newest_sent_ms), expected, "{events:?} {newest_sent_ms:?}");
    }
    let mut erased = history(&[cart]);
    erased.erase(NOW_MS);
    assert_eq!(rule.stands(&notice, &erased, None), Err(DropReason::Forgotten));
    assert!(!rule.is_expired(notice.due_ms, notice.due_ms + 1440 * MINUTE_MS));
    assert!(rule.is_expired(notice.due_ms, notice.due_ms + 1440 * MINUTE_MS + 1));

    let rules = compile(&settings("r", RuleSettings { lift_min: 0.5, ..bought() }));
    let rule = rules.get("r").unwrap();
    assert_eq!(rule.is_worth(0, 9.0), Err(DropReason::NoItems));
    assert_eq!(rule.is_worth(1, 0.49), Err(DropReason::Lift));
    assert_eq!(rule.is_worth(1, 0.5), Ok(()));
}

#[test]
fn mistakes_in_settings_name_their_place() {
    let rule = |change: fn(&mut RuleSettings)| {
        let mut rule = abandoned_cart();
        change(&mut rule);
        settings("r", rule)
    };
    let whole = |change: fn(&mut NotifySettings)| {
        let mut settings = settings("r", abandoned_cart());
        change(&mut settings);
        settings
    };
    for (settings, expected) in [
        (rule(|r| r.event_types.clear()), "[notify.rules.r] event_types is empty"),
        (rule(|r| r.event_types.push("ogle".to_owned())), "[notify.rules.r] event_types: \"ogle\""),
        (rule(|r| r.unless.push("cart".to_owned())), "[notify.rules.r] \"cart\" is in event_types and in unless"),
        (rule(|r| r.delay_minutes = 0), "[notify.rules.r] unless needs a delay_minutes"),
        (rule(|r| r.delay_minutes = 999_999), "[notify.rules.r] delay_minutes = 999999"),
        (rule(|r| r.lift_min = f32::NAN), "[notify.rules.r] lift_min = NaN"),
        (rule(|r| r.items_max = 0), "[notify.rules.r] items_max = 0"),
        (rule(|r| r.quiet_hours = "22-8".to_owned()), "[notify.rules.r] quiet_hours = \"22-8\""),
        (rule(|r| r.quiet_hours = "24:00-08:00".to_owned()), "[notify.rules.r] quiet_hours"),
        (rule(|r| r.quiet_hours = "08:00-08:00".to_owned()), "[notify.rules.r] quiet_hours"),
        (rule(|r| r.quiet_hours = "+8:00-09:00".to_owned()), "[notify.rules.r] quiet_hours"),
        (super::settings("a b", abandoned_cart()), "[notify.rules.a b] a rule's name"),
        (whole(|s| s.utc_offset_minutes = 841), "[notify] utc_offset_minutes = 841"),
        (whole(|s| s.attempts_max = 0), "[notify] attempts_max = 0"),
        (whole(|s| s.webhook.timeout_ms = 1), "[notify] webhook.timeout_ms = 1"),
        (whole(|s| s.channel = ChannelKind::Webhook), "[notify] webhook.url = \"\""),
        (whole(|s| s.channel = ChannelKind::Sns), "[notify] sns.topic = \"\""),
    ] {
        let problem = settings.compile(&testing::types()).unwrap_err();
        assert!(problem.starts_with(expected), "{problem}");
    }
    assert!(
        NotifySettings { channel: ChannelKind::Sns, ..NotifySettings::default() }.compile(&testing::types()).is_ok()
    );
}
