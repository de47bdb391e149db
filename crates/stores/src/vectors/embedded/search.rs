//! How a search is answered: decide between scan and graph, then score exactly.

use heed::RoTxn;
use roaring::RoaringBitmap;

use super::layout::{CollectionInfo, RecordView};
use super::{EmbeddedVectors, terms};
use crate::vectors::score::{Scorer, TopK, unit};
use crate::vectors::{Hit, Metric, Search, VectorError};

/// Past this many hits a beam search visits much of the graph anyway; a scan is simpler and exact.
const GRAPH_K_MAX: usize = 1000;
/// The beam is at least this many times as wide as the hits wanted.
const BEAM_FACTOR: usize = 4;

/// How to find the candidates that are then scored exactly.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Look at every record of the collection.
    ScanAll,
    /// Look at the records that the filter left.
    ScanFiltered,
    /// Search the graph, within the filter if there is one.
    Graph,
}

/// The decision alone: `candidate_count` records satisfy the filter (or exist, without one).
fn plan(indexed: bool, exact_scan_max: u64, search: &Search<'_>, candidate_count: u64) -> Plan {
    let graph_can = indexed && search.metric == Metric::Cosine && search.k <= GRAPH_K_MAX;
    let worth_it = candidate_count > exact_scan_max.max(search.k as u64);
    match (graph_can && worth_it, search.filter) {
        (true, _) => Plan::Graph,
        (false, Some(_)) => Plan::ScanFiltered,
        (false, None) => Plan::ScanAll,
    }
}

impl EmbeddedVectors {
    /// Answers a search that was checked against the collection.
    pub(super) fn search_in(
        &self,
        rtxn: &RoTxn<'_>,
        info: &CollectionInfo,
        search: &Search<'_>,
    ) -> Result<Vec<Hit>, VectorError> {
        let candidates = match search.filter {
            Some(filter) => terms::matching(self.databases.terms, rtxn, info.slot, filter),
            None => terms::everything(self.databases.terms, rtxn, info.slot),
        };
        let candidates = candidates.map_err(|error| self.terms("read", error))?;
        match plan(info.indexed, self.options.exact_scan_max, search, candidates.len()) {
            Plan::ScanAll => self.scan_all(rtxn, info, search),
            Plan::ScanFiltered => self.score(rtxn, info, search, candidates.iter()),
            Plan::Graph => {
                let found = self.search_graph(rtxn, info, search, &candidates)?;
                // A graph that was cut apart may give fewer; never answer with less than exists.
                if found.len() < search.k {
                    return self.score(rtxn, info, search, candidates.iter());
                }
                self.score(rtxn, info, search, found.into_iter())
            }
        }
    }

    fn search_graph(
        &self,
        rtxn: &RoTxn<'_>,
        info: &CollectionInfo,
        search: &Search<'_>,
        candidates: &RoaringBitmap,
    ) -> Result<Vec<u32>, VectorError> {
        let reader = hannoy::Reader::open(rtxn, info.slot, self.databases.hnsw);
        let reader = reader.map_err(|error| self.hannoy("read", error))?;
        let beam = self.options.ef_search.max(BEAM_FACTOR * search.k);
        // The whole beam is scored again, so that f32 ties at its inner edge are ordered exactly.
        let mut query = reader.nns(beam);
        query.ef_search(beam).linear_below(0);
        if search.filter.is_some() {
            query.candidates(candidates);
        }
        let found = query.by_vector(rtxn, &unit(search.query));
        let found = found.map_err(|error| self.hannoy("search", error))?;
        Ok(found.into_nns().into_iter().map(|(dense, _)| dense).collect())
    }

    fn score(
        &self,
        rtxn: &RoTxn<'_>,
        info: &CollectionInfo,
        search: &Search<'_>,
        candidates: impl Iterator<Item = u32>,
    ) -> Result<Vec<Hit>, VectorError> {
        let scorer = Scorer::new(search.query, search.metric);
        let mut top = TopK::new(search.k);
        let mut vector = Vec::with_capacity(info.dim);
        for dense in candidates {
            let record = self.record(rtxn, info, dense)?;
            record.read_vector(&mut vector);
            top.offer(scorer.score(&vector), || record.id.to_owned());
        }
        Ok(top.into_hits())
    }

    /// One pass over the records in key order, without a look-up for each.
    fn scan_all(&self, rtxn: &RoTxn<'_>, info: &CollectionInfo, search: &Search<'_>) -> Result<Vec<Hit>, VectorError> {
        let scorer = Scorer::new(search.query, search.metric);
        let mut top = TopK::new(search.k);
        let mut vector = Vec::with_capacity(info.dim);
        let records = self.databases.records.prefix_iter(rtxn, &info.slot.to_be_bytes());
        for entry in records.map_err(|error| self.heed("read", error))? {
            let (_, value) = entry.map_err(|error| self.heed("read", error))?;
            let record = RecordView::new(value, info.dim).ok_or_else(|| self.corrupt("a record is malformed"))?;
            record.read_vector(&mut vector);
            top.offer(scorer.score(&vector), || record.id.to_owned());
        }
        Ok(top.into_hits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Filter;

    #[test]
    fn narrow_filters_small_collections_and_inner_products_are_scanned() {
        let query = [1.0];
        let all = Search::cosine(&query, 10);
        let filter = Filter::And(vec![]);
        assert_eq!(plan(true, 100, &all, 101), Plan::Graph);
        assert_eq!(plan(true, 100, &all, 100), Plan::ScanAll);
        assert_eq!(plan(true, 100, &all.filtered(&filter), 100), Plan::ScanFiltered);
        assert_eq!(plan(true, 100, &all.filtered(&filter), 101), Plan::Graph);
        assert_eq!(plan(false, 100, &all, 101), Plan::ScanAll);
        assert_eq!(plan(true, 100, &Search { metric: Metric::Dot, ..all }, 101), Plan::ScanAll);
        assert_eq!(plan(true, 100, &Search { k: 1001, ..all }, 5000), Plan::ScanAll);
        assert_eq!(plan(true, 0, &all, 10), Plan::ScanAll, "k of k is everything");
    }
}
