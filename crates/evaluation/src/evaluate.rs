//! The evaluation loop.

use crate::metrics::user_metrics;
use crate::ranker::{RankQuery, Ranker};
use anabranch_models::Interactions;
use serde::{Deserialize, Serialize};

/// Users ranked together: enough for every core, and 20 items each are small.
const USERS_PER_BATCH: usize = 1024;

/// What one user did after the split.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestItems {
    /// Known items, strictly ascending.
    pub items: Vec<u32>,
    /// Further distinct items that training never saw: they count in `|T|` and are always missed.
    pub unknown_count: usize,
}

/// How lists are made and cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvaluateOptions {
    /// `K` of the metrics.
    pub cutoff: usize,
    /// Hide each user's seen items; test items among them are then not counted in `T`, for no list could hold them.
    pub hide_seen: bool,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self { cutoff: 20, hide_seen: false }
    }
}

/// The figures, each defined in [`metrics`](crate::metrics).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `K`.
    pub cutoff: usize,
    /// Whether seen items were hidden.
    pub hide_seen: bool,
    /// Users averaged over: those with a test item.
    pub users: usize,
    /// Users without one, who are not counted.
    pub users_without_test_items: usize,
    /// Mean `Recall@K`.
    pub recall: f64,
    /// Mean `NDCG@K`.
    pub ndcg: f64,
    /// Mean `MRR@K`.
    pub mrr: f64,
    /// Distinct listed items over all items.
    pub coverage: f64,
}

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError<E: std::error::Error + 'static> {
    /// The sets describe different numbers of users.
    #[error("{train} training rows, {seen} seen sets and {test} test sets: one of each per user is needed")]
    Users {
        /// Rows of the training matrix.
        train: usize,
        /// Seen sets.
        seen: usize,
        /// Test sets.
        test: usize,
    },
    /// A set is not strictly ascending, or holds an index past the items.
    #[error("user {user}: the {what} items must ascend strictly below {item_count}")]
    Items {
        /// The user.
        user: usize,
        /// `seen` or `test`.
        what: &'static str,
        /// The number of items.
        item_count: usize,
    },
    /// The ranker broke its contract.
    #[error("the ranker gave {found} lists for {expected} queries")]
    Lists {
        /// Queries asked.
        expected: usize,
        /// Lists given.
        found: usize,
    },
    /// The ranker failed.
    #[error("ranking: {0}")]
    Rank(#[source] E),
}

/// The items of each training row: the seen sets where histories hold everything.
pub fn seen_of(train: &Interactions) -> Vec<Vec<u32>> {
    train.rows().map(|row| row.items.to_vec()).collect()
}

/// Ranks for every user with test items and averages the metrics. All three sets are indexed by user.
pub fn evaluate<R: Ranker>(
    ranker: &R,
    train: &Interactions,
    seen: &[Vec<u32>],
    test: &[TestItems],
    options: EvaluateOptions,
) -> Result<Report, EvaluateError<R::Error>> {
    check(train, seen, test)?;
    // Hidden test items cannot be listed, so they are no test.
    let test: Vec<TestItems> = test.iter().zip(seen).map(|(test, seen)| countable(test, seen, options)).collect();
    let users: Vec<usize> = (0..test.len()).filter(|user| count(&test[*user]) > 0).collect();
    let mut listed = vec![false; train.items()];
    let (mut recall, mut ndcg, mut mrr) = (0.0, 0.0, 0.0);
    for batch in users.chunks(USERS_PER_BATCH) {
        let queries: Vec<RankQuery<'_>> = batch
            .iter()
            .map(|user| {
                let exclude = if options.hide_seen { seen[*user].as_slice() } else { &[] };
                RankQuery { row: train.row(*user), exclude, k: options.cutoff }
            })
            .collect();
        let lists = ranker.rank(&queries).map_err(EvaluateError::Rank)?;
        if lists.len() != batch.len() {
            return Err(EvaluateError::Lists { expected: batch.len(), found: lists.len() });
        }
        for (user, list) in batch.iter().zip(lists) {
            let test = &test[*user];
            if let Some(metrics) = user_metrics(&list, &test.items, count(test), options.cutoff) {
                recall += metrics.recall;
                ndcg += metrics.ndcg;
                mrr += metrics.reciprocal_rank;
            }
            for item in list.iter().take(options.cutoff) {
                if let Some(listed) = listed.get_mut(*item as usize) {
                    *listed = true;
                }
            }
        }
    }
    let mean = |sum: f64| if users.is_empty() { 0.0 } else { sum / users.len() as f64 };
    let distinct = listed.iter().filter(|listed| **listed).count();
    Ok(Report {
        cutoff: options.cutoff,
        hide_seen: options.hide_seen,
        users: users.len(),
        users_without_test_items: test.len() - users.len(),
        recall: mean(recall),
        ndcg: mean(ndcg),
        mrr: mean(mrr),
        coverage: if listed.is_empty() { 0.0 } else { distinct as f64 / listed.len() as f64 },
    })
}

fn count(test: &TestItems) -> usize {
    test.items.len() + test.unknown_count
}

fn countable(test: &TestItems, seen: &[u32], options: EvaluateOptions) -> TestItems {
    let mut kept = test.clone();
    if options.hide_seen {
        kept.items.retain(|item| seen.binary_search(item).is_err());
    }
    kept
}

fn check<E: std::error::Error>(
    train: &Interactions,
    seen: &[Vec<u32>],
    test: &[TestItems],
) -> Result<(), EvaluateError<E>> {
    if seen.len() != train.users() || test.len() != train.users() {
        return Err(EvaluateError::Users { train: train.users(), seen: seen.len(), test: test.len() });
    }
    let item_count = train.items();
    let bad = |items: &[u32]| {
        items.array_windows().any(|[a, b]| a >= b) || items.last().is_some_and(|item| *item as usize >= item_count)
    };
    for user in 0..train.users() {
        for (what, items) in [("seen", &seen[user]), ("test", &test[user].items)] {
            if bad(items) {
                return Err(EvaluateError::Items { user, what, item_count });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{EvaluateError, EvaluateOptions, TestItems, evaluate, seen_of};
    use crate::baselines::{MostFrequent, MostPopular};
    use crate::ranker::{RankQuery, Ranker};
    use anabranch_models::{Interactions, popularity};
    use std::convert::Infallible;

    fn data() -> (Interactions, Vec<TestItems>) {
        let rows = [vec![(0, 1.0), (1, 2.0)], vec![(1, 1.0)], vec![(2, 1.0)], vec![]];
        let test = |items: &[u32], unknown_count| TestItems { items: items.to_vec(), unknown_count };
        (Interactions::from_rows(4, rows).unwrap(), vec![test(&[1, 3], 0), test(&[], 0), test(&[2], 1), test(&[1], 0)])
    }

    #[test]
    fn a_report_by_hand() {
        let (train, test) = data();
        let popularity = popularity(&train); // 1, 3, 1, 0
        let options = EvaluateOptions { cutoff: 1, hide_seen: false };
        let seen = seen_of(&train);
        let popular = evaluate(&MostPopular::new(&popularity), &train, &seen, &test, options).unwrap();
        // Everyone gets item 1: recall ½ of user 0, 0 of user 2, 1 of user 3.
        assert_eq!((popular.users, popular.users_without_test_items), (3, 1));
        assert!((popular.recall - 0.5).abs() < 1e-12);
        assert!((popular.ndcg - 2.0 / 3.0).abs() < 1e-12 && (popular.mrr - 2.0 / 3.0).abs() < 1e-12);
        assert!((popular.coverage - 0.25).abs() < 1e-12);
        let own = evaluate(&MostFrequent::new(&popularity), &train, &seen, &test, options).unwrap();
        assert!((own.recall - (0.5 + 0.5 + 1.0) / 3.0).abs() < 1e-12);
        assert!((own.coverage - 0.5).abs() < 1e-12);
    }

    #[test]
    fn hidden_items_are_neither_listed_nor_counted() {
        let (train, test) = data();
        let options = EvaluateOptions { cutoff: 2, hide_seen: true };
        let report =
            evaluate(&MostPopular::new(&popularity(&train)), &train, &seen_of(&train), &test, options).unwrap();
        // User 0 keeps test item 3 and gets [2, 3]; user 2 keeps only the unknown one; user 3 has seen nothing.
        assert_eq!(report.users, 3);
        assert!((report.recall - (1.0 + 0.0 + 1.0) / 3.0).abs() < 1e-12);
        assert!((report.mrr - (0.5 + 0.0 + 1.0) / 3.0).abs() < 1e-12);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<super::Report>(&text).unwrap(), report);
    }

    struct Mute;
    impl Ranker for Mute {
        type Error = Infallible;
        fn rank(&self, _: &[RankQuery<'_>]) -> Result<Vec<Vec<u32>>, Infallible> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn wrong_sets_and_broken_rankers_are_refused() {
        let (train, mut test) = data();
        let seen = seen_of(&train);
        let run =
            |seen: &[Vec<u32>], test: &[TestItems]| evaluate(&Mute, &train, seen, test, EvaluateOptions::default());
        assert_eq!(run(&seen, &test), Err(EvaluateError::Lists { expected: 3, found: 0 }));
        assert_eq!(run(&seen, &test[1..]), Err(EvaluateError::Users { train: 4, seen: 4, test: 3 }));
        test[2].items = vec![4];
        assert_eq!(run(&seen, &test), Err(EvaluateError::Items { user: 2, what: "test", item_count: 4 }));
        let none: Vec<TestItems> = vec![TestItems::default(); 4];
        let empty = run(&seen, &none).unwrap();
        assert_eq!((empty.users, empty.users_without_test_items), (0, 4));
        assert!(empty.recall == 0.0 && empty.coverage == 0.0);
    }
}
