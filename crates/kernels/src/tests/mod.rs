//! Every instruction set against the scalar twin and against plain text-book twins, at every awkward length.
#![allow(clippy::unwrap_used)]

mod linear;
mod scoring;

use crate::{Isa, Kernels};

/// Unit roundoff of `f32`.
pub(crate) const UNIT: f64 = 1.0 / (1_u64 << 24) as f64;

/// Higham's γₙ = n·u / (1 − n·u): the relative error bound of a chain of `n` rounded operations.
pub(crate) fn gamma(n: usize) -> f64 {
    let nu = n as f64 * UNIT;
    nu / (1.0 - nu)
}

/// A fixed stream of values in (−1, 1).
pub(crate) struct Values(u64);

impl Values {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    }

    pub(crate) fn vec(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }
}

pub(crate) fn scalar() -> Kernels {
    Kernels::with_isa(Isa::Scalar).unwrap()
}

/// The instruction sets beyond the twin that this CPU has, printed so that a log says what was compared.
pub(crate) fn others() -> Vec<Kernels> {
    let found: Vec<_> = Isa::available().filter(|isa| *isa != Isa::Scalar).collect();
    println!("compared with the scalar twin: {found:?}");
    found.into_iter().map(|isa| Kernels::with_isa(isa).unwrap()).collect()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn an_instruction_set_that_the_cpu_lacks_cannot_be_forced() {
    for isa in Isa::ALL {
        assert_eq!(Kernels::with_isa(isa).is_some(), isa.is_available());
    }
    assert!(Kernels::with_isa(Isa::Scalar).is_some());
    assert_eq!(Isa::available().last(), Some(Kernels::best().isa()));
}
