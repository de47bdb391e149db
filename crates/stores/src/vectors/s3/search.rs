//! How a search is answered: decide between index and scan, then score exactly.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::api::{QueryVectors, StoredVector};
use super::augment::augmented_query;
use super::conditions::{Condition, necessary};
use super::indexes::Shape;
use super::names::dot_index;
use super::store::S3Vectors;
use crate::vectors::port::check_search;
use crate::vectors::score::{Scorer, TopK, norm, unit};
use crate::vectors::{Hit, Metric, Search, VectorError, VectorRecord};

/// The service is asked for this many times the hits wanted: its distances are approximate and of f32, and candidates
/// that only look like satisfying the filter drop out.
const CANDIDATE_FACTOR: usize = 4;
/// And for no fewer than these, which cost nothing more: a query is paid for by the size of the index.
const CANDIDATES_MIN: usize = 40;

/// How to find the candidates that are then scored exactly.
#[derive(Debug, PartialEq)]
enum Plan {
    /// Nothing can be found.
    Nothing,
    /// Read the whole collection.
    Scan,
    /// Ask an index.
    Query(Query),
}

#[derive(Debug, PartialEq)]
struct Query {
    index: String,
    vector: Vec<f32>,
    top_k: usize,
    filter: Option<Value>,
}

/// The decision alone, for a search that was checked.
fn plan(shape: &Shape, top_k_max: usize, search: &Search<'_>) -> Plan {
    let filter = match search.filter.map(necessary) {
        Some(Condition::Never) => return Plan::Nothing,
        Some(Condition::Ask(filter)) => Some(filter),
        Some(Condition::Any) | None => None,
    };
    if search.k == 0 {
        return Plan::Nothing;
    }
    if search.k > top_k_max {
        return Plan::Scan;
    }
    let (index, vector) = match (search.metric, &shape.dots[..]) {
        (Metric::Cosine, _) => (shape.main.clone(), unit(search.query)),
        // A zero query has no direction, and all its products are equal.
        (Metric::Dot, [bound]) if norm(search.query) > 0.0 => {
            (dot_index(&shape.main, *bound), augmented_query(search.query))
        }
        (Metric::Dot, _) => return Plan::Scan,
    };
    let top_k = (CANDIDATE_FACTOR * search.k).clamp(CANDIDATES_MIN.min(top_k_max), top_k_max);
    Plan::Query(Query { index, vector, top_k, filter })
}

/// Whether fewer hits than wanted are all there are. A filtered query of an index that does not filter first may end
/// early, and a full answer may have been cut off where candidates dropped out.
fn is_whole(shape: &Shape, query: &Query, filtered: bool, found: usize) -> bool {
    filtered && shape.filters_first && found < query.top_k
}

impl S3Vectors {
    /// Answers a search over a collection of that shape.
    pub(super) fn search_in(&self, shape: &Shape, search: &Search<'_>) -> Result<Vec<Hit>, VectorError> {
        check_search(search, shape.dim)?;
        match plan(shape, self.options.top_k_max, search) {
            Plan::Nothing => Ok(Vec::new()),
            Plan::Scan => self.scan_exactly(shape, search),
            Plan::Query(query) => {
                let (hits, found) = self.query(shape, search, &query)?;
                if hits.len() == search.k || is_whole(shape, &query, search.filter.is_some(), found) {
                    return Ok(hits);
                }
                // Never answer with less than exists. Without a filter this reads a collection that is small.
                self.scan_exactly(shape, search)
            }
        }
    }

    /// The hits among the candidates of an index, and how many candidates there were.
    fn query(&self, shape: &Shape, search: &Search<'_>, query: &Query) -> Result<(Vec<Hit>, usize), VectorError> {
        let scorer = Scorer::new(search.query, search.metric);
        let mut top = TopK::new(search.k);
        let (mut found, mut next) = (0, None);
        while found < query.top_k {
            let page = self.call("query", |api| {
                let page = QueryVectors {
                    top_k: query.top_k,
                    query: &query.vector,
                    filter: query.filter.as_ref(),
                    next: next.as_deref(),
                };
                api.query_vectors(&query.index, &page)
            })?;
            found += page.entries.len();
            for vector in page.entries {
                let record = self.record(StoredVector { key: vector.key, metadata: vector.metadata })?;
                if let Some(score) = self.scored(shape, search, &scorer, &record)? {
                    top.offer(score, || record.id);
                }
            }
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        Ok((top.into_hits(), found))
    }

    /// Reads everything.
    fn scan_exactly(&self, shape: &Shape, search: &Search<'_>) -> Result<Vec<Hit>, VectorError> {
        let scorer = Scorer::new(search.query, search.metric);
        let top = Mutex::new(TopK::new(search.k));
        let read = AtomicU64::new(0);
        self.each_page(&shape.main, true, |page| {
            let more = page.len() as u64;
            if read.fetch_add(more, Ordering::Relaxed) + more > self.options.exact_scan_max {
                return Err(VectorError::BadSearch {
                    reason: format!(
                        "the index cannot answer it, and the collection has more than the {} records that may be read \
                         whole; ask for fewer hits or by a wider filter, set the index's mode to ENHANCED, or raise \
                         exact_scan_max",
                        self.options.exact_scan_max
                    ),
                });
            }
            let mut scored = Vec::with_capacity(page.len());
            for stored in page {
                let record = self.record(stored)?;
                if let Some(score) = self.scored(shape, search, &scorer, &record)? {
                    scored.push((score, record.id));
                }
            }
            let mut top = top.lock().unwrap_or_else(PoisonError::into_inner);
            for (score, id) in scored {
                top.offer(score, || id);
            }
            Ok(())
        })?;
        Ok(top.into_inner().unwrap_or_else(PoisonError::into_inner).into_hits())
    }

    /// The exact score of a record; `None` if the filter does not hold.
    fn scored(
        &self,
        shape: &Shape,
        search: &Search<'_>,
        scorer: &Scorer<'_>,
        record: &VectorRecord,
    ) -> Result<Option<f32>, VectorError> {
        if record.vector.len() != shape.dim {
            return Err(self.damaged(format!("vector {:?} has not {} dimensions", record.id, shape.dim)));
        }
        let wanted = search.filter.is_none_or(|filter| filter.matches(&record.metadata));
        Ok(wanted.then(|| scorer.score(&record.vector)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Filter;

    fn asked(plan: Plan) -> Option<(String, usize)> {
        match plan {
            Plan::Query(query) => Some((query.index, query.top_k)),
            Plan::Nothing | Plan::Scan => None,
        }
    }

    #[test]
    fn indexes_answer_what_they_can_and_the_rest_is_scanned() {
        let shape = Shape { main: "v1.items.7".to_owned(), dim: 2, filters_first: false, dots: vec![3] };
        let query = [3.0, 4.0];
        let cosine = Search::cosine(&query, 10);
        let dot = Search { metric: Metric::Dot, ..cosine };
        let main = |top_k| Some(("v1.items.7".to_owned(), top_k));
        assert_eq!(asked(plan(&shape, 100, &cosine)), main(40));
        assert_eq!(asked(plan(&shape, 100, &Search { k: 20, ..cosine })), main(80));
        assert_eq!(asked(plan(&shape, 100, &Search { k: 100, ..cosine })), main(100));
        assert_eq!(asked(plan(&shape, 30, &cosine)), main(30));
        assert_eq!(plan(&shape, 100, &Search { k: 101, ..cosine }), Plan::Scan);
        assert_eq!(plan(&shape, 100, &Search { k: 0, ..cosine }), Plan::Nothing);
        assert_eq!(plan(&shape, 100, &cosine.filtered(&Filter::Or(vec![]))), Plan::Nothing);
        assert_eq!(asked(plan(&shape, 100, &dot)), Some(("v1.items.7.dot-p3".to_owned(), 40)));
        assert_eq!(plan(&shape, 100, &Search { query: &[0.0, 0.0], ..dot }), Plan::Scan);
        for dots in [vec![], vec![3, 4]] {
            assert_eq!(plan(&Shape { dots, ..shape.clone() }, 100, &dot), Plan::Scan);
        }
    }

    #[test]
    fn few_hits_are_all_only_where_the_service_filters_first() {
        let classic = Shape { main: String::new(), dim: 2, filters_first: false, dots: vec![] };
        let enhanced = Shape { filters_first: true, ..classic.clone() };
        let query = Query { index: String::new(), vector: vec![], top_k: 40, filter: None };
        assert!(is_whole(&enhanced, &query, true, 3));
        assert!(!is_whole(&enhanced, &query, true, 40), "cut off");
        assert!(!is_whole(&enhanced, &query, false, 3));
        assert!(!is_whole(&classic, &query, true, 3));
    }
}
