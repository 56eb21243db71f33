//! What tensor cores compute: sums of 16 rows by 8 columns, and 16 products for each.

/// Rows of a tile of sums.
pub const ROWS: usize = 16;
/// Its columns.
pub const COLUMNS: usize = 8;
/// Elements along k.
pub const K_STEP: usize = 16;

/// The left operand by rows.
pub type TileA = [[f32; K_STEP]; ROWS];
/// The right operand by k: lines of columns, so that they are computed side by side.
pub type TileB = [[f32; COLUMNS]; K_STEP];
/// The sums by rows.
pub type TileSums = [[f32; COLUMNS]; ROWS];

/// sums += a·b, term by term along k, each by one fused multiply and add.
pub fn multiply_tile(a: &TileA, b: &TileB, sums: &mut TileSums) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has both.
        return unsafe { multiply_tile_fma(a, b, sums) };
    }
    multiply_tile_plain(a, b, sums);
}

/// The same bits: without these instructions every term is a call of the C library.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_tile_fma(a: &TileA, b: &TileB, sums: &mut TileSums) {
    multiply_tile_plain(a, b, sums);
}

#[inline(always)]
fn multiply_tile_plain(a: &TileA, b: &TileB, sums: &mut TileSums) {
    for (a, sums) in a.iter().zip(sums) {
        let mut row = *sums;
        for (a, b) in a.iter().zip(b) {
            for (sum, b) in row.iter_mut().zip(b) {
                *sum = a.mul_add(*b, *sum);
            }
        }
        *sums = row;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_added_along_k_one_by_one() {
        // Of 24 bits, so that products are not exact: another order, or rounding between, shows.
        let mut bits = 1u32;
        let mut fresh = || {
            bits = bits.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            (bits >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let a: TileA = std::array::from_fn(|_| std::array::from_fn(|_| fresh()));
        let b: TileB = std::array::from_fn(|_| std::array::from_fn(|_| fresh()));
        let before: TileSums = std::array::from_fn(|_| std::array::from_fn(|_| fresh()));
        let (mut sums, mut plain) = (before, before);
        multiply_tile(&a, &b, &mut sums);
        multiply_tile_plain(&a, &b, &mut plain);
        let mut unfused = 0;
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                let expected =
                    (0..K_STEP).fold(before[row][column], |sum, k| a[row][k].mul_add(b[k][column], sum));
                assert_eq!(sums[row][column].to_bits(), expected.to_bits(), "{row} {column}");
                assert_eq!(plain[row][column].to_bits(), expected.to_bits(), "{row} {column}");
                let otherwise =
                    (0..K_STEP).fold(before[row][column], |sum, k| sum + a[row][k] * b[k][column]);
                unfused += usize::from(otherwise.to_bits() != expected.to_bits());
            }
        }
        assert!(unfused > 0, "rounding between does not show");
    }
}
