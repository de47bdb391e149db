//! The metrics, one formula each.
//!
//! For one user let `L` be the list, cut at `K`, and `T` the user's set of test items, `|T| ≥ 1`. With `hit(r) = 1` if
//! the item at rank `r` (from 1) is in `T`, else 0:
//!
//! ```text
//!   Recall@K = Σ_r hit(r) / |T|
//!   NDCG@K   = Σ_r hit(r) / log₂(r + 1)  /  Σ_(r = 1..min(K, |T|)) 1 / log₂(r + 1)
//!   MRR@K    = 1 / r of the first hit, 0 without one
//! ```
//!
//! Each is averaged over all users with `|T| ≥ 1`; users without test items are not counted (their number is
//! reported); a list shorter than `K`, even an empty one, has no hits past its end. With no user at all the averages
//! are 0. Recall divides by `|T|`, not by `min(K, |T|)`: a user with more than `K` test items cannot reach 1. Over all
//! users,
//!
//! ```text
//!   Coverage@K = |⋃ L| / number of items
//! ```

/// The metrics of one user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UserMetrics {
    /// `Recall@K`.
    pub recall: f64,
    /// `NDCG@K`.
    pub ndcg: f64,
    /// `MRR@K`.
    pub reciprocal_rank: f64,
}

/// Measures a list. `known_test_items` ascend; `test_count` is `|T|`, which may be greater where test items are
/// unknown to the model (they can only be missed). `None` if `test_count` is 0.
pub fn user_metrics(list: &[u32], known_test_items: &[u32], test_count: usize, cutoff: usize) -> Option<UserMetrics> {
    if test_count == 0 {
        return None;
    }
    let hits = (1..=cutoff).zip(list).filter(|(_, item)| known_test_items.binary_search(item).is_ok());
    let ranks: Vec<usize> = hits.map(|(rank, _)| rank).collect();
    let gain: f64 = ranks.iter().copied().map(discount).sum();
    let ideal: f64 = (1..=cutoff.min(test_count)).map(discount).sum();
    Some(UserMetrics {
        recall: ranks.len() as f64 / test_count as f64,
        ndcg: if ideal > 0.0 { gain / ideal } else { 0.0 },
        reciprocal_rank: ranks.first().map_or(0.0, |rank| 1.0 / *rank as f64),
    })
}

fn discount(rank: usize) -> f64 {
    1.0 / ((rank + 1) as f64).log2()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::user_metrics;

    fn close(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-12
    }

    #[test]
    fn golden_values_by_hand() {
        // Hits at ranks 2 and 4; three test items.
        let found = user_metrics(&[9, 3, 8, 1], &[1, 3, 7], 3, 20).unwrap();
        assert!(close(found.recall, 2.0 / 3.0));
        let ideal = 1.0 + 1.0 / 3_f64.log2() + 0.5;
        assert!(close(found.ndcg, (1.0 / 3_f64.log2() + 1.0 / 5_f64.log2()) / ideal));
        assert!(close(found.reciprocal_rank, 0.5));
    }

    #[test]
    fn a_perfect_list_is_one_and_the_cut_off_cuts() {
        let perfect = user_metrics(&[1, 2], &[1, 2], 2, 20).unwrap();
        assert!(close(perfect.recall, 1.0) && close(perfect.ndcg, 1.0) && close(perfect.reciprocal_rank, 1.0));
        // Three test items but a cut-off of two: NDCG reaches 1, recall cannot.
        let cut = user_metrics(&[1, 2, 3], &[1, 2, 3], 3, 2).unwrap();
        assert!(close(cut.recall, 2.0 / 3.0) && close(cut.ndcg, 1.0));
        let late = user_metrics(&[8, 9, 1], &[1], 1, 2).unwrap();
        assert!(close(late.recall, 0.0) && close(late.ndcg, 0.0) && close(late.reciprocal_rank, 0.0));
    }

    #[test]
    fn empty_cases() {
        assert_eq!(user_metrics(&[1], &[], 0, 20), None);
        let empty = user_metrics(&[], &[1], 1, 20).unwrap();
        assert!(close(empty.recall, 0.0) && close(empty.ndcg, 0.0) && close(empty.reciprocal_rank, 0.0));
        // Test items that the model does not know count as missed.
        let unknown = user_metrics(&[1], &[1], 2, 20).unwrap();
        assert!(close(unknown.recall, 0.5) && close(unknown.ndcg, 1.0 / (1.0 + 1.0 / 3_f64.log2())));
    }
}
