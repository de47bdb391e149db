//! Popularity: the summed weight of each item.

use crate::interactions::Interactions;
use anabranch_kernels::Scored;

/// Summed weight per item, added in row order in `f64` and rounded once.
pub fn popularity(interactions: &Interactions) -> Vec<f32> {
    let mut sums = vec![0.0_f64; interactions.items()];
    for row in interactions.rows() {
        for (item, weight) in row.entries() {
            sums[item as usize] += f64::from(weight);
        }
    }
    // A sum past f32 would be infinite; the largest finite value keeps it first.
    sums.into_iter().map(|sum| (sum as f32).min(f32::MAX)).collect()
}

/// The popularity of one item from its weights in order of its users, so that any items may be summed anywhere.
pub fn popularity_of(weights: &[f32]) -> f32 {
    let sum = weights.iter().fold(0.0, |sum, weight| sum + f64::from(*weight));
    (sum as f32).min(f32::MAX)
}

/// All items from the most popular to the least, ties by index.
pub fn popularity_order(popularity: &[f32]) -> Vec<u32> {
    let mut list: Vec<Scored> = (0..).zip(popularity).filter_map(|(item, score)| Scored::new(item, *score)).collect();
    list.sort_unstable();
    list.iter().map(Scored::item).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{popularity, popularity_of, popularity_order};
    use crate::Interactions;
    use crate::testing::random_interactions;

    #[test]
    fn items_summed_apart_have_the_same_bits() {
        let matrix = random_interactions(300, 20, 9, 4);
        let by_item = matrix.transpose().unwrap();
        let apart: Vec<f32> = by_item.rows().map(|users| popularity_of(users.weights)).collect();
        assert_eq!(apart, popularity(&matrix));
    }

    #[test]
    fn weights_add_up_and_ties_keep_the_index_order() {
        let rows = [vec![(0, 1.0), (2, 2.0)], vec![(2, 0.5), (3, 2.5)], vec![]];
        let found = popularity(&Interactions::from_rows(5, rows).unwrap());
        assert_eq!(found, [1.0, 0.0, 2.5, 2.5, 0.0]);
        assert_eq!(popularity_order(&found), [2, 3, 0, 1, 4]);
    }
}
