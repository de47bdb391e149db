//! How a search is answered: by the graph or by a scan in the server, then scored exactly here.
//!
//! The scan is exact although the server computes in f32. It orders records by an upper bound of their score, the unit
//! vectors' inner product plus its largest rounding error, and gives the best of them; here they are scored exactly, and
//! if the last bound lies below the k-th score, no record left out can belong among the hits. Otherwise more are asked
//! for. So only about k vectors travel, and the bits are those of the exact twin.
//!
//! The error: two unit vectors of `dim` numbers rounded to f32, multiplied and added in f32 in any order, err by at most
//! (dim + 2) · 2⁻²⁴ to first order (Higham, Accuracy and Stability, §3.1, with Σ|aᵢbᵢ| ≤ 1); twice that and a little is
//! taken. An inner product is that cosine times the norm, which the server computes in f64.

use super::copy::read_vector;
use super::fields::condition;
use super::session::{Param, Session, Statement};
use super::{CollectionInfo, PostgresOptions, corrupt};
use crate::vectors::score::{Scorer, TopK, norm, unit};
use crate::vectors::{Hit, Metric, Search, VectorError};

/// Most hits taken from the graph: past pgvector's widest beam a scan is simpler and exact.
const GRAPH_K_MAX: usize = 1000;
/// pgvector's widest beam.
const BEAM_MAX: usize = 1000;
/// The beam is at least this many times as wide as the hits wanted.
const BEAM_FACTOR: usize = 4;
/// Records asked for beyond the hits wanted, so that ties in f32 at the edge are ordered exactly.
const SPARE: usize = 16;
/// A scan that was not proved exact is repeated for this many times as many records.
const GROWTH: usize = 8;

/// How to find the candidates that are then scored exactly.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Scan,
    Graph,
}

/// The decision alone: `candidate_count` records satisfy the filter (or exist, without one).
fn plan(info: &CollectionInfo, exact_scan_max: u64, search: &Search<'_>, candidate_count: u64) -> Plan {
    let graph_can = info.graph && search.metric == Metric::Cosine && search.k <= GRAPH_K_MAX;
    let worth_it = candidate_count > exact_scan_max.max(search.k as u64);
    if graph_can && worth_it { Plan::Graph } else { Plan::Scan }
}

/// Answers a search that was checked against the collection, in the session's snapshot.
pub(super) fn search_in(
    session: &Session<'_>,
    options: &PostgresOptions,
    info: &CollectionInfo,
    search: &Search<'_>,
) -> Result<Vec<Hit>, VectorError> {
    if search.k == 0 {
        return Ok(Vec::new());
    }
    let mut candidate_count = info.records;
    // The filter is asked only if its answer can matter.
    if search.filter.is_some() && plan(info, options.exact_scan_max, search, candidate_count) == Plan::Graph {
        candidate_count = count_up_to(session, info, search, options.exact_scan_max.max(search.k as u64) + 1)?;
    }
    if plan(info, options.exact_scan_max, search, candidate_count) == Plan::Graph {
        let hits = search_graph(session, options, info, search)?;
        // The graph's scan ends after pgvector's limit of visits; never answer with less than exists.
        if hits.len() == search.k {
            return Ok(hits);
        }
    }
    scan(session, info, search)
}

/// How many records satisfy the filter, counted no further than `limit`.
fn count_up_to(
    session: &Session<'_>,
    info: &CollectionInfo,
    search: &Search<'_>,
    limit: u64,
) -> Result<u64, VectorError> {
    let mut params = Vec::new();
    let filter = where_clause(search, &mut params);
    let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {}{filter} LIMIT {limit}) AS matching", info.table());
    let rows = session.rows("search", Statement::new(sql, params))?;
    let count: Option<i64> = rows.first().and_then(|row| row.try_get(0).ok());
    count.map(|count| count as u64).ok_or_else(|| corrupt(session, "a count is not a number"))
}

fn search_graph(
    session: &Session<'_>,
    options: &PostgresOptions,
    info: &CollectionInfo,
    search: &Search<'_>,
) -> Result<Vec<Hit>, VectorError> {
    let beam = (options.ef_search as usize).max(BEAM_FACTOR * search.k).clamp(1, BEAM_MAX);
    let limit = search.k + search.k / 4 + SPARE;
    // Whichever way the server goes it answers rightly; it is turned from sorting everything, since its guess of a
    // condition on jsonb is one record in a thousand.
    let settings = format!(
        "SET LOCAL hnsw.ef_search = {beam}; SET LOCAL hnsw.iterative_scan = relaxed_order; \
         SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off"
    );
    let mut params = vec![Param::Floats(unit(search.query))];
    let filter = where_clause(search, &mut params);
    let sql = format!(
        "SELECT id, vector_send(embedding) FROM {}{filter} ORDER BY {} <#> $1::vector LIMIT {limit}",
        info.table(),
        info.indexed_expression()
    );
    let rows = session.run_and_rows("search", &settings, Statement::new(sql, params))?;
    score(session, info, search, &rows)
}

fn scan(session: &Session<'_>, info: &CollectionInfo, search: &Search<'_>) -> Result<Vec<Hit>, VectorError> {
    const SETTINGS: &str =
        "SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on; SET LOCAL enable_sort = on";
    let query_norm = norm(search.query);
    let mut limit = search.k + search.k / 8 + 2 * SPARE;
    loop {
        let mut params = Vec::new();
        let (bound, order) = if query_norm == 0.0 {
            // Every inner product with zero is zero, so ids alone order the hits.
            ("0::float8".to_owned(), "id")
        } else {
            params.push(Param::Floats(unit(search.query)));
            params.push(Param::Float((info.dim as f64 + 8.0) * f64::from(f32::EPSILON)));
            let norm = if search.metric == Metric::Dot { " * vector_norm(embedding)" } else { "" };
            (format!("($2 - (l2_normalize(embedding) <#> $1::vector)){norm}"), "bound DESC")
        };
        let filter = where_clause(search, &mut params);
        let sql = format!(
            "SELECT id, vector_send(embedding), {bound} AS bound FROM {}{filter} ORDER BY {order} LIMIT {limit}",
            info.table()
        );
        let rows = session.run_and_rows("search", SETTINGS, Statement::new(sql, params))?;
        let hits = score(session, info, search, &rows)?;
        let last_bound: Option<f64> = rows.last().and_then(|row| row.try_get(2).ok());
        if query_norm == 0.0 || rows.len() < limit || is_proved(search, query_norm, &hits, last_bound) {
            return Ok(hits);
        }
        limit = limit.saturating_mul(GROWTH);
    }
}

/// Whether no record whose bound is at most `last_bound` can score as high as the last hit.
fn is_proved(search: &Search<'_>, query_norm: f64, hits: &[Hit], last_bound: Option<f64>) -> bool {
    let (Some(worst), Some(bound)) = (hits.last(), last_bound) else { return false };
    let largest = match search.metric {
        Metric::Cosine => bound.clamp(-1.0, 1.0),
        Metric::Dot => (bound * query_norm).clamp(f64::from(f32::MIN), f64::from(f32::MAX)),
    };
    // Rounding keeps order, so the bound rounded as a score bounds the scores.
    hits.len() == search.k && (largest as f32) < worst.score
}

fn score(
    session: &Session<'_>,
    info: &CollectionInfo,
    search: &Search<'_>,
    rows: &[tokio_postgres::Row],
) -> Result<Vec<Hit>, VectorError> {
    let scorer = Scorer::new(search.query, search.metric);
    let mut top = TopK::new(search.k);
    let mut vector = Vec::with_capacity(info.dim);
    for row in rows {
        let (id, bytes): (&[u8], &[u8]) = match (row.try_get(0), row.try_get(1)) {
            (Ok(id), Ok(bytes)) => (id, bytes),
            _ => return Err(corrupt(session, "a record is malformed")),
        };
        let Ok(id) = std::str::from_utf8(id) else { return Err(corrupt(session, "an id is not UTF-8")) };
        if !read_vector(bytes, info.dim, &mut vector) {
            return Err(corrupt(session, "a vector has the wrong length"));
        }
        top.offer(scorer.score(&vector), || id.to_owned());
    }
    Ok(top.into_hits())
}

fn where_clause(search: &Search<'_>, params: &mut Vec<Param>) -> String {
    search.filter.map(|filter| format!(" WHERE {}", condition(filter, params))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Filter;

    #[test]
    fn small_narrow_wide_and_inner_product_searches_are_scanned() {
        let info = CollectionInfo { number: 1, dim: 1, indexed: true, graph: true, records: 0 };
        let all = Search::cosine(&[1.0], 10);
        let filter = Filter::And(vec![]);
        assert_eq!(plan(&info, 100, &all, 101), Plan::Graph);
        assert_eq!(plan(&info, 100, &all.filtered(&filter), 101), Plan::Graph);
        assert_eq!(plan(&info, 100, &all, 100), Plan::Scan);
        assert_eq!(plan(&info, 0, &all, 10), Plan::Scan, "k of k is everything");
        assert_eq!(plan(&info, 100, &Search { metric: Metric::Dot, ..all }, 101), Plan::Scan);
        assert_eq!(plan(&info, 100, &Search { k: 1001, ..all }, 5000), Plan::Scan);
        assert_eq!(plan(&CollectionInfo { graph: false, ..info }, 100, &all, 101), Plan::Scan);
    }

    #[test]
    fn a_scan_is_proved_only_by_a_bound_below_the_last_hit() {
        let search = Search::cosine(&[1.0], 1);
        let hit = |score| [Hit { id: "a".into(), score }];
        assert!(is_proved(&search, 1.0, &hit(0.5), Some(0.49)));
        assert!(!is_proved(&search, 1.0, &hit(0.5), Some(0.5)), "a tie may come first by id");
        assert!(!is_proved(&search, 1.0, &hit(1.0), Some(1.5)));
        assert!(!is_proved(&search, 1.0, &[], Some(0.1)));
        assert!(!is_proved(&search, 1.0, &hit(0.5), None));
        let dot = Search { metric: Metric::Dot, ..search };
        assert!(is_proved(&dot, 2.0, &hit(3.0), Some(1.4)));
        assert!(!is_proved(&dot, 2.0, &hit(f32::MAX), Some(1e300)));
    }
}
