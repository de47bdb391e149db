//! A growable array of `f32` that starts on a cache line.
//!
//! The kernels accept any alignment; this only keeps their loads from straddling two lines.

/// One cache line.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Zero-filled storage whose length is a multiple of 16.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AlignedF32 {
    lines: Vec<Line>,
}

impl AlignedF32 {
    /// `len` zeros, rounded up to a multiple of 16.
    pub fn zeroed(len: usize) -> Self {
        Self { lines: vec![Line([0.0; 16]); len.div_ceil(16)] }
    }

    /// All values.
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: `Line` is `repr(C)` over exactly 16 f32 with no padding (its size equals its alignment, 64), so the
        // vector is `16 × len` contiguous, initialised f32.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * 16) }
    }

    /// All values.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as in `as_slice`; the exclusive borrow of self covers the storage.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * 16) }
    }

    /// Makes it `len` values long, rounded up to a multiple of 16; what is new is zero.
    pub(crate) fn resize(&mut self, len: usize) {
        self.lines.resize(len.div_ceil(16), Line([0.0; 16]));
    }

    /// Makes it empty; the storage stays.
    pub(crate) fn clear(&mut self) {
        self.lines.clear();
    }

    /// Drops what lies past the first `lines` lines of sixteen.
    pub(crate) fn truncate_lines(&mut self, lines: usize) {
        self.lines.truncate(lines);
    }

    /// Sixteen zeros more.
    pub(crate) fn push_line(&mut self) -> &mut [f32; 16] {
        self.lines.push(Line([0.0; 16]));
        &mut self.lines.last_mut().expect("just pushed").0
    }
}
