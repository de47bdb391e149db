//! The inverted index on metadata: which records satisfy a filter, as a bitmap, without reading them.

use std::collections::HashMap;
use std::ops::Bound;

use heed::types::Bytes;
use heed::{Database, RoTxn, RwTxn};
use roaring::RoaringBitmap;

use super::layout::{everything_key, number_keys, term_key};
use crate::vectors::{Filter, Metadata, Scalar};

/// The `terms` database.
pub(super) type Terms = Database<'static, Bytes, Bytes>;

/// A filter could not be answered: the database failed, or a stored bitmap is no bitmap.
#[derive(Debug)]
pub(super) enum TermsError {
    Heed(heed::Error),
    Damaged(String),
}

impl From<heed::Error> for TermsError {
    fn from(error: heed::Error) -> Self {
        Self::Heed(error)
    }
}

/// Changes gathered over one transaction, so that each bitmap is rewritten once.
#[derive(Debug, Default)]
pub(super) struct TermChanges {
    changes: HashMap<Vec<u8>, Change>,
}

#[derive(Debug, Default)]
struct Change {
    removed: RoaringBitmap,
    added: RoaringBitmap,
}

impl TermChanges {
    /// A record appears under a dense id that is new, or was removed first.
    pub(super) fn add(&mut self, slot: u16, dense: u32, metadata: &Metadata) {
        for key in keys(slot, metadata) {
            self.changes.entry(key).or_default().added.insert(dense);
        }
    }

    /// A record's old metadata is forgotten.
    pub(super) fn remove(&mut self, slot: u16, dense: u32, metadata: &Metadata) {
        for key in keys(slot, metadata) {
            self.changes.entry(key).or_default().removed.insert(dense);
        }
    }

    /// Writes the changes: what is both removed and added stays.
    pub(super) fn apply(self, terms: Terms, wtxn: &mut RwTxn<'_>) -> Result<(), TermsError> {
        for (key, change) in self.changes {
            let old = read(terms, wtxn, &key)?;
            let new = (&old - change.removed) | change.added;
            if new == old {
                continue;
            }
            if new.is_empty() {
                terms.delete(wtxn, &key)?;
            } else {
                let mut bytes = Vec::with_capacity(new.serialized_size());
                new.serialize_into(&mut bytes).expect("writing to memory does not fail");
                terms.put(wtxn, &key, &bytes)?;
            }
        }
        Ok(())
    }
}

fn keys(slot: u16, metadata: &Metadata) -> Vec<Vec<u8>> {
    let mut keys = vec![everything_key(slot)];
    for (field, value) in metadata {
        keys.extend(Scalar::all_of(value).iter().map(|scalar| term_key(slot, field, scalar)));
    }
    keys
}

/// All records of a collection.
pub(super) fn everything(terms: Terms, rtxn: &RoTxn<'_>, slot: u16) -> Result<RoaringBitmap, TermsError> {
    read(terms, rtxn, &everything_key(slot))
}

/// The records that satisfy `filter`: equal to [`Filter::matches`] on each, by a property test.
pub(super) fn matching(
    terms: Terms,
    rtxn: &RoTxn<'_>,
    slot: u16,
    filter: &Filter,
) -> Result<RoaringBitmap, TermsError> {
    let value = |field: &str, scalar: &Scalar| read(terms, rtxn, &term_key(slot, field, scalar));
    let mut found = RoaringBitmap::new();
    match filter {
        Filter::Eq { field, value: scalar } => found = value(field, scalar)?,
        Filter::In { field, values } => {
            for scalar in values {
                found |= value(field, scalar)?;
            }
        }
        Filter::Range { field, min, max } => {
            let (first, last) = number_keys(slot, field, *min, *max);
            if first <= last {
                for entry in terms.range(rtxn, &(Bound::Included(&first[..]), Bound::Included(&last[..])))? {
                    found |= parse(entry?.1)?;
                }
            }
        }
        Filter::And(filters) => {
            found = everything(terms, rtxn, slot)?;
            for filter in filters {
                found &= matching(terms, rtxn, slot, filter)?;
            }
        }
        Filter::Or(filters) => {
            for filter in filters {
                found |= matching(terms, rtxn, slot, filter)?;
            }
        }
        Filter::Not(filter) => {
            found = everything(terms, rtxn, slot)? - matching(terms, rtxn, slot, filter)?;
        }
    }
    Ok(found)
}

fn read(terms: Terms, rtxn: &RoTxn<'_>, key: &[u8]) -> Result<RoaringBitmap, TermsError> {
    terms.get(rtxn, key)?.map_or_else(|| Ok(RoaringBitmap::new()), parse)
}

fn parse(bytes: &[u8]) -> Result<RoaringBitmap, TermsError> {
    RoaringBitmap::deserialize_from(bytes).map_err(|error| TermsError::Damaged(error.to_string()))
}
