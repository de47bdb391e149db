use super::{Values, bits, gamma, others, scalar};
use crate::{
    BlockedFactors, BlockedView, Items, K_MAX, Kernels, LANES, Norms, Query, Scale, Scan, ScanBuffers, ScoreError,
    Scored, ShapeError, TopK, dot,
};
use proptest::prelude::*;

fn plain(user: &[f32], rows: &[f32], starts: Option<&[f32]>) -> Vec<f32> {
    let start = |item: usize| starts.map_or(0.0, |starts| starts[item]);
    rows.chunks_exact(user.len()).enumerate().map(|(item, row)| dot(start(item), user, row)).collect()
}

fn plainly<'a>(factors: BlockedView<'a>, norms: &'a Norms) -> Items<'a> {
    Items { factors, rows: None, norms, scale: None }
}

/// One batch after the other, as long as the kernels take.
fn lists(kernels: Kernels, items: Items<'_>, queries: &[Query<'_>]) -> Vec<Vec<Scored>> {
    let mut buffers = ScanBuffers::default();
    let mut scan = kernels.scan(items, &mut buffers).unwrap();
    let mut lists = Vec::new();
    for batch in queries.chunks(Scan::USERS_MAX) {
        for query in batch {
            scan.add(*query).unwrap();
        }
        lists.extend(scan.lists());
    }
    lists
}

/// Starts, padded to whole blocks with what must not matter, and excluded items taken out.
fn padded(starts: &[f32], exclude: &[u32]) -> Vec<f32> {
    let mut starts = starts.to_vec();
    for item in exclude {
        starts[*item as usize] = f32::NAN;
    }
    starts.resize(starts.len().next_multiple_of(LANES), f32::INFINITY);
    starts
}

fn sorted_list(scores: &[f32], exclude: &[u32], k: usize) -> Vec<Scored> {
    let mut list: Vec<Scored> = (0_u32..)
        .zip(scores)
        .filter(|(item, _)| !exclude.contains(item))
        .filter_map(|(item, score)| Scored::new(item, *score))
        .collect();
    list.sort_unstable();
    list.truncate(k);
    list
}

#[test]
fn every_length_and_start_gives_the_bits_of_the_plain_chain() {
    let all: Vec<_> = others().into_iter().chain([scalar()]).collect();
    for dim in 1..=2 * LANES + 1 {
        for items in 0..=2 * LANES + 1 {
            let mut values = Values::new((dim * 100 + items) as u64);
            let rows = values.vec(items * dim);
            let user = values.vec(dim);
            let factors = BlockedFactors::from_rows(&rows, items, dim).unwrap();
            let padded_items = factors.view().padded_items();
            let seeds = values.vec(padded_items);
            // The same blocks at an address that is not a multiple of 16, 32 or 64 bytes.
            let mut moved = vec![0.0; 1 + padded_items * dim];
            moved[1..].copy_from_slice(factors.view().values());
            let moved = BlockedView::new(&moved[1..], items, dim).unwrap();
            for start in [None, Some(seeds.as_slice())] {
                let expected = plain(&user, &rows, start);
                for kernels in &all {
                    for view in [factors.view(), moved] {
                        let mut out = start.map_or_else(|| vec![0.0; padded_items], <[f32]>::to_vec);
                        kernels.scores(view, &user, &mut out).unwrap();
                        assert_eq!(bits(&out[..items]), bits(&expected), "{kernels:?} {items} × {dim}");
                        let starts =
                            padded(&start.map_or_else(|| vec![0.0; items], |start| start[..items].to_vec()), &[]);
                        let query = Query { user: &user, starts: &starts, k: 7 };
                        let lists = lists(*kernels, plainly(view, &Norms::of(view)), &[query]);
                        assert_eq!(lists[0], sorted_list(&expected, &[], 7), "{kernels:?} {items} × {dim}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_batch_of_any_size_gives_each_query_its_own_answer() {
    let (items, dim) = (1003, 19);
    let mut values = Values::new(5);
    let rows = values.vec(items * dim);
    let factors = BlockedFactors::from_rows(&rows, items, dim).unwrap();
    let users: Vec<Vec<f32>> = (0..75).map(|_| values.vec(dim)).collect();
    let exclude: Vec<Vec<u32>> =
        (0..75_u32).map(|u| (0..items as u32).filter(|i| (i + u) % 5 == 0).collect()).collect();
    let k = |u: usize| [0, 1, 20, 100, 1000][u % 5];
    let starts: Vec<Vec<f32>> = exclude.iter().map(|exclude| padded(&vec![0.0; items], exclude)).collect();
    let queries: Vec<Query<'_>> = (0..75).map(|u| Query { user: &users[u], starts: &starts[u], k: k(u) }).collect();
    let expected: Vec<Vec<Scored>> =
        (0..75).map(|u| sorted_list(&plain(&users[u], &rows, None), &exclude[u], k(u))).collect();
    let norms = Norms::of(factors.view());
    for kernels in others().into_iter().chain([scalar()]) {
        for size in (1..=2 * LANES + 1).chain([75]) {
            let items = plainly(factors.view(), &norms);
            let lists: Vec<_> = queries.chunks(size).flat_map(|batch| lists(kernels, items, batch)).collect();
            assert!(lists == expected, "{kernels:?}, batches of {size}");
        }
    }
}

#[test]
fn a_batch_has_room_for_so_many_and_is_empty_after_its_lists() {
    let factors = BlockedFactors::from_rows(&[1.0, 2.0, 3.0], 3, 1).unwrap();
    let norms = Norms::of(factors.view());
    let mut buffers = ScanBuffers::default();
    let mut scan = scalar().scan(plainly(factors.view(), &norms), &mut buffers).unwrap();
    let query = Query { user: &[1.0], starts: &[0.0; 16], k: 1 };
    for _ in 0..2 {
        (0..Scan::USERS_MAX).for_each(|_| scan.add(query).unwrap());
        assert_eq!(scan.add(query), Err(ScoreError::Full));
        let lists = scan.lists();
        assert_eq!(lists, vec![vec![Scored::new(2, 3.0).unwrap()]; Scan::USERS_MAX]);
        assert!(scan.lists().is_empty());
    }
    // What a scan that nobody finished left behind is gone.
    scan.add(query).unwrap();
    let mut scan = scalar().scan(plainly(factors.view(), &norms), &mut buffers).unwrap();
    assert!(scan.lists().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Few values, so that scores tie with each other and with the bounds; great ones, so that whole panels are passed
    /// over or bounds overflow.
    #[test]
    fn what_is_passed_over_is_not_in_the_list(
        seed in any::<u64>(),
        items in 1_usize..1500,
        dim in 1_usize..9,
        k in 0_usize..40,
        scales in proptest::array::uniform3(proptest::sample::select(vec![0.0_f32, 1e-30, 0.01, 1.0, 100.0, 1e30])),
        density in 1_usize..60,
        is_based in any::<bool>(),
        is_scaled in any::<bool>(),
    ) {
        let mut values = Values::new(seed);
        let mut few = |scale: f32| (values.next() * 3.0).round() * scale;
        let rows: Vec<f32> = (0..items * dim).map(|_| few(scales[0])).collect();
        let users: Vec<Vec<f32>> = (0..7).map(|_| (0..dim).map(|_| few(scales[1])).collect()).collect();
        let base: Vec<f32> = (0..items).map(|_| if is_based { few(scales[2]) } else { 0.0 }).collect();
        let starts: Vec<Vec<f32>> = (0..7)
            .map(|u| {
                let mut starts = base.clone();
                (u..items).step_by(density + u).for_each(|i| starts[i] = few(scales[2]) * 3.0);
                starts
            })
            .collect();
        let exclude: Vec<u32> = (0..items as u32).filter(|i| (i * 7) % 11 < 3).collect();
        let padded: Vec<Vec<f32>> = starts.iter().map(|starts| padded(starts, &exclude)).collect();
        let queries: Vec<Query<'_>> =
            (0..7).map(|u| Query { user: &users[u], starts: &padded[u], k }).collect();
        let factors = BlockedFactors::from_rows(&rows, items, dim).unwrap();
        let norms = Norms::of(factors.view());
        let scales: Vec<f32> = (0..items).map(|_| if is_scaled { 0.5 + values.next().abs() } else { 1.0 }).collect();
        let scale = Scale::new(&scales).unwrap();
        let scored = Items { scale: is_scaled.then_some(&scale), ..plainly(factors.view(), &norms) };
        let expected: Vec<Vec<Scored>> = (0..7)
            .map(|u| {
                let mut scores = plain(&users[u], &rows, Some(&starts[u]));
                scores.iter_mut().zip(&scales).for_each(|(score, scale)| *score *= scale);
                sorted_list(&scores, &exclude, k)
            })
            .collect();
        for kernels in others().into_iter().chain([scalar()]) {
            prop_assert!(lists(kernels, scored, &queries) == expected, "{:?}", kernels);
            let copied = Items { rows: Some(&rows), ..scored };
            prop_assert!(lists(kernels, copied, &queries) == expected, "{:?}, few items by their rows", kernels);
        }
    }
}

#[test]
fn the_chain_is_within_its_derived_bound_of_the_exact_sum() {
    for dim in [1, 7, 64, 333, 1024] {
        let mut values = Values::new(dim as u64);
        let (user, item, start) = (values.vec(dim), values.vec(dim), values.next());
        let products = || user.iter().zip(&item).map(|(a, b)| f64::from(*a) * f64::from(*b));
        let exact = f64::from(start) + products().sum::<f64>();
        let magnitude = f64::from(start.abs()) + products().map(f64::abs).sum::<f64>();
        let error = (f64::from(dot(start, &user, &item)) - exact).abs();
        assert!(error <= gamma(dim) * magnitude, "{dim}: {error}");
    }
}

#[test]
fn ties_go_to_the_lower_index_and_zero_has_one_sign() {
    let rows = [0.0, -0.0, 1.0, 1.0, 0.0, -1.0];
    let factors = BlockedFactors::from_rows(&rows, 6, 1).unwrap();
    let norms = Norms::of(factors.view());
    let query = Query { user: &[1.0], starts: &[0.0; 16], k: 5 };
    for kernels in others().into_iter().chain([scalar()]) {
        let order = |query| {
            let list = lists(kernels, plainly(factors.view(), &norms), &[query]).remove(0);
            list.iter().map(Scored::item).collect::<Vec<_>>()
        };
        assert_eq!(order(query), [2, 3, 0, 1, 4]);
        assert_eq!(order(Query { user: &[-1.0], ..query }), [5, 0, 1, 4, 2]);
    }
}

#[test]
fn scores_that_overflow_keep_their_order_and_a_nan_seed_never_enters() {
    let rows: Vec<f32> = (0..20).map(|i| if i % 3 == 0 { f32::MAX } else { -f32::MAX }).collect();
    let factors = BlockedFactors::from_rows(&rows, 20, 1).unwrap();
    let starts = padded(&[0.0; 20], &[3]);
    let norms = Norms::of(factors.view());
    for kernels in others().into_iter().chain([scalar()]) {
        let query = Query { user: &[2.0], starts: &starts, k: 20 };
        let list = lists(kernels, plainly(factors.view(), &norms), &[query]).remove(0);
        let order: Vec<u32> = list.iter().map(Scored::item).collect();
        assert_eq!(order, [0, 6, 9, 12, 15, 18, 1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16, 17, 19]);
        assert!(list[0].score().is_infinite());
        let short = lists(kernels, plainly(factors.view(), &norms), &[Query { k: 2, ..query }]).remove(0);
        assert_eq!(short.iter().map(Scored::item).collect::<Vec<_>>(), [0, 6]);
        // A start of −∞ is a score like any other.
        let mut last = starts.clone();
        last[7] = f32::NEG_INFINITY;
        let query = Query { user: &[0.0], starts: &last, k: 20 };
        let list = lists(kernels, plainly(factors.view(), &norms), &[query]).remove(0);
        assert_eq!(list.last().map(Scored::item), Some(7));
    }
}

#[test]
fn what_cannot_be_scored_is_refused_with_its_place() {
    let factors = BlockedFactors::from_rows(&[1.0; 6], 3, 2).unwrap();
    let norms = Norms::of(factors.view());
    let good = Query { user: &[1.0, 2.0], starts: &[0.0; 16], k: 1 };
    let mut buffers = ScanBuffers::default();
    let mut scan = scalar().scan(plainly(factors.view(), &norms), &mut buffers).unwrap();
    let mut ask = |query| scan.add(query).unwrap_err();
    assert_eq!(ask(Query { user: &[1.0], ..good }), ScoreError::Dimensions { expected: 2, found: 1 });
    assert_eq!(ask(Query { user: &[1.0, f32::NAN], ..good }), ScoreError::NotFinite);
    assert_eq!(ask(Query { starts: &[0.0; 3], ..good }), ScoreError::Starts { expected: 16, found: 3 });
    assert_eq!(ask(Query { k: K_MAX + 1, ..good }), ScoreError::TooMany { k: K_MAX + 1 });
    assert!(scan.lists().is_empty(), "who was refused has no list");
    let others = Norms::of(BlockedFactors::from_rows(&[1.0; 6], 2, 3).unwrap().view());
    let mut refused = |items| scalar().scan(items, &mut buffers).map(drop);
    assert_eq!(refused(plainly(factors.view(), &others)), Err(ScoreError::Items));
    let scale = Scale::new(&[1.0; 4]).unwrap();
    assert_eq!(refused(Items { scale: Some(&scale), ..plainly(factors.view(), &norms) }), Err(ScoreError::Items));
    assert_eq!(refused(Items { rows: Some(&[1.0]), ..plainly(factors.view(), &norms) }), Err(ScoreError::Items));
    assert_eq!(Scale::new(&[1.0, 0.0]), Err(ShapeError::NotFinite { row: 1 }));
    assert_eq!(BlockedFactors::from_rows(&[1.0, 2.0, f32::INFINITY, 0.0], 2, 2), Err(ShapeError::NotFinite { row: 1 }));
    assert_eq!(BlockedFactors::from_rows(&[], 0, 1025), Err(ShapeError::Dimensions { dim: 1025 }));
    let blocks = [0.0, 0.0, f32::NAN].into_iter().chain([0.0; 29]).collect::<Vec<f32>>();
    assert_eq!(BlockedView::new(&blocks, 5, 2).unwrap().first_not_finite(), Some(2));
}

proptest! {
    #[test]
    fn top_k_is_the_head_of_the_sorted_scores(
        scores in proptest::collection::vec(prop_oneof![Just(0.0_f32), Just(-0.0), -2.0_f32..2.0, Just(f32::INFINITY)], 0..200),
        k in 0_usize..50,
    ) {
        let mut best = TopK::new(k);
        for (item, score) in (0_u32..).zip(&scores) {
            best.offer(item, *score);
        }
        prop_assert_eq!(best.into_sorted(), sorted_list(&scores, &[], k));
    }
}
