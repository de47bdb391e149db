#![allow(clippy::unwrap_used)]

use super::{Blend, PartKind, Query, RecommendError, Recommender};
use crate::snapshot::Snapshot;
use crate::testing::{random_interactions, small_snapshot};
use crate::{Interactions, Isa, Kernels, Scored};
use proptest::prelude::*;
use std::sync::Arc;

const BLEND: Blend = Blend { factors: 0.9, neighbours: 0.7, history: 0.3, popularity: 0.05 };

fn recommender(blend: Blend, kernels: Kernels) -> Recommender {
    let (bytes, _) = small_snapshot(blend, false);
    Recommender::new(Arc::new(Snapshot::from_bytes(&bytes).unwrap()), kernels)
}

fn rows(matrix: &Interactions) -> Vec<Vec<(u32, f32)>> {
    matrix.rows().map(|row| row.entries().collect()).collect()
}

/// The module's formula in `f64`, from the snapshot's arrays and the fold-in.
fn plain_score(recommender: &Recommender, row: &[(u32, f32)], item: u32) -> f64 {
    let snapshot = recommender.snapshot();
    let blend = &snapshot.meta().blend;
    let most = snapshot.popularity().iter().copied().fold(0.0, f32::max);
    let popular = f64::from(snapshot.popularity()[item as usize]) / f64::from(most);
    let trend = f64::from(snapshot.trend()[item as usize]);
    if row.is_empty() {
        return trend * popular;
    }
    let user = recommender.user_factors(&mut recommender.scratch(), row).unwrap();
    let mut target = vec![0.0; user.len()];
    snapshot.item_factors().copy_row(item as usize, &mut target);
    let dot: f64 = user.iter().zip(&target).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let sum: f64 = row.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let heaviest = row.iter().map(|(_, weight)| f64::from(*weight)).fold(0.0, f64::max);
    let history: f64 = row.iter().filter(|(entry, _)| *entry == item).map(|(_, w)| f64::from(*w) / heaviest).sum();
    let neighbours: f64 = row
        .iter()
        .map(|(entry, weight)| {
            let (items, scores) = snapshot.neighbours(*entry);
            let found = items.iter().position(|neighbour| *neighbour == item);
            found.map_or(0.0, |position| f64::from(*weight) * f64::from(scores[position]) / sum)
        })
        .sum();
    trend
        * (f64::from(blend.popularity) * popular
            + f64::from(blend.history) * history
            + f64::from(blend.neighbours) * neighbours
            + f64::from(blend.factors) * dot)
}

#[test]
fn lists_follow_the_formula() {
    let recommender = recommender(BLEND, Kernels::best());
    let mut scratch = recommender.scratch();
    for row in rows(&random_interactions(40, 37, 9, 21)) {
        let exclude: Vec<u32> = row.iter().map(|(item, _)| *item).collect();
        for exclude in [&[][..], &exclude] {
            let query = Query { row: &row, exclude, k: 37 };
            let list = recommender.recommend(&mut scratch, &[query]).remove(0).unwrap();
            assert_eq!(list.len(), 37 - exclude.len());
            assert!(list.is_sorted());
            for entry in &list {
                assert!(!exclude.contains(&entry.item()));
                let exact = plain_score(&recommender, &row, entry.item());
                // A few dozen additions of values below 4: 64 roundings of 4 × 2⁻²⁴ each.
                assert!((f64::from(entry.score()) - exact).abs() < 64.0 * 4.0 / f64::from(1 << 24), "{exact}");
            }
        }
    }
}

#[test]
fn a_list_depends_on_neither_batch_threads_nor_instruction_set() {
    let rows = rows(&random_interactions(100, 37, 9, 22));
    let queries: Vec<Query<'_>> = rows.iter().map(|row| Query { row, exclude: &[], k: 10 }).collect();
    let first = recommender(BLEND, Kernels::best());
    let mut scratch = first.scratch();
    let expected: Vec<Vec<Scored>> =
        queries.iter().map(|query| first.recommend(&mut scratch, &[*query]).remove(0).unwrap()).collect();
    for isa in Isa::available() {
        let recommender = recommender(BLEND, Kernels::with_isa(isa).unwrap());
        let mut scratch = recommender.scratch();
        for size in [2, 31, 32, 33, 100] {
            let lists: Vec<_> = queries
                .chunks(size)
                .flat_map(|batch| recommender.recommend(&mut scratch, batch))
                .map(Result::unwrap)
                .collect();
            assert_eq!(lists, expected, "{isa:?} {size}");
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let lists = pool.install(|| recommender.recommend_parallel(&queries));
            assert_eq!(lists.into_iter().map(Result::unwrap).collect::<Vec<_>>(), expected);
        }
    }
}

#[test]
fn an_empty_row_gets_what_is_popular_of_late() {
    let recommender = recommender(BLEND, Kernels::best());
    let list = recommender.recommend(&mut recommender.scratch(), &[Query { row: &[], exclude: &[], k: 5 }]);
    let snapshot = recommender.snapshot();
    let most = snapshot.popularity().iter().copied().fold(0.0, f32::max);
    let scores: Vec<f32> = snapshot.popularity().iter().zip(snapshot.trend()).map(|(p, t)| t * (p / most)).collect();
    let found: Vec<(u32, u32)> = list[0].as_ref().unwrap().iter().map(|s| (s.item(), s.score().to_bits())).collect();
    let order = crate::popularity_order(&scores);
    let expected: Vec<(u32, u32)> = order[..5].iter().map(|item| (*item, scores[*item as usize].to_bits())).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_bad_query_costs_only_itself() {
    let recommender = recommender(BLEND, Kernels::best());
    let good = Query { row: &[(1, 1.0), (4, 2.0)], exclude: &[], k: 3 };
    let queries = [
        good,
        Query { row: &[(4, 1.0), (1, 1.0)], ..good },
        Query { row: &[(37, 1.0)], ..good },
        Query { row: &[(1, f32::NAN)], ..good },
        Query { exclude: &[3, 2, 99], ..good },
        Query { k: 1001, ..good },
        good,
    ];
    let mut answers = recommender.recommend(&mut recommender.scratch(), &queries);
    assert_eq!(answers.len(), 7);
    assert_eq!(answers[0], answers[6]);
    assert_eq!(answers[0].as_ref().unwrap().len(), 3);
    assert_eq!(answers[1], Err(RecommendError::RowItem { item: 1, item_count: 37 }));
    assert_eq!(answers[2], Err(RecommendError::RowItem { item: 37, item_count: 37 }));
    assert!(matches!(answers.remove(3), Err(RecommendError::RowWeight { item: 1, .. })));
    assert!(answers[3].as_ref().unwrap().iter().all(|scored| ![2, 3].contains(&scored.item())));
    assert_eq!(answers[4], Err(RecommendError::TooMany { k: 1001 }));
    let unknown = recommender.explain(&mut recommender.scratch(), good.row, 37);
    assert_eq!(unknown, Err(RecommendError::UnknownItem { item: 37, item_count: 37 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_parts_of_an_explanation_sum_to_the_lists_score(
        row in proptest::collection::btree_map(0_u32..37, 0.01_f32..20.0, 0..20),
        weights in proptest::array::uniform4(0.0_f32..2.0),
    ) {
        let [factors, neighbours, history, popularity] = weights;
        let recommender = recommender(Blend { factors, neighbours, history, popularity }, Kernels::best());
        let mut scratch = recommender.scratch();
        let row: Vec<(u32, f32)> = row.into_iter().collect();
        let query = Query { row: &row, exclude: &[], k: 37 };
        for entry in recommender.recommend(&mut scratch, &[query]).remove(0).unwrap() {
            let explanation = recommender.explain(&mut scratch, &row, entry.item()).unwrap();
            prop_assert_eq!(explanation.score.to_bits(), entry.score().to_bits());
            let sum: f64 = explanation.parts.iter().map(|part| part.contribution).sum();
            prop_assert!((sum - f64::from(entry.score())).abs() < 1e-5);
            // The correction is rounding, not a missing part.
            prop_assert!(explanation.rounding.abs() < 2e-4, "{}", explanation.rounding);
            let own = explanation.parts.iter().filter(|part| part.kind == PartKind::History);
            prop_assert!(own.map(|part| part.history_item).all(|item| item == Some(entry.item())));
        }
    }
}
