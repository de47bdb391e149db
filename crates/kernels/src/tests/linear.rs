use super::{UNIT, Values, bits, gamma, others, scalar};
use crate::{
    BaseMatrix, BlockedFactors, GRAMIAN_ROWS_PER_BLOCK, Kernels, LANES, NormalEquations, NotPositiveDefinite, Rows,
    SideBySide, gramian,
};

/// The definition of the factor, one value at a time.
fn plain_factor(upper: &[f32], dim: usize) -> Vec<f32> {
    let mut u = upper.to_vec();
    for i in 0..dim {
        for j in i..dim {
            for k in 0..i {
                u[i * dim + j] = (-u[k * dim + i]).mul_add(u[k * dim + j], u[i * dim + j]);
            }
        }
        let pivot = u[i * dim + i].sqrt();
        let inverse = 1.0 / pivot;
        u[i * dim + i] = pivot;
        for j in i + 1..dim {
            u[i * dim + j] *= inverse;
        }
    }
    u
}

fn plain_system(dim: usize, ridge: f32, rows: &[f32], entries: &[(u32, f32)]) -> (Vec<f32>, Vec<f32>) {
    let (mut matrix, mut right) = (vec![0.0_f32; dim * dim], vec![0.0_f32; dim]);
    for p in 0..dim {
        matrix[p * dim + p] = ridge;
    }
    for (index, weight) in entries {
        let row = &rows[*index as usize * dim..][..dim];
        for p in 0..dim {
            let weighted = weight * row[p];
            right[p] += weighted;
            for q in p..dim {
                matrix[p * dim + q] = weighted.mul_add(row[q], matrix[p * dim + q]);
            }
        }
    }
    (matrix, right)
}

fn system(kernels: Kernels, dim: usize, ridge: f32, rows: Rows<'_>, entries: &[(u32, f32)]) -> NormalEquations {
    let base = BaseMatrix::new(&vec![0.0; dim * dim], dim, 1.0).unwrap();
    let mut system = NormalEquations::new(kernels, dim).unwrap();
    system.reset(&base, ridge);
    system.add_rows(rows, entries.iter().copied());
    system
}

#[test]
fn systems_of_every_size_have_the_bits_of_the_plain_definition() {
    let all: Vec<_> = others().into_iter().chain([scalar()]).collect();
    for dim in (1..=2 * LANES + 1).chain([47, 64, 65, 100, 128]) {
        let mut values = Values::new(dim as u64);
        let count = 2 * dim + 150; // past one pack
        let rows = values.vec(count * dim);
        let entries: Vec<(u32, f32)> =
            (0..count as u32).map(|row| (row * 7 % count as u32, 1.5 + values.next())).collect();
        let blocked = BlockedFactors::from_rows(&rows, count, dim).unwrap();
        let (matrix, right) = plain_system(dim, 0.25, &rows, &entries);
        let factor = plain_factor(&matrix, dim);
        let mut twin = vec![0.0; dim];
        let mut first = system(scalar(), dim, 0.25, Rows::RowMajor(&rows), &entries);
        first.factorise().unwrap();
        first.solve(&mut twin);
        for kernels in &all {
            for source in [Rows::RowMajor(&rows), Rows::Blocked(blocked.view())] {
                let mut system = system(*kernels, dim, 0.25, source, &entries);
                assert_eq!(bits(&system.upper_triangle()), bits(&matrix), "{kernels:?} {dim}");
                assert_eq!(bits(system.right_side()), bits(&right), "{kernels:?} {dim}");
                system.factorise().unwrap();
                assert_eq!(bits(&system.upper_triangle()), bits(&factor), "{kernels:?} {dim}");
                let mut solution = vec![0.0; dim];
                system.solve(&mut solution);
                assert_eq!(bits(&solution), bits(&twin), "{kernels:?} {dim}");
                system.solve_for(&right, &mut solution);
                assert_eq!(bits(&solution), bits(&twin), "{kernels:?} {dim}");
            }
        }
    }
}

/// Higham, Accuracy and Stability, theorem 10.3: `|UᵀU − A| ≤ γ(n+1) |Uᵀ||U|`, with two more roundings here for the
/// reciprocal; and 10.4: `(A + E) x = b` with `|E| ≤ γ(3n+1) |Uᵀ||U|`, with four more for two reciprocals.
#[test]
fn factor_and_solution_are_within_their_derived_bounds() {
    for dim in [1, 5, 16, 33, 64, 128, 200] {
        let mut values = Values::new(77 + dim as u64);
        let rows = values.vec(2 * dim * dim);
        let entries: Vec<(u32, f32)> = (0..2 * dim as u32).map(|row| (row, 1.0)).collect();
        let mut system = system(Kernels::best(), dim, 0.5, Rows::RowMajor(&rows), &entries);
        let upper: Vec<f64> = system.upper_triangle().into_iter().map(f64::from).collect();
        let right: Vec<f64> = system.right_side().iter().copied().map(f64::from).collect();
        system.factorise().unwrap();
        let u: Vec<f64> = system.upper_triangle().into_iter().map(f64::from).collect();
        let mut x = vec![0.0; dim];
        system.solve(&mut x);
        for i in 0..dim {
            let (mut left, mut bound) = (0.0, 0.0);
            for j in 0..dim {
                let (low, high) = (i.min(j), i.max(j));
                let products = || (0..=low).map(|k| u[k * dim + i] * u[k * dim + j]);
                let magnitude: f64 = products().map(f64::abs).sum();
                let error = (products().sum::<f64>() - upper[low * dim + high]).abs();
                assert!(error <= gamma(dim + 3) * magnitude, "{dim}: ({i}, {j}) {error}");
                left += upper[low * dim + high] * f64::from(x[j]);
                bound += magnitude * f64::from(x[j].abs());
            }
            assert!((left - right[i]).abs() <= gamma(3 * dim + 5) * bound, "{dim}: row {i}");
        }
    }
}

#[test]
fn a_pivot_that_is_not_positive_is_named() {
    let dim = 40;
    for bad in [0, 3, 15, 16, 17, 31, 39] {
        for kernels in others().into_iter().chain([scalar()]) {
            let mut matrix = vec![0.0; dim * dim];
            for p in 0..dim {
                matrix[p * dim + p] = if p == bad { -2.0 } else { 1.0 };
            }
            let base = BaseMatrix::new(&matrix, dim, 1.0).unwrap();
            let mut system = NormalEquations::new(kernels, dim).unwrap();
            system.reset(&base, 0.0);
            assert_eq!(system.factorise(), Err(NotPositiveDefinite { pivot: bad, value: -2.0 }));
            system.reset(&base, 3.0); // a failed system can be used again
            assert_eq!(system.factorise(), Ok(()));
        }
    }
}

#[test]
fn side_by_side_has_the_bits_of_a_system_alone() {
    let all: Vec<_> = others().into_iter().chain([scalar()]).collect();
    for dim in (1..=2 * LANES + 1).chain([47, 64, 65, 100, 128]) {
        let mut values = Values::new(dim as u64);
        let rows = values.vec(40 * dim);
        for kernels in &all {
            let mut together = SideBySide::new(*kernels, dim).unwrap();
            assert_eq!(together.solve(), 0);
            for count in [1, 3, 15, 16] {
                let mut alone = Vec::new();
                for number in 0..count {
                    let entries: Vec<(u32, f32)> = (0..40_u32).map(|row| (row, 1.5 + values.next())).collect();
                    // Some have no solution; the others must not notice.
                    let ridge = if number % 5 == 2 { -1e3 } else { 0.25 };
                    let length = (number * 17) % 41; // none at all, too
                    let mut system = system(*kernels, dim, ridge, Rows::RowMajor(&rows), &entries[..length]);
                    together.push(&system);
                    let mut solution = vec![0.0; dim];
                    alone.push(system.factorise().ok().map(|()| {
                        system.solve(&mut solution);
                        solution
                    }));
                }
                let good = together.solve();
                for (number, alone) in alone.iter().enumerate() {
                    assert_eq!(good >> number & 1 == 1, alone.is_some(), "{kernels:?} {dim}, {number} of {count}");
                    if let Some(alone) = alone {
                        assert_eq!(
                            bits(together.solution(number)),
                            bits(alone),
                            "{kernels:?} {dim}, {number} of {count}"
                        );
                    }
                }
                assert_eq!(good >> count, 0);
            }
        }
    }
}

#[test]
fn the_gramian_depends_on_neither_threads_nor_instruction_set() {
    for (count, dim) in
        [(0, 3), (1, 1), (5, 17), (GRAMIAN_ROWS_PER_BLOCK * 40 + 3, 6), (GRAMIAN_ROWS_PER_BLOCK + 1, 33)]
    {
        let rows = Values::new(9).vec(count * dim);
        let expected = gramian(scalar(), &rows, dim).unwrap();
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for kernels in others().into_iter().chain([scalar()]) {
                let found = pool.install(|| gramian(kernels, &rows, dim).unwrap());
                assert!(found == expected, "{kernels:?} {threads} threads, {count} × {dim}");
            }
        }
        for p in 0..dim {
            for q in 0..dim {
                let products = || rows.chunks_exact(dim).map(|row| f64::from(row[p]) * f64::from(row[q]));
                let magnitude: f64 = products().map(f64::abs).sum();
                let bound = 2.0 * count as f64 * (UNIT * UNIT) * magnitude; // both sums round; u² = 2⁻⁴⁸ is looser than 2⁻⁵³
                assert!((expected[p * dim + q] - products().sum::<f64>()).abs() <= bound, "({p}, {q})");
                assert_eq!(expected[p * dim + q].to_bits(), expected[q * dim + p].to_bits());
            }
        }
    }
    assert!(gramian(scalar(), &[1.0; 7], 2).is_err());
}
