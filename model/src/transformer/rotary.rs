//! Tables of the rotary angles.

use cpift_engine::ops::rope::Tables;
use cpift_engine::{Buffer, Device};

use crate::config::ModelConfig;
use crate::error::Result;

/// cos and sin for every position and pair of dimensions, each `[positions, head_dim / 2]`.
#[derive(Debug)]
pub struct RotaryTables {
    cos: Buffer<f32>,
    sin: Buffer<f32>,
    positions: usize,
}

impl RotaryTables {
    /// Tables for positions below `positions`.
    ///
    /// Frequencies and angles are rounded to f32 before the cosine is taken, as where the models were
    /// trained: at far positions that rounding turns angles by more than f32 resolves.
    pub fn new(config: &ModelConfig, device: &Device, positions: usize) -> Result<Self> {
        let frequencies = config.rope.frequencies(config.head_dim);
        let angles: Vec<f64> = (0..positions)
            .flat_map(|position| {
                frequencies.iter().map(move |&frequency| f64::from(position as f32 * frequency as f32))
            })
            .collect();
        let table = |function: fn(f64) -> f64| -> Result<Buffer<f32>> {
            let values: Vec<f32> = angles.iter().map(|&angle| function(angle) as f32).collect();
            Ok(Buffer::from_slice(device, &values)?)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)?, positions })
    }

    /// Positions the tables know.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Bytes of tables for `positions` positions.
    pub fn bytes(config: &ModelConfig, positions: usize) -> usize {
        positions * config.head_dim * size_of::<f32>()
    }

    /// To read.
    pub fn view(&self) -> Tables<'_> {
        Tables { cos: self.cos.view(), sin: self.sin.view() }
    }
}
