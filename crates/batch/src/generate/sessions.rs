//! Users and what they do: tastes that drift, sessions of view → cart → purchase, day and night, logging in.

use super::rng::{Rng, zipf};
use super::words::{CATEGORIES, STYLES};
use super::{FIRST_DAY_S, ShopSettings};

/// Weight of each hour of the day: quiet nights, a lunch peak, busy evenings.
const HOURS: [u64; 24] = [2, 1, 1, 1, 1, 2, 4, 7, 10, 11, 12, 14, 16, 14, 12, 12, 13, 15, 18, 22, 24, 20, 12, 6];
/// A view leads to the cart, a cart to a purchase: per mille.
const CART_PER_MILLE: u64 = 140;
const PURCHASE_PER_MILLE: u64 = 520;
/// Share of sessions that begin anonymously, and of these that log in: per mille.
const ANONYMOUS_PER_MILLE: u64 = 120;
const LOG_IN_PER_MILLE: u64 = 600;
/// Share of views that follow the user's taste rather than the crowd: per mille.
const TASTE_PER_MILLE: u64 = 820;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    View,
    Cart,
    Purchase,
}

impl Act {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Cart => "cart",
            Self::Purchase => "purchase",
        }
    }
}

/// One event of the shop.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShopEvent {
    pub(super) time_s: i64,
    pub(super) user: Option<u32>,
    pub(super) session: u32,
    pub(super) item: u32,
    pub(super) act: Act,
    pub(super) quantity: u8,
}

/// Items by category and style, most popular first, with cumulative weights.
pub(super) struct Shelves {
    shelves: Vec<(Vec<u32>, Vec<f64>)>,
    all: Vec<f64>,
}

/// An item's category and style.
pub(super) fn kind_of(item: u32) -> (usize, usize) {
    (item as usize % CATEGORIES.len(), item as usize / CATEGORIES.len() % STYLES.len())
}

impl Shelves {
    pub(super) fn new(items: u32) -> Self {
        let mut shelves = vec![(Vec::new(), Vec::new()); CATEGORIES.len() * STYLES.len()];
        for item in 0..items {
            let (category, style) = kind_of(item);
            shelves[category * STYLES.len() + style].0.push(item);
        }
        for (items, weights) in &mut shelves {
            *weights = zipf(items.len());
        }
        Self { shelves, all: zipf(items as usize) }
    }

    fn pick(&self, rng: &mut Rng, taste: &Taste) -> u32 {
        if rng.chance(TASTE_PER_MILLE) {
            let category = taste.categories[usize::from(!rng.chance(650))];
            let style = if rng.chance(700) { taste.style } else { rng.below(STYLES.len() as u64) as usize };
            let (items, weights) = &self.shelves[category * STYLES.len() + style];
            if !items.is_empty() {
                return items[rng.weighted(weights)];
            }
        }
        rng.weighted(&self.all) as u32
    }
}

struct Taste {
    categories: [usize; 2],
    style: usize,
}

impl Taste {
    fn new(rng: &mut Rng) -> Self {
        let category = |rng: &mut Rng| rng.below(CATEGORIES.len() as u64) as usize;
        Self { categories: [category(rng), category(rng)], style: rng.below(STYLES.len() as u64) as usize }
    }

    /// Once in a while a new interest replaces the weaker one, and may become the stronger.
    fn drift(&mut self, rng: &mut Rng) {
        if rng.chance(60) {
            self.categories[1] = rng.below(CATEGORIES.len() as u64) as usize;
            if rng.chance(300) {
                self.categories.swap(0, 1);
            }
        }
    }
}

/// Everything that one user does, in order of time; returns the number of log-ins.
pub(super) fn user_events(
    settings: &ShopSettings,
    user: u32,
    shelves: &Shelves,
    next_session: &mut u32,
    events: &mut Vec<ShopEvent>,
) -> u64 {
    let rng = &mut Rng::new(settings.seed, u64::from(user) + 1);
    let mut taste = Taste::new(rng);
    // A few regulars and many who come seldom: mean about 17 sessions.
    let eager = rng.unit();
    let session_count = 3 + (eager * eager * 42.0) as u64;
    let days = u64::from(settings.days.max(1));
    let mut starts: Vec<i64> = (0..session_count).map(|_| start_of_session(rng, days)).collect();
    starts.sort_unstable();
    let mut log_ins = 0;
    for start in starts {
        taste.drift(rng);
        let session = *next_session;
        *next_session += 1;
        let anonymous = rng.chance(ANONYMOUS_PER_MILLE);
        let logs_in = anonymous && rng.chance(LOG_IN_PER_MILLE);
        let views = 2 + rng.below(8);
        let known_from = match (anonymous, logs_in) {
            (false, _) => 0,
            (true, true) => 1 + rng.below(views - 1),
            (true, false) => u64::MAX,
        };
        log_ins += u64::from(logs_in);
        let mut time_s = start;
        for view in 0..views {
            let item = shelves.pick(rng, &taste);
            let user = (view >= known_from).then_some(user);
            let mut push = |time_s: i64, act, quantity| {
                events.push(ShopEvent { time_s, user, session, item, act, quantity });
            };
            push(time_s, Act::View, 1);
            if rng.chance(CART_PER_MILLE) {
                time_s += 5 + rng.below(60) as i64;
                let quantity = 1 + u8::from(rng.chance(150));
                push(time_s, Act::Cart, quantity);
                if rng.chance(PURCHASE_PER_MILLE) {
                    time_s += 30 + rng.below(200) as i64;
                    push(time_s, Act::Purchase, quantity);
                }
            }
            time_s += 8 + rng.below(110) as i64;
        }
    }
    log_ins
}

fn start_of_session(rng: &mut Rng, days: u64) -> i64 {
    let day = rng.below(days) as i64;
    let mut point = rng.below(HOURS.iter().sum());
    let mut hour = 0;
    for (h, weight) in HOURS.iter().enumerate() {
        if point < *weight {
            hour = h as i64;
            break;
        }
        point -= weight;
    }
    FIRST_DAY_S + day * 86_400 + hour * 3_600 + rng.below(3_600) as i64
}
