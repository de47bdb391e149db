//! Small random data for the tests of this crate.
#![allow(clippy::unwrap_used)]

use crate::Interactions;
use std::collections::BTreeMap;

/// A fixed stream of words.
pub(crate) struct Words(u64);

impl Words {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
}

/// Rows of up to `length` entries (some empty), with weights from 0.25 to 4.
pub(crate) fn random_interactions(users: usize, items: usize, length: usize, seed: u64) -> Interactions {
    let mut words = Words::new(seed);
    let rows = (0..users).map(|_| {
        let count = words.next() as usize % (length + 1);
        (0..count)
            .map(|_| {
                // The product of two uniform numbers makes low indices popular.
                let item = (words.next() % items as u64) * (words.next() % items as u64) / items as u64;
                (item as u32, (words.next() % 16 + 1) as f32 / 4.0)
            })
            .collect::<BTreeMap<u32, f32>>()
    });
    Interactions::from_rows(items, rows).unwrap()
}

/// Ids whose byte order is their index order.
pub(crate) fn ids(count: usize) -> Vec<String> {
    (0..count).map(|item| format!("item-{item:05}")).collect()
}

/// A trained model of random data as a snapshot file, with its interactions.
pub(crate) fn small_snapshot(blend: crate::Blend, catalogue: bool) -> (Vec<u8>, Interactions) {
    let (items, dim) = (37, 5);
    let matrix = random_interactions(50, items, 9, 11);
    let names = ids(items);
    let ids: Vec<&str> = names.iter().map(String::as_str).collect();
    let ials = crate::ials::IalsSettings { dim, iterations: 3, ..Default::default() };
    let model = crate::ials::train(crate::Kernels::best(), &matrix, &ids, &ials, |_| {}).unwrap();
    let settings = crate::NeighboursSettings { count: 6, ..Default::default() };
    let titles: Vec<&str> = (0..items).map(|item| if item % 3 == 0 { "" } else { "Crème brûlée" }).collect();
    let bytes = crate::snapshot::SnapshotContents {
        meta: &crate::SnapshotMeta {
            version: "v1".into(),
            created_ms: 1_700_000_000_000,
            as_of_ms: 1_699_999_999_999,
            ials,
            neighbours: settings,
            blend,
            trend: crate::TrendSettings::default(),
            user_count: 50,
            item_count: items as u64,
            interaction_count: matrix.len() as u64,
            event_settings: serde_json::json!({"half_life_days": 30}),
            metrics: BTreeMap::from([("recall@20".to_owned(), 0.1 + 0.2)]),
        },
        item_ids: &ids,
        item_hashes: &(0..items as u64).map(|item| item.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect::<Vec<_>>(),
        item_factors: &model.item_factors,
        item_gramian: &model.item_gramian,
        neighbours: &crate::neighbours(&matrix, &settings).unwrap(),
        popularity: &crate::popularity(&matrix),
        trend: &(0..items).map(|item| 0.75 + (item % 5) as f32 / 8.0).collect::<Vec<_>>(),
        catalogue: catalogue.then_some(crate::snapshot::Catalogue { titles: &titles, categories: &titles }),
    }
    .to_bytes()
    .unwrap();
    (bytes, matrix)
}
