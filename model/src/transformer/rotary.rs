//! Tables of the rotary angles.

use cpift_engine::ops::rope::Tables;
use cpift_engine::{Buffer, Device};

use crate::config::{ModelConfig, Rope};
use crate::error::Result;

/// The tables of all rotary embeddings of a model.
#[derive(Debug)]
pub struct RotaryTables {
    /// By the numbers that the layers have for them.
    ropes: Vec<RopeTables>,
    positions: usize,
}

/// cos and sin of one rotary embedding.
#[derive(Debug)]
struct RopeTables {
    keys: CosSin,
    /// The same times the factors of queries, where those are scaled by their position.
    queries: Option<CosSin>,
}

/// For every position and pair of dimensions, each `[positions, rotary_dim / 2]`.
#[derive(Debug)]
struct CosSin {
    cos: Buffer<f32>,
    sin: Buffer<f32>,
}

/// Which heads are turned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heads {
    /// Queries'.
    Queries,
    /// Keys'.
    Keys,
}

impl RotaryTables {
    /// Tables for positions below `positions`.
    ///
    /// Frequencies and angles are rounded to f32 before the cosine is taken, as where the models were
    /// trained: at far positions that rounding turns angles by more than f32 resolves.
    pub fn new(config: &ModelConfig, device: &Device, positions: usize) -> Result<Self> {
        let ropes = config.ropes.iter().map(|rope| RopeTables::new(rope, device, positions));
        Ok(Self { ropes: ropes.collect::<Result<_>>()?, positions })
    }

    /// Positions the tables know.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Bytes of tables for `positions` positions.
    pub fn bytes(config: &ModelConfig, positions: usize) -> usize {
        let bytes = |rope: &Rope| {
            let tables = if rope.query_scaling.is_some() { 2 } else { 1 };
            tables * positions * rope.rotary_dim * size_of::<f32>()
        };
        config.ropes.iter().map(bytes).sum()
    }

    /// To read, by the number of the rotary embedding.
    pub fn view(&self, rope: usize, heads: Heads) -> Tables<'_> {
        let RopeTables { keys, queries } = &self.ropes[rope];
        let table = match queries {
            Some(queries) if heads == Heads::Queries => queries,
            _ => keys,
        };
        Tables { cos: table.cos.view(), sin: table.sin.view() }
    }
}

impl RopeTables {
    fn new(rope: &Rope, device: &Device, positions: usize) -> Result<Self> {
        let frequencies = rope.frequencies();
        let amplitude = rope.amplitude();
        let table = |function: fn(f64) -> f64, scale: &dyn Fn(usize) -> f64| -> Result<Buffer<f32>> {
            let mut values = Vec::with_capacity(positions * frequencies.len());
            for position in 0..positions {
                let scale = amplitude * scale(position);
                values.extend(frequencies.iter().map(|&frequency| {
                    (function(f64::from(position as f32 * frequency as f32)) * scale) as f32
                }));
            }
            Ok(Buffer::from_slice(device, &values)?)
        };
        let both = |scale: &dyn Fn(usize) -> f64| -> Result<CosSin> {
            Ok(CosSin { cos: table(f64::cos, scale)?, sin: table(f64::sin, scale)? })
        };
        Ok(Self {
            keys: both(&|_| 1.0)?,
            queries: rope.query_scaling.map(|scaling| both(&|position| scaling.at(position))).transpose()?,
        })
    }
}
