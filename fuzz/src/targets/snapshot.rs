//! What training leaves: the snapshot, and the registry's records.

use std::sync::Arc;

use anabranch_models::{Hide, Kernels, Model, Query, Recommender, Snapshot};
use anabranch_stores::fuzzing;
use anabranch_stores::registry::Version;

use super::types;
use crate::{Verdict, seal};

/// A snapshot, as it is and sealed. What opens makes lists of known items, best first.
pub(super) fn snapshot(bytes: &[u8]) -> Verdict {
    one_snapshot(bytes).or(one_snapshot(&seal::snapshot(bytes)))
}

fn one_snapshot(bytes: &[u8]) -> Verdict {
    let result = Snapshot::from_bytes(bytes);
    let Ok(snapshot) = result else { return Verdict::of(&result) };
    let snapshot = Arc::new(snapshot);
    let items = snapshot.item_count() as u32;
    for item in 0..items {
        assert_eq!(snapshot.item_index(snapshot.item_id(item)), Some(item));
        let _ = (snapshot.item_title(item), snapshot.item_category(item), snapshot.neighbours(item));
    }
    let recommender = Recommender::new(Arc::clone(&snapshot), Kernels::best());
    let row = [(0, 1.0)];
    let queries = [Query { row: &row, exclude: &[0], k: 5 }, Query { row: &[], exclude: &[], k: 5 }];
    for (query, list) in queries.iter().zip(recommender.recommend(&mut recommender.scratch(), &queries)) {
        match list {
            Err(error) => crate::said(&error.to_string()),
            Ok(list) => {
                assert!(list.len() <= 5);
                assert!(list.iter().all(|scored| scored.item() < items && !query.exclude.contains(&scored.item())));
                // Factors that nobody trained may overflow; what is a number is in order.
                let is_finite = list.iter().all(|scored| scored.score().is_finite());
                let is_sorted = list.iter().zip(list.iter().skip(1)).all(|(a, b)| a.score() >= b.score());
                assert!(is_sorted || !is_finite, "{list:?}");
            }
        }
    }
    let model = Model::new(snapshot, "0123456789abcdef", Kernels::best());
    if let Ok(model) = &model {
        let result = model.check_types(types());
        crate::Verdict::of(&result);
        assert!(model.hidden(&anabranch_events::History::new(), Hide::Seen).is_empty());
    }
    Verdict::of(&model);
    Verdict::Decoded
}

/// A promotion or a manifest of the registry.
pub(super) fn registry_record(bytes: &[u8]) -> Verdict {
    let number = 42;
    let pointer = fuzzing::pointer(number, bytes);
    if let Ok(pointer) = &pointer {
        assert_eq!(fuzzing::pointer(number, &fuzzing::pointer_bytes(pointer)).as_ref(), Ok(pointer));
    }
    let version = Version::parse("0123456789abcdef").expect("sixteen hexadecimal digits");
    let manifest = fuzzing::manifest(&version, bytes);
    if let Ok(manifest) = &manifest {
        assert_eq!(fuzzing::manifest(&version, &fuzzing::manifest_bytes(manifest)).as_ref(), Ok(manifest));
    }
    Verdict::of(&pointer).or(Verdict::of(&manifest))
}
