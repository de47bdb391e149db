//! The weights of a score's parts, kept in the snapshot.

use serde::{Deserialize, Serialize};

/// How the parts of a score are weighed; see the [module](super) for the formula. The defaults were chosen on Complete
/// Journey's validation month: people rebuy, so their own items lead wherever those are not hidden, and a little
/// popularity steadies short rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Blend {
    /// `f`: the iALS score.
    pub factors: f32,
    /// `n`: similarity to the row's items.
    pub neighbours: f32,
    /// `r`: the row's own items, by weight (matters where seen items are not hidden).
    pub history: f32,
    /// `p`: popularity.
    pub popularity: f32,
}

impl Default for Blend {
    fn default() -> Self {
        Self { factors: 1.0, neighbours: 2.0, history: 3.0, popularity: 0.05 }
    }
}

/// A weight outside its range.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("blend weight {name} is {value}: choose 0 to 1000")]
pub struct BlendError {
    /// The field's name.
    pub name: &'static str,
    /// Its value.
    pub value: f32,
}

impl Blend {
    /// Refuses weights that are negative, NaN or so great that scores could overflow.
    pub fn check(&self) -> Result<(), BlendError> {
        let weights = [
            ("factors", self.factors),
            ("neighbours", self.neighbours),
            ("history", self.history),
            ("popularity", self.popularity),
        ];
        match weights.into_iter().find(|(_, value)| !(0.0..=1000.0).contains(value)) {
            Some((name, value)) => Err(BlendError { name, value }),
            None => Ok(()),
        }
    }
}
