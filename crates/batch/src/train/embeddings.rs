//! Item and user factors into the vector database, under the model's version, so that a search never mixes models.

use anabranch_events::HistoryKey;
use anabranch_models::ials::IalsModel;
use anabranch_stores::vectors::{Collection, Metadata, VectorRecord, VectorStore};

use super::rows::TrainingRows;
use super::{TrainError, TrainingSettings};

/// Name of the item collection.
pub const ITEMS: &str = "items";
/// Name of the user collection.
pub const USERS: &str = "users";

/// Stores both collections and drops those of versions beyond the newest few. Vectors without a direction (an item
/// whose factors vanished) are left out, cosine has no meaning for them; so are items that too few users touched. Returns how many of each were stored.
pub fn store(
    vectors: &dyn VectorStore,
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
        .filter(|(_, (_, vector))| has_direction(vector))
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
    forget_old(vectors, version, settings.embedding_versions_kept)?;
    Ok((items.len() as u64, users.len() as u64))
}

/// Versions are digests and have no order, so the store's other versions are kept only as far as the settings allow.
fn forget_old(vectors: &dyn VectorStore, current: &str, kept: usize) -> Result<(), TrainError> {
    for name in [ITEMS, USERS] {
        let others: Vec<String> = vectors.versions(name)?.into_iter().filter(|version| version != current).collect();
        let surplus = (others.len() + 1).saturating_sub(kept.max(1));
        for version in others.iter().take(surplus) {
            vectors.drop_version(Collection::new(name, version)?)?;
        }
    }
    Ok(())
}
