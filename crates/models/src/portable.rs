//! Powers from basic arithmetic only.
//!
//! The platform's `powf` differs between C libraries in the last bit, and one bit in a regularisation weight would
//! change every factor. Additions, products and divisions are exact by standard; so is everything here.

/// `base ^ exponent` for a positive, finite base, to about 1e-14 relative; the same bits on every platform.
pub(crate) fn pow(base: f64, exponent: f64) -> f64 {
    if exponent == 0.0 {
        return 1.0;
    }
    if exponent.to_bits() == 1.0_f64.to_bits() {
        return base;
    }
    exp2(exponent * log2(base))
}

/// `log2(m · 2^e) = e + (2 / ln 2) · artanh((m − 1) / (m + 1))`, `m` in [√½, √2), 12 terms of the series.
fn log2(value: f64) -> f64 {
    debug_assert!(value > 0.0 && value.is_finite());
    // Subnormal inputs are scaled into the normal range first.
    let (value, scale) = if value < f64::MIN_POSITIVE { (value * (1_u64 << 54) as f64, -54) } else { (value, 0) };
    let bits = value.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023 + scale;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = (0..12).rev().fold(0.0, |sum, term| sum * square + 1.0 / f64::from(2 * term + 1));
    f64::from(exponent) + 2.0 * std::f64::consts::LOG2_E * s * series
}

/// `2^x` as a power of two times 16 terms of the exponential series on [−½, ½]; saturates to 0 and ∞.
fn exp2(x: f64) -> f64 {
    if x > 1023.0 {
        return f64::INFINITY;
    }
    if x < -1021.0 {
        return 0.0;
    }
    let whole = x.round();
    let rest = (x - whole) * std::f64::consts::LN_2;
    let series = (1..16).rev().fold(1.0, |sum, term| 1.0 + sum * rest / f64::from(term));
    series * f64::from_bits(((whole as i64 + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::pow;

    #[test]
    fn powers_agree_with_the_platform_and_have_golden_bits() {
        for base in [1e-300, 0.1, 0.5, 1.0, 1.4, 1.5, 2.0, 3.7, 1000.0, 123_456_789.0, 1e12] {
            for exponent in [-1.0, -0.5, 0.1, 0.5, 0.75, 1.0, 1.3] {
                let expected = f64::powf(base, exponent);
                let found = pow(base, exponent);
                assert!((found - expected).abs() <= 1e-13 * expected, "{base}^{exponent}: {found} {expected}");
            }
        }
        assert_eq!(pow(0.3, 0.0).to_bits(), 1.0_f64.to_bits());
        assert_eq!(pow(5.0, 1.0).to_bits(), 5.0_f64.to_bits());
        assert_eq!(pow(4.0, 0.5).to_bits(), 2.0_f64.to_bits());
    }
}
