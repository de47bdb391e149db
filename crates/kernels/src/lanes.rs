//! Sixteen `f32` lanes in three widths of register, behind one private trait.
//!
//! Every operation is correctly rounded IEEE 754 on each lane alone, so the three implementations agree bit for bit
//! and the kernels above need only one text.

use crate::verify::{self, LongHash};

/// Sixteen lanes of `f32`.
///
/// # Safety
/// All methods may be called only where the CPU has the implementation's features, and inline into a function that
/// enables them. `load` and `store` take pointers valid for 16 values; no alignment is needed.
pub(crate) trait Lanes: Copy {
    /// Rows of a register tile: as many accumulators as fit the register file beside operands.
    const TILE: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn mul(self, other: Self) -> Self;
    /// `a × b + self`, rounded once.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// `−a × b + self`, rounded once.
    unsafe fn fnma(self, a: Self, b: Self) -> Self;
    /// Without signs.
    unsafe fn abs(self) -> Self;
    /// The greater of both; self where `other` is NaN.
    unsafe fn max_of(self, other: Self) -> Self;
    /// The less of both; self where `other` is NaN.
    unsafe fn min_of(self, other: Self) -> Self;
    /// Bit `l` is set where lane `l` of self ≥ other; a NaN compares false.
    unsafe fn ge_mask(self, other: Self) -> u32;
    /// The square root, rounded once.
    unsafe fn sqrt(self) -> Self;
    /// `1 / self`, rounded once.
    unsafe fn reciprocal(self) -> Self;
    /// Lane `l` of the n-th result is lane `n` of the l-th row.
    #[inline(always)]
    unsafe fn transpose(rows: [Self; 16]) -> [Self; 16] {
        let (mut from, mut to) = ([[0.0_f32; 16]; 16], [[0.0_f32; 16]; 16]);
        // SAFETY: the caller's promise; the arrays have 16 values.
        unsafe {
            for (row, values) in rows.into_iter().zip(&mut from) {
                row.store(values.as_mut_ptr());
            }
            for (row, values) in from.iter().enumerate() {
                for (to, value) in to.iter_mut().zip(values) {
                    to[row] = *value;
                }
            }
            std::array::from_fn(|row| Self::load(to[row].as_ptr()))
        }
    }
    /// Adds a block to the sums of a checksum, and mixes them.
    #[inline(always)]
    unsafe fn hash_block(sums: &mut [u64; 8], block: &[u8; LongHash::BLOCK_BYTES]) {
        verify::add_block(sums, block);
    }
}

/// The portable twin.
#[derive(Clone, Copy)]
pub(crate) struct Scalar([f32; 16]);

impl Lanes for Scalar {
    const TILE: usize = 4;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 16])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller gives 16 readable values; an array of f32 needs no more than f32's alignment, and
        // `read_unaligned` not even that.
        Self(unsafe { from.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller gives 16 writable values.
        unsafe { to.cast::<[f32; 16]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn mul(mut self, other: Self) -> Self {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a *= b;
        }
        self
    }
    #[inline(always)]
    unsafe fn fma(mut self, a: Self, b: Self) -> Self {
        for lane in 0..16 {
            self.0[lane] = a.0[lane].mul_add(b.0[lane], self.0[lane]);
        }
        self
    }
    #[inline(always)]
    unsafe fn fnma(mut self, a: Self, b: Self) -> Self {
        for lane in 0..16 {
            self.0[lane] = (-a.0[lane]).mul_add(b.0[lane], self.0[lane]);
        }
        self
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Self(self.0.map(f32::abs))
    }
    #[inline(always)]
    unsafe fn max_of(mut self, other: Self) -> Self {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a = if b > *a { b } else { *a };
        }
        self
    }
    #[inline(always)]
    unsafe fn min_of(mut self, other: Self) -> Self {
        for (a, b) in self.0.iter_mut().zip(other.0) {
            *a = if b < *a { b } else { *a };
        }
        self
    }
    #[inline(always)]
    unsafe fn ge_mask(self, other: Self) -> u32 {
        (0..16).fold(0, |mask, lane| mask | (u32::from(self.0[lane] >= other.0[lane]) << lane))
    }
    #[inline(always)]
    unsafe fn sqrt(self) -> Self {
        Self(self.0.map(f32::sqrt))
    }
    #[inline(always)]
    unsafe fn reciprocal(self) -> Self {
        Self(self.0.map(|value| 1.0 / value))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! SAFETY of every block here: the trait's contract says that the features are there and the pointers valid; the
    //! intrinsics used are the unaligned ones.
    use super::Lanes;
    use crate::verify::{LongHash, PRIME32, SECRET};
    use std::arch::x86_64::{
        __m256, __m512, _CMP_GE_OQ, _mm256_add_epi64, _mm256_andnot_ps, _mm256_cmp_ps, _mm256_div_ps, _mm256_fmadd_ps,
        _mm256_fnmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_max_ps, _mm256_min_ps, _mm256_movemask_ps,
        _mm256_mul_epu32, _mm256_mul_ps, _mm256_set1_epi64x, _mm256_set1_ps, _mm256_shuffle_epi32, _mm256_slli_epi64,
        _mm256_sqrt_ps, _mm256_srli_epi64, _mm256_storeu_ps, _mm256_storeu_si256, _mm256_xor_si256, _mm512_abs_ps,
        _mm512_add_epi64, _mm512_castpd_ps, _mm512_castps_pd, _mm512_cmp_ps_mask, _mm512_div_ps, _mm512_fmadd_ps,
        _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_max_ps, _mm512_min_ps, _mm512_mul_epu32,
        _mm512_mul_ps, _mm512_set1_epi64, _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_epi32,
        _mm512_shuffle_f32x4, _mm512_slli_epi64, _mm512_sqrt_ps, _mm512_srli_epi64, _mm512_storeu_ps,
        _mm512_storeu_si512, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
        _mm512_xor_si512,
    };

    /// Two 256-bit registers; a tile of 6 uses 12 accumulators of the 16 registers.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256, __m256);

    impl Lanes for Avx2 {
        const TILE: usize = 6;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            let register = unsafe { _mm256_set1_ps(value) };
            Self(register, register)
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe {
                _mm256_storeu_ps(to, self.0);
                _mm256_storeu_ps(to.add(8), self.1);
            }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            unsafe { Self(_mm256_mul_ps(self.0, other.0), _mm256_mul_ps(self.1, other.1)) }
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            unsafe { Self(_mm256_fmadd_ps(a.0, b.0, self.0), _mm256_fmadd_ps(a.1, b.1, self.1)) }
        }
        #[inline(always)]
        unsafe fn fnma(self, a: Self, b: Self) -> Self {
            unsafe { Self(_mm256_fnmadd_ps(a.0, b.0, self.0), _mm256_fnmadd_ps(a.1, b.1, self.1)) }
        }
        #[inline(always)]
        unsafe fn abs(self) -> Self {
            unsafe {
                let sign = _mm256_set1_ps(-0.0);
                Self(_mm256_andnot_ps(sign, self.0), _mm256_andnot_ps(sign, self.1))
            }
        }
        #[inline(always)]
        unsafe fn max_of(self, other: Self) -> Self {
            // Of a NaN and a number the instruction gives its second operand.
            unsafe { Self(_mm256_max_ps(other.0, self.0), _mm256_max_ps(other.1, self.1)) }
        }
        #[inline(always)]
        unsafe fn min_of(self, other: Self) -> Self {
            unsafe { Self(_mm256_min_ps(other.0, self.0), _mm256_min_ps(other.1, self.1)) }
        }
        #[inline(always)]
        unsafe fn ge_mask(self, other: Self) -> u32 {
            let (low, high) = unsafe {
                (
                    _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(self.0, other.0)),
                    _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(self.1, other.1)),
                )
            };
            low.cast_unsigned() | (high.cast_unsigned() << 8)
        }
        #[inline(always)]
        unsafe fn sqrt(self) -> Self {
            unsafe { Self(_mm256_sqrt_ps(self.0), _mm256_sqrt_ps(self.1)) }
        }
        #[inline(always)]
        unsafe fn reciprocal(self) -> Self {
            unsafe {
                let one = _mm256_set1_ps(1.0);
                Self(_mm256_div_ps(one, self.0), _mm256_div_ps(one, self.1))
            }
        }
        #[inline(always)]
        unsafe fn hash_block(sums: &mut [u64; 8], block: &[u8; LongHash::BLOCK_BYTES]) {
            // A stripe is 64 bytes, the secret moves by eight bytes from one to the next, and its end mixes: 16 stripes and
            // 192 bytes of secret, so that every load lies inside.
            unsafe {
                let prime = _mm256_set1_epi64x(PRIME32[0] as i64);
                for part in (0..64).step_by(32) {
                    let to = sums.as_mut_ptr().byte_add(part);
                    let mut sum = _mm256_loadu_si256(to.cast());
                    for stripe in 0..16 {
                        let values = _mm256_loadu_si256(block.as_ptr().add(64 * stripe + part).cast());
                        let keys =
                            _mm256_xor_si256(values, _mm256_loadu_si256(SECRET.as_ptr().add(8 * stripe + part).cast()));
                        let products = _mm256_mul_epu32(keys, _mm256_srli_epi64::<32>(keys));
                        sum = _mm256_add_epi64(_mm256_add_epi64(sum, _mm256_shuffle_epi32::<0x4E>(values)), products);
                    }
                    let secret = _mm256_loadu_si256(SECRET.as_ptr().add(128 + part).cast());
                    let mixed = _mm256_xor_si256(_mm256_xor_si256(sum, _mm256_srli_epi64::<47>(sum)), secret);
                    let high = _mm256_mul_epu32(_mm256_srli_epi64::<32>(mixed), prime);
                    _mm256_storeu_si256(
                        to.cast(),
                        _mm256_add_epi64(_mm256_mul_epu32(mixed, prime), _mm256_slli_epi64::<32>(high)),
                    );
                }
            }
        }
    }

    /// One 512-bit register; a tile of 12 hides the latency of the multiply-add.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    impl Lanes for Avx512 {
        const TILE: usize = 12;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            Self(unsafe { _mm512_set1_ps(value) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Self(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn mul(self, other: Self) -> Self {
            Self(unsafe { _mm512_mul_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        unsafe fn fnma(self, a: Self, b: Self) -> Self {
            Self(unsafe { _mm512_fnmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        unsafe fn abs(self) -> Self {
            Self(unsafe { _mm512_abs_ps(self.0) })
        }
        #[inline(always)]
        unsafe fn max_of(self, other: Self) -> Self {
            Self(unsafe { _mm512_max_ps(other.0, self.0) })
        }
        #[inline(always)]
        unsafe fn min_of(self, other: Self) -> Self {
            Self(unsafe { _mm512_min_ps(other.0, self.0) })
        }
        #[inline(always)]
        unsafe fn ge_mask(self, other: Self) -> u32 {
            u32::from(unsafe { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn sqrt(self) -> Self {
            Self(unsafe { _mm512_sqrt_ps(self.0) })
        }
        #[inline(always)]
        unsafe fn reciprocal(self) -> Self {
            Self(unsafe { _mm512_div_ps(_mm512_set1_ps(1.0), self.0) })
        }
        #[inline(always)]
        unsafe fn transpose(rows: [Self; 16]) -> [Self; 16] {
            unsafe {
                // Four rows at a time: `quads[g][c]` holds, for m = 0..4, column 4m + c of rows 4g..4g+4.
                let mut quads = [[_mm512_setzero_ps(); 4]; 4];
                for (quad, rows) in quads.iter_mut().zip(rows.as_chunks::<4>().0) {
                    let [a, b, c, d] = rows.map(|row| row.0);
                    let (low_ab, high_ab) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                    let (low_cd, high_cd) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                    let pairs = [(low_ab, low_cd), (high_ab, high_cd)];
                    for (half, (ab, cd)) in pairs.into_iter().enumerate() {
                        let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
                        quad[2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
                        quad[2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
                    }
                }
                let mut columns = [Self::splat(0.0); 16];
                for c in 0..4 {
                    let [a, b, c_, d] = [quads[0][c], quads[1][c], quads[2][c], quads[3][c]];
                    let (even_ab, odd_ab) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xDD>(a, b));
                    let (even_cd, odd_cd) = (_mm512_shuffle_f32x4::<0x88>(c_, d), _mm512_shuffle_f32x4::<0xDD>(c_, d));
                    columns[c] = Self(_mm512_shuffle_f32x4::<0x88>(even_ab, even_cd));
                    columns[4 + c] = Self(_mm512_shuffle_f32x4::<0x88>(odd_ab, odd_cd));
                    columns[8 + c] = Self(_mm512_shuffle_f32x4::<0xDD>(even_ab, even_cd));
                    columns[12 + c] = Self(_mm512_shuffle_f32x4::<0xDD>(odd_ab, odd_cd));
                }
                columns
            }
        }
        #[inline(always)]
        unsafe fn hash_block(sums: &mut [u64; 8], block: &[u8; LongHash::BLOCK_BYTES]) {
            // A stripe is 64 bytes, the secret moves by eight bytes from one to the next, and its end mixes: 16 stripes and
            // 192 bytes of secret, so that every load lies inside.
            unsafe {
                let prime = _mm512_set1_epi64(PRIME32[0] as i64);
                for part in (0..64).step_by(64) {
                    let to = sums.as_mut_ptr().byte_add(part);
                    let mut sum = _mm512_loadu_si512(to.cast());
                    for stripe in 0..16 {
                        let values = _mm512_loadu_si512(block.as_ptr().add(64 * stripe + part).cast());
                        let keys =
                            _mm512_xor_si512(values, _mm512_loadu_si512(SECRET.as_ptr().add(8 * stripe + part).cast()));
                        let products = _mm512_mul_epu32(keys, _mm512_srli_epi64::<32>(keys));
                        sum = _mm512_add_epi64(_mm512_add_epi64(sum, _mm512_shuffle_epi32::<0x4E>(values)), products);
                    }
                    let secret = _mm512_loadu_si512(SECRET.as_ptr().add(128 + part).cast());
                    let mixed = _mm512_xor_si512(_mm512_xor_si512(sum, _mm512_srli_epi64::<47>(sum)), secret);
                    let high = _mm512_mul_epu32(_mm512_srli_epi64::<32>(mixed), prime);
                    _mm512_storeu_si512(
                        to.cast(),
                        _mm512_add_epi64(_mm512_mul_epu32(mixed, prime), _mm512_slli_epi64::<32>(high)),
                    );
                }
            }
        }
    }
}

/// Calls `$tile::<$lanes, WIDTH>` for a run-time width of 1..=12, so that every tail keeps its accumulators in
/// registers.
macro_rules! with_tile_width {
    ($width:expr, $tile:ident :: <$lanes:ident>($($arg:expr),* $(,)?)) => {
        match $width {
            1 => $tile::<$lanes, 1>($($arg),*),
            2 => $tile::<$lanes, 2>($($arg),*),
            3 => $tile::<$lanes, 3>($($arg),*),
            4 => $tile::<$lanes, 4>($($arg),*),
            5 => $tile::<$lanes, 5>($($arg),*),
            6 => $tile::<$lanes, 6>($($arg),*),
            7 => $tile::<$lanes, 7>($($arg),*),
            8 => $tile::<$lanes, 8>($($arg),*),
            9 => $tile::<$lanes, 9>($($arg),*),
            10 => $tile::<$lanes, 10>($($arg),*),
            11 => $tile::<$lanes, 11>($($arg),*),
            12 => $tile::<$lanes, 12>($($arg),*),
            _ => unreachable!("a tile has 1 to 12 rows"),
        }
    };
}
pub(crate) use with_tile_width;
