#![allow(clippy::unwrap_used)]

use super::{FoldIn, FoldInError, IalsModel, IalsSettings, Progress, TrainError, train};
use crate::Interactions;
use crate::testing::{ids, random_interactions};
use anabranch_kernels::{BlockedFactors, Isa, Kernels, NormalEquations, Rows};

fn settings() -> IalsSettings {
    IalsSettings { dim: 7, iterations: 4, frequency_exponent: 0.7, regularisation: 0.02, ..IalsSettings::default() }
}

fn trained(kernels: Kernels, matrix: &Interactions, settings: &IalsSettings) -> IalsModel {
    train(kernels, matrix, &ids(matrix.items()), settings, |_| {}).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_folded_in_user_equals_the_trained_one_bit_for_bit() {
    let matrix = random_interactions(200, 41, 12, 1);
    for dim in [1, 7, 16, 33] {
        let settings = IalsSettings { dim, ..settings() };
        let model = trained(Kernels::best(), &matrix, &settings);
        let blocked = BlockedFactors::from_rows(&model.item_factors, 41, dim).unwrap();
        let fold_in = model.fold_in().unwrap();
        for isa in Isa::available() {
            let mut system = NormalEquations::new(Kernels::with_isa(isa).unwrap(), dim).unwrap();
            let mut out = vec![0.0; dim];
            for (row, user) in matrix.rows().zip(model.user_factors.chunks_exact(dim)) {
                for rows in [model.item_rows(), Rows::Blocked(blocked.view())] {
                    fold_in.solve(&mut system, rows, row.entries(), &mut out).unwrap();
                    assert_eq!(bits(&out), bits(user), "{isa:?} {dim}");
                }
            }
        }
    }
}

#[test]
fn the_model_depends_on_neither_threads_nor_instruction_set() {
    let matrix = random_interactions(300, 50, 10, 2);
    let expected = trained(Kernels::best(), &matrix, &settings());
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for isa in Isa::available() {
            let kernels = Kernels::with_isa(isa).unwrap();
            let found = pool.install(|| trained(kernels, &matrix, &settings()));
            assert_eq!(bits(&found.item_factors), bits(&expected.item_factors), "{threads} {isa:?}");
            assert_eq!(bits(&found.user_factors), bits(&expected.user_factors), "{threads} {isa:?}");
        }
    }
}

/// Gaussian elimination with partial pivoting on `[matrix | columns]`.
fn dense_solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = matrix.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|a, b| matrix[*a][k].abs().total_cmp(&matrix[*b][k].abs())).unwrap();
        matrix.swap(k, pivot);
        right.swap(k, pivot);
        let (pivot_row, pivot_right) = (matrix[k].clone(), right[k].clone());
        for row in (0..n).filter(|row| *row != k) {
            let factor = matrix[row][k] / pivot_row[k];
            matrix[row].iter_mut().zip(&pivot_row).for_each(|(value, pivot)| *value -= factor * pivot);
            right[row].iter_mut().zip(&pivot_right).for_each(|(value, pivot)| *value -= factor * pivot);
        }
    }
    (0..n).map(|row| right[row].iter().map(|value| value / matrix[row][row]).collect()).collect()
}

/// The dense twin: the module's formula in `f64` over *all* items, with the textbook bound for the `f32` solve: the
/// relative error is at most the condition number times the backward error of factorising, solving and accumulating.
#[test]
fn users_solve_the_dense_normal_equations() {
    let (items, dim) = (41, 7);
    let matrix = random_interactions(60, items, 12, 3);
    let settings = settings();
    let model = trained(Kernels::best(), &matrix, &settings);
    let h: Vec<Vec<f64>> =
        model.item_factors.chunks_exact(dim).map(|row| row.iter().copied().map(f64::from).collect()).collect();
    for (row, user) in matrix.rows().zip(model.user_factors.chunks_exact(dim)) {
        let ridge = settings.regularisation
            * (row.len() as f64 + settings.unobserved_weight * items as f64).powf(settings.frequency_exponent);
        let mut a = vec![vec![0.0; dim]; dim];
        let mut b = vec![vec![0.0]; dim];
        for p in 0..dim {
            a[p][p] += ridge;
            for q in 0..dim {
                a[p][q] += settings.unobserved_weight * h.iter().map(|h| h[p] * h[q]).sum::<f64>();
                a[p][q] += row.entries().map(|(i, c)| f64::from(c) * h[i as usize][p] * h[i as usize][q]).sum::<f64>();
            }
            b[p][0] += row.entries().map(|(i, c)| f64::from(c) * h[i as usize][p]).sum::<f64>();
        }
        let unit: Vec<Vec<f64>> = (0..dim).map(|p| (0..dim).map(|q| f64::from(u8::from(p == q))).collect()).collect();
        let norm = |m: &[Vec<f64>]| m.iter().map(|r| r.iter().map(|v| v.abs()).sum::<f64>()).fold(0.0, f64::max);
        let condition = norm(&a) * norm(&dense_solve(a.clone(), unit));
        let exact = dense_solve(a, b);
        let roundings = (3 * dim + 5 + dim * (row.len() + 3)) as f64 / f64::from(1 << 24);
        let size = exact.iter().map(|v| v[0].abs()).fold(0.0, f64::max);
        for (found, exact) in user.iter().zip(&exact) {
            let error = (f64::from(*found) - exact[0]).abs();
            assert!(error <= roundings * condition * size, "error {error}, condition {condition}");
        }
    }
}

/// The objective of the module's documentation, term by term.
fn objective(matrix: &Interactions, settings: &IalsSettings, w: &[f32], h: &[f32]) -> f64 {
    let (dim, alpha) = (settings.dim, settings.unobserved_weight);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let row = |m: &[f32], i: usize| m[i * dim..(i + 1) * dim].to_vec();
    let mut loss = 0.0;
    for user in 0..matrix.users() {
        for (item, weight) in matrix.row(user).entries() {
            loss += f64::from(weight) * (1.0 - dot(&row(w, user), &row(h, item as usize))).powi(2);
        }
        for item in 0..matrix.items() {
            loss += alpha * dot(&row(w, user), &row(h, item)).powi(2);
        }
    }
    for (rows, factors) in [(matrix.clone(), w), (matrix.transpose().unwrap(), h)] {
        for index in 0..rows.users() {
            let count = rows.row(index).len() as f64 + alpha * rows.items() as f64;
            let own = row(factors, index);
            loss += settings.regularisation * count.powf(settings.frequency_exponent) * dot(&own, &own);
        }
    }
    loss
}

#[test]
fn every_half_step_lowers_the_objective_and_ends_in_its_minimum() {
    let matrix = random_interactions(40, 20, 8, 4);
    let mut last = f64::INFINITY;
    for iterations in 0..6 {
        let settings = IalsSettings { iterations, ..settings() };
        let model = trained(Kernels::best(), &matrix, &settings);
        let value = objective(&matrix, &settings, &model.user_factors, &model.item_factors);
        assert!(value <= last * (1.0 + 1e-6), "iteration {iterations}: {value} after {last}");
        last = value;
    }
    let settings = IalsSettings { iterations: 5, ..settings() };
    let model = trained(Kernels::best(), &matrix, &settings);
    for position in 0..model.user_factors.len() {
        for step in [-0.01, 0.01] {
            let mut moved = model.user_factors.clone();
            moved[position] += step;
            assert!(objective(&matrix, &settings, &moved, &model.item_factors) > last);
        }
    }
}

#[test]
fn progress_counts_every_half_step_and_empty_rows_are_zero() {
    let matrix = Interactions::from_rows(3, [vec![(0, 1.0)], vec![], vec![(1, 2.0)]]).unwrap();
    let mut seen = Vec::new();
    let settings = IalsSettings { iterations: 2, dim: 2, ..IalsSettings::default() };
    let model = train(Kernels::best(), &matrix, &ids(3), &settings, |step| seen.push(step)).unwrap();
    assert_eq!(seen, (1..=5).map(|done| Progress { done, total: 5 }).collect::<Vec<_>>());
    assert_eq!(model.user_factors[2..4], [0.0; 2]);
    assert_eq!(model.item_factors[4..6], [0.0; 2], "nobody has item 2");
}

#[test]
fn what_cannot_be_trained_says_why() {
    let matrix = Interactions::from_rows(2, [vec![(0, 1.0)]]).unwrap();
    let fail = |settings: IalsSettings| train(Kernels::best(), &matrix, &ids(2), &settings, |_| {}).unwrap_err();
    assert!(matches!(fail(IalsSettings { dim: 0, ..settings() }), TrainError::Setting(e) if e.name == "dim"));
    let error = fail(IalsSettings { unobserved_weight: f64::NAN, ..settings() });
    assert!(matches!(error, TrainError::Setting(e) if e.name == "unobserved_weight"));
    let few = train(Kernels::best(), &matrix, &ids(1), &settings(), |_| {}).unwrap_err();
    assert_eq!(few, TrainError::Ids { ids: 1, items: 2 });
    let none = Interactions::from_rows(2, [Vec::new()]).unwrap();
    assert_eq!(train(Kernels::best(), &none, &ids(2), &settings(), |_| {}).unwrap_err(), TrainError::Empty);
}

#[test]
fn a_row_whose_system_overflows_is_an_error() {
    let settings = IalsSettings { dim: 2, ..settings() };
    let fold_in = FoldIn::new(&settings, &[1.0, 0.0, 0.0, 1.0], 1).unwrap();
    let mut system = NormalEquations::new(Kernels::best(), 2).unwrap();
    let rows = Rows::RowMajor(&[1e19, 1e19]);
    let error = fold_in.solve(&mut system, rows, [(0, 1e5)].into_iter(), &mut [0.0; 2]).unwrap_err();
    assert!(matches!(error, FoldInError::NotPositiveDefinite(e) if e.pivot == 0));
}
