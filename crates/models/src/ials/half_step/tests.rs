#![allow(clippy::unwrap_used)]
use super::{BlockedHalfStep, HalfStepError, half_step, initial_factors};
use crate::Interactions;
use crate::ials::{FoldIn, IalsModel, IalsSettings, train};
use crate::interactions::SparseRows;
use crate::testing::{Words, ids, random_interactions};
use anabranch_kernels::{
    GRAMIAN_BLOCKS_PER_GROUP, GRAMIAN_ROWS_PER_BLOCK, Kernels, gramian, gramian_blocks, gramian_sums,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn settings(dim: usize) -> IalsSettings {
    IalsSettings { dim, iterations: 3, frequency_exponent: 0.7, regularisation: 0.02, ..IalsSettings::default() }
}

/// Cuts `0..len` at random places.
fn cuts(len: usize, words: &mut Words) -> Vec<(usize, usize)> {
    let mut cuts: Vec<usize> = (0..words.next() % 5).map(|_| words.next() as usize % (len + 1)).collect();
    cuts.extend([0, len]);
    cuts.sort_unstable();
    cuts.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// A half-step by many: each part of the rows with only the factors that it names, in ascending order.
fn gathered(fold_in: &FoldIn, rows: &Interactions, fixed: &[f32], words: &mut Words) -> Vec<f32> {
    let dim = fold_in.dim();
    let mut out = Vec::new();
    for (from, to) in cuts(rows.users(), words) {
        let named: BTreeMap<u32, u32> = (from..to)
            .flat_map(|row| rows.row(row).items)
            .copied()
            .collect::<std::collections::BTreeSet<u32>>()
            .into_iter()
            .zip(0..)
            .collect();
        let factors: Vec<f32> = named.keys().flat_map(|item| &fixed[*item as usize * dim..][..dim]).copied().collect();
        let local = Interactions::from_rows(
            named.len(),
            (from..to).map(|row| rows.row(row).entries().map(|(item, weight)| (named[&item], weight))),
        )
        .unwrap();
        let mut part = vec![0.0; (to - from) * dim];
        half_step(Kernels::best(), fold_in, local.view(), &factors, &mut part).unwrap();
        out.extend(part);
    }
    out
}

/// A half-step over blocks of the other side.
fn by_blocks(fold_in: &FoldIn, rows: &Interactions, fixed: &[f32], words: &mut Words) -> Vec<f32> {
    let dim = fold_in.dim();
    let counts = rows.rows().map(|row| row.len() as u64).collect();
    let mut step = BlockedHalfStep::new(Kernels::best(), fold_in.clone(), counts).unwrap();
    for (from, to) in cuts(rows.items(), words) {
        let inside = Interactions::from_rows(
            to - from,
            rows.rows().map(|row| {
                row.entries()
                    .filter(move |(item, _)| (from..to).contains(&(*item as usize)))
                    .map(move |(item, weight)| (item - from as u32, weight))
            }),
        )
        .unwrap();
        step.add(inside.view(), &fixed[from * dim..to * dim]).unwrap();
    }
    step.finish().unwrap()
}

/// The trainer, told by pieces that are computed apart.
fn distributed(matrix: &Interactions, settings: &IalsSettings, words: &mut Words) -> IalsModel {
    let kernels = Kernels::best();
    let (dim, by_item) = (settings.dim, matrix.transpose().unwrap());
    let gram = |factors: &[f32]| {
        let blocks = gramian_blocks(kernels, factors, dim).unwrap();
        let groups = gramian_sums(&blocks, dim, GRAMIAN_BLOCKS_PER_GROUP).unwrap();
        gramian_sums(&groups, dim, usize::MAX).unwrap()
    };
    let mut items = initial_factors(settings, &ids(matrix.items()));
    let mut step = |rows: &Interactions, fixed: &[f32]| {
        let fold_in = FoldIn::new(settings, &gram(fixed), fixed.len() / dim).unwrap();
        if words.next().is_multiple_of(2) {
            gathered(&fold_in, rows, fixed, words)
        } else {
            by_blocks(&fold_in, rows, fixed, words)
        }
    };
    for _ in 0..settings.iterations {
        let users = step(matrix, &items);
        items = step(&by_item, &users);
    }
    let users = step(matrix, &items);
    IalsModel { settings: *settings, user_factors: users, item_gramian: gram(&items), item_factors: items }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_partition_gives_the_trainers_bits(seed in 0_u64..1 << 40, dim in 1_usize..20) {
        let mut words = Words::new(seed);
        let matrix = random_interactions(3 + words.next() as usize % 120, 2 + words.next() as usize % 40, 12, seed);
        prop_assume!(!matrix.is_empty());
        let settings = settings(dim);
        let local = train(Kernels::best(), &matrix, &ids(matrix.items()), &settings, |_| {}).unwrap();
        prop_assert!(distributed(&matrix, &settings, &mut words) == local);
    }
}

#[test]
fn a_gramian_of_groups_is_the_gramian() {
    let dim = 3;
    let rows = GRAMIAN_ROWS_PER_BLOCK * (2 * GRAMIAN_BLOCKS_PER_GROUP + 5) + 77;
    let mut words = Words::new(5);
    let factors: Vec<f32> = (0..rows * dim).map(|_| (words.next() % 2001) as f32 / 1000.0 - 1.0).collect();
    let kernels = Kernels::best();
    let whole = gramian(kernels, &factors, dim).unwrap();
    // Three holders: one group, one group, the rest; each sends its groups only.
    let group = GRAMIAN_ROWS_PER_BLOCK * GRAMIAN_BLOCKS_PER_GROUP * dim;
    let groups: Vec<f64> = [&factors[..group], &factors[group..2 * group], &factors[2 * group..]]
        .into_iter()
        .flat_map(|part| {
            let blocks = gramian_blocks(kernels, part, dim).unwrap();
            gramian_sums(&blocks, dim, GRAMIAN_BLOCKS_PER_GROUP).unwrap()
        })
        .collect();
    assert_eq!(groups.len(), 3 * dim * dim);
    assert_eq!(gramian_sums(&groups, dim, usize::MAX).unwrap(), whole);
    assert!(gramian_sums(&groups[1..], dim, 2).is_err());
    assert!(gramian_blocks(kernels, &factors[1..], dim).is_err());
}

#[test]
fn wrong_shapes_and_counts_are_refused() {
    let settings = settings(2);
    let fold_in = FoldIn::new(&settings, &[1.0, 0.0, 0.0, 1.0], 3).unwrap();
    let rows = SparseRows::new(3, &[0, 2, 3], &[0, 2, 1], &[1.0; 3]).unwrap();
    let kernels = Kernels::best();
    let mut out = vec![0.0; 4];
    assert!(matches!(
        half_step(kernels, &fold_in, rows, &[0.5; 5], &mut out),
        Err(HalfStepError::Length { what: "factors", expected: 6, found: 5, .. })
    ));
    assert!(matches!(
        half_step(kernels, &fold_in, rows, &[0.5; 6], &mut out[..3]),
        Err(HalfStepError::Length { what: "out", .. })
    ));
    let mut step = BlockedHalfStep::new(kernels, fold_in, vec![1, 2]).unwrap();
    let refused = step.add(rows, &[0.5; 6]).unwrap_err();
    assert_eq!(refused, HalfStepError::Entries { row: 0, expected: 1, found: 2 });
    let one = SparseRows::new(1, &[0, 1, 1], &[0], &[1.0]).unwrap();
    step.add(one, &[0.5; 2]).unwrap();
    assert_eq!(step.finish().unwrap_err(), HalfStepError::Entries { row: 1, expected: 2, found: 0 });
    let short = SparseRows::new(1, &[0, 1], &[0], &[1.0]).unwrap();
    assert_eq!(step.add(short, &[0.5; 2]).unwrap_err(), HalfStepError::Rows { expected: 2, found: 1 });
}
