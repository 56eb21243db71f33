//! Every operation of the engine against what the machine can do.
//!
//! A [`Case`] is an operation at a real model's shape with its [`Work`]; [`run`] times cases with the cache
//! flushed before each run and relates them to measured [`Ceilings`]. The same cases serve the Criterion
//! benches, and [`predict`](super::predict), which looks at what they launch.

mod case;
mod cublas;
mod flat;
mod inputs;
mod layers;
mod linear_attention;
mod measure;
mod scaling;
mod shapes;

use std::time::Duration;

use cpift_engine::cublas::Cublas;
use cpift_engine::ops::work::Work;
use cpift_engine::{Device, Error as EngineError, bf16};
use serde::{Deserialize, Serialize};

pub use case::{Case, Run};
pub use cpift_engine::cublas::Product;
use cpift_model::transformer::ComputeType;
use cpift_model::{Error, Result};
pub use cublas::ByCublas;
pub use inputs::{random, random_mask, random_values};
use measure::matrix_rate;
pub use measure::{CacheFlush, Ceilings, Times, measure};
pub use shapes::{ModelShape, SHAPES};

/// Which cases there are.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    /// The models whose layers' shapes are taken.
    pub models: Vec<ModelShape>,
    /// Tokens of a batch.
    pub tokens: usize,
    /// Tokens of a document, at most `tokens`.
    pub length: usize,
    /// Parameters of the shard that flat operations work on.
    pub parameters: usize,
    /// What the models' layers compute in.
    pub compute: ComputeType,
}

impl Sizes {
    /// What a CPU with a last cache of `cache_bytes` gets through in a minute.
    ///
    /// Of a shard that the cache holds in part, what is written stays there until after the run, and more seems to be
    /// moved than memory can: the shard grows with the cache.
    pub fn for_cpu(cache_bytes: usize) -> Self {
        Self {
            models: vec![SHAPES[0]],
            tokens: 256,
            length: 256,
            parameters: (cache_bytes / 2).max(20_000_000),
            compute: ComputeType::F32,
        }
    }

    /// What keeps a GPU busy.
    pub fn for_gpu() -> Self {
        Self {
            models: SHAPES.to_vec(),
            tokens: 8192,
            length: 2048,
            parameters: 200_000_000,
            compute: ComputeType::Bf16,
        }
    }
}

/// The cases whose name contains `filter`; on a CPU also those on masks, which the host computes in any case.
///
/// # Errors
/// When there are none: with the operations that there are.
pub fn cases(sizes: &Sizes, on_cpu: bool, filter: &str) -> Result<Vec<Case>> {
    if sizes.tokens == 0 || sizes.length == 0 || sizes.parameters == 0 {
        return Err(Error::setting("bench kernels", "needs tokens, lengths and parameters of at least 1"));
    }
    let length = sizes.length.min(sizes.tokens);
    let layers = match sizes.compute {
        ComputeType::F32 => layers::cases::<f32>,
        ComputeType::Bf16 => layers::cases::<bf16>,
    };
    let mut cases: Vec<Case> =
        sizes.models.iter().flat_map(|model| layers(model, sizes.tokens, length, !on_cpu)).collect();
    cases.extend(flat::cases(sizes.parameters, !on_cpu));
    if on_cpu {
        // Their work is stated for the passes of a CPU.
        cases.extend(match sizes.compute {
            ComputeType::F32 => linear_attention::cases::<f32>(sizes.tokens, length),
            ComputeType::Bf16 => linear_attention::cases::<bf16>(sizes.tokens, length),
        });
        cases.extend(flat::mask_cases(sizes.parameters));
    }
    let (wanted, others): (Vec<Case>, Vec<Case>) =
        cases.into_iter().partition(|case| case.name.contains(filter));
    if !wanted.is_empty() {
        return Ok(wanted);
    }
    // Operations alone: all names together are longer than a message.
    let mut operations: Vec<&str> = Vec::new();
    for operation in others.iter().filter_map(|case| case.name.split(' ').next()) {
        if !operations.contains(&operation) {
            operations.push(operation);
        }
    }
    let reason = format!("no kernel has `{filter}` in its name; there are: {}", operations.join(", "));
    Err(Error::setting("--filter", reason))
}

/// What keeps an operation from being faster on a machine without other limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Bytes from and to memory.
    Memory,
    /// Arithmetic.
    Compute,
}

/// The least time of some work, in seconds, where memory gives and arithmetic takes so much per second, and which
/// of the two it is.
pub fn roofline(work: Work, bytes_per_second: f64, flops_per_second: f64) -> (f64, Limit) {
    let (memory, compute) = (work.bytes as f64 / bytes_per_second, work.flops as f64 / flops_per_second);
    if memory >= compute { (memory, Limit::Memory) } else { (compute, Limit::Compute) }
}

/// A case, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// As [`Case::name`].
    pub name: String,
    /// As [`Case::shape`].
    pub shape: String,
    /// Bytes moved, by the operation's contract.
    pub bytes: u64,
    /// Floating-point operations, by the operation's contract.
    pub flops: u64,
    /// Runs that counted.
    pub runs: usize,
    /// Median time.
    pub milliseconds: f64,
    /// Least time.
    pub least_milliseconds: f64,
    /// Bytes over the median.
    pub bytes_per_second: f64,
    /// Operations over the median.
    pub flops_per_second: f64,
    /// What limits it, by the ceilings.
    pub limit: Limit,
    /// Share of the ceiling that it reaches: the time the limit alone takes over the median.
    pub share: f64,
    /// The same by cuBLAS; null where the line is no product, or was not measured.
    pub cublas: Option<ByCublas>,
}

/// What a product reaches in some precision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MatrixRate {
    /// What it computes in.
    pub precision: String,
    /// The best rate of large square products.
    pub flops_per_second: f64,
}

/// All measurements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What computed.
    pub device: String,
    /// What the models' layers compute in.
    pub precision: String,
    /// Tokens of a batch.
    pub tokens: usize,
    /// Tokens of a document.
    pub length: usize,
    /// A large copy, in bytes read and written per second.
    pub copy_bytes_per_second: f64,
    /// A large read, in bytes per second.
    pub read_bytes_per_second: f64,
    /// An update in place, in bytes read and written per second; 0 in reports from before it was measured.
    #[serde(default)]
    pub update_bytes_per_second: f64,
    /// The best rate of a matrix product, that of any line included.
    pub matrix_flops_per_second: f64,
    /// On a CPU, the best rate of a matrix product in the other precision.
    #[serde(default)]
    pub other_matrix: Option<MatrixRate>,
    /// Version of the cuBLAS that products are compared with; null where they are not.
    pub cublas: Option<String>,
    /// Why they are not.
    pub no_cublas: Option<String>,
    /// Whether it was stopped before all cases were measured.
    pub stopped: bool,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
    /// The cases that were measured.
    pub kernels: Vec<Row>,
}

/// What a measurement tells while it runs.
pub trait Watch {
    /// A case begins, the `index`-th from 0 of `count`.
    fn begins(&mut self, index: usize, count: usize, case: &Case);

    /// Asked before every case: true ends the measurement.
    fn stop_requested(&self) -> bool;
}

/// Times all cases, each for about `budget` and at least three runs; products by cuBLAS too where it is installed, each
/// right behind the engine's. A case whose memory cannot be had is left out with a note.
///
/// # Errors
/// When the device fails.
pub fn run(
    device: &Device,
    cases: &[Case],
    sizes: &Sizes,
    budget: Duration,
    watch: &mut dyn Watch,
) -> Result<Report> {
    let mut flush = CacheFlush::new(device)?;
    let mut ceilings = match sizes.compute {
        ComputeType::F32 => Ceilings::measure::<f32>(device, &mut flush, budget)?,
        ComputeType::Bf16 => Ceilings::measure::<bf16>(device, &mut flush, budget)?,
    };
    let other_matrix = match device {
        Device::Gpu(_) => None,
        Device::Cpu(_) => Some(other_matrix(device, sizes.compute, &mut flush, budget)?),
    };
    let cublas = Cublas::open(device);
    let (mut measured, mut notes, mut stopped) = (Vec::new(), Vec::new(), false);
    for (index, case) in cases.iter().enumerate() {
        stopped = watch.stop_requested();
        if stopped {
            break;
        }
        watch.begins(index, cases.len(), case);
        match time(device, case, &mut flush, budget) {
            Ok(times) => {
                let mut by_cublas = None;
                if let (Ok(cublas), Some(product)) = (&cublas, case.product) {
                    match cublas::time(device, cublas, product, sizes.compute, &mut flush, budget) {
                        Ok(times) => by_cublas = Some(times),
                        Err(reason) => notes.push(format!("{} by cuBLAS: {reason}", case.name)),
                    }
                }
                measured.push((case, times, by_cublas));
            }
            Err(error @ EngineError::OutOfMemory { .. }) => notes.push(format!("{}: {error}", case.name)),
            Err(error) => return Err(error.into()),
        }
    }
    if !stopped {
        match ceilings.measured_again(device, &mut flush, budget) {
            Ok(again) => ceilings = again,
            Err(error @ EngineError::OutOfMemory { .. }) => {
                notes.push(format!("memory's ceilings once more: {error}"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let rates = measured.iter().filter(|(case, ..)| case.product.is_some());
    let rates = rates.map(|(case, times, _)| case.work.flops as f64 / times.median);
    let matrix = rates.fold(ceilings.matrix, f64::max);
    let row = |(case, times, by_cublas): &(&Case, Times, Option<Times>)| Row {
        cublas: by_cublas.map(|by_cublas| ByCublas {
            milliseconds: 1e3 * by_cublas.median,
            flops_per_second: case.work.flops as f64 / by_cublas.median,
            engine_share: by_cublas.median / times.median,
        }),
        ..row(case, times, ceilings.memory(), matrix)
    };
    Ok(Report {
        device: device.describe(),
        precision: sizes.compute.name().to_owned(),
        tokens: sizes.tokens,
        length: sizes.length.min(sizes.tokens),
        copy_bytes_per_second: ceilings.copy,
        read_bytes_per_second: ceilings.read,
        update_bytes_per_second: ceilings.update,
        matrix_flops_per_second: matrix,
        other_matrix,
        cublas: cublas.as_ref().ok().map(Cublas::version),
        no_cublas: cublas.as_ref().err().cloned(),
        stopped,
        notes,
        kernels: measured.iter().map(row).collect(),
    })
}

/// The best rate of large square products in the precision that is not `compute`.
fn other_matrix(
    device: &Device,
    compute: ComputeType,
    flush: &mut CacheFlush,
    budget: Duration,
) -> cpift_engine::Result<MatrixRate> {
    let (other, flops_per_second) = match compute {
        ComputeType::F32 => (ComputeType::Bf16, matrix_rate::<bf16>(device, flush, budget)?),
        ComputeType::Bf16 => (ComputeType::F32, matrix_rate::<f32>(device, flush, budget)?),
    };
    Ok(MatrixRate { precision: other.name().to_owned(), flops_per_second })
}

/// The best rate of large square products in this precision, in floating-point operations per second.
///
/// # Errors
/// When memory runs out, or the device fails.
pub fn best_matrix_rate(device: &Device, compute: ComputeType) -> Result<f64> {
    const BUDGET: Duration = Duration::from_millis(300);
    let mut flush = CacheFlush::new(device)?;
    let rate = match compute {
        ComputeType::F32 => matrix_rate::<f32>(device, &mut flush, BUDGET),
        ComputeType::Bf16 => matrix_rate::<bf16>(device, &mut flush, BUDGET),
    };
    Ok(rate?)
}

/// Times one case.
fn time(
    device: &Device,
    case: &Case,
    flush: &mut CacheFlush,
    budget: Duration,
) -> cpift_engine::Result<Times> {
    let mut run = case.prepare(device)?;
    measure(device, &mut *run, flush, budget)
}

fn row(case: &Case, times: &Times, memory: f64, matrix: f64) -> Row {
    let (least, limit) = roofline(case.work, memory, matrix);
    Row {
        name: case.name.clone(),
        shape: case.shape.clone(),
        bytes: case.work.bytes,
        flops: case.work.flops,
        runs: times.runs,
        milliseconds: 1e3 * times.median,
        least_milliseconds: 1e3 * times.least,
        bytes_per_second: case.work.bytes as f64 / times.median,
        flops_per_second: case.work.flops as f64 / times.median,
        limit,
        share: least / times.median,
        cublas: None,
    }
}
