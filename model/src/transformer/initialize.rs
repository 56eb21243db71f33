//! Random weights to start from.

use cpift_engine::{Layout, ViewMut};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::config::{InitialValues, ModelConfig};
use crate::error::Result;

/// Elements that share one stream of random numbers.
const CHUNK: usize = 1 << 16;

/// Fills `weights` (flat, in `layout`, that of `config`) with what `transformers` starts from:
/// [`ModelConfig::initial_values`]. The same seed gives the same bits whatever the number of threads.
///
/// # Errors
/// When `weights` is not as long as the layout.
pub fn initialize(
    config: &ModelConfig,
    layout: &Layout,
    seed: u64,
    mut weights: ViewMut<'_, f32>,
) -> Result<()> {
    let mut values = Vec::new();
    for (index, (segment, initial)) in layout.segments().iter().zip(config.initial_values()).enumerate() {
        values.clear();
        values.resize(segment.length, 0.0);
        match initial {
            InitialValues::Normal | InitialValues::NormalButRow(_) => {
                values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
                    let mut random = ChaCha8Rng::seed_from_u64(seed);
                    random.set_stream((index as u64) << 32 | chunk as u64);
                    fill_normal(&mut random, config.initializer_range, values);
                });
            }
            InitialValues::Constant(value) => values.fill(value),
            InitialValues::LogOfUniform => {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                random.set_stream((index as u64) << 32);
                values.fill_with(|| random.random_range(0.01f32..16.0).ln());
            }
        }
        if let InitialValues::NormalButRow(row) = initial {
            let width = segment.length / segment.shape[0];
            values[row * width..][..width].fill(0.0);
        }
        weights.reborrow().slice(segment.range()).copy_from_host(&values)?;
    }
    Ok(())
}

/// Box–Muller: two uniform numbers make two independent normal ones.
fn fill_normal(random: &mut ChaCha8Rng, deviation: f32, values: &mut [f32]) {
    for pair in values.chunks_mut(2) {
        // 1 - u is never 0, so the logarithm is finite.
        let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt() * f64::from(deviation);
        let (sin, cos) = (std::f64::consts::TAU * random.random::<f64>()).sin_cos();
        for (value, part) in pair.iter_mut().zip([cos, sin]) {
            *value = (radius * part) as f32;
        }
    }
}
