//! Small mutations from a seed, so that a replay repeats: bits, bytes, numbers, and pieces cut, doubled and swapped.

/// Lengths and counts at which arithmetic breaks.
const INTERESTING: [u64; 10] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff];
/// Texts at which parsers break.
const WORDS: [&[u8]; 10] =
    [b"null", b"-1", b"1e999", b"18446744073709551615", b"\"\"", b"\xff", b"\0", b"{", b"\\u0000", b"99999999999999"];

/// A fixed stream of numbers.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound.max(1)
    }
}

/// A mutation of `bytes`; pieces may come from `other`.
pub fn mutate(bytes: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=chance.below(4) {
        step(&mut bytes, other, chance);
    }
    bytes
}

fn step(bytes: &mut Vec<u8>, other: &[u8], chance: &mut Chance) {
    let at = chance.below(bytes.len());
    let until = (at + 1 + chance.below(32)).min(bytes.len());
    match chance.below(9) {
        _ if bytes.is_empty() => bytes.push(chance.next() as u8),
        0 => bytes[at] ^= 1 << chance.below(8),
        1 => bytes[at] = chance.next() as u8,
        2 => {
            let number = INTERESTING[chance.below(INTERESTING.len())].to_le_bytes();
            let width = [1, 2, 4, 8][chance.below(4)].min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
        3 => drop(bytes.drain(at..until)),
        4 => {
            let piece = bytes[at..until].to_vec();
            let to = chance.below(bytes.len());
            bytes.splice(to..to, piece);
        }
        5 => bytes.truncate(at),
        6 => {
            let word = WORDS[chance.below(WORDS.len())];
            bytes.splice(at..until, word.iter().copied());
        }
        7 => {
            let from = chance.below(other.len());
            let piece = &other[from..(from + 1 + chance.below(64)).min(other.len())];
            bytes.splice(at..until, piece.iter().copied());
        }
        _ => {
            // Digits stay digits, so that numbers change and the rest still parses.
            if let Some(digit) = bytes[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
                *digit = b'0' + chance.below(10) as u8;
            }
        }
    }
}
