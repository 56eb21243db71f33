//! What kernels of others do not show, each by itself.

use cpift_kernels::simt::Bf16;
use source::emulator::{Rules, Schedule};

use super::products::multiply;
use super::{Launch, RULES, compare, launch, must_be_right, ptx_of, tiles, updated};
use crate::common::{Buffer, random, widen};

const TEXT: &str = ptx_of!("cuda_open.sm_90a");

/// 64 rows by so many columns of B, which lies across k in tiles of 64 columns.
fn columns(kernel: &'static str, count: usize, rules: Rules, schedule: Schedule) -> Result<(), String> {
    let (a, b) = (random::<Bf16>(1, 64 * 64), random::<Bf16>(2, 64 * 128));
    let mut c = Buffer::<f32>::poisoned(64 * count);
    let given = [tiles(&a, [64, 64], 64), tiles(&b, [64, 128], 64), updated(&mut c)];
    let launched = Launch { kernel, grid: [1; 3], block: 128, shared: 3 * 8192 + 1024 };
    launch(TEXT, launched, &given, rules, schedule)?;
    let product = multiply(&widen(a.as_slice()), &widen(b.as_slice()), [64, 128, 64]);
    let expected: Vec<f64> = product.chunks(128).flat_map(|row| row[..count].to_vec()).collect();
    compare("the product", c.as_slice(), &expected, 1e-5)
}

/// Rows of 32 elements in tiles of their own, at multiples of 128 bytes.
pub fn row_tiles(rules: Rules, schedule: Schedule) -> Result<(), String> {
    let (x, mut rows) = (random::<f32>(3, 4 * 72), Buffer::<f32>::poisoned(8 * 32));
    let given = [tiles(&x, [4, 72], 1), updated(&mut rows)];
    let launched = Launch { kernel: "row_tiles", grid: [1; 3], block: 128, shared: 2048 };
    launch(TEXT, launched, &given, rules, schedule)?;
    let x = widen(x.as_slice());
    let element = |place: usize| {
        let (part, column) = (place / 32, 5 + 32 * (place / 32 % 2) + place % 32);
        if column < 72 { x[part / 2 * 72 + column] } else { 0.0 }
    };
    let expected: Vec<f64> = (0..8 * 32).map(element).collect();
    compare("the rows", rows.as_slice(), &expected, 0.0)
}

#[test]
fn columns_by_two_instructions() {
    must_be_right(|rules, schedule| columns("split_80", 80, rules, schedule));
    must_be_right(|rules, schedule| columns("split_96", 96, rules, schedule));
}

/// One instruction that ends within what is swizzled together: no layout of the PTX ISA, and no kernel of others has it.
#[test]
fn columns_by_one_instruction_are_refused() {
    for (kernel, count) in [("partial_72", 72), ("partial_80", 80), ("partial_96", 96), ("partial_112", 112)]
    {
        let found = columns(kernel, count, RULES, Schedule::Forward).expect_err(kernel);
        assert!(found.contains(&format!("product of {count} columns of an operand")), "{found}");
    }
}

#[test]
fn tiles_at_multiples_of_128_bytes() {
    must_be_right(row_tiles);
}
