//! Mapping a snapshot file into memory, and reading its bytes as numbers. One of the two places outside `kernels`
//! where `unsafe` is allowed.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;

/// The bytes of a snapshot: mapped, or owned on a 64-byte boundary.
#[derive(Debug)]
pub(crate) enum Bytes {
    Mapped(memmap2::Mmap),
    Owned { lines: Vec<Line>, len: usize },
}

/// One cache line, so that owned bytes are as well aligned as mapped ones.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

impl Bytes {
    /// Maps a file read-only.
    pub(crate) fn map(file: &File) -> io::Result<Self> {
        // SAFETY: a published snapshot is never written again or cut short: it is created under a temporary name,
        // synced and linked, and removed by unlinking, which leaves the mapping intact. All values are plain numbers
        // or bytes, so even a file changed by force could give wrong answers but no invalid values: ids are checked
        // UTF-8 again where they are read.
        Ok(Self::Mapped(unsafe { memmap2::Mmap::map(file)? }))
    }

    /// Copies bytes that came from elsewhere (an object store, a test).
    pub(crate) fn copy(bytes: &[u8]) -> Self {
        let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(64)];
        for (line, chunk) in lines.iter_mut().zip(bytes.chunks(64)) {
            line.0[..chunk.len()].copy_from_slice(chunk);
        }
        Self::Owned { lines, len: bytes.len() }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            // SAFETY: `Line` is 64 bytes without padding and `len` ≤ 64 × lines, all initialised.
            Bytes::Owned { lines, len } => unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), *len) },
        }
    }
}

/// Numbers for which every bit pattern is valid and which have no padding.
pub(crate) trait Plain: Copy + private::Sealed {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for f32 {}
impl Plain for f64 {}

mod private {
    pub(crate) trait Sealed {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// The bytes as little-endian numbers in place; `None` if misaligned or of a wrong length.
pub(crate) fn numbers<T: Plain>(bytes: &[u8]) -> Option<&[T]> {
    // SAFETY: `T` is plain, so any bytes are valid values of it; `align_to` cares for alignment and length.
    let (head, body, tail) = unsafe { bytes.align_to::<T>() };
    (head.is_empty() && tail.is_empty()).then_some(body)
}

/// The numbers as their little-endian bytes.
pub(crate) fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: `T` is plain: it has no padding, so all its bytes are initialised; u8 has no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
