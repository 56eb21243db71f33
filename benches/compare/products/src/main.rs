//! Times the engine's f32 products of linear layers in turns with those of the crate `gemm`, on the CPU.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use cpift_engine::ops::linear::{Shape, backward_input, backward_weight, forward};
use cpift_engine::{Buffer, Device, Result, ViewMut};
use gemm::{Parallelism, gemm};

/// What a product is part of, with its rows (tokens), inputs and outputs.
const SHAPES: [(&str, Shape); 6] = [
    ("32M attention", Shape { rows: 1024, inputs: 512, outputs: 512 }),
    ("32M MLP", Shape { rows: 1024, inputs: 512, outputs: 1376 }),
    ("134M MLP", Shape { rows: 1024, inputs: 768, outputs: 2048 }),
    ("SmolLM2-135M MLP", Shape { rows: 1024, inputs: 576, outputs: 1536 }),
    ("Qwen2.5-0.5B MLP", Shape { rows: 1024, inputs: 896, outputs: 4864 }),
    ("SmolLM2-135M head", Shape { rows: 256, inputs: 576, outputs: 49152 }),
];

/// A matrix in a slice, with the distances between its rows and between its columns.
type Strided<'a> = (&'a [f32], usize, usize);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let threads: usize = arguments.next().unwrap_or(2);
    let rounds = arguments.next().unwrap_or(15);
    let device = Device::cpu(NonZeroUsize::new(threads))?;
    let parallelism = if threads == 1 { Parallelism::None } else { Parallelism::Rayon(threads) };
    println!("{threads} threads, medians of {rounds} rounds, GFLOP/s");
    println!("{:<18} {:>16} {:<9} {:>7} {:>7} {:>6}", "", "N×I×O", "", "engine", "gemm", "ratio");
    for (name, shape) in SHAPES {
        let Shape { rows, inputs, outputs } = shape;
        let (x, weight, d_y) =
            (values(rows * inputs, 1), values(outputs * inputs, 2), values(rows * outputs, 3));
        let [x_buffer, weight_buffer, d_y_buffer] =
            [&x, &weight, &d_y].map(|data| Buffer::from_slice(&device, data));
        let (x_buffer, weight_buffer, d_y_buffer) = (x_buffer?, weight_buffer?, d_y_buffer?);
        let (x_view, weight_view, d_y_view) = (x_buffer.view(), weight_buffer.view(), d_y_buffer.view());
        let own_forward = |y: ViewMut<f32>| forward(&device, &shape, x_view, weight_view, None, y);
        let own_input =
            |d_x: ViewMut<f32>| backward_input(&device, &shape, d_y_view, weight_view, d_x, false);
        let own_weight =
            |d_weight: ViewMut<f32>| backward_weight(&device, &shape, d_y_view, x_view, d_weight, None);
        let label = format!("{rows}×{inputs}×{outputs}");
        let compare = Comparison { device: &device, parallelism, rounds, name, label };
        compare.run(
            "forward",
            own_forward,
            [rows, outputs, inputs],
            (&x, inputs, 1),
            (&weight, 1, inputs),
            false,
        )?;
        compare.run(
            "d_input",
            own_input,
            [rows, inputs, outputs],
            (&d_y, outputs, 1),
            (&weight, inputs, 1),
            false,
        )?;
        compare.run(
            "d_weight",
            own_weight,
            [outputs, inputs, rows],
            (&d_y, 1, outputs),
            (&x, inputs, 1),
            true,
        )?;
    }
    Ok(())
}

struct Comparison<'a> {
    device: &'a Device,
    parallelism: Parallelism,
    rounds: usize,
    name: &'a str,
    label: String,
}

impl Comparison<'_> {
    /// C `[m, n]` = or += A `[m, k]`·B `[k, n]`, by the engine and by `gemm` in turns; both must agree.
    fn run(
        &self,
        kind: &str,
        own: impl Fn(ViewMut<f32>) -> Result<()>,
        [m, n, k]: [usize; 3],
        a: Strided,
        b: Strided,
        accumulate: bool,
    ) -> Result<()> {
        let mut own_c = Buffer::<f32>::zeros(self.device, m * n)?;
        let mut c = vec![0.0_f32; m * n];
        let (mut own_times, mut times) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let started = Instant::now();
            own(own_c.view_mut())?;
            own_times.push(started.elapsed());
            let started = Instant::now();
            multiply([m, n, k], a, b, &mut c, accumulate, self.parallelism);
            times.push(started.elapsed());
        }
        let worst =
            own_c.to_vec()?.iter().zip(&c).map(|(own, other)| (own - other).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3 * self.rounds as f32, "the two differ by {worst}");
        let (own_time, time) = (median(own_times), median(times));
        let rate = |time: f64| 2e-9 * (m * n * k) as f64 / time;
        let (name, label) = (self.name, &self.label);
        let (own_rate, rate) = (rate(own_time), rate(time));
        println!("{name:<18} {label:>16} {kind:<9} {own_rate:>7.1} {rate:>7.1} {:>6.2}", own_rate / rate);
        Ok(())
    }
}

fn multiply(
    [m, n, k]: [usize; 3],
    (a, a_rows, a_columns): Strided,
    (b, b_rows, b_columns): Strided,
    c: &mut [f32],
    accumulate: bool,
    parallelism: Parallelism,
) {
    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n);
    let [a_rows, a_columns, b_rows, b_columns] =
        [a_rows, a_columns, b_rows, b_columns].map(|stride| stride as isize);
    // SAFETY: the three matrices have the lengths of their sizes, and are passed with their own strides.
    unsafe {
        gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            accumulate,
            a.as_ptr(),
            a_columns,
            a_rows,
            b.as_ptr(),
            b_columns,
            b_rows,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Values in -0.5..0.5, the same for the same seed.
fn values(length: usize, seed: u32) -> Vec<f32> {
    let value = |index: u32| {
        (index.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..length as u32).map(value).collect()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}
