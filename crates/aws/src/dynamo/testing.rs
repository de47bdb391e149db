//! DynamoDB in memory, for tests and simulations: the same rules (conditions, limits, strong consistency, time to live
//! on demand), deterministic, with faults from a seed or a script. No part of the API: hidden from the docs, and it may
//! panic on misuse or change at any time.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Mutex;

use anabranch_stores::backoff::Jitter;

use super::api::{
    Condition, DynamoApi, DynamoError, GET_BYTES_MAX, GET_KEYS_MAX, Got, ITEM_BYTES_MAX, Item, KEY_BYTES_MAX, Put,
    Scanned, Table, Update, Value,
};
use super::{item, size};
use crate::api::{ApiError, ApiErrorKind};

/// Items of a page of a scan: few, so that tests page.
const SCAN_PAGE: usize = 3;

/// What a put says whose request is still on its way.
const IN_FLIGHT: &str = "the request timed out";

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// Nothing: it is answered.
    Pass,
    /// It fails and had no effect.
    Before,
    /// It fails and had its effect: the answer was lost.
    After,
    /// It is refused for its rate.
    Throttle,
    /// A put fails and is still on its way: it takes effect, if its condition holds then, when the test lets it by
    /// [`MemoryDynamo::land`]. Any other request fails and had no effect.
    InFlight,
}

impl Hit {
    const fn name(self) -> &'static str {
        match self {
            Self::Pass => "answered",
            Self::Before => "failed before its effect",
            Self::After => "failed after its effect",
            Self::Throttle => "throttled",
            Self::InFlight => "landed later",
        }
    }
}

/// How often, in percent, what happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A request fails and had no effect.
    pub before: u64,
    /// A request fails and had its effect.
    pub after: u64,
    /// A request is throttled.
    pub throttle: u64,
    /// A key of a `BatchGetItem` stays unprocessed.
    pub unprocessed: u64,
    /// A put fails and arrives later.
    pub in_flight: u64,
}

/// What was asked of the service and what it bills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// `BatchGetItem` calls.
    pub gets: u64,
    /// Keys in them.
    pub keys: u64,
    /// `PutItem` calls.
    pub puts: u64,
    /// Write units.
    pub write_units: u64,
    /// Read units.
    pub read_units: u64,
}

type Intruder = Box<dyn FnOnce(&MemoryDynamo) + Send>;

#[derive(Default)]
struct World {
    tables: BTreeMap<String, BTreeMap<Value, Item>>,
    faults: Faults,
    script: VecDeque<Hit>,
    intruders: VecDeque<Option<Intruder>>,
    usage: Usage,
    is_silent: bool,
    in_flight: VecDeque<(Table, Put)>,
    struck: BTreeMap<&'static str, u64>,
}

/// The service.
pub struct MemoryDynamo {
    world: Mutex<World>,
    chance: Jitter,
}

impl fmt::Debug for MemoryDynamo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDynamo").finish_non_exhaustive()
    }
}

impl MemoryDynamo {
    /// With tables of these names, without faults; `seed` is what later faults come from.
    pub fn new(tables: &[&str], seed: u64) -> Self {
        let tables = tables.iter().map(|name| ((*name).to_owned(), BTreeMap::new())).collect();
        Self { world: Mutex::new(World { tables, ..World::default() }), chance: Jitter::new(seed) }
    }

    /// From now on requests fail this often.
    pub fn set_faults(&self, faults: Faults) {
        self.world.lock().unwrap().faults = faults;
    }

    /// What happens to the next requests, one each, before chance decides again.
    pub fn script(&self, hits: &[Hit]) {
        self.world.lock().unwrap().script.extend(hits);
    }

    /// Somebody else acts just before the next put takes effect; `None` leaves one put alone.
    pub fn intrude(&self, intruder: Option<Intruder>) {
        self.world.lock().unwrap().intruders.push_back(intruder);
    }

    /// Whether a failed condition keeps the item to itself, as some stand-ins of DynamoDB do.
    pub fn set_silent(&self, is_silent: bool) {
        self.world.lock().unwrap().is_silent = is_silent;
    }

    /// Requests and units since the start.
    pub fn usage(&self) -> Usage {
        self.world.lock().unwrap().usage
    }

    /// The items of a table, by key.
    pub fn items(&self, table: &str) -> BTreeMap<Value, Item> {
        self.world.lock().unwrap().tables[table].clone()
    }

    /// An item of a table.
    pub fn item(&self, table: &str, key: &Value) -> Option<Item> {
        self.world.lock().unwrap().tables[table].get(key).cloned()
    }

    /// Puts an item as it is under a key, without rules or faults.
    pub fn place(&self, table: &str, key: Value, item: Item) {
        self.world.lock().unwrap().tables.get_mut(table).unwrap().insert(key, item);
    }

    /// Removes what should not have lived to `now_s`.
    pub fn expire(&self, table: &str, now_s: i64) {
        let mut world = self.world.lock().unwrap();
        world
            .tables
            .get_mut(table)
            .unwrap()
            .retain(|_, item| item.get(item::TTL).and_then(Value::as_number::<i64>).is_none_or(|ttl_s| ttl_s >= now_s));
    }

    fn hit(&self, world: &mut World) -> Hit {
        if let Some(hit) = world.script.pop_front() {
            return hit;
        }
        let Faults { before, after, throttle, in_flight, .. } = world.faults;
        match self.chance.below(100) {
            roll if roll < before => Hit::Before,
            roll if roll < before + after => Hit::After,
            roll if roll < before + after + throttle => Hit::Throttle,
            roll if roll < before + after + throttle + in_flight => Hit::InFlight,
            _ => Hit::Pass,
        }
    }

    /// Lets the oldest put that is still on its way arrive. Its table and whether its condition held; `None` if there
    /// is none.
    pub fn land(&self) -> Option<(String, bool)> {
        let mut world = self.world.lock().unwrap();
        let (table, put) = world.in_flight.pop_front()?;
        let outcome = Self::write(&mut world, &table, put.item, &put.condition);
        Some((table.name, outcome.is_ok()))
    }

    /// How often each fault struck.
    pub fn struck(&self) -> BTreeMap<&'static str, u64> {
        self.world.lock().unwrap().struck.clone()
    }

    /// Runs one request under the faults.
    fn request<T>(
        &self,
        operation: &'static str,
        table: &Table,
        act: impl FnOnce(&mut World) -> Result<T, DynamoError>,
    ) -> Result<T, DynamoError> {
        let mut world = self.world.lock().unwrap();
        let fails = |kind, message: &str| Err(ApiError::new(kind, operation, table.resource(), message).into());
        if !world.tables.contains_key(&table.name) {
            return fails(ApiErrorKind::NotFound, "ResourceNotFoundException");
        }
        let hit = self.hit(&mut world);
        if hit != Hit::Pass {
            *world.struck.entry(hit.name()).or_default() += 1;
        }
        match hit {
            Hit::Pass => act(&mut world),
            Hit::Before => fails(ApiErrorKind::Retry, "InternalServerError"),
            Hit::Throttle => fails(ApiErrorKind::Throttled, "ProvisionedThroughputExceededException"),
            Hit::After => {
                // A condition that does not hold is the answer that got lost then.
                let _lost = act(&mut world);
                fails(ApiErrorKind::Retry, "the connection broke")
            }
            Hit::InFlight => fails(ApiErrorKind::Retry, IN_FLIGHT),
        }
    }

    fn write(world: &mut World, table: &Table, item: Item, condition: &Condition) -> Result<(), DynamoError> {
        let refused =
            |message: String| Err(ApiError::new(ApiErrorKind::FixInput, "PutItem", table.resource(), message).into());
        let Some(key) = item.get(table.key).cloned() else { return refused("no key".to_owned()) };
        if let Err(why) = check_key(&key) {
            return refused(why);
        }
        let bytes = size::item_bytes(&item);
        if bytes > ITEM_BYTES_MAX {
            return refused(format!("an item of {bytes} bytes exceeds {ITEM_BYTES_MAX}"));
        }
        let is_silent = world.is_silent;
        let items = world.tables.get_mut(&table.name).unwrap();
        let stands = items.get(&key);
        let billed = bytes.max(stands.map_or(0, size::item_bytes));
        world.usage.write_units += size::write_units(billed) as u64;
        if !condition.holds(stands) {
            return Err(DynamoError::ConditionFailed(stands.filter(|_| !is_silent).cloned()));
        }
        items.insert(key, item);
        Ok(())
    }
}

fn check_key(key: &Value) -> Result<(), String> {
    let length = match key {
        Value::S(text) => text.len(),
        Value::B(bytes) => bytes.len(),
        _ => return Err(format!("{key:?} is no key")),
    };
    if (1..=KEY_BYTES_MAX).contains(&length) { Ok(()) } else { Err(format!("a key of {length} bytes")) }
}

impl DynamoApi for MemoryDynamo {
    fn get(&self, table: &Table, chunks: &[Vec<Value>]) -> Vec<Result<Got, DynamoError>> {
        let get = |chunk: &Vec<Value>| {
            self.request("BatchGetItem", table, |world| {
                let refused = |message: String| {
                    Err(ApiError::new(ApiErrorKind::FixInput, "BatchGetItem", table.resource(), message).into())
                };
                if chunk.is_empty() || chunk.len() > GET_KEYS_MAX {
                    return refused(format!("{} keys", chunk.len()));
                }
                if chunk.iter().collect::<BTreeSet<_>>().len() < chunk.len() {
                    return refused("Provided list of item keys contains duplicates".to_owned());
                }
                world.usage.gets += 1;
                world.usage.keys += chunk.len() as u64;
                let mut got = Got::default();
                let mut bytes = 0;
                for key in chunk {
                    if let Err(why) = check_key(key) {
                        return refused(why);
                    }
                    let item = world.tables[&table.name].get(key);
                    let item_bytes = item.map_or(0, size::item_bytes);
                    if self.chance.below(100) < world.faults.unprocessed || bytes + item_bytes > GET_BYTES_MAX {
                        got.unprocessed.push(key.clone());
                        continue;
                    }
                    bytes += item_bytes;
                    world.usage.read_units += size::read_units(item_bytes) as u64;
                    got.items.extend(item.cloned());
                }
                // In no particular order, as the service.
                got.items.reverse();
                Ok(got)
            })
        };
        chunks.iter().map(get).collect()
    }

    fn put(&self, table: &Table, puts: Vec<Put>) -> Vec<Result<(), DynamoError>> {
        let put = |put: Put| {
            let intruder = self.world.lock().unwrap().intruders.pop_front().flatten();
            if let Some(intruder) = intruder {
                intruder(self);
            }
            let answer = self.request("PutItem", table, |world| {
                world.usage.puts += 1;
                Self::write(world, table, put.item.clone(), &put.condition)
            });
            if matches!(&answer, Err(DynamoError::Failed(error)) if error.message == IN_FLIGHT) {
                self.world.lock().unwrap().in_flight.push_back((table.clone(), put));
            }
            answer
        };
        puts.into_iter().map(put).collect()
    }

    fn update(&self, table: &Table, update: Update) -> Result<(), DynamoError> {
        self.request("UpdateItem", table, |world| {
            let stands = world.tables[&table.name].get(&update.key).cloned();
            let mut item = stands.unwrap_or_else(|| Item::from([(table.key.to_owned(), update.key.clone())]));
            item.extend(update.set.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            update.remove.iter().for_each(|name| drop(item.remove(*name)));
            Self::write(world, table, item, &update.condition)
        })
    }

    fn delete(&self, table: &Table, key: Value, condition: Condition) -> Result<(), DynamoError> {
        self.request("DeleteItem", table, |world| {
            let is_silent = world.is_silent;
            let items = world.tables.get_mut(&table.name).unwrap();
            let stands = items.get(&key);
            if !condition.holds(stands) {
                return Err(DynamoError::ConditionFailed(stands.filter(|_| !is_silent).cloned()));
            }
            items.remove(&key);
            Ok(())
        })
    }

    fn scan(&self, table: &Table, from: Option<Value>) -> Result<Scanned, DynamoError> {
        self.request("Scan", table, |world| {
            let items = &world.tables[&table.name];
            let after: Vec<_> = items.iter().filter(|(key, _)| from.as_ref().is_none_or(|from| *key > from)).collect();
            let page = &after[..after.len().min(SCAN_PAGE)];
            let next = (after.len() > page.len()).then(|| page[page.len() - 1].0.clone());
            Ok(Scanned { items: page.iter().map(|(_, item)| (*item).clone()).collect(), next })
        })
    }
}
