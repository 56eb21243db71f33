//! What an operation has to move and to compute, by its contract: what benches measure it against.
//!
//! Bytes are those between memory and whatever computes: each pass reads its operands once and writes its
//! results once, whatever a cache gives back in between. Flops are multiplications, additions, divisions, roots
//! and exponentials of the operation's formulas; work done twice to save memory does not count.
//! Each operation states its own in functions named `*_work`; `element` there is the bytes of an element of its
//! activations and weights (4 for f32, 2 for bf16), sums and gradients of weights being f32 in any case.

use std::ops::Add;

/// Bytes of a sector, the least that a GPU moves; a CPU moves lines of two.
pub const SECTOR: usize = 32;

/// Bytes and floating-point operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Bytes read and written.
    pub bytes: u64,
    /// Floating-point operations.
    pub flops: u64,
}

impl Work {
    /// From numbers of bytes and operations.
    pub fn new(bytes: usize, flops: usize) -> Self {
        Self { bytes: bytes as u64, flops: flops as u64 }
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, flops: self.flops + other.flops }
    }
}

/// Bytes of a mask of one bit per element.
pub fn mask_bytes(elements: usize) -> usize {
    elements.div_ceil(8)
}

/// Bytes of f32 that move when `selected` of `elements` are accessed at random places: whole sectors.
pub fn scattered_bytes(elements: usize, selected: usize) -> usize {
    const PER_SECTOR: usize = SECTOR / size_of::<f32>();
    let untouched = (1.0 - selected as f64 / elements.max(1) as f64).powi(PER_SECTOR as i32);
    (elements.div_ceil(PER_SECTOR) as f64 * (1.0 - untouched)).round() as usize * SECTOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_elements_move_whole_sectors() {
        assert_eq!(scattered_bytes(800, 800), 3200);
        assert_eq!(scattered_bytes(800, 0), 0);
        // Few of many hardly ever share a sector.
        let bytes = scattered_bytes(8_000_000, 1000);
        assert!((31_900..=32_000).contains(&bytes), "{bytes}");
    }
}
