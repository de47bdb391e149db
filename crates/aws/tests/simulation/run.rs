//! One run: a seed, a world, and a scheduler that lets one of its actors do one thing at a time.
//!
//! An actor is an arm of [`Run::act`]; something that invokes functions (Lambda) would be one more, with a producer's
//! shape: it holds a batch and hands it out again until it is told that it is done.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use anabranch_stores::lake::ObjectStore as _;
use anabranch_stream::Clock;
use anabranch_stream::ports::{Checkpoint, Position, ShardId};
use anabranch_stream::worker::Step;

use crate::chance::Chance;
use crate::oracle::{self, Watch};
use crate::process::Process;
use crate::producers::Sender;
use crate::tape::Tape;
use crate::wire::{Crash, Fuse};
use crate::world::World;

const PRODUCERS: u64 = 2;
/// Shards, open and closed, that a run may have.
const SHARDS_MAX: usize = 10;
/// Rounds within which everything must be drained once the faults have stopped.
const DRAIN_ROUNDS_MAX: usize = 3_000;
/// Steps of each worker in a round.
const STEPS_A_ROUND: usize = 10;
const ROUND_MS: u64 = 300;
const A_DAY_MS: u64 = 86_400_000;
/// Longer than the retention.
const LONG_MS: u64 = A_DAY_MS + 3_600_000;

struct Run {
    world: World,
    chance: Chance,
    senders: Vec<Sender>,
    processes: Vec<Process>,
    started: u64,
    watch: Watch,
}

/// Runs a seed to its end. Panics where the oracle says no.
pub(crate) fn run(seed: u64, tape: &Arc<Tape>) {
    let chance = Chance::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let world = World::new(&chance, Arc::clone(tape));
    let senders = (0..PRODUCERS).map(|number| Sender::new(&world, number, &chance)).collect();
    let mut run = Run { world, chance, senders, processes: Vec::new(), started: 0, watch: Watch::default() };
    for step in 0..run.world.plan.steps {
        run.act();
        if step % 8 == 0 {
            run.watch.look(&run.world);
        }
    }
    run.drain();
    run.watch.look(&run.world);
    oracle::judge(&run.world, &run.senders);
    run.tally();
}

impl Run {
    fn say(&self, what: &str) {
        self.world.tape.say(format!("{:>9} {what}", self.world.clock.monotonic_us() / 1000 % 1_000_000_000));
    }

    fn count(&self, what: &str) {
        self.world.tape.count(what, 1);
    }

    /// Somebody does something.
    fn act(&mut self) {
        match self.chance.below(1000) {
            0..500 => self.step_somebody(),
            500..600 => {
                let sender = self.chance.index(self.senders.len());
                self.senders[sender].make(&self.world);
                self.senders[sender].send(&self.world);
            }
            600..690 => self.somebody_runs_leases(),
            690..770 => self.world.clock.advance_ms(self.chance.below(2_000)),
            770..780 => self.world.clock.advance_ms(self.chance.pick(&[5_000, 20_000, 400_000])),
            780..788 => self.retain(),
            788..815 => self.world.change_weather(&self.chance),
            815..825 => self.crash_between_steps(),
            825..845 => self.light_a_fuse(),
            845..885 => self.start_a_process(),
            885..900 => self.reshard(),
            900..915 => self.send_to_sleep(),
            915..925 => self.somebody_uses_the_next_model(),
            925..940 => self.step_a_clock(),
            940..955 => {
                self.world.land_one();
            }
            955..965 => self.intrude(),
            _ => self.flush_somebody(),
        }
    }

    /// One that is awake.
    fn somebody(&self) -> Option<usize> {
        let awake: Vec<usize> = (0..self.processes.len()).filter(|&index| self.processes[index].is_awake()).collect();
        if awake.is_empty() { None } else { Some(self.chance.pick(&awake)) }
    }

    /// Lets a process do something. If it dies of it, it is gone with all it had in hand.
    fn let_process<T>(&mut self, index: usize, act: impl FnOnce(&mut Process) -> T) -> Option<T> {
        let process = &mut self.processes[index];
        match catch_unwind(AssertUnwindSafe(|| act(process))) {
            Ok(done) => Some(done),
            Err(payload) if payload.is::<Crash>() => {
                self.processes.remove(index);
                None
            }
            Err(payload) => resume_unwind(payload),
        }
    }

    fn step_somebody(&mut self) {
        let Some(index) = self.somebody() else { return };
        let ids: Vec<ShardId> = self.processes[index].workers.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = self.chance.pick(&ids);
        let steps = 1 + self.chance.below(12);
        for _ in 0..steps {
            match self.step(index, id) {
                Some(Step::Worked) => {}
                _ => break,
            }
        }
    }

    fn step(&mut self, index: usize, id: ShardId) -> Option<Step> {
        let name = self.processes[index].name.clone();
        let step = self.let_process(index, |process| process.step(id))?;
        let place = self.processes[index].workers.get(&id).map(|worker| (worker.committed(), worker.processed()));
        let (committed, processed) = place.unwrap_or_default();
        let (committed, processed) = (short(committed), short(processed));
        self.say(&format!("{name} {id}: {step:?}, committed to {committed}, processed to {processed}"));
        if matches!(step, Some(Step::Stalled { .. })) {
            self.count("worker: step that stalled");
        }
        self.world.clock.advance_ms(self.chance.below(40));
        step
    }

    fn somebody_runs_leases(&mut self) {
        let Some(index) = self.somebody() else { return };
        let name = self.processes[index].name.clone();
        let done = self.let_process(index, Process::run_leases);
        match done {
            Some(Ok(())) => {
                let ids: Vec<u64> = self.processes[index].workers.keys().map(|id| id.0).collect();
                self.say(&format!("{name} reads the leases: {ids:?}"));
            }
            Some(Err(error)) => self.say(&format!("{name} cannot read the leases: {error}")),
            None => {}
        }
    }

    fn crash_between_steps(&mut self) {
        if !self.processes.is_empty() {
            let gone = self.processes.remove(self.chance.index(self.processes.len()));
            self.count("crash between steps");
            self.say(&format!("{} dies between steps", gone.name));
        }
    }

    fn light_a_fuse(&mut self) {
        if !self.processes.is_empty() {
            let index = self.chance.index(self.processes.len());
            let fuse = Fuse { calls: self.chance.below(25), lands: self.chance.one_in(2) };
            self.processes[index].wire.set_fuse(Some(fuse));
        }
    }

    fn start_a_process(&mut self) {
        if self.processes.len() < self.world.plan.processes {
            let process = Process::start(&self.world, self.started, &self.chance);
            self.started += 1;
            self.say(&format!("{} starts", process.name));
            if self.chance.one_in(3) {
                process.use_next_model();
            }
            self.processes.push(process);
            let index = self.processes.len() - 1;
            drop(self.let_process(index, Process::run_leases));
        }
    }

    /// A split or a merge, with whatever is being read or put.
    fn reshard(&mut self) {
        let shards = self.world.kinesis.shards();
        if shards.len() >= SHARDS_MAX {
            return;
        }
        let open: Vec<_> = shards.iter().filter(|shard| !shard.is_closed).collect();
        let shard = open[self.chance.index(open.len())];
        let neighbour = open.iter().find(|other| Some(other.hash_keys.0) == shard.hash_keys.1.checked_add(1));
        match neighbour {
            Some(neighbour) if self.chance.one_in(2) => {
                let child = self.world.kinesis.merge(shard.id, neighbour.id);
                self.say(&format!("{} and {} are merged into {child}", shard.id, neighbour.id));
                self.count("reshard: merge");
            }
            _ => {
                let [left, right] = self.world.kinesis.split(shard.id);
                self.say(&format!("{} is split into {left} and {right}", shard.id));
                self.count("reshard: split");
            }
        }
    }

    /// A process is suspended, with its leases and its cuts, and goes on later as if nothing had happened.
    fn send_to_sleep(&mut self) {
        let Some(index) = self.somebody() else { return };
        let ms = self.chance.pick(&[1_000, 15_000, 60_000, LONG_MS]);
        let process = &mut self.processes[index];
        process.asleep_until_us = self.world.clock.monotonic_us() + ms * 1000;
        let name = process.name.clone();
        self.say(&format!("{name} sleeps for {ms} ms"));
        self.count("process that sleeps");
    }

    fn somebody_uses_the_next_model(&mut self) {
        let Some(index) = self.somebody() else { return };
        self.processes[index].use_next_model();
        let name = self.processes[index].name.clone();
        self.say(&format!("{name} uses the next model"));
        self.count("model replaced");
    }

    fn step_a_clock(&mut self) {
        let Some(index) = self.somebody() else { return };
        let by_ms = self.chance.pick(&[-7_200_000, -5_000, 5_000, 7_200_000]);
        self.processes[index].step_clock(by_ms);
        let name = self.processes[index].name.clone();
        self.say(&format!("{name}: the clock steps by {by_ms} ms"));
        self.count("clock step");
    }

    /// A worker on a shard without its lease, if a parent does not forbid it.
    fn intrude(&mut self) {
        let Some(index) = self.somebody() else { return };
        let shards = self.world.kinesis.shards();
        let shard = &shards[self.chance.index(shards.len())];
        let is_ended = |id: &ShardId| matches!(oracle::checkpoint(&self.world, *id), Checkpoint::ShardEnd(_));
        if shard.parents().all(|parent| is_ended(&parent)) {
            let id = shard.id;
            let name = self.processes[index].name.clone();
            self.say(&format!("{name} reads {id} though nobody gave it to it"));
            self.count("second worker on a shard");
            self.processes[index].intrude(id);
        }
    }

    fn flush_somebody(&mut self) {
        let Some(index) = self.somebody() else { return };
        let process = &mut self.processes[index];
        process.workers.values_mut().for_each(anabranch_stream::worker::Worker::flush);
    }

    /// A day passes, and the retention takes what is committed. (What is not would be lost, whoever reads.)
    fn retain(&mut self) {
        self.world.clock.advance_ms(LONG_MS);
        for id in self.world.kinesis.shard_ids() {
            let committed = oracle::checkpoint(&self.world, id).position();
            let records = self.world.kinesis.records(id);
            let old = records.partition_point(|record| Position::whole(record.number) <= committed);
            let more = old.saturating_sub(self.world.kinesis.trimmed(id));
            self.world.kinesis.trim(id, more);
            self.world.tape.count("record that the retention took", more as u64);
        }
        self.say("a day passes");
    }

    /// The faults stop. From now on everybody works, and everything is committed within a bounded number of rounds.
    fn drain(&mut self) {
        if self.chance.one_in(6) {
            self.retain();
        }
        self.say("the faults stop");
        let objects = self.world.objects.list("recommendations").unwrap().len();
        self.world.tape.count("object delivered while there were faults", objects as u64);
        self.world.clear_up();
        for process in &mut self.processes {
            process.asleep_until_us = 0;
            process.wire.set_fuse(None);
        }
        if self.processes.is_empty() {
            self.start_a_process();
        }
        for _ in 0..DRAIN_ROUNDS_MAX {
            for sender in &mut self.senders {
                sender.send(&self.world);
            }
            for index in 0..self.processes.len() {
                self.processes[index].run_leases().expect("nothing fails any more");
                let ids: Vec<ShardId> = self.processes[index].workers.keys().copied().collect();
                for id in ids {
                    for _ in 0..STEPS_A_ROUND {
                        if !matches!(self.step(index, id), Some(Step::Worked)) {
                            break;
                        }
                    }
                }
            }
            self.world.clock.advance_ms(ROUND_MS);
            if self.senders.iter().all(Sender::is_done) && oracle::is_drained(&self.world) {
                return;
            }
        }
        panic!("no progress: {DRAIN_ROUNDS_MAX} rounds after the faults stopped something is not committed yet");
    }

    fn tally(&self) {
        let tape = &self.world.tape;
        for (fault, times) in self.world.kinesis.struck() {
            tape.count(&format!("kinesis: {fault}"), times);
        }
        for (fault, times) in self.world.dynamo.struck() {
            tape.count(&format!("dynamodb: {fault}"), times);
        }
        for (operation, fault) in self.world.bucket.struck() {
            tape.count(&format!("bucket: {operation:?} {fault:?}"), 1);
        }
    }
}

/// A position as people compare it: the last digits of the number.
fn short(position: Position) -> String {
    let text = position.to_string();
    text.get(text.len().saturating_sub(24)..).map_or_else(|| text.clone(), |end| end.trim_start_matches('0').to_owned())
}

/// What a panic said.
pub(crate) fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}
