//! The baselines that a model must beat.

use crate::ranker::{RankQuery, Ranker};
use anabranch_models::popularity_order;
use std::convert::Infallible;

/// The same most popular items for everyone.
#[derive(Debug, Clone)]
pub struct MostPopular {
    order: Vec<u32>,
}

impl MostPopular {
    /// Ranks by popularity descending, ties by index.
    pub fn new(popularity: &[f32]) -> Self {
        Self { order: popularity_order(popularity) }
    }

    fn fill(&self, list: &mut Vec<u32>, query: &RankQuery<'_>) {
        let head = list.len();
        for item in &self.order {
            if list.len() >= query.k {
                break;
            }
            if query.exclude.binary_search(item).is_err() && !list[..head].contains(item) {
                list.push(*item);
            }
        }
    }
}

impl Ranker for MostPopular {
    type Error = Infallible;

    fn rank(&self, queries: &[RankQuery<'_>]) -> Result<Vec<Vec<u32>>, Infallible> {
        Ok(queries
            .iter()
            .map(|query| {
                let mut list = Vec::with_capacity(query.k);
                self.fill(&mut list, query);
                list
            })
            .collect())
    }
}

/// The user's own items by weight descending, ties by index, filled up with the most popular. Where seen items are
/// hidden it is popularity.
#[derive(Debug, Clone)]
pub struct MostFrequent {
    fallback: MostPopular,
}

impl MostFrequent {
    /// Fills up from `popularity`.
    pub fn new(popularity: &[f32]) -> Self {
        Self { fallback: MostPopular::new(popularity) }
    }
}

impl Ranker for MostFrequent {
    type Error = Infallible;

    fn rank(&self, queries: &[RankQuery<'_>]) -> Result<Vec<Vec<u32>>, Infallible> {
        Ok(queries
            .iter()
            .map(|query| {
                let mut own: Vec<(u32, f32)> =
                    query.row.entries().filter(|(item, _)| query.exclude.binary_search(item).is_err()).collect();
                own.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                let mut list: Vec<u32> = own.into_iter().take(query.k).map(|(item, _)| item).collect();
                self.fallback.fill(&mut list, query);
                list
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{MostFrequent, MostPopular};
    use crate::ranker::{RankQuery, Ranker};
    use anabranch_models::Row;

    #[test]
    fn own_items_come_first_and_popularity_fills_up() {
        let popularity = [1.0, 5.0, 3.0, 3.0, 0.0];
        let row = Row { items: &[0, 2, 4], weights: &[1.0, 2.0, 2.0] };
        let query = RankQuery { row, exclude: &[], k: 4 };
        let hidden = RankQuery { exclude: &[0, 2, 4], ..query };
        let popular = MostPopular::new(&popularity).rank(&[query, hidden]).unwrap();
        assert_eq!(popular, [vec![1, 2, 3, 0], vec![1, 3]]);
        let own = MostFrequent::new(&popularity).rank(&[query, hidden, RankQuery { k: 2, ..query }]).unwrap();
        assert_eq!(own, [vec![2, 4, 0, 1], vec![1, 3], vec![2, 4]]);
    }
}
