//! Item and user factors into the vector database, under the model's version, so that a search never mixes models.

use anabranch_events::HistoryKey;
use anabranch_models::ials::IalsModel;
use anabranch_stores::vectors::{Collection, Metadata, VectorRecord, VectorStore};

use super::rows::TrainingRows;
use super::{EmbeddingTarget, TrainError, TrainingSettings};

/// Name of the item collection.
pub const ITEMS: &str = "items";
/// Name of the user collection.
pub const USERS: &str = "users";

/// Stores the items' collection, and the users' if they are wanted. Vectors without a direction (an item whose factors
/// vanished) are left out, cosine has no meaning for them; so are items that too few users touched. Returns how many of
/// each were stored.
pub fn store(
    EmbeddingTarget { store: vectors, users: with_users }: EmbeddingTarget<'_>,
    version: &str,
    training: &TrainingRows,
    model: &IalsModel,
    titles: &[(&str, &str)],
    settings: &TrainingSettings,
) -> Result<(u64, u64), TrainError> {
    let dim = model.settings.dim;
    let has_direction = |vector: &[f32]| vector.iter().all(|x| x.is_finite()) && vector.iter().any(|x| *x != 0.0);
    let mut users_of = vec![0_usize; training.index.len()];
    for row in training.matrix.rows() {
        row.items.iter().for_each(|item| users_of[*item as usize] += 1);
    }
    let items: Vec<VectorRecord> = training
        .index
        .ids()
        .iter()
        .zip(model.item_factors.chunks_exact(dim))
        .enumerate()
        .filter(|(item, (_, vector))| users_of[*item] >= settings.embedding_users_min && has_direction(vector))
        .map(|(item, (id, vector))| {
            let mut metadata = Metadata::new();
            let (title, category) = titles.get(item).copied().unwrap_or_default();
            for (name, text) in [("title", title), ("category", category)] {
                if !text.is_empty() {
                    metadata.insert(name.to_owned(), text.into());
                }
            }
            VectorRecord { id: id.clone(), vector: vector.to_vec(), metadata }
        })
        .collect();
    let users: Vec<VectorRecord> = training
        .keys
        .iter()
        .zip(model.user_factors.chunks_exact(dim))
        .enumerate()
        .filter(|(_, (_, vector))| with_users && has_direction(vector))
        .filter_map(|(row, (key, vector))| match key {
            HistoryKey::User(user) => {
                let mut metadata = Metadata::new();
                metadata.insert("items".to_owned(), training.matrix.row(row).len().into());
                Some(VectorRecord { id: user.to_string(), vector: vector.to_vec(), metadata })
            }
            HistoryKey::Session(_) => None,
        })
        .collect();
    for (name, records) in [(ITEMS, &items), (USERS, &users)] {
        let collection = Collection::new(name, version)?;
        if vectors.count(collection)? != records.len() as u64 {
            vectors.drop_version(collection)?;
            vectors.upsert(collection, records)?;
        }
    }
    Ok((items.len() as u64, users.len() as u64))
}

/// Drops versions until at most `kept` are left, never one of `in_use`. Versions are digests and have no order, so which of
/// the others stay is arbitrary.
pub fn drop_old(vectors: &dyn VectorStore, in_use: &[&str], kept: usize) -> Result<(), TrainError> {
    for name in [ITEMS, USERS] {
        let versions = vectors.versions(name)?;
        let others: Vec<&String> = versions.iter().filter(|version| !in_use.contains(&version.as_str())).collect();
        let surplus = versions.len().saturating_sub(kept.max(1)).min(others.len());
        for version in &others[..surplus] {
            vectors.drop_version(Collection::new(name, version)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use anabranch_stores::vectors::ExactVectors;

    use super::*;

    #[test]
    fn versions_in_use_stay_whatever_their_digests() {
        let vectors = ExactVectors::new();
        let record = VectorRecord { id: "i".to_owned(), vector: vec![1.0], metadata: Metadata::new() };
        for version in ["a", "b", "c", "d"] {
            vectors.upsert(Collection::new(ITEMS, version).unwrap(), std::slice::from_ref(&record)).unwrap();
        }
        // "d" is new and not promoted, "a" is what serves: it sorts first and would go first.
        drop_old(&vectors, &["d", "a"], 2).unwrap();
        assert_eq!(vectors.versions(ITEMS).unwrap(), ["a", "d"]);
        drop_old(&vectors, &["d", "a"], 1).unwrap();
        assert_eq!(vectors.versions(ITEMS).unwrap(), ["a", "d"]);
        drop_old(&vectors, &["d"], 0).unwrap();
        assert_eq!(vectors.versions(ITEMS).unwrap(), ["d"]);
    }
}
