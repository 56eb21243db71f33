//! Products of matrices.

use cpift_kernels::simt::Bf16;
use source::emulator::{Rules, Schedule};

use super::{
    Given, Launch, compare, described, launch, long, must_be_right, ptx_of, read, tiles, updated, word,
};
use crate::common::{Buffer, random, widen};

/// m, n and k, and for both operands whether memory has them transposed.
struct Product {
    sizes: [usize; 3],
    transposed: [bool; 2],
}

/// What memory has: `rows` by `columns`, or the other way round.
fn transpose(values: &Buffer<Bf16>, rows: usize, columns: usize) -> Buffer<Bf16> {
    let values = values.as_slice();
    let elements: Vec<Bf16> =
        (0..columns * rows).map(|place| values[place % rows * columns + place / rows]).collect();
    Buffer::from_slice(&elements)
}

/// A · B in f64.
pub fn multiply(a: &[f64], b: &[f64], [m, n, k]: [usize; 3]) -> Vec<f64> {
    let dot =
        |row: usize, column: usize| (0..k).map(|level| a[row * k + level] * b[level * n + column]).sum();
    (0..m * n).map(|place| dot(place / n, place % n)).collect()
}

impl Product {
    /// Holds what `run` makes of both operands as they are in memory against the product of what they mean.
    fn check(
        &self,
        run: impl FnOnce([&Buffer<Bf16>; 2], &mut Buffer<f32>) -> Result<(), String>,
    ) -> Result<(), String> {
        let [m, n, k] = self.sizes;
        let (a, b) = (random::<Bf16>(1, m * k), random::<Bf16>(2, k * n));
        let expected = multiply(&widen(a.as_slice()), &widen(b.as_slice()), self.sizes);
        let a = if self.transposed[0] { transpose(&a, m, k) } else { a };
        let b = if self.transposed[1] { transpose(&b, k, n) } else { b };
        let mut c = Buffer::<f32>::poisoned(m * n);
        run([&a, &b], &mut c)?;
        compare("the product", c.as_slice(), &expected, 1e-5)
    }

    /// Rows and columns of both operands in memory.
    fn shapes(&self) -> [[usize; 2]; 2] {
        let [m, n, k] = self.sizes;
        let shape = |rows, columns, transposed| if transposed { [columns, rows] } else { [rows, columns] };
        [shape(m, k, self.transposed[0]), shape(k, n, self.transposed[1])]
    }

    /// By Triton's kernel with tensor maps, whose boxes have so many rows.
    fn by_triton(
        &self,
        text: &str,
        (launched, boxes): (Launch, [u32; 2]),
        rules: Rules,
        schedule: Schedule,
    ) -> Result<(), String> {
        let [_, n, k] = self.sizes;
        self.check(|[a, b], c| {
            let [shape_a, shape_b] = self.shapes();
            let mut given = described(a, shape_a, boxes[0]);
            given.extend(described(b, shape_b, boxes[1]));
            given.extend([updated(c), word(n), word(k), long(0), long(0)]);
            launch(text, launched, &given, rules, schedule)
        })
    }

    /// By the ring of stages in CUDA C++, of blocks with so many columns.
    fn by_ring(&self, text: &str, columns: u32, rules: Rules, schedule: Schedule) -> Result<(), String> {
        let [m, n, k] = self.sizes;
        let stage = 128 * 128 + columns * 128;
        let grid = [n as u32 / columns, m as u32 / 128, 1];
        let launched = Launch { kernel: "ring", grid, block: 384, shared: 4 * stage + 64 };
        self.check(|[a, b], c| {
            let [shape_a, shape_b] = self.shapes();
            let box_b = if self.transposed[1] { columns } else { 64 };
            let given: [Given; 6] =
                [tiles(a, shape_a, 128), tiles(b, shape_b, box_b), updated(c), word(m), word(n), word(k)];
            launch(text, launched, &given, rules, schedule)
        })
    }
}

/// Of Triton's kernels by tensor maps.
const fn triton(block: u32, shared: u32) -> Launch {
    Launch { kernel: "matmul_tma_out", grid: [1, 2, 1], block, shared }
}

pub fn tma_nn(rules: Rules, schedule: Schedule) -> Result<(), String> {
    let product = Product { sizes: [64, 128, 192], transposed: [false, false] };
    let text = ptx_of!("triton_tma_nn_64x64w8.sm_90");
    product.by_triton(text, (triton(256, 49_176), [64, 64]), rules, schedule)
}

pub fn tma_tn(rules: Rules, schedule: Schedule) -> Result<(), String> {
    let product = Product { sizes: [128, 512, 192], transposed: [true, false] };
    let text = ptx_of!("triton_tma_tn_128x256w8.sm_90");
    product.by_triton(text, (triton(256, 147_512), [64, 64]), rules, schedule)
}

/// What is beyond k is zero, and counts as arrived.
fn tma_nt_ragged(rules: Rules, schedule: Schedule) -> Result<(), String> {
    let product = Product { sizes: [128, 256, 200], transposed: [false, true] };
    let text = ptx_of!("triton_tma_nt_128x128w4.sm_90");
    product.by_triton(text, (triton(128, 98_328), [128, 128]), rules, schedule)
}

fn ring_nn(rules: Rules, schedule: Schedule) -> Result<(), String> {
    let product = Product { sizes: [128, 512, 448], transposed: [false, false] };
    product.by_ring(ptx_of!("cuda_ring_nn_256.sm_90a"), 256, rules, schedule)
}

pub fn ring_nt(rules: Rules, schedule: Schedule) -> Result<(), String> {
    let product = Product { sizes: [256, 128, 448], transposed: [false, true] };
    product.by_ring(ptx_of!("cuda_ring_nt_128.sm_90a"), 128, rules, schedule)
}

/// By plain pointers, with edges of all tiles.
pub fn matmul(rules: Rules, schedule: Schedule) -> Result<(), String> {
    let product = Product { sizes: [136, 200, 136], transposed: [false, false] };
    let [m, n, k] = product.sizes;
    let launched = Launch { kernel: "matmul", grid: [2, 2, 1], block: 128, shared: 32_768 };
    product.check(|[a, b], c| {
        let sizes = [m, n, k, k, n, n].map(word);
        let given = [&[read(a), read(b), updated(c)][..], &sizes[..], &[long(0), long(0)][..]].concat();
        launch(ptx_of!("triton_matmul_nn.sm_80"), launched, &given, rules, schedule)
    })
}

#[test]
fn by_tensor_maps_with_b_across_k() {
    must_be_right(tma_nn);
}

#[test]
fn by_tensor_maps_with_both_across_k() {
    must_be_right(tma_tn);
}

#[test]
fn by_tensor_maps_with_k_that_ends_within_a_tile() {
    must_be_right(tma_nt_ragged);
}

#[test]
fn by_a_ring_with_b_across_k() {
    must_be_right(ring_nn);
}

#[test]
fn by_a_ring_with_both_along_k() {
    must_be_right(ring_nt);
}

#[test]
fn by_plain_pointers() {
    must_be_right(matmul);
}
