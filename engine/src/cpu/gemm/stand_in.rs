//! A stand-in for the unit that multiplies tiles, so that what is around it is tested on any processor.

use std::cell::Cell;
use std::mem::MaybeUninit;

use super::tiles::{A_STEP, B_STEP, SIDE, Sums, TileUnit, WORDS};

/// Does what Intel's manual says of `TDPBF16PS`: over a tile's depth the products of even and of odd indices are
/// summed apart; sums are rounded to f32, and subnormal numbers are zeros.
#[derive(Debug, Clone, Copy)]
pub struct StandIn;

thread_local! {
    static READY: Cell<bool> = const { Cell::new(false) };
}

impl TileUnit for StandIn {
    fn run<R>(self, work: impl FnOnce() -> R) -> R {
        READY.set(true);
        let result = work();
        READY.set(false);
        result
    }

    #[inline(always)]
    unsafe fn multiply(self, a: &[[f32; A_STEP]], b: &[[f32; B_STEP]], sums: &mut MaybeUninit<Sums>) {
        assert!(READY.get() && a.len() == b.len() && !a.is_empty());
        let mut products = [[0.0f32; SIDE]; SIDE];
        for (a, b) in a.iter().zip(b) {
            for (a, row) in a.as_chunks::<WORDS>().0.iter().zip(&mut products) {
                let (mut even, mut odd) = ([0.0f32; SIDE], [0.0f32; SIDE]);
                for (&a, b) in a.iter().zip(b.as_chunks::<SIDE>().0) {
                    let a = halves(a);
                    for (j, &b) in b.iter().enumerate() {
                        let b = halves(b);
                        even[j] = flushed(even[j] + a[0] * b[0]);
                        odd[j] = flushed(odd[j] + a[1] * b[1]);
                    }
                }
                for (sum, (even, odd)) in row.iter_mut().zip(even.into_iter().zip(odd)) {
                    *sum = flushed(*sum + flushed(even + odd));
                }
            }
        }
        sums.write(products);
    }
}

/// The two bf16 of a word, the lower one first.
#[inline(always)]
fn halves(word: f32) -> [f32; 2] {
    let bits = word.to_bits();
    [bits << 16, bits & 0xffff_0000].map(|bits| flushed(f32::from_bits(bits)))
}

#[inline(always)]
fn flushed(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(value) } else { value }
}
