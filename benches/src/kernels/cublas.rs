//! Products of the engine beside those of NVIDIA's cuBLAS: the same inputs, the same way of timing.

use std::time::Duration;

use cpift_engine::cublas::{Cublas, Product};
use cpift_engine::ops::linear;
use cpift_engine::{Buffer, Device, Error, Real, Result as EngineResult, View, ViewMut, bf16};
use serde::{Deserialize, Serialize};

use super::inputs::random;
use super::measure::{CacheFlush, Times, measure};
use cpift_model::transformer::ComputeType;

/// Rows of both results that are compared: a wrong layout shows in all of them.
const COMPARED_ROWS: usize = 16;
/// How far they may be apart, as a share of their size: both round, and sum in orders of their own.
const FARTHEST: f64 = 0.01;

/// A product by cuBLAS.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ByCublas {
    /// Median time.
    pub milliseconds: f64,
    /// Operations over the median.
    pub flops_per_second: f64,
    /// The engine's rate as a share of this.
    pub engine_share: f64,
}

/// A product's inputs and output, in the words of [`Product`].
type Own<T, C> = fn(&Device, &Product, View<'_, T>, View<'_, T>, ViewMut<'_, C>) -> EngineResult<()>;

/// Times a product by cuBLAS, computed in `compute` and written as the engine writes it: where it accumulates in
/// f32, else in what is computed in.
///
/// # Errors
/// Why it was not, in words for people: cuBLAS has no algorithm, its numbers are not the engine's, or memory does not
/// suffice.
pub fn time(
    device: &Device,
    cublas: &Cublas,
    product: Product,
    compute: ComputeType,
    flush: &mut CacheFlush,
    budget: Duration,
) -> Result<Times, String> {
    let how = (device, cublas, product, budget);
    match (compute, product.accumulate) {
        (ComputeType::F32, false) => time_and_compare::<f32, f32>(how, flush, written),
        (ComputeType::F32, true) => time_and_compare::<f32, f32>(how, flush, accumulated),
        (ComputeType::Bf16, false) => time_and_compare::<bf16, bf16>(how, flush, written),
        (ComputeType::Bf16, true) => time_and_compare::<bf16, f32>(how, flush, accumulated),
    }
}

fn time_and_compare<T: Real, C: Real>(
    (device, cublas, product, budget): (&Device, &Cublas, Product, Duration),
    flush: &mut CacheFlush,
    own: Own<T, C>,
) -> Result<Times, String> {
    let words = |error: Error| error.to_string();
    let Product { m, n, k, .. } = product;
    let prepared = cublas.prepare::<T, C>(product)?;
    let (a, b) =
        (random::<T>(device, m * k, 1).map_err(words)?, random::<T>(device, k * n, 2).map_err(words)?);
    let mut c = random::<C>(device, m * n, 3).map_err(words)?;
    let mut run = || prepared.run(a.view(), b.view(), c.view_mut());
    let times = measure(device, &mut run, flush, budget).map_err(words)?;

    let rows = 0..n * COMPARED_ROWS.min(m);
    let mut results = Vec::new();
    for by_cublas in [true, false] {
        let mut c = Buffer::<C>::zeros(device, m * n).map_err(words)?;
        let done = if by_cublas {
            prepared.run(a.view(), b.view(), c.view_mut())
        } else {
            own(device, &product, a.view(), b.view(), c.view_mut())
        };
        results.push(done.and_then(|()| c.slice(rows.clone()).to_vec()).map_err(words)?);
    }
    match distance(&results[0], &results[1]) {
        distance if distance < FARTHEST => Ok(times),
        distance => Err(format!("its numbers are apart from the engine's by {distance:.2} of their size")),
    }
}

/// The norm of the difference over that of `expected`.
fn distance<C: Real>(values: &[C], expected: &[C]) -> f64 {
    let square = |value: f32| f64::from(value).powi(2);
    let pairs = values.iter().zip(expected);
    let difference: f64 = pairs.map(|(value, expected)| square(value.to_f32() - expected.to_f32())).sum();
    let size: f64 = expected.iter().map(|expected| square(expected.to_f32())).sum();
    (difference / size.max(f64::MIN_POSITIVE)).sqrt()
}

/// The engine's products that overwrite: of activations or their gradients, and weights.
fn written<T: Real>(
    device: &Device,
    &Product { m, n, k, b_transposed, .. }: &Product,
    a: View<'_, T>,
    b: View<'_, T>,
    c: ViewMut<'_, T>,
) -> EngineResult<()> {
    if b_transposed {
        linear::forward(device, &linear::Shape { rows: m, inputs: k, outputs: n }, a, b, None, c)
    } else {
        linear::backward_input(device, &linear::Shape { rows: m, inputs: n, outputs: k }, a, b, c, false)
    }
}

/// The engine's product that accumulates: gradients of weights.
fn accumulated<T: Real>(
    device: &Device,
    &Product { m, n, k, .. }: &Product,
    a: View<'_, T>,
    b: View<'_, T>,
    c: ViewMut<'_, f32>,
) -> EngineResult<()> {
    linear::backward_weight(device, &linear::Shape { rows: k, inputs: n, outputs: m }, a, b, c, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_apart_by_a_share_of_their_size() {
        assert_eq!(distance(&[3.0f32, 4.0], &[3.0, 4.0]), 0.0);
        assert_eq!(distance(&[3.0f32, 0.0], &[3.0, 4.0]), 0.8);
        // Neither is near enough.
        assert!(distance(&[f32::NAN], &[1.0]).is_nan() && distance(&[1.0f32], &[0.0]) > FARTHEST);
    }

    /// The engine's products are those that a [`Product`] describes.
    #[test]
    fn the_engine_multiplies_what_is_described() {
        let device = Device::cpu(None).unwrap();
        let [m, n, k] = [3, 5, 4];
        for (a_transposed, b_transposed) in [(false, true), (false, false), (true, false)] {
            let product = Product { m, n, k, a_transposed, b_transposed, accumulate: a_transposed };
            let (a, b) = (random::<f32>(&device, m * k, 1).unwrap(), random(&device, k * n, 2).unwrap());
            let mut c = Buffer::zeros(&device, m * n).unwrap();
            let own: Own<f32, f32> = if a_transposed { accumulated } else { written };
            own(&device, &product, a.view(), b.view(), c.view_mut()).unwrap();
            let (a, b) = (a.to_vec().unwrap(), b.to_vec().unwrap());
            let expected = |index: usize| -> f32 {
                let (row, column) = (index / n, index % n);
                let term = |level: usize| {
                    let a = a[if a_transposed { level * m + row } else { row * k + level }];
                    a * b[if b_transposed { column * k + level } else { level * n + column }]
                };
                (0..k).map(term).sum()
            };
            let expected: Vec<f32> = (0..m * n).map(expected).collect();
            assert!(distance(&c.to_vec().unwrap(), &expected) < 1e-5, "{product:?}");
        }
    }
}
