//! The self-test of attention.

use cpift_kernels::attention::{BackwardInputs, Gradients, Sizes, TileLists, Tiles};
use cpift_kernels::dispatch::attention::AttentionElement;
use cpift_kernels::simt::Bf16;
use half::bf16;

use super::{Launcher, read};
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory};

/// Query heads, which share one key/value head.
const HEADS: u32 = 2;
/// What a row of a result may be off by, relative to the row: weights, gradients of scores and results are rounded to
/// bf16, by up to 2^-9 of themselves, in two ways. Rows whose terms cancel may be off by as much of a usual row.
const TOLERANCE: f32 = 2e-2;
/// What a log-sum-exp may be off by: sums of some hundred terms in f32.
const LOG_TOLERANCE: f32 = 1e-3;

/// Attention of numbers between −1 and 1, with its gradients or without, against the kernels for all devices.
pub fn test(device: &GpuDevice, head_dim: u32, backward: bool) -> Result<Option<String>> {
    let case = Case::new(device, head_dim)?;
    let run = |passes_self_test: bool| {
        let launcher = Launcher { device: device.launcher(), passes_self_test };
        case.run(device, &launcher, backward)
    };
    let (hopper, others) = (run(true)?, run(false)?);
    for ((name, hopper), (_, other)) in hopper.iter().zip(&others) {
        let is_right = match *name {
            LOG_SUM_EXP => {
                hopper.iter().zip(other).all(|(hopper, other)| (hopper - other).abs() <= LOG_TOLERANCE)
            }
            _ => rows_agree(hopper, other, head_dim as usize),
        };
        if !is_right {
            return Ok(Some((*name).to_owned()));
        }
    }
    Ok(None)
}

/// A result that has a number per token and head.
const LOG_SUM_EXP: &str = "the log-sum-exp";

fn rows_agree(hopper: &[f32], other: &[f32], width: usize) -> bool {
    let norm = |values: &[f32]| values.iter().map(|value| value * value).sum::<f32>().sqrt();
    let usual = norm(other) / ((other.len() / width) as f32).sqrt();
    hopper.chunks(width).zip(other.chunks(width)).all(|(hopper, other)| {
        let apart: Vec<f32> = hopper.iter().zip(other).map(|(hopper, other)| hopper - other).collect();
        // Not the other way round: what is not a number is wrong.
        norm(&apart) <= TOLERANCE * norm(other).max(usual / 4.0)
    })
}

/// By name.
type Results = Vec<(&'static str, Vec<f32>)>;

/// Two documents with edges of all tiles, the first one longer than a block holds at once, of two of the sizes.
struct Case {
    sizes: Sizes,
    tiles: GpuMemory<u32>,
    ranges: [std::ops::Range<usize>; 4],
    q: GpuMemory<bf16>,
    k: GpuMemory<bf16>,
    v: GpuMemory<bf16>,
    d_output: GpuMemory<bf16>,
}

impl Case {
    fn new(device: &GpuDevice, head_dim: u32) -> Result<Self> {
        let first = match head_dim {
            64 => 530,
            128 => 270,
            _ => 140,
        };
        let tokens = first + 73;
        let tiles = Tiles::new([0..first, first..tokens].into_iter());
        let numbers = |heads: u32, factor: usize| {
            let length = (tokens * heads * head_dim) as usize;
            let number = |index: usize| (index * factor % 1009 % 129) as f32 / 64.0 - 1.0;
            let numbers: Vec<bf16> = (0..length).map(|index| bf16::from_f32(number(index))).collect();
            GpuMemory::from_slice(device, &numbers)
        };
        let scale = 2.0 / (head_dim as f32).sqrt();
        Ok(Self {
            sizes: Sizes {
                tokens,
                heads: HEADS,
                kv_heads: 1,
                head_dim,
                scale,
                window: u32::MAX,
                softcap: 0.0,
            },
            tiles: GpuMemory::from_slice(device, &tiles.concat())?,
            ranges: Tiles::ranges([first as usize, 73].into_iter()),
            q: numbers(HEADS, 31)?,
            k: numbers(1, 53)?,
            v: numbers(1, 71)?,
            d_output: numbers(HEADS, 89)?,
        })
    }

    /// All results of forward, and of backward if that is wanted.
    fn run(&self, device: &GpuDevice, launcher: &Launcher<'_>, backward: bool) -> Result<Results> {
        let tiles = self.ranges.clone().map(|range| self.tiles.all().slice(range).argument());
        let tiles = TileLists::from(tiles);
        let [q, k, v, d_output] =
            [&self.q, &self.k, &self.v, &self.d_output].map(|memory| memory.all().argument());
        let mut output = GpuMemory::<bf16>::zeros(device, self.q.len())?;
        let mut log_sum_exp =
            GpuMemory::<f32>::zeros(device, (self.sizes.tokens * self.sizes.heads) as usize)?;
        let (out, sums) = (output.all_mut().argument(), log_sum_exp.all_mut().argument());
        Bf16::forward(launcher, self.sizes, [q, k, v], tiles, out, sums)?;
        let wide = |memory: &GpuMemory<bf16>| -> Result<Vec<f32>> {
            Ok(read(memory)?.into_iter().map(bf16::to_f32).collect())
        };
        let mut results = vec![("the output", wide(&output)?), (LOG_SUM_EXP, read(&log_sum_exp)?)];
        if !backward {
            return Ok(results);
        }
        let mut d_q = GpuMemory::<bf16>::zeros(device, self.q.len())?;
        let mut d_k = GpuMemory::<bf16>::zeros(device, self.k.len())?;
        let mut d_v = GpuMemory::<bf16>::zeros(device, self.k.len())?;
        let mut scratch = GpuMemory::<f32>::scratch(device, Bf16::backward_scratch(launcher, self.sizes))?;
        let (output, log_sum_exp) = (output.all().argument(), log_sum_exp.all().argument());
        let inputs = BackwardInputs { q, k, v, output, log_sum_exp, d_output };
        let gradients = Gradients {
            d_q: d_q.all_mut().argument(),
            d_k: d_k.all_mut().argument(),
            d_v: d_v.all_mut().argument(),
        };
        let scratch = scratch.all_mut().argument();
        Bf16::backward(launcher, self.sizes, inputs, tiles, scratch, gradients)?;
        results.push(("the gradient of q", wide(&d_q)?));
        results.push(("the gradient of k", wide(&d_k)?));
        results.push(("the gradient of v", wide(&d_v)?));
        Ok(results)
    }
}
