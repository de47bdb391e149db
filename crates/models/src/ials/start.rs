//! Where the factors start: a function of (seed, id) alone, so that neither order nor other items change it.

use super::IalsSettings;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Fills `out` with values of mean 0 and standard deviation `initial_deviation / √dim`.
///
/// Each is a sum of twelve uniform 16-bit numbers (Irwin–Hall): near enough to a Gaussian for a start, and made of
/// integer arithmetic, where a true one needs a logarithm that differs between platforms.
pub(super) fn fill(settings: &IalsSettings, id: &[u8], out: &mut [f32]) {
    let mut state = xxh3_64_with_seed(id, settings.seed);
    let scale = settings.initial_deviation / (settings.dim as f64).sqrt();
    for value in out {
        let sum: u64 = (0..3).map(|_| lanes_sum(split_mix(&mut state))).sum();
        // 12 × 65535 / 2 is the mean; a 16-bit uniform number over 65536 has variance 1/12.
        *value = (scale * (sum as f64 - 393_210.0) / 65_536.0) as f32;
    }
}

/// The sum of the four 16-bit numbers in a word.
fn lanes_sum(word: u64) -> u64 {
    (0..4).map(|lane| (word >> (16 * lane)) & 0xFFFF).sum()
}

/// Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 14.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::{IalsSettings, fill};

    #[test]
    fn the_start_has_the_promised_moments_and_golden_bits() {
        let settings = IalsSettings { dim: 1000, initial_deviation: 0.5, ..IalsSettings::default() };
        let mut all = vec![0.0; 100_000];
        for (id, row) in all.chunks_exact_mut(1000).enumerate() {
            fill(&settings, format!("item-{id}").as_bytes(), row);
        }
        let mean = all.iter().map(|v| f64::from(*v)).sum::<f64>() / 1e5;
        let deviation = (all.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / 1e5).sqrt() * 1000_f64.sqrt();
        // Five standard errors: σ/√n for the mean, σ/√(2n) for the deviation.
        assert!(mean.abs() < 5.0 * 0.5 / (1000_f64 * 1e5).sqrt(), "{mean}");
        assert!((deviation - 0.5).abs() < 5.0 * 0.5 / 2e5_f64.sqrt(), "{deviation}");
        let mut again = vec![0.0; 1000];
        fill(&settings, b"item-7", &mut again);
        assert_eq!(again, all[7000..8000]);
        fill(&IalsSettings { seed: 2, ..settings }, b"item-7", &mut again);
        assert_ne!(again, all[7000..8000]);
    }
}
