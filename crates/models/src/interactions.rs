//! Who interacted with what: one sparse row per user, validated once.

/// A sparse matrix `[users × items]` in compressed rows; items ascend strictly inside a row, weights are positive and
/// finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Interactions {
    item_count: usize,
    row_offsets: Vec<u64>,
    items: Vec<u32>,
    weights: Vec<f32>,
}

/// One row: equally long slices, items ascending.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'a> {
    /// Column indices.
    pub items: &'a [u32],
    /// Their weights.
    pub weights: &'a [f32],
}

impl<'a> Row<'a> {
    /// The entries in order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (u32, f32)> + Clone + use<'a> {
        self.items.iter().copied().zip(self.weights.iter().copied())
    }

    /// The number of distinct items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether the row has no entry.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// Rows as somebody else holds them: a matrix `[rows × items]`, or consecutive rows of a larger one. Checked once, by
/// the same rules as [`Interactions`]; nothing is copied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SparseRows<'a> {
    item_count: usize,
    row_offsets: &'a [u64],
    items: &'a [u32],
    weights: &'a [f32],
}

impl<'a> SparseRows<'a> {
    /// Rows whose entries begin and end at `row_offsets` (one for each row and one more; the first need not be 0).
    pub fn new(
        item_count: usize,
        row_offsets: &'a [u64],
        items: &'a [u32],
        weights: &'a [f32],
    ) -> Result<Self, InteractionsError> {
        if items.len() != weights.len() {
            return Err(InteractionsError::Lengths { items: items.len(), weights: weights.len() });
        }
        let bounded = row_offsets.last().is_some_and(|end| *end <= items.len() as u64);
        if !bounded || !row_offsets.is_sorted() {
            return Err(InteractionsError::Offsets { entries: items.len() });
        }
        let rows = Self { item_count, row_offsets, items, weights };
        for row in 0..rows.len() {
            check_row(rows.row(row).entries(), item_count).map_err(|fault| fault.at(row, item_count))?;
        }
        Ok(rows)
    }

    /// The number of rows.
    pub const fn len(&self) -> usize {
        self.row_offsets.len() - 1
    }

    /// Whether there is no row.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of columns.
    pub const fn items(&self) -> usize {
        self.item_count
    }

    /// The number of entries.
    pub fn entries(&self) -> usize {
        (self.row_offsets[self.len()] - self.row_offsets[0]) as usize
    }

    /// The row at `row`, which must be below [`Self::len`].
    pub fn row(&self, row: usize) -> Row<'a> {
        let range = self.row_offsets[row] as usize..self.row_offsets[row + 1] as usize;
        Row { items: &self.items[range.clone()], weights: &self.weights[range] }
    }
}

/// Rows that are not a valid matrix.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InteractionsError {
    /// The offsets do not start at 0, descend, or do not end at the number of entries.
    #[error("row offsets must ascend from 0 to the {entries} entries, one for each row and one more")]
    Offsets {
        /// Entries given.
        entries: usize,
    },
    /// Items and weights differ in number.
    #[error("{items} items but {weights} weights")]
    Lengths {
        /// Items given.
        items: usize,
        /// Weights given.
        weights: usize,
    },
    /// An item index is out of range, repeated, or out of order.
    #[error("row {row}: item {item} is repeated, out of order, or not below {item_count}")]
    Item {
        /// The row.
        row: usize,
        /// The index found.
        item: u32,
        /// The number of items.
        item_count: usize,
    },
    /// A weight is not a positive finite number.
    #[error("row {row}: item {item} has weight {weight}, which is not positive and finite")]
    Weight {
        /// The row.
        row: usize,
        /// The item.
        item: u32,
        /// The weight found.
        weight: f32,
    },
    /// More items than a `u32` can index.
    #[error("{item_count} items are more than 2³²")]
    TooManyItems {
        /// The number of items.
        item_count: usize,
    },
}

impl Interactions {
    /// Takes compressed rows: `row_offsets` has one entry per user and one more.
    pub fn new(
        item_count: usize,
        row_offsets: Vec<u64>,
        items: Vec<u32>,
        weights: Vec<f32>,
    ) -> Result<Self, InteractionsError> {
        if u32::try_from(item_count).is_err() {
            return Err(InteractionsError::TooManyItems { item_count });
        }
        if row_offsets.first() != Some(&0) || row_offsets.last() != Some(&(items.len() as u64)) {
            // Unequal lengths are the better word on the same mistake.
            SparseRows::new(item_count, &[0], &items, &weights)?;
            return Err(InteractionsError::Offsets { entries: items.len() });
        }
        SparseRows::new(item_count, &row_offsets, &items, &weights)?;
        Ok(Self { item_count, row_offsets, items, weights })
    }

    /// Offsets, items and weights, given away.
    pub fn into_parts(self) -> (Vec<u64>, Vec<u32>, Vec<f32>) {
        (self.row_offsets, self.items, self.weights)
    }

    /// Offsets, items and weights as they lie.
    pub(crate) fn parts(&self) -> (&[u64], &[u32], &[f32]) {
        (&self.row_offsets, &self.items, &self.weights)
    }

    /// The same rows, borrowed.
    pub fn view(&self) -> SparseRows<'_> {
        SparseRows {
            item_count: self.item_count,
            row_offsets: &self.row_offsets,
            items: &self.items,
            weights: &self.weights,
        }
    }

    /// Collects rows of `(item, weight)`.
    pub fn from_rows<R>(item_count: usize, rows: impl IntoIterator<Item = R>) -> Result<Self, InteractionsError>
    where
        R: IntoIterator<Item = (u32, f32)>,
    {
        let (mut offsets, mut items, mut weights) = (vec![0], Vec::new(), Vec::new());
        for row in rows {
            for (item, weight) in row {
                items.push(item);
                weights.push(weight);
            }
            offsets.push(items.len() as u64);
        }
        Self::new(item_count, offsets, items, weights)
    }

    /// The number of rows.
    pub fn users(&self) -> usize {
        self.row_offsets.len() - 1
    }

    /// The number of columns.
    pub fn items(&self) -> usize {
        self.item_count
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no entry at all.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The row of `user`, which must be below [`Self::users`].
    pub fn row(&self, user: usize) -> Row<'_> {
        self.view().row(user)
    }

    /// The rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> + Clone {
        (0..self.users()).map(|user| self.row(user))
    }

    /// One row per item: its users, ascending. Needs fewer than 2³² users.
    pub fn transpose(&self) -> Result<Self, InteractionsError> {
        let users =
            u32::try_from(self.users()).map_err(|_| InteractionsError::TooManyItems { item_count: self.users() })?;
        let mut offsets = vec![0_u64; self.item_count + 1];
        for item in &self.items {
            offsets[*item as usize + 1] += 1;
        }
        for item in 0..self.item_count {
            offsets[item + 1] += offsets[item];
        }
        let mut next = offsets.clone();
        let mut columns = vec![0; self.len()];
        let mut weights = vec![0.0; self.len()];
        for user in 0..users {
            for (item, weight) in self.row(user as usize).entries() {
                let at = next[item as usize] as usize;
                next[item as usize] += 1;
                columns[at] = user;
                weights[at] = weight;
            }
        }
        Ok(Self { item_count: self.users(), row_offsets: offsets, items: columns, weights })
    }
}

/// What is wrong with an entry of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RowFault {
    Item(u32),
    Weight(u32, f32),
}

impl RowFault {
    fn at(self, row: usize, item_count: usize) -> InteractionsError {
        match self {
            RowFault::Item(item) => InteractionsError::Item { row, item, item_count },
            RowFault::Weight(item, weight) => InteractionsError::Weight { row, item, weight },
        }
    }
}

/// The one rule for rows, in training and in serving.
pub(crate) fn check_row(entries: impl Iterator<Item = (u32, f32)>, item_count: usize) -> Result<(), RowFault> {
    let mut next = 0_u64;
    for (item, weight) in entries {
        if u64::from(item) < next || item as usize >= item_count {
            return Err(RowFault::Item(item));
        }
        if !(weight > 0.0 && weight.is_finite()) {
            return Err(RowFault::Weight(item, weight));
        }
        next = u64::from(item) + 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Interactions, InteractionsError};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn rows_that_are_not_a_matrix_are_refused_with_their_place() {
        let build = |offsets: &[u64], items: &[u32], weights: &[f32]| {
            Interactions::new(3, offsets.to_vec(), items.to_vec(), weights.to_vec()).unwrap_err()
        };
        assert_eq!(build(&[], &[], &[]), InteractionsError::Offsets { entries: 0 });
        assert_eq!(build(&[0, 2, 1, 2], &[0, 1], &[1.0; 2]), InteractionsError::Offsets { entries: 2 });
        assert_eq!(build(&[0, 1], &[0, 1], &[1.0; 2]), InteractionsError::Offsets { entries: 2 });
        assert_eq!(build(&[0, 1], &[0], &[]), InteractionsError::Lengths { items: 1, weights: 0 });
        assert_eq!(build(&[0, 1], &[3], &[1.0]), InteractionsError::Item { row: 0, item: 3, item_count: 3 });
        assert_eq!(build(&[0, 0, 2], &[1, 1], &[1.0; 2]), InteractionsError::Item { row: 1, item: 1, item_count: 3 });
        assert_eq!(build(&[0, 1], &[0], &[0.0]), InteractionsError::Weight { row: 0, item: 0, weight: 0.0 });
        assert!(matches!(build(&[0, 1], &[2], &[f32::NAN]), InteractionsError::Weight { row: 0, item: 2, .. }));
    }

    proptest! {
        #[test]
        fn transposing_twice_gives_the_matrix_back(
            rows in proptest::collection::vec(proptest::collection::btree_map(0_u32..9, 0.1_f32..5.0, 0..9), 0..12)
        ) {
            let matrix = Interactions::from_rows(9, rows.clone()).unwrap();
            let across = matrix.transpose().unwrap();
            prop_assert_eq!(across.users(), 9);
            for item in 0..9_u32 {
                let expected: BTreeMap<u32, f32> = (0..)
                    .zip(&rows)
                    .filter_map(|(user, row)| row.get(&item).map(|weight| (user, *weight)))
                    .collect();
                prop_assert_eq!(across.row(item as usize).entries().collect::<BTreeMap<_, _>>(), expected);
            }
            prop_assert_eq!(across.transpose().unwrap(), matrix);
        }
    }
}
