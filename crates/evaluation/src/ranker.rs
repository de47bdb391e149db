//! What is evaluated: anything that ranks items for users.

use anabranch_models::{Query, RecommendError, Recommender, Row, Scored};

/// One user to rank items for.
#[derive(Debug, Clone, Copy)]
pub struct RankQuery<'a> {
    /// The user's row in the training matrix.
    pub row: Row<'a>,
    /// Items that must not be listed, ascending.
    pub exclude: &'a [u32],
    /// Length of the list.
    pub k: usize,
}

/// Ranks items for batches of users: one list per query, in order, best first, at most `k` long, without repeats and
/// without excluded items.
pub trait Ranker {
    /// Why there are no lists.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The lists of a batch.
    fn rank(&self, queries: &[RankQuery<'_>]) -> Result<Vec<Vec<u32>>, Self::Error>;
}

/// A snapshot's recommender, on all cores.
#[derive(Debug, Clone, Copy)]
pub struct ModelRanker<'a>(pub &'a Recommender);

impl Ranker for ModelRanker<'_> {
    type Error = RecommendError;

    fn rank(&self, queries: &[RankQuery<'_>]) -> Result<Vec<Vec<u32>>, RecommendError> {
        let rows: Vec<Vec<(u32, f32)>> = queries.iter().map(|query| query.row.entries().collect()).collect();
        let questions: Vec<Query<'_>> =
            queries.iter().zip(&rows).map(|(query, row)| Query { row, exclude: query.exclude, k: query.k }).collect();
        let lists = self.0.recommend_parallel(&questions);
        lists.into_iter().map(|list| Ok(list?.iter().map(Scored::item).collect())).collect()
    }
}
