//! Inner product as cosine: one more dimension.
//!
//! With a bound M of all norms, x' = [x, √(M² − |x|²)] / M has length one, and for q' = [q, 0] the cosine of q' and x'
//! is ⟨q, x⟩ / (|q| M). As |q| and M are the same for every x, the order of cosines is the order of inner products
//! (Bachrach et al., "Speeding up the Xbox recommender system using a Euclidean transformation for inner-product
//! spaces", RecSys 2014, §3). M is a power of two, so that dividing by it is exact in f64; the smallest one above the
//! largest norm, because head-room is paid for with resolution: vectors far below M differ little in direction.

use crate::vectors::score::{norm, unit};

/// The smallest power of two above the norm of `vector`, which is finite and not zero, as its exponent: −148 to 134.
pub(super) fn exponent_above(vector: &[f32]) -> i32 {
    let norm = norm(vector);
    // log2 may round to a neighbour at a power of two; the comparisons decide.
    let mut exponent = norm.log2().floor() as i32;
    while 2f64.powi(exponent) <= norm {
        exponent += 1;
    }
    while 2f64.powi(exponent - 1) > norm {
        exponent -= 1;
    }
    exponent
}

/// The vector with its further dimension, of length one, under the bound of 2 to the power `exponent`.
pub(super) fn augmented(vector: &[f32], exponent: i32) -> Vec<f32> {
    let bound = 2f64.powi(exponent);
    let share = norm(vector) / bound;
    let rest = (1.0 - share * share).max(0.0).sqrt();
    vector.iter().map(|value| (f64::from(*value) / bound) as f32).chain(std::iter::once(rest as f32)).collect()
}

/// The query for augmented vectors; `query` is not zero.
pub(super) fn augmented_query(query: &[f32]) -> Vec<f32> {
    let mut query = unit(query);
    query.push(0.0);
    query
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::vectors::score::dot;
    use proptest::prelude::*;

    #[test]
    fn the_bound_is_the_next_power_of_two() {
        assert_eq!(exponent_above(&[1.0]), 1);
        assert_eq!(exponent_above(&[0.99]), 0);
        assert_eq!(exponent_above(&[3.0, 4.0]), 3);
        assert_eq!(exponent_above(&[f32::from_bits(1)]), -148);
        assert_eq!(exponent_above(&[f32::MAX; 4096]), 134);
    }

    fn vectors(dim: usize) -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(-8.0f32..8.0, dim).prop_filter("not zero", |vector| norm(vector) > 0.0)
    }

    proptest! {
        /// Each component is rounded once to f32 (relative 2⁻²⁴) from an f64 value, so the vector is off its true place
        /// by at most 2⁻²⁴ of its length, 1; the query likewise. The cosine of the two is then off by at most 2·2⁻²⁴ and
        /// by the error of its own sum in f64, which is far smaller: 2⁻²² is a safe bound for each cosine.
        #[test]
        fn cosine_of_the_augmented_is_the_inner_product(rows in prop::collection::vec(vectors(6), 2..20), query in vectors(6)) {
            const TOLERANCE: f64 = 1.0 / 4_194_304.0;
            let exponent = rows.iter().map(|row| exponent_above(row)).max().unwrap();
            let asked = augmented_query(&query);
            let scale = norm(&query) * 2f64.powi(exponent);
            let scored: Vec<(f64, f64)> = rows
                .iter()
                .map(|row| {
                    let stored = augmented(row, exponent);
                    let cosine = dot(&asked, &stored) / (norm(&asked) * norm(&stored));
                    (cosine, dot(&query, row) / scale)
                })
                .collect();
            for (cosine, product) in &scored {
                prop_assert!((cosine - product).abs() <= TOLERANCE, "{cosine} {product}");
            }
            for (a_cosine, a_product) in &scored {
                for (b_cosine, b_product) in &scored {
                    let decided = a_product - b_product > 2.0 * TOLERANCE;
                    prop_assert!(!decided || a_cosine > b_cosine);
                }
            }
        }

        #[test]
        fn augmented_vectors_have_length_one(vector in vectors(9), more in 0i32..3) {
            let stored = augmented(&vector, exponent_above(&vector) + more);
            prop_assert_eq!(stored.len(), 10);
            prop_assert!((norm(&stored) - 1.0).abs() <= 1.0 / 4_194_304.0);
        }
    }
}
