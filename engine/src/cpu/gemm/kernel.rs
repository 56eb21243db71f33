//! The micro-kernel: a tile of C from one panel of either operand.

use crate::cpu::parallel::SharedMut;
use crate::cpu::simd::Instructions;

/// Where a tile of `R` rows and `C` columns goes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Index of its first element.
    pub start: usize,
    /// From one row to the next.
    pub stride: usize,
    /// Rows of the tile that there are.
    pub rows: usize,
    /// Columns of the tile that there are.
    pub columns: usize,
    /// Whether the product is added to what is there.
    pub add: bool,
}

/// Sums over the inner dimension in order, from zero, in registers: `R`·`C` of them, loaded with one row of
/// B's panel and, one by one, the elements of A's.
#[inline(always)]
fn sums<const R: usize, const C: usize>(
    instructions: impl Instructions,
    a: &[[f32; R]],
    b: &[[f32; C]],
) -> [[f32; C]; R] {
    let mut sums = [[0.0f32; C]; R];
    for (a, b) in a.iter().zip(b) {
        for i in 0..R {
            for j in 0..C {
                sums[i][j] = instructions.multiply_add(a[i], b[j], sums[i][j]);
            }
        }
    }
    sums
}

/// Writes the whole tile of C at `target`: the product of the panels `a` and `b`. Panics when it does not lie
/// inside C.
///
/// # Safety
/// Nothing else may access the rows and columns of C that `target` names during the call.
#[expect(clippy::needless_range_loop, reason = "with iterators the compiler keeps the sums in memory")]
#[inline(always)]
pub unsafe fn tile<const R: usize, const C: usize>(
    instructions: impl Instructions,
    a: &[[f32; R]],
    b: &[[f32; C]],
    c: &SharedMut<'_, f32>,
    target: Target,
) {
    let last_row = target.stride.saturating_mul(R - 1).saturating_add(target.start);
    assert!(last_row.saturating_add(C) <= c.length(), "a tile inside C");
    let mut sums = sums(instructions, a, b);
    // In this form the compiler unrolls the loops, and the sums stay in registers.
    if target.add {
        for i in 0..R {
            // SAFETY: no row ends after the last one, which lies inside C; exclusive by the caller's promise.
            let row = *unsafe { c.array::<C>(target.start + i * target.stride) };
            for j in 0..C {
                sums[i][j] += row[j];
            }
        }
    }
    for i in 0..R {
        // SAFETY: as above.
        *unsafe { c.array::<C>(target.start + i * target.stride) } = sums[i];
    }
}

/// Writes what there is of a tile that reaches over the edge of C.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
pub unsafe fn edge_tile<const R: usize, const C: usize>(
    instructions: impl Instructions,
    a: &[[f32; R]],
    b: &[[f32; C]],
    c: &SharedMut<'_, f32>,
    target: Target,
) {
    let sums = sums(instructions, a, b);
    for (i, sums) in sums.iter().take(target.rows).enumerate() {
        let start = target.start + i * target.stride;
        // SAFETY: the caller's promise.
        let row = unsafe { c.range(start..start + target.columns) };
        for (element, sum) in row.iter_mut().zip(sums) {
            *element = if target.add { *element + sum } else { *sum };
        }
    }
}
