//! Scores and their one total order, shared by every adapter so that equal records give equal bits.
//!
//! Sums run in f64 over eight fixed lanes: the order of additions depends on nothing but the
//! dimension, and products of two f32 are exact in f64, so at 4,096 dimensions the relative error
//! stays below 4096 · 2⁻⁵³ ≈ 5e-13 of Σ|aᵢbᵢ|, far inside the final rounding to f32.

use super::{Hit, Metric};

const LANES: usize = 8;

/// Inner product of two vectors of equal length.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_blocks.remainder(), b_blocks.remainder());
    for (a_block, b_block) in a_blocks.zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] += f64::from(a_block[lane]) * f64::from(b_block[lane]);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
    lanes.iter().sum::<f64>() + rest
}

/// Euclidean norm; zero only for the zero vector (the square of the smallest f32 is normal in f64).
pub(super) fn norm(vector: &[f32]) -> f64 {
    dot(vector, vector).sqrt()
}

/// The vector scaled to length one, for the index.
pub(super) fn unit(vector: &[f32]) -> Vec<f32> {
    let norm = norm(vector);
    vector.iter().map(|value| (f64::from(*value) / norm) as f32).collect()
}

/// A query prepared for many scores.
#[derive(Debug)]
pub(super) struct Scorer<'a> {
    query: &'a [f32],
    query_norm: f64,
    metric: Metric,
}

impl<'a> Scorer<'a> {
    pub(super) fn new(query: &'a [f32], metric: Metric) -> Self {
        Self { query, query_norm: norm(query), metric }
    }

    /// The score of a stored vector, which is finite and not zero.
    pub(super) fn score(&self, vector: &[f32]) -> f32 {
        let product = dot(self.query, vector);
        let score = match self.metric {
            Metric::Dot => product,
            Metric::Cosine => (product / (self.query_norm * norm(vector))).clamp(-1.0, 1.0),
        };
        // An inner product past f32's range is ordered as its largest value, not as infinity.
        score.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
    }
}

/// Keeps the best `k` hits: score descending, id ascending. Scores are never NaN (see
/// [`Scorer::score`]), and −0 is made +0 so that equal scores compare equal.
#[derive(Debug)]
pub(super) struct TopK {
    k: usize,
    hits: Vec<Hit>,
    /// Once more than `k` hits were seen: the worst score that can still enter.
    threshold: f32,
}

impl TopK {
    pub(super) fn new(k: usize) -> Self {
        Self { k, hits: Vec::new(), threshold: f32::NEG_INFINITY }
    }

    /// Offers a hit; `id` is called only if the score may enter.
    pub(super) fn offer(&mut self, score: f32, id: impl FnOnce() -> String) {
        let score = score + 0.0;
        if self.k == 0 || score < self.threshold {
            return;
        }
        self.hits.push(Hit { id: id(), score });
        if self.hits.len() >= 2 * self.k + 64 {
            self.shrink();
        }
    }

    pub(super) fn into_hits(mut self) -> Vec<Hit> {
        self.shrink();
        self.hits
    }

    fn shrink(&mut self) {
        self.hits.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
        self.hits.truncate(self.k);
        if self.hits.len() == self.k
            && let Some(last) = self.hits.last()
        {
            self.threshold = last.score;
        }
    }
}
