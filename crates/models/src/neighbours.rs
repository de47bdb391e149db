//! Item neighbours: which items the users of an item share.
//!
//! With `x_ui = √c_ui` (the square root tames heavy repeat buyers and keeps binary data as it is), `n_u = Σ_i x_ui²`
//! and `q_i = Σ_u x_ui² / n_u^γ`,
//!
//! ```text
//!   sim(j → i) = Σ_u (x_uj x_ui / n_u^γ) / (q_j^(1−β) q_i^β + s)
//! ```
//!
//! where `β` is the popularity exponent (½ is the cosine; more holds popular items back), `γ` the user exponent (how
//! much a busy user's pairs count less) and `s` the shrinkage, which distrusts pairs seen by few. Only a user's
//! `row_cap` heaviest items count, which bounds the work of one user by `row_cap²`. Each item keeps its `K` best.

use crate::interactions::{Interactions, InteractionsError, Row, SparseRows};
use crate::portable::pow;
use anabranch_kernels::{Scored, TopK};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How neighbours are computed. The defaults were chosen on Complete Journey's validation month and hold on Gowalla.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NeighboursSettings {
    /// `K`, neighbours kept for each item, 1 to 1000.
    pub count: usize,
    /// `s` ≥ 0.
    pub shrinkage: f64,
    /// `β`, 0 to 1.
    pub popularity_exponent: f64,
    /// `γ`, 0 to 1.
    pub user_exponent: f64,
    /// Items of one user that count, at least 1.
    pub row_cap: usize,
}

impl Default for NeighboursSettings {
    fn default() -> Self {
        Self { count: 100, shrinkage: 0.1, popularity_exponent: 0.5, user_exponent: 1.0, row_cap: 1000 }
    }
}

/// Why there are no neighbours.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NeighboursError {
    /// A setting is out of range.
    #[error("neighbour setting {name} is {value}: {remedy}")]
    Setting {
        /// The field's name.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        remedy: &'static str,
    },
    /// Too many users.
    #[error(transparent)]
    Interactions(#[from] InteractionsError),
    /// An array does not fit the others.
    #[error("{what}: {expected} values are needed, found {found}")]
    Lengths {
        /// Which array.
        what: &'static str,
        /// Values needed.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// A row of users is not there, or names an item that is not.
    #[error(
        "the row of user {user} is missing, cut short, or names an item that is not there; give all users' capped rows"
    )]
    UserRow {
        /// The user.
        user: u32,
    },
}

/// The neighbours of each item, best first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Neighbours {
    /// One entry per item and one more.
    pub offsets: Vec<u64>,
    /// Neighbour indices.
    pub items: Vec<u32>,
    /// Their similarities, descending for each item; positive and finite.
    pub scores: Vec<f32>,
}

impl Neighbours {
    /// The neighbours of `item` and their similarities.
    pub fn of(&self, item: usize) -> (&[u32], &[f32]) {
        let range = self.offsets[item] as usize..self.offsets[item + 1] as usize;
        (&self.items[range.clone()], &self.scores[range])
    }
}

/// Computes the neighbours of every item on all cores.
///
/// Memory: the result (`items × K × 8` bytes), the capped matrix twice, and `items × 8` bytes for each thread. Sums
/// run over users ascending, so the number of threads cannot change a bit.
pub fn neighbours(interactions: &Interactions, settings: &NeighboursSettings) -> Result<Neighbours, NeighboursError> {
    check(settings)?;
    let capped = cap_rows(interactions.view(), settings.row_cap)?;
    let by_item = capped.transpose()?;
    let scales = user_scales(capped.view(), settings)?;
    let squares = item_squares(by_item.view(), &scales)?;
    Neighbourhood::new(UserRows::of(&capped), &scales, &squares, *settings)?.lists(0, by_item.view())
}

/// `1 / n_u^γ` of each row of users (capped by [`cap_rows`]), with `n_u = Σ c` because `x² = c`.
pub fn user_scales(rows: SparseRows<'_>, settings: &NeighboursSettings) -> Result<Vec<f32>, NeighboursError> {
    check(settings)?;
    let scale = |row: Row<'_>| {
        let sum: f64 = row.weights.iter().map(|weight| f64::from(*weight)).sum();
        if row.is_empty() { 0.0 } else { pow(sum, -settings.user_exponent) as f32 }
    };
    Ok((0..rows.len()).map(|row| scale(rows.row(row))).collect())
}

/// `q_i` of each row of items: its users ascending, with the scales of all users.
pub fn item_squares(by_item: SparseRows<'_>, scales: &[f32]) -> Result<Vec<f64>, NeighboursError> {
    if by_item.items() > scales.len() {
        return Err(NeighboursError::Lengths { what: "scales", expected: by_item.items(), found: scales.len() });
    }
    let square = |users: Row<'_>| -> f64 {
        users.entries().map(|(user, weight)| f64::from(weight) * f64::from(scales[user as usize])).sum()
    };
    Ok((0..by_item.len()).map(|item| square(by_item.row(item))).collect())
}

/// The capped rows of all users, which may be mapped from a file: a row is looked at when it is needed, and checked then.
#[derive(Debug, Clone, Copy)]
pub struct UserRows<'a> {
    /// One offset for each user and one more.
    pub offsets: &'a [u64],
    /// Items, ascending in a row.
    pub items: &'a [u32],
    /// Their weights.
    pub weights: &'a [f32],
}

impl<'a> UserRows<'a> {
    fn of(interactions: &'a Interactions) -> Self {
        let (offsets, items, weights) = interactions.parts();
        Self { offsets, items, weights }
    }

    fn users(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    fn row(&self, user: usize) -> Option<impl Iterator<Item = (u32, f32)> + 'a> {
        let begin = usize::try_from(*self.offsets.get(user)?).ok()?;
        let end = usize::try_from(*self.offsets.get(user + 1)?).ok()?;
        let items: &'a [u32] = self.items.get(begin..end)?;
        Some(items.iter().copied().zip(self.weights.get(begin..end)?.iter().copied()))
    }
}

/// What the lists of any items are made from: many machines can make some each, and each list has the bits of
/// [`neighbours`].
#[derive(Debug, Clone)]
pub struct Neighbourhood<'a> {
    rows: UserRows<'a>,
    scales: &'a [f32],
    as_source: Vec<f64>,
    as_target: Vec<f64>,
    settings: NeighboursSettings,
}

impl<'a> Neighbourhood<'a> {
    /// From the capped rows and the [scales](user_scales) of all users and the [squares](item_squares) of all items.
    pub fn new(
        rows: UserRows<'a>,
        scales: &'a [f32],
        squares: &[f64],
        settings: NeighboursSettings,
    ) -> Result<Self, NeighboursError> {
        check(&settings)?;
        if rows.users() != scales.len() {
            return Err(NeighboursError::Lengths { what: "scales", expected: rows.users(), found: scales.len() });
        }
        let power = |exponent: f64| -> Vec<f64> {
            squares.iter().map(|square| if *square > 0.0 { pow(*square, exponent) } else { 0.0 }).collect()
        };
        let (as_source, as_target) = (power(1.0 - settings.popularity_exponent), power(settings.popularity_exponent));
        Ok(Self { rows, scales, as_source, as_target, settings })
    }

    /// The neighbours of the items `first..first + by_item.len()`, whose users are the rows of `by_item`.
    pub fn lists(&self, first: usize, by_item: SparseRows<'_>) -> Result<Neighbours, NeighboursError> {
        let items = self.as_target.len();
        let end = first.saturating_add(by_item.len());
        if end > items {
            return Err(NeighboursError::Lengths { what: "squares", expected: end, found: items });
        }
        let lists: Vec<Vec<Scored>> = (0..by_item.len())
            .into_par_iter()
            .map_init(
                || (vec![0.0_f32; items], Vec::new()),
                |(sums, touched), source| self.list(first + source, by_item.row(source), sums, touched),
            )
            .collect::<Result<_, _>>()?;
        let mut result = Neighbours { offsets: vec![0], ..Neighbours::default() };
        for list in lists {
            result.items.extend(list.iter().map(Scored::item));
            result.scores.extend(list.iter().map(Scored::score));
            result.offsets.push(result.items.len() as u64);
        }
        Ok(result)
    }

    /// One item's list. `sums` is zero for every item, and is again afterwards.
    fn list(
        &self,
        source: usize,
        users: Row<'_>,
        sums: &mut [f32],
        touched: &mut Vec<u32>,
    ) -> Result<Vec<Scored>, NeighboursError> {
        for (user, weight) in users.entries() {
            let damaged = NeighboursError::UserRow { user };
            let (Some(row), Some(scale)) = (self.rows.row(user as usize), self.scales.get(user as usize)) else {
                return Err(damaged);
            };
            let left = weight.sqrt() * scale;
            for (item, weight) in row {
                let Some(sum) = sums.get_mut(item as usize) else { return Err(damaged) };
                if *sum == 0.0 {
                    touched.push(item);
                }
                *sum += left * weight.sqrt();
            }
        }
        let mut best = TopK::new(self.settings.count);
        for item in touched.drain(..) {
            let sum = std::mem::take(&mut sums[item as usize]);
            let norm = self.as_source[source] * self.as_target[item as usize] + self.settings.shrinkage;
            let score = (f64::from(sum) / norm) as f32;
            if item as usize != source && score > 0.0 && score.is_finite() {
                best.offer(item, score);
            }
        }
        Ok(best.into_sorted())
    }
}

fn check(settings: &NeighboursSettings) -> Result<(), NeighboursError> {
    let unit = 0.0..=1.0;
    let rules = [
        ("count", settings.count as f64, (1..=1000).contains(&settings.count), "choose 1 to 1000"),
        ("shrinkage", settings.shrinkage, (0.0..1e9).contains(&settings.shrinkage), "choose 0 to 1e9"),
        (
            "popularity_exponent",
            settings.popularity_exponent,
            unit.contains(&settings.popularity_exponent),
            "choose 0 to 1",
        ),
        ("user_exponent", settings.user_exponent, unit.contains(&settings.user_exponent), "choose 0 to 1"),
        ("row_cap", settings.row_cap as f64, settings.row_cap >= 1, "choose at least 1"),
    ];
    match rules.into_iter().find(|(_, _, good, _)| !good) {
        Some((name, value, _, remedy)) => Err(NeighboursError::Setting { name, value, remedy }),
        None => Ok(()),
    }
}

/// Each row's `row_cap` heaviest entries, ties by index, in index order.
pub fn cap_rows(rows: SparseRows<'_>, row_cap: usize) -> Result<Interactions, InteractionsError> {
    let capped = (0..rows.len()).map(|row| {
        let mut entries: Vec<(u32, f32)> = rows.row(row).entries().collect();
        if entries.len() > row_cap {
            entries.select_nth_unstable_by(row_cap - 1, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            entries.truncate(row_cap);
            entries.sort_unstable_by_key(|(item, _)| *item);
        }
        entries
    });
    Interactions::from_rows(rows.items(), capped)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{
        Neighbourhood, Neighbours, NeighboursError, NeighboursSettings, UserRows, cap_rows, item_squares, neighbours,
        user_scales,
    };
    use crate::Interactions;
    use crate::testing::random_interactions;

    #[test]
    fn two_items_shared_by_hand() {
        let rows = [vec![(0, 1.0), (1, 4.0)], vec![(0, 9.0)], vec![(1, 1.0), (2, 1.0)]];
        let matrix = Interactions::from_rows(4, rows).unwrap();
        let settings = NeighboursSettings { shrinkage: 0.0, user_exponent: 0.0, ..NeighboursSettings::default() };
        let found = neighbours(&matrix, &settings).unwrap();
        // x: u0 = (1, 2), u1 = (3), u2 = (·, 1, 1); q = (10, 5, 1).
        assert_eq!(found.of(0).0, [1]);
        assert!((found.of(0).1[0] - 2.0 / 50_f32.sqrt()).abs() < 1e-6);
        assert_eq!(found.of(1).0, [2, 0]);
        assert!((found.of(1).1[0] - 1.0 / 5_f32.sqrt()).abs() < 1e-6);
        assert!(found.of(3).0.is_empty());
        let shrunk = neighbours(&matrix, &NeighboursSettings { shrinkage: 2.0, ..settings }).unwrap();
        assert!((shrunk.of(0).1[0] - 2.0 / (50_f32.sqrt() + 2.0)).abs() < 1e-6);
        let scaled = neighbours(&matrix, &NeighboursSettings { user_exponent: 1.0, ..settings }).unwrap();
        // n = (5, 9, 2): q0 = 1/5 + 1, q1 = 4/5 + 1/2, s01 = 2/5.
        assert!((scaled.of(0).1[0] - 0.4 / (1.2_f32 * 1.3).sqrt()).abs() < 1e-6);
    }

    #[test]
    fn similarities_equal_the_dense_twin_on_any_number_of_threads() {
        let matrix = random_interactions(60, 30, 8, 3);
        let settings = NeighboursSettings {
            count: 5,
            shrinkage: 1.0,
            popularity_exponent: 0.7,
            user_exponent: 0.5,
            ..NeighboursSettings::default()
        };
        let found = neighbours(&matrix, &settings).unwrap();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| neighbours(&matrix, &settings).unwrap()), found);
        }
        let dense: Vec<Vec<f64>> = matrix
            .rows()
            .map(|row| {
                let mut out = vec![0.0; 30];
                row.entries().for_each(|(item, weight)| out[item as usize] = f64::from(weight).sqrt());
                out
            })
            .collect();
        let norm = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().powf(0.5).max(1e-9); // empty rows are 0 / 1e-9
        let pair = |i: usize, j: usize| dense.iter().map(|row| row[i] * row[j] / norm(row)).sum::<f64>();
        for source in 0..30 {
            let mut expected: Vec<f64> = (0..30)
                .filter(|item| *item != source && pair(source, *item) > 0.0)
                .map(|item| pair(source, item) / (pair(source, source).powf(0.3) * pair(item, item).powf(0.7) + 1.0))
                .collect();
            expected.sort_by(|a, b| b.total_cmp(a));
            expected.truncate(5);
            let (items, scores) = found.of(source);
            assert_eq!(scores.len(), expected.len());
            assert!(!items.contains(&(source as u32)));
            for (found, expected) in scores.iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-5 * expected, "{source}");
            }
        }
    }

    #[test]
    fn lists_made_in_parts_are_those_of_the_whole() {
        let matrix = random_interactions(80, 30, 12, 9);
        let settings = NeighboursSettings { row_cap: 6, ..NeighboursSettings::default() };
        let capped = cap_rows(matrix.view(), settings.row_cap).unwrap();
        let by_item = capped.transpose().unwrap();
        let scales = user_scales(capped.view(), &settings).unwrap();
        let part = |from: usize, to: usize| {
            Interactions::from_rows(80, (from..to).map(|item| by_item.row(item).entries().collect::<Vec<_>>())).unwrap()
        };
        let parts = [(0, 7), (7, 7), (7, 29), (29, 30)];
        let squares: Vec<f64> =
            parts.iter().flat_map(|&(from, to)| item_squares(part(from, to).view(), &scales).unwrap()).collect();
        let whole = Neighbourhood::new(UserRows::of(&capped), &scales, &squares, settings).unwrap();
        let mut found = Neighbours { offsets: vec![0], ..Neighbours::default() };
        for (from, to) in parts {
            let lists = whole.lists(from, part(from, to).view()).unwrap();
            let before = found.items.len() as u64;
            found.offsets.extend(lists.offsets[1..].iter().map(|end| before + end));
            found.items.extend(lists.items);
            found.scores.extend(lists.scores);
        }
        assert_eq!(found, neighbours(&matrix, &settings).unwrap());
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let matrix = random_interactions(5, 4, 3, 2);
        let by_item = matrix.transpose().unwrap();
        let settings = NeighboursSettings::default();
        let scales = user_scales(matrix.view(), &settings).unwrap();
        let squares = item_squares(by_item.view(), &scales).unwrap();
        let lengths = |result: Result<_, NeighboursError>| matches!(result, Err(NeighboursError::Lengths { .. }));
        assert!(lengths(item_squares(by_item.view(), &scales[1..]).map(|_| ())));
        assert!(lengths(Neighbourhood::new(UserRows::of(&matrix), &scales[1..], &squares, settings).map(|_| ())));
        let rows = UserRows::of(&matrix);
        let whole = Neighbourhood::new(rows, &scales, &squares, settings).unwrap();
        for first in [1, usize::MAX] {
            assert!(lengths(whole.lists(first, by_item.view()).map(|_| ())));
        }
        for rows in [
            UserRows { items: &rows.items[..1], ..rows },
            UserRows { weights: &rows.weights[..1], ..rows },
            UserRows { items: &vec![9; rows.items.len()], ..rows },
        ] {
            let whole = Neighbourhood::new(rows, &scales, &squares, settings).unwrap();
            assert!(matches!(whole.lists(0, by_item.view()), Err(NeighboursError::UserRow { .. })));
        }
    }

    #[test]
    fn a_long_row_keeps_its_heaviest_entries() {
        let rows = [vec![(0, 1.0), (1, 3.0), (2, 1.0), (3, 2.0)], vec![(1, 1.0)]];
        let capped = cap_rows(Interactions::from_rows(4, rows).unwrap().view(), 3).unwrap();
        assert_eq!(capped.row(0).items, [0, 1, 3]);
        assert_eq!(capped.row(1).items, [1]);
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        let matrix = random_interactions(2, 2, 1, 1);
        let settings = NeighboursSettings { popularity_exponent: f64::NAN, ..NeighboursSettings::default() };
        let error = neighbours(&matrix, &settings).unwrap_err();
        assert!(matches!(error, NeighboursError::Setting { name: "popularity_exponent", .. }));
    }
}
