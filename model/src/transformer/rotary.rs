//! Tables of the rotary angles.

use cpift_engine::ops::rope::Tables;
use cpift_engine::{Buffer, Device};

use std::ops::Range;

use crate::config::{Context, ModelConfig, Rope};
use crate::error::Result;

/// The tables of all rotary embeddings of a model.
#[derive(Debug)]
pub struct RotaryTables {
    /// By the numbers that the layers have for them.
    ropes: Vec<RopeTables>,
    positions: usize,
    /// Most tokens of texts that the first `positions` rows are for; longer ones have as many rows behind them.
    first_context: Option<usize>,
}

/// cos and sin of one rotary embedding.
#[derive(Debug)]
struct RopeTables {
    keys: CosSin,
    /// The same times the factors of queries, where those are scaled by their position.
    queries: Option<CosSin>,
}

/// For every row and pair of dimensions, each `[rows, rotary_dim / 2]`.
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
        let contexts = contexts(config, positions);
        let ropes = config.ropes.iter().map(|rope| RopeTables::new(rope, device, positions, contexts));
        Ok(Self { ropes: ropes.collect::<Result<_>>()?, positions, first_context: config.first_context() })
    }

    /// Rows of the tables for some positions of a text of `tokens` tokens, as far as it is known.
    pub fn rows(&self, positions: Range<usize>, tokens: usize) -> Range<u32> {
        let is_extended = self.first_context.is_some_and(|first| tokens > first);
        let first_row = if is_extended { self.positions } else { 0 };
        (first_row + positions.start) as u32..(first_row + positions.end) as u32
    }

    /// Positions the tables know.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Bytes of tables for `positions` positions.
    pub fn bytes(config: &ModelConfig, positions: usize) -> usize {
        let bytes = |rope: &Rope| {
            let tables = if rope.query_scaling.is_some() { 2 } else { 1 };
            tables * contexts(config, positions).len() * positions * rope.rotary_dim * size_of::<f32>()
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

/// Of the rows of tables for so many positions, one behind the other.
fn contexts(config: &ModelConfig, positions: usize) -> &'static [Context] {
    match config.context_of(positions) {
        Context::First => &[Context::First],
        Context::Extended => &[Context::First, Context::Extended],
    }
}

impl RopeTables {
    fn new(rope: &Rope, device: &Device, positions: usize, contexts: &[Context]) -> Result<Self> {
        let frequencies: Vec<Vec<f64>> = contexts.iter().map(|&context| rope.frequencies(context)).collect();
        let amplitude = rope.amplitude();
        let table = |function: fn(f64) -> f64, scale: &dyn Fn(usize) -> f64| -> Result<Buffer<f32>> {
            let mut values = Vec::with_capacity(frequencies.len() * positions * rope.rotary_dim / 2);
            for (frequencies, position) in
                frequencies.iter().flat_map(|each| (0..positions).map(move |position| (each, position)))
            {
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
