#![allow(clippy::unwrap_used)]

use super::{Catalogue, FORMAT_VERSION, OpenError, Snapshot, SnapshotContents, WriteError};
use crate::testing::{Words, small_snapshot};
use crate::{Blend, Neighbours};
use xxhash_rust::xxh3::xxh3_64;

/// Contents with nothing trained, so that their bytes are fixed by the format alone.
fn fixed(change: impl Fn(&mut SnapshotContents<'_>)) -> Result<Vec<u8>, WriteError> {
    let meta = serde_json::from_str(
        r#"{"version":"golden","created_ms":1,"as_of_ms":2,"ials":{"dim":2},"neighbours":{},"blend":{},
            "user_count":3,"item_count":3,"interaction_count":4,"event_settings":null}"#,
    )
    .unwrap();
    let neighbours = Neighbours { offsets: vec![0, 1, 1, 3], items: vec![2, 0, 1], scores: vec![0.5, 0.5, 0.25] };
    let mut contents = SnapshotContents {
        meta: &meta,
        item_ids: &["a", "b", "é"],
        item_hashes: &[30, 10, 20],
        item_factors: &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        item_gramian: &[35.0, 44.0, 44.0, 56.0],
        neighbours: &neighbours,
        popularity: &[4.0, 0.0, 1.5],
        trend: &[1.0, 0.5, 2.0],
        catalogue: Some(Catalogue { titles: &["Ä", "", "c"], categories: &["", "x", "y"] }),
    };
    change(&mut contents);
    contents.to_bytes()
}

#[test]
fn the_layout_has_its_golden_digest() {
    let bytes = fixed(|_| {}).unwrap();
    assert_eq!(&bytes[..8], b"ANBRSNAP");
    assert_eq!(bytes[8..16], [2, 0, 0, 0, 16, 0, 0, 0]);
    assert_eq!(bytes[16..24], (bytes.len() as u64).to_le_bytes());
    // The sections after the meta data (whose defaults may change) are fixed by the format: a change of this digest
    // is a change of the format and needs a new version.
    let snapshot = Snapshot::from_bytes(&bytes).unwrap();
    let from = u64::from_le_bytes(bytes[32 + 32 + 8..][..8].try_into().unwrap()) as usize;
    assert_eq!(format!("{:016x} {}", xxh3_64(&bytes[from..]), bytes.len() - from), GOLDEN);
    assert_eq!(snapshot.meta().version, "golden");
}
const GOLDEN: &str = "e0ea02df012e3d70 962";

#[test]
fn everything_written_is_read_back() {
    let bytes = fixed(|_| {}).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    std::fs::write(&path, &bytes).unwrap();
    for snapshot in [Snapshot::from_bytes(&bytes).unwrap(), Snapshot::open(&path).unwrap()] {
        assert_eq!((snapshot.item_count(), snapshot.dim()), (3, 2));
        for (index, id) in ["a", "b", "é"].into_iter().enumerate() {
            assert_eq!(snapshot.item_id(index as u32), id);
            assert_eq!(snapshot.item_index(id), Some(index as u32));
        }
        assert_eq!(snapshot.item_index("aa"), None);
        assert_eq!([10, 20, 30, 31].map(|hash| snapshot.item_index_by_hash(hash)), [Some(1), Some(2), Some(0), None]);
        let mut row = [0.0; 2];
        snapshot.item_factors().copy_row(2, &mut row);
        assert_eq!(row.map(f32::to_bits), [5.0_f32, 6.0].map(f32::to_bits));
        assert_eq!(snapshot.item_gramian(), [35.0, 44.0, 44.0, 56.0]);
        assert_eq!(snapshot.neighbours(0), (&[2][..], &[0.5][..]));
        assert_eq!(snapshot.neighbours(1), (&[][..], &[][..]));
        assert_eq!(snapshot.neighbours(2), (&[0, 1][..], &[0.5, 0.25][..]));
        assert_eq!(snapshot.popularity(), [4.0, 0.0, 1.5]);
        assert_eq!([0, 1, 2].map(|item| snapshot.item_title(item)), [Some("Ä"), None, Some("c")]);
        assert_eq!([0, 1, 2].map(|item| snapshot.item_category(item)), [None, Some("x"), Some("y")]);
    }
    let plain = Snapshot::from_bytes(&fixed(|c| c.catalogue = None).unwrap()).unwrap();
    assert_eq!((plain.item_title(0), plain.item_category(2)), (None, None));
}

#[test]
fn settings_survive_the_file_bit_for_bit() {
    let (bytes, _) = small_snapshot(Blend { neighbours: 0.1 + 0.2, ..Blend::default() }, true);
    let meta = Snapshot::from_bytes(&bytes).unwrap().meta().clone();
    assert_eq!(meta.metrics["recall@20"].to_bits(), (0.1_f64 + 0.2).to_bits());
    assert_eq!(meta.blend.neighbours.to_bits(), (0.1_f32 + 0.2).to_bits());
    assert_eq!(meta.event_settings["half_life_days"], 30);
}

#[test]
fn every_flipped_byte_is_detected() {
    let good = fixed(|_| {}).unwrap();
    for position in 0..good.len() {
        for flip in [1, 0x80, 0xFF] {
            let mut bytes = good.clone();
            bytes[position] ^= flip;
            assert!(Snapshot::from_bytes(&bytes).is_err(), "byte {position} ^ {flip}");
        }
    }
}

#[test]
fn every_length_but_the_right_one_is_refused() {
    let good = fixed(|_| {}).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for length in 0..good.len() {
        let error = Snapshot::from_bytes(&good[..length]).unwrap_err();
        let expected = if length == 0 { "NotASnapshot" } else { "Truncated" };
        assert!(format!("{error:?}").starts_with(expected), "{length}: {error:?}");
    }
    let path = folder.path().join("empty");
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(Snapshot::open(&path), Err(OpenError::NotASnapshot)));
    let longer = [good.as_slice(), &[0]].concat();
    assert!(matches!(Snapshot::from_bytes(&longer), Err(OpenError::Corrupt { section: "header" })));
}

#[test]
fn other_files_and_other_versions_say_what_they_are() {
    let good = fixed(|_| {}).unwrap();
    assert!(matches!(Snapshot::from_bytes(b"PK\x03\x04 and more"), Err(OpenError::NotASnapshot)));
    let with_version = |version: u32| {
        let mut bytes = good.clone();
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        Snapshot::from_bytes(&bytes).unwrap_err()
    };
    // A later writer may change everything after the version: nothing else may be looked at first.
    let OpenError::NewerVersion { found: 3, supported: FORMAT_VERSION } = with_version(3) else { panic!() };
    for old in [0, 1] {
        let OpenError::OlderVersion { supported: FORMAT_VERSION, .. } = with_version(old) else { panic!() };
    }
    assert!(matches!(Snapshot::open(std::path::Path::new("/nowhere/at/all")), Err(OpenError::Io(_))));
}

/// Damage with a repaired checksum, as a faulty writer would make it: bounds and orders are checked on their own.
#[test]
fn random_damage_under_a_valid_checksum_never_panics() {
    let good = fixed(|_| {}).unwrap();
    let mut words = Words::new(99);
    let (mut refused, rounds) = (0, 3000);
    for _ in 0..rounds {
        let mut bytes = good.clone();
        let section = words.next() as usize % 16;
        let entry = 32 + section * 32;
        let field = |at: usize| u64::from_le_bytes(good[entry + at..][..8].try_into().unwrap()) as usize;
        let (offset, length) = (field(8), field(16));
        if length == 0 {
            continue;
        }
        for _ in 0..=words.next() % 3 {
            bytes[offset + words.next() as usize % length] = words.next() as u8;
        }
        let sum = xxh3_64(&bytes[offset..offset + length]);
        bytes[entry + 24..entry + 32].copy_from_slice(&sum.to_le_bytes());
        let table = 32 + 15 * 32;
        let sum = xxh3_64(&bytes[..table]);
        bytes[table..table + 8].copy_from_slice(&sum.to_le_bytes());
        match Snapshot::from_bytes(&bytes) {
            Err(_) => refused += 1,
            Ok(snapshot) => {
                for item in 0..snapshot.item_count() as u32 {
                    let _ = (snapshot.item_id(item), snapshot.item_title(item), snapshot.item_category(item));
                    let (neighbours, scores) = snapshot.neighbours(item);
                    assert!(neighbours.iter().all(|n| *n < 3) && scores.len() == neighbours.len());
                }
                let _ = (snapshot.item_index("b"), snapshot.item_index_by_hash(10));
            }
        }
    }
    assert!(refused > rounds / 4, "only {refused} refused");
}

#[test]
fn contents_that_do_not_fit_are_refused_by_the_writer() {
    let error = |change: fn(&mut SnapshotContents<'_>)| format!("{:?}", fixed(change).unwrap_err());
    assert!(error(|c| c.item_ids = &["b", "a", "c"]).starts_with("IdOrder { position: 1"));
    assert!(error(|c| c.item_ids = &["", "a", "c"]).starts_with("IdOrder { position: 0"));
    assert!(error(|c| c.item_ids = &[]).starts_with("NoItems"));
    assert_eq!(error(|c| c.item_hashes = &[7, 8, 7]), r#"DuplicateHash { hash: 7, first: "a", second: "é" }"#);
    assert!(error(|c| c.popularity = &[1.0]).contains("popularity"));
    assert!(error(|c| c.popularity = &[1.0, -1.0, 0.0]).contains("item: 1"));
    assert!(error(|c| c.item_factors = &[0.0; 5]).contains("item factors"));
    assert!(error(|c| c.item_factors = &[0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0]).contains("NotFinite { row: 1 }"));
    assert!(error(|c| c.item_gramian = &[f64::NAN; 4]).contains("gramian"));
}
