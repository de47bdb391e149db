use std::collections::HashMap;
use std::sync::Arc;

use anabranch_events::HistoryKey;
use anabranch_stores::lake::{MemoryStore, ObjectStore};
use serde_json::Value;

use super::{MINUTE_MS, abandoned_cart, bought, settings};
use crate::notify::dispatcher::DispatchStep;
use crate::notify::{
    Dispatcher, DispatcherParts, DropReason, Notice, NotifyCounts, NotifySettings, OwnShards, RuleSettings,
};
use crate::ports::{ShardId, StateStore as _};
use crate::settings::{Compression, StreamSettings};
use crate::shared::Shared;
use crate::testing::{self, MemoryChannel, MemoryShard, MemoryState, NOW_MS, Sending, TestClock, When, event};
use crate::worker::{Step, Worker};
use crate::{erase, object};

const SHARD: ShardId = ShardId(7);

/// A shard, its worker, a dispatcher and a receiver.
pub(super) struct World {
    pub(super) shard: Arc<MemoryShard>,
    pub(super) state: Arc<MemoryState>,
    pub(super) sink: Arc<dyn ObjectStore>,
    pub(super) clock: Arc<TestClock>,
    pub(super) channel: MemoryChannel,
    pub(super) shared: Arc<Shared>,
    settings: NotifySettings,
    pub(super) worker: Worker,
    pub(super) dispatcher: Dispatcher,
}

impl World {
    pub(super) fn new(settings: NotifySettings) -> Self {
        let (state, clock, shard) = (MemoryState::new(), TestClock::new(), MemoryShard::new());
        let (sink, channel): (Arc<dyn ObjectStore>, _) = (Arc::new(MemoryStore::new()), MemoryChannel::default());
        let shared = shared(&state, &sink, &clock, &settings, 1000);
        let worker = Worker::new(Arc::clone(&shared), SHARD, shard.reader());
        let dispatcher = dispatcher(&shared, &state, &channel, settings.attempts_max);
        Self { shard, state, sink, clock, channel, shared, settings, worker, dispatcher }
    }

    /// A worker of another process on the same shard, that cuts elsewhere.
    pub(super) fn another_worker(&self) -> Worker {
        let shared = shared(&self.state, &self.sink, &self.clock, &self.settings, 3);
        Worker::new(shared, SHARD, self.shard.reader())
    }

    /// Both begin anew.
    pub(super) fn restart_worker(&mut self) {
        self.worker = Worker::new(Arc::clone(&self.shared), SHARD, self.shard.reader());
    }

    pub(super) fn restart_dispatcher(&mut self) {
        self.dispatcher = dispatcher(&self.shared, &self.state, &self.channel, self.settings.attempts_max);
    }

    /// An event that arrives when it happens, now.
    fn put(&self, user: &str, item: &str, kind: &str) {
        let now_ms = crate::Clock::now_ms(&*self.clock);
        self.shard.put(now_ms, user, &[&event(user, item, kind, now_ms)]);
    }

    /// Reads and commits everything.
    fn read(&mut self) {
        while !read_once(&mut self.worker) {}
    }

    /// Sends until nothing is to be done; how long it would wait then.
    fn send(&mut self) -> u64 {
        loop {
            match self.dispatcher.step().unwrap() {
                DispatchStep::Worked => {}
                DispatchStep::Idle { wait_ms, .. } => return wait_ms,
                DispatchStep::Stalled { .. } => panic!("nothing fails here"),
            }
        }
    }

    /// Some minutes pass; the worker has read everything when the dispatcher looks.
    fn after_minutes(&mut self, minutes: i64) -> usize {
        self.clock.advance_ms(minutes * MINUTE_MS);
        self.read();
        self.send();
        self.channel.arrived().len()
    }

    fn counts(&self) -> NotifyCounts {
        self.shared.notices()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.counts().dropped.get(&reason).copied().unwrap_or_default()
    }
}

/// One step towards having read everything; whether there is nothing left.
pub(super) fn read_once(worker: &mut Worker) -> bool {
    match worker.step().unwrap() {
        Step::Worked | Step::Stalled { .. } => false,
        Step::Ended => true,
        Step::Idle { .. } if worker.is_clean() => true,
        Step::Idle { .. } => {
            worker.flush();
            false
        }
    }
}

fn shared(
    state: &Arc<MemoryState>,
    sink: &Arc<dyn ObjectStore>,
    clock: &Arc<TestClock>,
    notify: &NotifySettings,
    cut_records: usize,
) -> Arc<Shared> {
    let settings = StreamSettings { cut_records, micro_batch_records: 5, ..StreamSettings::default() };
    let parts = testing::port_parts(Arc::clone(state) as _, Arc::clone(sink), Arc::clone(clock), settings);
    Arc::new(Shared::new(parts).with_rules(super::compile(notify)))
}

fn dispatcher(
    shared: &Arc<Shared>,
    state: &Arc<MemoryState>,
    channel: &MemoryChannel,
    attempts_max: u32,
) -> Dispatcher {
    Dispatcher::new(DispatcherParts {
        shared: Arc::clone(shared),
        outbox: Arc::clone(state) as _,
        progress: Box::new(OwnShards::new(Arc::clone(shared))),
        channel: Box::new(channel.clone()),
        attempts_max,
        seed: 1,
        idle_shortest_ms: 10,
    })
}

#[test]
fn a_cart_is_abandoned_unless_something_is_bought() {
    let mut world = World::new(settings("abandoned-cart", abandoned_cart()));
    world.put("ada", "i1", "cart");
    world.put("bob", "i2", "cart");
    assert_eq!(world.after_minutes(10), 0);
    world.put("bob", "i2", "purchase");
    assert_eq!(world.after_minutes(19), 0, "not before the half hour is over");
    assert_eq!(world.after_minutes(1), 1);
    assert_eq!(world.after_minutes(600), 1, "once");
    assert_eq!((world.counts().queued, world.counts().sent, world.dropped(DropReason::Cancelled)), (2, 1, 1));
    assert_eq!(world.state.waiting(), 0);

    let (sent_ms, notification) = world.channel.arrived().remove(0);
    assert_eq!(sent_ms, NOW_MS + 30 * MINUTE_MS);
    let body: Value = serde_json::from_str(&notification.body).unwrap();
    for (name, expected) in [
        ("notificationId", Value::from(notification.id.as_str())),
        ("rule", "abandoned-cart".into()),
        ("stream", format!("clicks-{NOW_MS}").into()),
        ("userId", "ada".into()),
        ("eventType", "cart".into()),
        ("eventItemId", "i1".into()),
        ("eventTimeMs", NOW_MS.into()),
        ("arrivalTimeMs", NOW_MS.into()),
        ("dueTimeMs", (NOW_MS + 30 * MINUTE_MS).into()),
        ("snapshotVersion", world.shared.model().version().into()),
    ] {
        assert_eq!(body[name], expected, "{name}");
    }
    assert_eq!(body.get("sessionId"), None);
    let items = body["items"].as_array().unwrap();
    assert_eq!(items.len(), 5);
    // By the definition: what the list shows less the popularity part of its first item's score.
    let (model, history) = (world.shared.model(), world.shared.effective(&HistoryKey::User("ada".into())).unwrap());
    let (row, mut scratch) = (model.row(&history.unwrap()), model.recommender().scratch());
    let best = model.snapshot().item_index(items[0]["itemId"].as_str().unwrap()).unwrap();
    let popular = model.snapshot().popularity();
    let share = popular[best as usize] / popular.iter().copied().fold(0.0, f32::max);
    let score = model.recommender().explain(&mut scratch, &row, best).unwrap().score;
    let lift = f64::from(score) - f64::from(model.snapshot().meta().blend.popularity * share);
    assert!((body["lift"].as_f64().unwrap() - lift).abs() < 1e-5, "{lift} {body}");
}

#[test]
fn a_user_is_left_alone_for_a_while() {
    let mut world = World::new(settings("abandoned-cart", abandoned_cart()));
    for _ in 0..3 {
        world.put("ada", "i1", "cart");
        world.after_minutes(10);
    }
    assert_eq!(world.after_minutes(119), 1, "the first went out at minute 30; those due at 40 and 50 did not");
    assert_eq!(world.dropped(DropReason::CoolDown), 2);
    world.put("ada", "i2", "cart");
    world.put("bob", "i2", "cart");
    assert_eq!(world.after_minutes(30), 3, "due 149 minutes after the first; and whom it was not");
    assert_eq!(world.counts().sent + world.dropped(DropReason::CoolDown), world.counts().queued);
}

/// The test's clock begins at 22:13:20 in UTC.
#[test]
fn nothing_goes_out_at_night_and_one_thing_in_the_morning() {
    let rule = RuleSettings { quiet_hours: "22:00-08:00".to_owned(), ..abandoned_cart() };
    let mut world = World::new(settings("abandoned-cart", rule.clone()));
    for _ in 0..5 {
        world.put("ada", "i1", "cart");
        world.after_minutes(100);
    }
    assert_eq!(world.after_minutes(86), 0, "07:59:20");
    assert_eq!(world.after_minutes(1), 1, "08:00:20; what was due at night is due now, and four are too much");
    assert_eq!((world.after_minutes(2000), world.dropped(DropReason::CoolDown)), (1, 4));

    // An attempt that fails just before the night is made again in the morning.
    let mut world = World::new(settings("r", RuleSettings { quiet_hours: "22:14-08:00".to_owned(), ..bought() }));
    world.put("ada", "i1", "purchase");
    world.channel.script([Sending::Lose]);
    assert_eq!(world.after_minutes(0), 0);
    assert_eq!(world.counts().retried, 1);
    assert_eq!(world.after_minutes(9 * 60 + 46), 0, "07:59:20");
    assert_eq!(world.after_minutes(1), 1);
}

/// A worker that lags has not read the purchase yet: the cart was called abandoned.
#[test]
fn what_arrived_in_time_has_its_say_though_it_was_not_read() {
    let mut world = World::new(settings("abandoned-cart", abandoned_cart()));
    world.put("ada", "i1", "cart");
    world.put("bob", "i1", "cart");
    world.read();
    world.clock.advance_ms(20 * MINUTE_MS);
    world.put("ada", "i1", "purchase");
    world.clock.advance_ms(20 * MINUTE_MS);
    assert!(world.send() <= 1000);
    assert_eq!((world.channel.arrived().len(), world.state.waiting()), (0, 2), "nobody knows yet");
    world.read();
    world.send();
    assert_eq!((world.counts().sent, world.dropped(DropReason::Cancelled)), (1, 1));
    // A shard that was closed holds nothing back.
    world.put("bob", "i3", "cart");
    world.shard.close();
    world.read();
    assert_eq!(world.shared.settled_ms(SHARD), Some(i64::MAX));
    assert_eq!(world.shared.settled_ms(ShardId(8)), None);
}

#[test]
fn an_attempt_that_fails_is_made_again_later_and_at_last_given_up() {
    let mut world = World::new(NotifySettings { attempts_max: 3, ..settings("r", bought()) });
    world.put("ada", "i1", "purchase");
    world.put("bob", "i1", "purchase");
    world.channel.script([Sending::Lose, Sending::Refuse, Sending::LoseAnswer, Sending::Lose]);
    assert_eq!(world.after_minutes(0), 0);
    assert_eq!((world.counts().retried, world.counts().dead), (1, 1));
    let wait_ms = world.send();
    assert!((500..=1000).contains(&wait_ms), "half of a second to a second: {wait_ms}");
    world.clock.advance_ms(wait_ms as i64 - 1);
    world.send();
    assert_eq!(world.counts().retried, 1, "not a moment sooner");
    world.clock.advance_ms(1);
    // Attempts outlive the process.
    world.restart_dispatcher();
    world.send();
    assert_eq!((world.counts().retried, world.channel.arrived().len()), (2, 1));
    world.after_minutes(1);
    assert_eq!((world.counts().dead, world.counts().retried, world.state.waiting()), (2, 2, 0));

    let letters = world.sink.list(object::DEAD_LETTERS).unwrap();
    assert_eq!(letters.len(), 2);
    let prefix = format!("dead-letters/clicks-{NOW_MS}/notifications/");
    let mut told = letters.iter().map(|letter| {
        assert!(letter.path.as_str().starts_with(&prefix), "{}", letter.path.as_str());
        let line = object::decompress("d", &world.sink.get(&letter.path).unwrap(), 1 << 20).unwrap();
        let letter: Value = serde_json::from_slice(&line).unwrap();
        (letter["partitionKey"].as_str().unwrap().to_owned(), letter["detail"].as_str().unwrap().to_owned())
    });
    let mut told: Vec<_> = told.by_ref().collect();
    told.sort_unstable();
    let why = "as the test asks".to_owned();
    let given_up = format!("{why}; given up after 3 attempts");
    assert!(told.iter().any(|(_, detail)| *detail == why) && told.iter().any(|(_, detail)| *detail == given_up));
    let ada = std::collections::BTreeSet::from([HistoryKey::User("ada".into())]);
    let erased = erase::erase_dead_letters(&*world.sink, object::DEAD_LETTERS, &ada, Compression::Zstd).unwrap();
    assert_eq!((erased, world.sink.list(object::DEAD_LETTERS).unwrap().len()), (1, 1));
}

#[test]
fn a_users_notifications_keep_their_order_and_hold_back_nobody_else() {
    let mut world = World::new(settings("r", bought()));
    for (user, item) in [("ada", "i1"), ("ada", "i2"), ("bob", "i3")] {
        world.put(user, item, "purchase");
        world.clock.advance_ms(1);
    }
    world.channel.script([Sending::Lose]);
    world.after_minutes(0);
    let items = |world: &World| {
        let arrived = world.channel.arrived();
        arrived
            .iter()
            .map(|(_, notification)| serde_json::from_str::<Value>(&notification.body).unwrap()["eventItemId"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(items(&world), ["i3"]);
    world.after_minutes(1);
    assert_eq!(items(&world), ["i3", "i1", "i2"]);
}

#[test]
fn however_many_wait_they_hold_back_nobody_else() {
    let mut world = World::new(settings("r", bought()));
    let waiting: Vec<_> = (0..5000)
        .map(|i| Notice { not_before_ms: i64::MAX, ..testing::notice(i, NOW_MS - 5000 + i as i64, &format!("u{i}")) })
        .collect();
    world.state.join(&HashMap::new(), &waiting, &testing::types()).unwrap();
    world.put("ada", "i1", "purchase");
    assert_eq!(world.after_minutes(0), 1);
    assert_eq!(world.state.waiting(), 5000);
}

fn until_idle(world: &mut World) -> bool {
    loop {
        if let DispatchStep::Idle { is_more, .. } = world.dispatcher.step().unwrap() {
            return is_more;
        }
    }
}

#[test]
fn a_walk_ends_with_what_was_due_when_it_began_and_says_that_more_is() {
    let mut world = World::new(settings("r", abandoned_cart()));
    for user in ["ada", "bob"] {
        world.put(user, "i1", "cart");
        world.clock.advance_ms(MINUTE_MS);
    }
    world.clock.advance_ms(28 * MINUTE_MS);
    world.read();
    assert_eq!(world.dispatcher.step().unwrap(), DispatchStep::Worked);
    world.clock.advance_ms(MINUTE_MS);
    world.read();
    assert_eq!((until_idle(&mut world), world.channel.arrived().len()), (true, 1));
    assert_eq!((until_idle(&mut world), world.channel.arrived().len()), (false, 2));
}

#[test]
fn a_walk_that_finished_thousands_gives_those_that_wait_their_turn() {
    let mut world = World::new(settings("r", bought()));
    let notice = |i: u128| testing::notice(i, NOW_MS - 5000 + i as i64, &format!("u{i}"));
    let gone: Vec<_> = (0..4200).map(|i| Notice { rule: "gone".to_owned(), ..notice(i) }).collect();
    world.state.join(&HashMap::new(), &gone, &testing::types()).unwrap();
    world.clock.advance_ms(MINUTE_MS);
    world.read();
    assert_eq!((until_idle(&mut world), world.state.waiting() < 105), (true, true));
    assert_eq!((until_idle(&mut world), world.state.waiting()), (false, 0));
}

#[test]
fn what_comes_too_late_or_is_not_worth_it_is_dropped_by_reason() {
    let mut world = World::new(settings("r", bought()));
    world.put("ada", "i1", "purchase");
    world.read();
    world.clock.advance_ms(1440 * MINUTE_MS + 1);
    world.after_minutes(0);
    assert_eq!(world.dropped(DropReason::Expired), 1);

    let mut world = World::new(settings("r", RuleSettings { lift_min: 0.001, ..bought() }));
    world.put("ada", "nobody-knows-this-item", "purchase");
    world.put("bob", "i1", "purchase");
    assert_eq!(world.after_minutes(0), 1, "a list of what is popular has a lift of 0");
    assert_eq!(world.dropped(DropReason::Lift), 1);

    // The rule left the settings while its notice waited.
    let mut world = World::new(settings("r", abandoned_cart()));
    world.put("ada", "i1", "cart");
    world.read();
    let other = shared(&world.state, &world.sink, &world.clock, &settings("q", abandoned_cart()), 9);
    world.dispatcher = dispatcher(&other, &world.state, &world.channel, 8);
    world.clock.advance_ms(40 * MINUTE_MS);
    world.send();
    assert_eq!(other.notices().dropped.get(&DropReason::NoRule), Some(&1));
    assert!(world.channel.arrived().is_empty());
}

#[test]
fn a_session_that_is_somebodys_counts_as_theirs() {
    let mut world = World::new(settings("abandoned-cart", abandoned_cart()));
    let put = |world: &World, owner: &str, kind: &str| {
        let now_ms = crate::Clock::now_ms(&*world.clock);
        let data = format!(r#"{{{owner},"itemId":"i1","eventType":"{kind}","sentAt":{now_ms}}}"#);
        world.shard.put(now_ms, "k", &[data.as_bytes()]);
    };
    put(&world, r#""sessionId":"s""#, "cart");
    put(&world, r#""sessionId":"t""#, "cart");
    world.after_minutes(10);
    put(&world, r#""userId":"ada","sessionId":"s""#, "view");
    assert_eq!(world.after_minutes(20), 2);
    let mut bodies: Vec<Value> =
        world.channel.arrived().iter().map(|(_, found)| serde_json::from_str(&found.body).unwrap()).collect();
    bodies.sort_by_key(|body| body["sessionId"].as_str().map(str::to_owned));
    assert_eq!((&bodies[0]["sessionId"], &bodies[0]["userId"]), (&"s".into(), &"ada".into()));
    assert_eq!((&bodies[1]["sessionId"], bodies[1].get("userId")), (&"t".into(), None));
    // The cool-down is Ada's, whoever she was called.
    put(&world, r#""userId":"ada""#, "cart");
    assert_eq!((world.after_minutes(30), world.dropped(DropReason::CoolDown)), (2, 1));
}

/// Outbox or histories fail for a while: nothing is sent twice for it, and nothing is lost.
#[test]
fn a_failing_outbox_keeps_what_was_sent() {
    for when in [When::Before, When::After] {
        for call in 0..6 {
            let mut world = World::new(settings("r", bought()));
            world.put("ada", "i1", "purchase");
            world.put("bob", "i1", "purchase");
            world.read();
            (0..2).for_each(|again| world.state.faults.fail_after(call + again, when));
            let mut stalls = Vec::new();
            for _ in 0..100 {
                if let DispatchStep::Stalled { wait_ms } = world.dispatcher.step().unwrap() {
                    stalls.push(wait_ms);
                }
            }
            assert_eq!(stalls, [100, 200], "call {call}");
            assert_eq!((world.channel.ids().len(), world.state.waiting(), world.counts().sent), (2, 0, 2));
        }
    }
}
