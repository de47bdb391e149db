//! The same events, whatever happens on the way: crashes of worker and dispatcher between any two steps, failing calls,
//! a second worker, records read again and out of order, attempts that fail.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::dispatch::{World, read_once};
use super::{MINUTE_MS, abandoned_cart, bought};
use crate::notify::dispatcher::DispatchStep;
use crate::notify::{DropReason, NotifySettings, Outbox as _, RuleSettings};
use crate::testing::{NOW_MS, Sending, When, event};

const TICK_MS: i64 = 10 * MINUTE_MS;
const TICKS: usize = 12;
/// After the last event: the delay and the night are over.
const MORE_TICKS: usize = 70;
const STEPS_MAX: usize = 5_000;
/// Crashes of the dispatcher in one tick.
const CRASHES_MAX: usize = 100;

/// A record: when it arrives, the event in it.
#[derive(Clone, Debug)]
struct Arriving {
    tick: usize,
    user: u8,
    item: u8,
    kind: &'static str,
}

/// What goes wrong.
#[derive(Clone, Debug, Default)]
struct Plan {
    /// Numbers that everything is drawn from; none, and nothing goes wrong.
    chance: Vec<u8>,
    sends_fail: bool,
    dispatcher_crashes: bool,
}

#[derive(Debug)]
struct Chance<'a> {
    numbers: &'a [u8],
    next: u64,
}

impl Chance<'_> {
    /// True once in `of`; never without numbers.
    fn strikes(&mut self, of: u64) -> bool {
        self.next += 1;
        !self.numbers.is_empty() && xxh3_64_with_seed(self.numbers, self.next).is_multiple_of(of)
    }
}

fn rules() -> NotifySettings {
    let browsing = RuleSettings { event_types: vec!["view".to_owned()], cool_down_minutes: 60, ..bought() };
    // The clock begins at 22:13:20.
    let night = RuleSettings { quiet_hours: "23:30-05:00".to_owned(), ..abandoned_cart() };
    let rules = [("abandoned-cart", night), ("bought", bought()), ("browsing", browsing)];
    let rules: BTreeMap<_, _> = rules.into_iter().map(|(name, rule)| (name.to_owned(), rule)).collect();
    NotifySettings { attempts_max: 30, rules, ..NotifySettings::default() }
}

/// Lives through the events; what arrived at the receiver.
fn live(events: &[Arriving], plan: &Plan) -> (World, Vec<String>) {
    let mut world = World::new(rules());
    let mut zombie = (!plan.chance.is_empty()).then(|| world.another_worker());
    let mut chance = Chance { numbers: &plan.chance, next: 0 };
    for tick in 0..TICKS + MORE_TICKS {
        let mut records: Vec<(i64, Vec<u8>, u8)> = Vec::new();
        for (index, arriving) in events.iter().enumerate() {
            let arrival_ms = NOW_MS + arriving.tick as i64 * TICK_MS + index as i64;
            let (user, item) = (format!("u{}", arriving.user), format!("i{}", arriving.item));
            let data = event(&user, &item, arriving.kind, arrival_ms);
            let is_again = arriving.tick < tick && tick < TICKS && chance.strikes(9);
            for _ in 0..usize::from(is_again) + usize::from(arriving.tick == tick) {
                records.push((arrival_ms, data.clone(), arriving.user));
            }
            if arriving.tick == tick && chance.strikes(5) {
                records.push((arrival_ms, data, arriving.user));
            }
        }
        if chance.strikes(2) {
            records.reverse();
            let middle = records.len() / 3;
            records.rotate_left(middle);
        }
        for (arrival_ms, data, user) in &records {
            world.shard.put(*arrival_ms, &format!("u{user}"), &[data]);
        }
        world.clock.advance_ms(TICK_MS);
        read(&mut world, &mut zombie, &mut chance);
        send(&mut world, plan, &mut chance);
        let now_ms = crate::Clock::now_ms(&*world.clock);
        world.clock.advance_ms(NOW_MS + (tick as i64 + 1) * TICK_MS - now_ms);
    }
    assert_eq!(world.state.waiting(), 0);
    let ids = world.channel.ids();
    (world, ids)
}

fn read(world: &mut World, zombie: &mut Option<crate::worker::Worker>, chance: &mut Chance<'_>) {
    for _ in 0..STEPS_MAX {
        if chance.strikes(11) {
            world.state.faults.fail_after(0, if chance.strikes(2) { When::Before } else { When::After });
        }
        if let Some(zombie) = zombie.as_mut().filter(|_| chance.strikes(3)) {
            read_once(zombie);
        }
        if chance.strikes(13) {
            world.restart_worker();
        }
        if read_once(&mut world.worker) {
            world.state.faults.end();
            return;
        }
    }
    panic!("the worker makes no progress");
}

/// Everything that is due by this tick goes out in it, retries among it.
fn send(world: &mut World, plan: &Plan, chance: &mut Chance<'_>) {
    let (mut faults, mut crashes) = (0, 0);
    for _ in 0..STEPS_MAX {
        if plan.sends_fail && faults < 5 && chance.strikes(4) {
            faults += 1;
            world.channel.script([if chance.strikes(2) { Sending::Lose } else { Sending::LoseAnswer }]);
        }
        if chance.strikes(11) {
            world.state.faults.fail_after(0, if chance.strikes(2) { When::Before } else { When::After });
        }
        // A walk over what is held back for a night would seldom come to its end if every sixth step were a crash.
        if plan.dispatcher_crashes && crashes < CRASHES_MAX && chance.strikes(6) {
            crashes += 1;
            world.restart_dispatcher();
        }
        if let DispatchStep::Idle { wait_ms, .. } = world.dispatcher.step().unwrap() {
            world.state.faults.end();
            // A fault that met no attempt is over, or those of a whole night would meet in the morning.
            world.channel.end_script();
            let now_ms = crate::Clock::now_ms(&*world.clock);
            // Five attempts take half a minute; what waits longer waits for the end of the night.
            let is_over = (now_ms - NOW_MS).rem_euclid(TICK_MS) > 2 * MINUTE_MS;
            if is_over || world.state.due(now_ms, None, 1).unwrap().is_empty() {
                return;
            }
            // A dispatcher may wake late; one that asks every 200 ms for what is not settled would fill the test with walks.
            world.clock.advance_ms(wait_ms.max(1_000) as i64);
        }
    }
    panic!("the dispatcher makes no progress");
}

fn events() -> impl Strategy<Value = Vec<Arriving>> {
    let kind = prop_oneof![Just("cart"), Just("cart"), Just("view"), Just("purchase")];
    let one = (0..TICKS, 0..3_u8, 0..20_u8, kind);
    proptest::collection::vec(one.prop_map(|(tick, user, item, kind)| Arriving { tick, user, item, kind }), 1..40)
}

/// A life in which every reason and every rule has its turn, so that the property below says something.
#[test]
fn an_undisturbed_life_sends_cancels_and_spares() {
    let mut events = Vec::new();
    for tick in 0..TICKS {
        let kind = ["cart", "view", "cart", "purchase", "view", "cart"][tick * 5 % 6];
        events.extend((0..3).map(|user| Arriving { tick, user, item: tick as u8, kind }));
        events.push(Arriving { tick, user: 1, item: 7, kind: "view" });
    }
    let (world, ids) = live(&events, &Plan::default());
    let counts = world.shared.notices();
    assert_eq!(counts.sent as usize, ids.len());
    assert_eq!(counts.queued, counts.sent + counts.dead + counts.dropped.values().sum::<u64>(), "{counts:?}");
    assert!(counts.sent > 9 && counts.dropped[&DropReason::Cancelled] > 0, "{counts:?}");
    assert!(counts.dropped[&DropReason::CoolDown] > 3 && counts.dead + counts.retried == 0, "{counts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_the_same_ids_go_out(
        events in events(),
        chance in proptest::collection::vec(any::<u8>(), 1..9),
        sends_fail in any::<bool>(),
        dispatcher_crashes in any::<bool>(),
    ) {
        let (_, expected) = live(&events, &Plan::default());
        let once: BTreeSet<&String> = expected.iter().collect();
        prop_assert_eq!(once.len(), expected.len(), "undisturbed, each goes out once");
        let (_, ids) = live(&events, &Plan { chance, sends_fail, dispatcher_crashes });
        let found: BTreeSet<&String> = ids.iter().collect();
        prop_assert_eq!(&found, &once);
        if !sends_fail && !dispatcher_crashes {
            prop_assert_eq!(ids.len(), found.len(), "no fault hits a send: each once");
        }
    }
}
