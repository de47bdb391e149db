use super::{Values, bits, gamma, others, scalar};
use crate::{
    Base, BlockNorms, BlockedFactors, BlockedView, Items, K_MAX, LANES, Query, Scale, ScoreError, Scored, Seed,
    ShapeError, TopK, dot,
};
use proptest::prelude::*;

fn plain(user: &[f32], rows: &[f32], seeds: Option<&[f32]>) -> Vec<f32> {
    let start = |item: usize| seeds.map_or(0.0, |seeds| seeds[item]);
    rows.chunks_exact(user.len()).enumerate().map(|(item, row)| dot(start(item), user, row)).collect()
}

fn plainly<'a>(factors: BlockedView<'a>, norms: &'a BlockNorms) -> Items<'a> {
    Items { factors, norms, scale: None }
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
            let padded = factors.view().padded_items();
            let seeds = values.vec(padded);
            // The same blocks at an address that is not a multiple of 16, 32 or 64 bytes.
            let mut moved = vec![0.0; 1 + padded * dim];
            moved[1..].copy_from_slice(factors.view().values());
            let moved = BlockedView::new(&moved[1..], items, dim).unwrap();
            for start in [None, Some(seeds.as_slice())] {
                let expected = plain(&user, &rows, start);
                for kernels in &all {
                    for view in [factors.view(), moved] {
                        let mut out = start.map_or_else(|| vec![0.0; padded], <[f32]>::to_vec);
                        kernels.scores(view, &user, &mut out).unwrap();
                        assert_eq!(bits(&out[..items]), bits(&expected), "{kernels:?} {items} × {dim}");
                        let base = start.map(|start| Base::new(&start[..items]));
                        let seed = Seed { base: base.as_ref(), own: &[] };
                        let query = Query { user: &user, seed, exclude: &[], k: 7 };
                        let lists = kernels.score_top_k(plainly(view, &BlockNorms::of(view)), &[query]).unwrap();
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
    let queries: Vec<Query<'_>> = (0..75)
        .map(|u| Query { user: &users[u], seed: Seed::ZERO, exclude: &exclude[u], k: [0, 1, 20, 100, 1000][u % 5] })
        .collect();
    let expected: Vec<Vec<Scored>> =
        queries.iter().map(|q| sorted_list(&plain(q.user, &rows, None), q.exclude, q.k)).collect();
    for kernels in others().into_iter().chain([scalar()]) {
        for size in (1..=2 * LANES + 1).chain([75]) {
            let mut lists = Vec::new();
            for batch in queries.chunks(size) {
                lists.extend(
                    kernels.score_top_k(plainly(factors.view(), &BlockNorms::of(factors.view())), batch).unwrap(),
                );
            }
            assert!(lists == expected, "{kernels:?}, batches of {size}");
        }
    }
}

#[test]
fn own_seeds_take_the_place_of_the_shared_ones() {
    // Several panels of 1,408 items each at 23 dimensions, the last one cut short.
    let (items, dim) = (4_001, 23);
    let mut values = Values::new(9);
    let rows = values.vec(items * dim);
    let factors = BlockedFactors::from_rows(&rows, items, dim).unwrap();
    let base = Base::new(&values.vec(items));
    let users: Vec<Vec<f32>> = (0..20).map(|_| values.vec(dim)).collect();
    let own: Vec<Vec<(u32, f32)>> = (0..20_u32)
        .map(|u| (0..items as u32).filter(|i| (i * 7 + u) % (2 + u) == 0).map(|i| (i, values.next())).collect())
        .collect();
    for shared in [None, Some(&base)] {
        let queries: Vec<Query<'_>> = (0..20)
            .map(|u| Query { user: &users[u], seed: Seed { base: shared, own: &own[u] }, exclude: &[], k: 50 })
            .collect();
        let expected: Vec<Vec<Scored>> = (0..20)
            .map(|u| {
                let mut dense = shared.map_or_else(|| vec![0.0; items], |base| base.values().to_vec());
                own[u].iter().for_each(|(item, value)| dense[*item as usize] = *value);
                sorted_list(&plain(&users[u], &rows, Some(&dense)), &[], 50)
            })
            .collect();
        for kernels in others().into_iter().chain([scalar()]) {
            assert!(
                kernels.score_top_k(plainly(factors.view(), &BlockNorms::of(factors.view())), &queries).unwrap()
                    == expected,
                "{kernels:?}"
            );
        }
    }
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
        let base = Base::new(&(0..items).map(|_| few(scales[2])).collect::<Vec<f32>>());
        let own: Vec<Vec<(u32, f32)>> = (0..7)
            .map(|u| (u..items).step_by(density + u).map(|i| (i as u32, few(scales[2]) * 3.0)).collect())
            .collect();
        let exclude: Vec<u32> = (0..items as u32).filter(|i| (i * 7) % 11 < 3).collect();
        let base = is_based.then_some(&base);
        let queries: Vec<Query<'_>> = (0..7)
            .map(|u| Query { user: &users[u], seed: Seed { base, own: &own[u] }, exclude: &exclude, k })
            .collect();
        let factors = BlockedFactors::from_rows(&rows, items, dim).unwrap();
        let norms = BlockNorms::of(factors.view());
        let scales: Vec<f32> = (0..items).map(|_| if is_scaled { 0.5 + values.next().abs() } else { 1.0 }).collect();
        let scale = Scale::new(&scales).unwrap();
        let scored = Items { scale: is_scaled.then_some(&scale), ..plainly(factors.view(), &norms) };
        let expected: Vec<Vec<Scored>> = (0..7)
            .map(|u| {
                let mut starts = base.map_or_else(|| vec![0.0; items], |base| base.values().to_vec());
                own[u].iter().for_each(|(item, start)| starts[*item as usize] = *start);
                let mut scores = plain(&users[u], &rows, Some(&starts));
                scores.iter_mut().zip(&scales).for_each(|(score, scale)| *score *= scale);
                sorted_list(&scores, &exclude, k)
            })
            .collect();
        for kernels in others().into_iter().chain([scalar()]) {
            prop_assert!(kernels.score_top_k(scored, &queries).unwrap() == expected, "{:?}", kernels);
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
    let query = Query { user: &[1.0], seed: Seed::ZERO, exclude: &[], k: 5 };
    for kernels in others().into_iter().chain([scalar()]) {
        let list = &kernels.score_top_k(plainly(factors.view(), &BlockNorms::of(factors.view())), &[query]).unwrap()[0];
        assert_eq!(list.iter().map(Scored::item).collect::<Vec<_>>(), [2, 3, 0, 1, 4]);
        let negative = Query { user: &[-1.0], ..query };
        let list =
            &kernels.score_top_k(plainly(factors.view(), &BlockNorms::of(factors.view())), &[negative]).unwrap()[0];
        assert_eq!(list.iter().map(Scored::item).collect::<Vec<_>>(), [5, 0, 1, 4, 2]);
    }
}

#[test]
fn scores_that_overflow_keep_their_order_and_a_nan_seed_never_enters() {
    let rows: Vec<f32> = (0..20).map(|i| if i % 3 == 0 { f32::MAX } else { -f32::MAX }).collect();
    let factors = BlockedFactors::from_rows(&rows, 20, 1).unwrap();
    let mut seed = vec![0.0; 20];
    seed[3] = f32::NAN;
    let base = Base::new(&seed);
    for kernels in others().into_iter().chain([scalar()]) {
        let query = Query { user: &[2.0], seed: Seed { base: Some(&base), own: &[] }, exclude: &[], k: 20 };
        let list = &kernels.score_top_k(plainly(factors.view(), &BlockNorms::of(factors.view())), &[query]).unwrap()[0];
        let order: Vec<u32> = list.iter().map(Scored::item).collect();
        assert_eq!(order, [0, 6, 9, 12, 15, 18, 1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16, 17, 19]);
        assert!(list[0].score().is_infinite());
        let short = &kernels
            .score_top_k(plainly(factors.view(), &BlockNorms::of(factors.view())), &[Query { k: 2, ..query }])
            .unwrap()[0];
        assert_eq!(short.iter().map(Scored::item).collect::<Vec<_>>(), [0, 6]);
    }
}

#[test]
fn what_cannot_be_scored_is_refused_with_its_place() {
    let factors = BlockedFactors::from_rows(&[1.0; 6], 3, 2).unwrap();
    let good = Query { user: &[1.0, 2.0], seed: Seed::ZERO, exclude: &[], k: 1 };
    let ask = |query| {
        scalar().score_top_k(plainly(factors.view(), &BlockNorms::of(factors.view())), &[good, query]).unwrap_err()
    };
    assert_eq!(ask(Query { user: &[1.0], ..good }), ScoreError::Dimensions { query: 1, expected: 2, found: 1 });
    assert_eq!(ask(Query { user: &[1.0, f32::NAN], ..good }), ScoreError::NotFinite { query: 1 });
    let long = Base::new(&[0.0; 4]);
    let seeded = |base, own| ask(Query { seed: Seed { base, own }, ..good });
    assert_eq!(seeded(Some(&long), &[]), ScoreError::Base { query: 1, expected: 3, found: 4 });
    let others = BlockNorms::of(BlockedFactors::from_rows(&[1.0; 6], 2, 3).unwrap().view());
    assert_eq!(scalar().score_top_k(plainly(factors.view(), &others), &[good]), Err(ScoreError::Items));
    let norms = BlockNorms::of(factors.view());
    let scale = Scale::new(&[1.0; 4]).unwrap();
    let scaled = Items { scale: Some(&scale), ..plainly(factors.view(), &norms) };
    assert_eq!(scalar().score_top_k(scaled, &[good]), Err(ScoreError::Items));
    assert_eq!(Scale::new(&[1.0, 0.0]), Err(ShapeError::NotFinite { row: 1 }));
    for own in [&[(1, 0.0), (1, 0.0)][..], &[(2, 0.0), (1, 0.0)], &[(3, 0.0)]] {
        assert_eq!(seeded(None, own), ScoreError::SeedItems { query: 1, items: 3 });
    }
    assert_eq!(ask(Query { exclude: &[2, 1], ..good }), ScoreError::Exclude { query: 1 });
    assert_eq!(ask(Query { k: K_MAX + 1, ..good }), ScoreError::TooMany { query: 1, k: K_MAX + 1 });
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
