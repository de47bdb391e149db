//! Evaluation of given lists, by the one loop that all figures come through.

use std::cell::RefCell;
use std::convert::Infallible;

use anabranch_evaluation::{EvaluateOptions, RankQuery, Ranker, TestItems, evaluate};
use anabranch_models::Interactions;
use numpy::{PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::arrays::{Csr, rows, slice};
use crate::errors::{Raise, input};

/// Lists that were made before, one for each user with test items, in order.
struct Given(RefCell<std::vec::IntoIter<Vec<u32>>>);

impl Ranker for Given {
    type Error = Infallible;

    fn rank(&self, queries: &[RankQuery<'_>]) -> Result<Vec<Vec<u32>>, Infallible> {
        Ok(self.0.borrow_mut().by_ref().take(queries.len()).collect())
    }
}

/// Metrics of `lists` (`[users × n]`, negative where shorter) against test items, as JSON.
#[pyfunction]
pub(crate) fn evaluate_lists(
    py: Python<'_>,
    lists: PyReadonlyArray2<'_, i64>,
    test: Csr<'_>,
    unknown: PyReadonlyArray1<'_, u64>,
    cutoff: usize,
    item_count: usize,
) -> PyResult<String> {
    let test = rows(&test, item_count)?;
    let unknown = slice("unknown", &unknown)?;
    let lists = lists.as_array();
    if lists.nrows() != test.len() || unknown.len() != test.len() {
        return Err(input(format!(
            "{} lists, {} test rows, {} counts of unknown items: one of each for every user",
            lists.nrows(),
            test.len(),
            unknown.len()
        )));
    }
    let report = py.detach(|| {
        let mut given = Vec::with_capacity(test.len());
        let mut tests = Vec::with_capacity(test.len());
        for (user, list) in lists.rows().into_iter().enumerate() {
            if let Some(item) = list.iter().find(|item| usize::try_from(**item).is_ok_and(|item| item >= item_count)) {
                return Err(input(format!("list {user}: item {item} is not below {item_count}")));
            }
            let list: Vec<u32> = list.iter().filter_map(|item| u32::try_from(*item).ok()).collect();
            let test = TestItems { items: test.row(user).items.to_vec(), unknown_count: unknown[user] as usize };
            if !test.items.is_empty() || test.unknown_count > 0 {
                given.push(list);
            }
            tests.push(test);
        }
        let empty = Interactions::from_rows(item_count, vec![Vec::new(); tests.len()]).raise()?;
        let ranker = Given(RefCell::new(given.into_iter()));
        let options = EvaluateOptions { cutoff, hide_seen: false };
        evaluate(&ranker, &empty, &vec![Vec::new(); tests.len()], &tests, options).raise()
    })?;
    serde_json::to_string(&report).map_err(input)
}
