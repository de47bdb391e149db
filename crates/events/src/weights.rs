//! The weight of each item in a history: `Σ weight(type) × transform(value) × 2^(−age / half-life)`, where "now" is
//! the user's own newest entry. Training and serving both call [`weigh`], so fold-in *is* training.
//!
//! `exp2` and `ln` are our own: a libm may differ by a bit between systems, and these bits decide scores that
//! laptop, Lambda and Spark must agree on. Plain multiplications and additions in f64, in a fixed order.

use crate::history::History;
use crate::ids::ItemKey;
use crate::settings::{EventTypes, ValueTransform};

/// An item of a history and its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightedItem {
    /// The item's stable hash.
    pub item: ItemKey,
    /// Positive, finite.
    pub weight: f32,
}

/// Weights of the items of `history`, in order of the item hash; items of weight zero are left out.
pub fn weigh(history: &History, types: &EventTypes) -> Vec<WeightedItem> {
    let Some(now_ms) = history.newest_ms() else { return Vec::new() };
    let mut weights: Vec<(ItemKey, f64)> = history
        .entries()
        .map(|entry| {
            let event_type = types.get(entry.kind);
            let value = entry.value.map_or(1.0, |value| transform(event_type.value, f64::from(value)));
            let age_ms = now_ms.abs_diff(entry.time_ms) as f64;
            (entry.item, f64::from(event_type.weight) * value * exp2(-age_ms / types.half_life_ms))
        })
        .collect();
    // Stable: within an item the order of entries (class, then time) fixes the order of the sum.
    weights.sort_by_key(|(item, _)| *item);
    let mut items = Vec::with_capacity(weights.len());
    let runs = weights.chunk_by(|a, b| a.0 == b.0);
    items.extend(
        runs.map(|run| WeightedItem {
            item: run[0].0,
            weight: run.iter().map(|(_, weight)| weight).sum::<f64>() as f32,
        })
        .filter(|item| item.weight > 0.0 && item.weight.is_finite()),
    );
    items
}

fn transform(transform: ValueTransform, value: f64) -> f64 {
    let value = value.max(0.0);
    match transform {
        ValueTransform::None => 1.0,
        ValueTransform::Linear => value,
        ValueTransform::Sqrt => value.sqrt(), // exact by IEEE 754
        ValueTransform::Log1p => ln(1.0 + value),
    }
}

/// `1 / k!`: a division each would take most of the time of weighing a history.
const EXP_SERIES: [f64; 15] = {
    let mut series = [1.0; 15];
    let mut degree = 1;
    while degree < 15 {
        series[degree] = series[degree - 1] / degree as f64;
        degree += 1;
    }
    series
};

/// 2^x for x ≤ 0, relative error below 1e-15; 0 below the normal range.
pub fn exp2(x: f64) -> f64 {
    // 2^x = 2^n · e^(f·ln 2) with |f| ≤ ½; the Taylor series to degree 14 errs by less than 2^-55 there.
    if x >= 0.0 || x.is_nan() {
        return 1.0;
    }
    if x < -1022.0 {
        return 0.0;
    }
    let n = (x - 0.5) as i64; // rounds to nearest: the cast truncates towards zero and x is negative
    let t = (x - n as f64) * std::f64::consts::LN_2;
    let mut sum = EXP_SERIES[14];
    for coefficient in EXP_SERIES[..14].iter().rev() {
        sum = sum * t + coefficient;
    }
    sum * f64::from_bits(((1023 + n) as u64) << 52)
}

/// Natural logarithm of x ≥ 1, relative error below 1e-15.
pub fn ln(x: f64) -> f64 {
    // x = m · 2^e with m in [√½, √2); ln m = 2·artanh((m−1)/(m+1)), |argument| < 0.172: degree 21 suffices.
    if x.is_nan() || x <= 1.0 {
        return 0.0;
    }
    if x.is_infinite() {
        return x;
    }
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for k in (0..=11_u32).rev() {
        sum = sum * square + 1.0 / f64::from(2 * k + 1);
    }
    2.0 * s * sum + exponent as f64 * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::history::Entry;
    use crate::ids::EventKey;
    use crate::settings::EventSettings;

    #[test]
    fn exp2_and_ln_are_as_good_as_libm() {
        for i in 0..200_000 {
            let x = -f64::from(i) * 0.004_999;
            let (ours, libm) = (exp2(x), x.exp2());
            assert!((ours - libm).abs() <= libm * 1e-15, "exp2({x}): {ours} against {libm}");
            let y = 1.0 + f64::from(i) * 0.37;
            assert!((ln(y) - y.ln()).abs() <= y.ln().abs() * 1e-15 + 1e-300, "ln({y}): {} against {}", ln(y), y.ln());
        }
        assert_eq!(exp2(0.0).to_bits(), 1.0_f64.to_bits());
        assert_eq!(exp2(-1.0).to_bits(), 0.5_f64.to_bits());
        assert_eq!(exp2(-2000.0).to_bits(), 0.0_f64.to_bits());
        assert_eq!(exp2(f64::NEG_INFINITY).to_bits(), 0.0_f64.to_bits());
    }

    /// By hand: half-life one day; a purchase (5) now, a view (1) of the same item a day ago, a view two days ago.
    #[test]
    fn weights_by_hand() {
        let types = EventSettings { half_life_days: 1.0, ..EventSettings::default() }.compile().unwrap();
        let (view, purchase) = (types.code("view").unwrap(), types.code("purchase").unwrap());
        let day = 86_400_000_i64;
        let entry = |event, item, days: i64, kind| Entry {
            time_ms: 20_000 * day - days * day,
            event: EventKey(event),
            item: ItemKey(item),
            value: None,
            kind,
        };
        let entries = vec![entry(1, 7, 0, purchase), entry(2, 7, 1, view), entry(3, 3, 2, view)];
        let history = History::from_entries(entries, &types);
        let weights = weigh(&history, &types);
        assert_eq!(
            weights,
            [WeightedItem { item: ItemKey(3), weight: 0.25 }, WeightedItem { item: ItemKey(7), weight: 5.5 }]
        );
        assert!(weigh(&History::new(), &types).is_empty());
    }
}
