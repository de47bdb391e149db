//! Looking at every byte of a file once: its checksum, and whether its numbers are such as may be there.
//!
//! The checksum is XXH3 with 64 bits, no seed and the default secret (`xxh3_64` of every implementation), for inputs of
//! more than [`LongHash::SHORT_BYTES_MAX`] bytes that lie in memory. The crate that everybody uses is as wide as the
//! compiler was told; this one is as wide as the CPU, which is twice as fast, and lets the caller look at each part
//! while it is in the cache. Integers, so all widths agree; the tests compare with that crate.

use crate::isa::{Kernels, dispatch};
use crate::lanes::Lanes;

/// The default secret of XXH3.
pub(crate) const SECRET: [u8; 192] = [
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d,
    0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0,
    0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0,
    0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b,
    0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac,
    0xd8, 0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51,
    0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34,
    0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb, 0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49,
    0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8,
    0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b,
    0x40, 0x7e,
];

pub(crate) const PRIME32: [u64; 3] = [0x9E37_79B1, 0x85EB_CA77, 0xC2B2_AE3D];
const PRIME64: [u64; 5] =
    [0x9E37_79B1_85EB_CA87, 0xC2B2_AE3D_27D4_EB4F, 0x1656_67B1_9E37_79F9, 0x85EB_CA77_C2B2_AE63, 0x27D4_EB2F_1656_67C5];

const STRIPE_BYTES: usize = 64;
const STRIPES_PER_BLOCK: usize = (SECRET.len() - STRIPE_BYTES) / 8;

type Words = [u64; 8];

/// The checksum of long inputs.
#[derive(Debug, Clone, Copy)]
pub struct LongHash;

impl LongHash {
    /// The checksum is taken of whole blocks of so many bytes.
    pub const BLOCK_BYTES: usize = STRIPE_BYTES * STRIPES_PER_BLOCK;

    /// Inputs up to here have another definition.
    pub const SHORT_BYTES_MAX: usize = 240;

    /// The checksum of `bytes`, which `look` is shown part by part: parts of `part_bytes` (whole blocks), the last may be
    /// shorter. Inputs must be long; see above.
    pub fn of(kernels: Kernels, bytes: &[u8], part_bytes: usize, mut look: impl FnMut(&[u8])) -> u64 {
        assert!(bytes.len() > Self::SHORT_BYTES_MAX, "short inputs have another definition");
        assert!(part_bytes > 0 && part_bytes.is_multiple_of(Self::BLOCK_BYTES), "parts are whole blocks");
        let [p1, p2, p3, p4, p5] = PRIME64;
        let mut sums = [PRIME32[2], p1, p2, p3, p4, PRIME32[1], p5, PRIME32[0]];
        // The last block, whole or not, is not followed by a mix.
        let (blocks, rest) = bytes.split_at((bytes.len() - 1) / Self::BLOCK_BYTES * Self::BLOCK_BYTES);
        for (part, whole) in blocks.chunks(part_bytes).zip(bytes.chunks(part_bytes)) {
            add_blocks(kernels, &mut sums, part);
            look(whole);
        }
        if bytes.len().div_ceil(part_bytes) > blocks.len().div_ceil(part_bytes) {
            look(&bytes[blocks.len()..]); // all blocks filled their parts: the rest is a part of its own
        }
        let stripes = rest[..(rest.len() - 1) / STRIPE_BYTES * STRIPE_BYTES].as_chunks::<STRIPE_BYTES>().0;
        for (number, stripe) in stripes.iter().enumerate() {
            add_stripe(&mut sums, stripe, number * 8);
        }
        let last = bytes.last_chunk::<STRIPE_BYTES>().expect("long inputs are longer than a stripe");
        add_stripe(&mut sums, last, SECRET.len() - STRIPE_BYTES - 7);
        let mut hash = (bytes.len() as u64).wrapping_mul(p1);
        for (pair, [a, b]) in sums.as_chunks::<2>().0.iter().enumerate() {
            let product = u128::from(a ^ word(&SECRET, 11 + 16 * pair)) * u128::from(b ^ word(&SECRET, 19 + 16 * pair));
            hash = hash.wrapping_add(product as u64 ^ (product >> 64) as u64);
        }
        hash ^= hash >> 37;
        hash = hash.wrapping_mul(0x1656_6791_9E37_79F9);
        hash ^ hash >> 32
    }
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Eight words at `at` of the secret.
#[inline(always)]
fn words(bytes: &[u8], at: usize) -> Words {
    std::array::from_fn(|n| word(bytes, at + 8 * n))
}

fn add_stripe(sums: &mut Words, stripe: &[u8; STRIPE_BYTES], secret_at: usize) {
    let (values, secret) = (words(stripe, 0), words(&SECRET, secret_at));
    for n in 0..8 {
        let key = values[n] ^ secret[n];
        sums[n] = sums[n].wrapping_add(values[n ^ 1]).wrapping_add((key & 0xFFFF_FFFF) * (key >> 32));
    }
}

/// Adds a block and mixes: the twin of [`Lanes::hash_block`].
pub(crate) fn add_block(sums: &mut Words, block: &[u8; LongHash::BLOCK_BYTES]) {
    for (number, stripe) in block.as_chunks::<STRIPE_BYTES>().0.iter().enumerate() {
        add_stripe(sums, stripe, number * 8);
    }
    for (sum, secret) in sums.iter_mut().zip(words(&SECRET, SECRET.len() - STRIPE_BYTES)) {
        *sum = (*sum ^ (*sum >> 47) ^ secret).wrapping_mul(PRIME32[0]);
    }
}

dispatch! {
    fn add_blocks(sums: &mut Words, blocks: &[u8]) = add_blocks_body
}

/// # Safety
/// As [`Lanes`].
#[inline(always)]
unsafe fn add_blocks_body<L: Lanes>(sums: &mut Words, blocks: &[u8]) {
    for block in blocks.as_chunks::<{ LongHash::BLOCK_BYTES }>().0 {
        // SAFETY: the caller's promise.
        unsafe { L::hash_block(sums, block) };
    }
}

impl Kernels {
    /// Whether `(value & mask) − least`, wrapping, is below `count` for all values: a range of integers, or of the bits of
    /// floats.
    pub fn all_in_range(self, values: &[u32], mask: u32, least: u32, count: u32) -> bool {
        outside(self, values, mask, least, count) == 0
    }
}

dispatch! {
    fn outside(values: &[u32], mask: u32, least: u32, count: u32) -> u32 = outside_body
}

/// Whether any lies outside, as a number: a loop that could stop early is not vectorised.
///
/// # Safety
/// As [`Lanes`], whose features the compiler uses.
#[inline(always)]
unsafe fn outside_body<L: Lanes>(values: &[u32], mask: u32, least: u32, count: u32) -> u32 {
    values.iter().fold(0, |bad, value| bad | u32::from((value & mask).wrapping_sub(least) >= count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    fn bytes(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    fn compare(bytes: &[u8], part_bytes: usize) {
        for isa in Isa::available() {
            let kernels = Kernels::with_isa(isa).expect("it is available");
            let mut seen = Vec::new();
            let hash = LongHash::of(kernels, bytes, part_bytes, |part| seen.extend_from_slice(part));
            assert_eq!(hash, xxh3_64(bytes), "{isa:?}, {} bytes in parts of {part_bytes}", bytes.len());
            assert!(seen == bytes, "{isa:?}: every byte is looked at once");
        }
    }

    #[test]
    fn the_checksum_is_everybodys_at_every_edge() {
        for length in (241..1400).chain([2047, 2048, 2049, 3 * 1024 - 1, 3 * 1024, 3 * 1024 + 1, 65_536, 65_537]) {
            compare(&bytes(length as u64, length), 1024);
            compare(&bytes(7, length + 1)[1..], 2048);
        }
    }

    proptest! {
        #[test]
        fn the_checksum_is_everybodys(seed in any::<u64>(), length in 241_usize..20_000, blocks in 1_usize..9) {
            compare(&bytes(seed, length), blocks * 1024);
        }

        #[test]
        fn a_range_is_what_it_says(
            values in proptest::collection::vec(any::<u32>(), 0..70),
            mask in prop_oneof![Just(u32::MAX), Just(0x7FFF_FFFF), any::<u32>()],
            (least, count) in (any::<u32>(), any::<u32>()),
        ) {
            for isa in Isa::available() {
                let kernels = Kernels::with_isa(isa).expect("it is available");
                let (least_wide, end) = (u64::from(least), u64::from(least) + u64::from(count));
                let expected = values.iter().all(|value| {
                    let value = u64::from(value & mask);
                    (least_wide..end).contains(&value) || (least_wide..end).contains(&(value + (1 << 32)))
                });
                prop_assert_eq!(kernels.all_in_range(&values, mask, least, count), expected);
            }
        }
    }
}
