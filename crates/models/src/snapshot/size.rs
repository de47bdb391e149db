//! How long a snapshot is, before anything is trained: the writer's layout as arithmetic, for whoever plans memory.
//!
//! Guarantee: [`SnapshotShape::bytes`] of a file's shape is the file's length to the byte. The test writes files and
//! compares.

use anabranch_kernels::LANES;

use super::layout::{ALIGNMENT, Kind, table_end};

/// What decides a snapshot's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotShape {
    /// Items, `n`.
    pub items: u64,
    /// Dimensions of a factor, `d`.
    pub dim: u64,
    /// Neighbours of all items together.
    pub neighbours: u64,
    /// Bytes of all item ids together.
    pub id_bytes: u64,
    /// Bytes of all titles and of all categories, if there is a catalogue.
    pub catalogue_bytes: Option<(u64, u64)>,
    /// Bytes of the meta data as JSON.
    pub meta_bytes: u64,
}

impl SnapshotShape {
    /// Length of the file. Shapes whose length is beyond 64 bits are as long as 64 bits say.
    pub fn bytes(&self) -> u64 {
        let sections = self.sections();
        sections.iter().fold(table_end(sections.len()) as u64, |end, bytes| {
            let aligned = end.checked_next_multiple_of(ALIGNMENT as u64).unwrap_or(u64::MAX);
            aligned.saturating_add(*bytes)
        })
    }

    /// Bytes of each section, in the order of [`Kind`].
    fn sections(&self) -> Vec<u64> {
        let Self { items, dim, neighbours, id_bytes, catalogue_bytes, meta_bytes } = *self;
        let times = |bytes: u64, count: u64| bytes.saturating_mul(count);
        let offsets = times(8, items.saturating_add(1));
        let lanes = LANES as u64;
        let factors = times(4 * lanes, items.div_ceil(lanes)).saturating_mul(dim);
        let mut sections = vec![
            meta_bytes,
            offsets,
            id_bytes,
            times(8, items),
            times(4, items),
            factors,
            times(8, dim).saturating_mul(dim),
            offsets,
            times(4, neighbours),
            times(4, neighbours),
            times(4, items),
            times(4, items),
        ];
        if let Some((titles, categories)) = catalogue_bytes {
            sections.extend([offsets, titles, offsets, categories]);
        }
        debug_assert!(sections.len() == Kind::REQUIRED || sections.len() == Kind::ALL.len());
        sections
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Neighbours;
    use crate::snapshot::{Catalogue, SnapshotContents, SnapshotMeta};
    use proptest::prelude::*;

    /// A file with these many items, dimensions and neighbours an item, and its shape.
    fn written(items: usize, dim: usize, most: usize, text: Option<usize>) -> (Vec<u8>, SnapshotShape) {
        let meta: SnapshotMeta = serde_json::from_value(serde_json::json!({
            "version": "v", "created_ms": 1, "as_of_ms": 2, "ials": { "dim": dim }, "neighbours": {}, "blend": {},
            "user_count": 3, "item_count": items, "interaction_count": 4, "event_settings": { "quota": 256 },
        }))
        .unwrap();
        let ids: Vec<String> = (0..items).map(|item| format!("{item:05}{}", "x".repeat(item % 7))).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let mut neighbours = Neighbours { offsets: vec![0], ..Neighbours::default() };
        for item in 0..items {
            let count = (item * 5) % (most + 1);
            neighbours.items.extend((0..count).map(|place| ((item + place) % items) as u32));
            neighbours.scores.extend((0..count).map(|_| 0.5));
            neighbours.offsets.push(neighbours.items.len() as u64);
        }
        let text: Option<Vec<String>> =
            text.map(|bytes| (0..items).map(|item| "t".repeat(item % (bytes + 1))).collect());
        let text: Option<Vec<&str>> = text.as_ref().map(|texts| texts.iter().map(String::as_str).collect());
        let contents = SnapshotContents {
            meta: &meta,
            item_ids: &ids,
            item_hashes: &(0..items as u64).collect::<Vec<_>>(),
            item_factors: &vec![0.5; items * dim],
            item_gramian: &vec![1.0; dim * dim],
            neighbours: &neighbours,
            popularity: &vec![1.0; items],
            trend: &vec![1.0; items],
            catalogue: text.as_deref().map(|texts| Catalogue { titles: texts, categories: texts }),
        };
        let text_bytes = text.as_deref().map(|texts| texts.iter().map(|text| text.len() as u64).sum());
        let shape = SnapshotShape {
            items: items as u64,
            dim: dim as u64,
            neighbours: neighbours.items.len() as u64,
            id_bytes: ids.iter().map(|id| id.len() as u64).sum(),
            catalogue_bytes: text_bytes.map(|bytes| (bytes, bytes)),
            meta_bytes: serde_json::to_vec(&meta).unwrap().len() as u64,
        };
        (contents.to_bytes().unwrap(), shape)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn the_formula_is_the_file_to_the_byte(
            items in 1_usize..70, dim in 1_usize..40, most in 0_usize..9, text in prop::option::of(0_usize..30),
        ) {
            let (file, shape) = written(items, dim, most, text);
            prop_assert_eq!(file.len() as u64, shape.bytes());
        }
    }

    /// By hand: 2 items of 2 bytes, 3 dimensions, no neighbours, no catalogue, 100 bytes of meta data. The table ends at
    /// 32 + 12 · 32 + 8 = 424; each section begins at the next multiple of 64.
    #[test]
    fn a_length_by_hand() {
        let shape =
            SnapshotShape { items: 2, dim: 3, neighbours: 0, id_bytes: 4, catalogue_bytes: None, meta_bytes: 100 };
        // meta 448..548; offsets 576..600; ids 640..644; hashes 704..720; items of hashes 768..776; factors 832..1024
        // (one block: 3 · 16 · 4); gramian 1024..1096; neighbour offsets 1152..1176; neighbours 1216, twice empty;
        // popularity 1216..1224; trend 1280..1288.
        assert_eq!(shape.bytes(), 1288);
    }

    #[test]
    fn no_shape_overflows() {
        let most = u64::MAX;
        let shape = SnapshotShape {
            items: most,
            dim: most,
            neighbours: most,
            id_bytes: most,
            catalogue_bytes: Some((most, most)),
            meta_bytes: most,
        };
        assert_eq!(shape.bytes(), u64::MAX);
    }
}
