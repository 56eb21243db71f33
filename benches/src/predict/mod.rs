//! Times of the GPU kernels predicted from what is known without running them.
//!
//! A case runs on a device that logs its launches. Bytes and operations are those of the operation's contract;
//! a matrix product's launch has its own operations, 2·m·n·k, other launches share the rest, and all share the
//! bytes, in proportion to the buffers they are passed. Registers, static shared memory and whether a kernel
//! uses tensor cores are the assembler's word (`kernels/ptx/manifest.json`). The time of a launch is
//!
//! ```text
//! max(bytes / bandwidth · idle, flops / rate · uneven) + LAUNCH
//! ```
//!
//! where idle is how many times more multiprocessors there are than blocks (1 if there are enough blocks), and
//! uneven how much more the multiprocessor with the most blocks has to do than the average one: the last wave. Of
//! kernels whose blocks do several tiles each, tiles are counted instead of blocks.
//! The rate is that of the unit the kernel uses, on Hopper also of the instruction. Caches, latency and the quality
//! of the code are not in it: it is a bound to compare with, not a measurement. Where not even one block of a kernel
//! fits on a multiprocessor, which a driver refuses, there is no time.

mod gpus;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use cpift_engine::ops::work::Work;
use cpift_engine::{Device, LaunchLog, LaunchRecord};
use cpift_kernels::modules::MANIFEST;
use serde::{Deserialize, Serialize};

use super::kernels::{Case, Limit};
use cpift_model::{Error, Result};
pub use gpus::{BlockNeeds, GPUS, Gpu};

/// Seconds from one launch in a stream to the next, at least.
const LAUNCH: f64 = 2e-6;

/// Share of a Hopper's tensor rate that the tensor instructions of sm_80 reach there: 62.9 % on average, by Luo and
/// others, Benchmarking and Dissecting the Nvidia Hopper GPU Architecture (arXiv 2402.13499).
const MMA_ON_HOPPER: f64 = 0.63;

/// Predicted time of a case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// As [`Case::name`].
    pub name: String,
    /// As [`Case::shape`].
    pub shape: String,
    /// Bytes moved, by the operation's contract.
    pub bytes: u64,
    /// Floating-point operations, by the operation's contract.
    pub flops: u64,
    /// The sum over the launches; none where one of them does not fit.
    pub predicted_milliseconds: Option<f64>,
    /// What limits the launch that takes longest.
    pub predicted_limit: Limit,
    /// The launches, equal ones together.
    pub launches: Vec<LaunchPrediction>,
}

/// Predicted time of launches that are alike.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LaunchPrediction {
    /// The kernel.
    pub kernel: &'static str,
    /// How many there are.
    pub count: usize,
    /// Blocks of each.
    pub blocks: u64,
    /// Threads of a block.
    pub threads: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of shared memory of a block.
    pub shared: u32,
    /// Share of the threads a multiprocessor holds at once of those it could.
    pub occupancy: f64,
    /// Blocks over those that the GPU holds at once.
    pub waves: f64,
    /// Whether the products are made by tensor cores.
    pub tensor_cores: bool,
    /// Time of all of them; none where a block does not fit on a multiprocessor.
    pub predicted_milliseconds: Option<f64>,
    /// What limits them.
    pub predicted_limit: Limit,
}

/// Predicts the time of a case on each of the GPUs.
///
/// # Errors
/// The engine's; a kernel the manifest does not know.
pub fn predict(case: &Case, gpus: &[Gpu]) -> Result<Vec<Prediction>> {
    // GPUs of one kind launch the same.
    let mut kinds = BTreeMap::new();
    gpus.iter()
        .map(|gpu| {
            let kind = (gpu.compute_capability, gpu.multiprocessors);
            let launches = match kinds.entry(kind) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(launches(case, kind)?),
            };
            on(gpu, case, launches, &share(gpu, case.work, launches)?)
        })
        .collect()
}

/// What a case launches on a device of this compute capability, with so many multiprocessors.
fn launches(
    case: &Case,
    (compute_capability, multiprocessors): ((u32, u32), u32),
) -> Result<Vec<(LaunchRecord, usize)>> {
    let log = LaunchLog::of_device(compute_capability, multiprocessors);
    let mut run = case.prepare(&Device::logging(&log))?;
    log.take();
    run.run()?;
    Ok(group(log.take()))
}

/// Launches that are alike, with their number, in the order of the first ones.
fn group(launches: Vec<LaunchRecord>) -> Vec<(LaunchRecord, usize)> {
    let mut groups: Vec<(LaunchRecord, usize)> = Vec::new();
    for launch in launches {
        match groups.iter_mut().find(|(other, _)| *other == launch) {
            Some((_, count)) => *count += 1,
            None => groups.push((launch, 1)),
        }
    }
    groups
}

/// What one launch of each group has to do. Operations that are not those of products go to the launches on tensor
/// cores where there are any: what runs beside these, as attention's row sums, does few.
fn share(gpu: &Gpu, work: Work, launches: &[(LaunchRecord, usize)]) -> Result<Vec<Work>> {
    let mut on_tensor_cores = Vec::new();
    for (launch, _) in launches {
        let is_product = product_flops(launch).is_some();
        on_tensor_cores.push(!is_product && assembled(launch, gpu.compute_capability)?.on_tensor_cores());
    }
    let any = on_tensor_cores.contains(&true);
    let takes = |index: usize| match any {
        true => on_tensor_cores[index],
        false => product_flops(&launches[index].0).is_none(),
    };
    let sum = |value: &dyn Fn(usize) -> u64| -> u64 {
        launches.iter().enumerate().map(|(index, (_, count))| value(index) * *count as u64).sum()
    };
    let products = sum(&|index| product_flops(&launches[index].0).unwrap_or(0));
    let all_bytes = sum(&|index| launches[index].0.bytes);
    let other_bytes = sum(&|index| if takes(index) { launches[index].0.bytes } else { 0 });
    let part = |of: u64, bytes: u64, all: u64| (of as f64 * bytes as f64 / all.max(1) as f64) as u64;
    let work = |(index, (launch, _)): (usize, &(LaunchRecord, usize))| Work {
        bytes: part(work.bytes, launch.bytes, all_bytes),
        flops: match product_flops(launch) {
            Some(flops) => flops,
            None if takes(index) => part(work.flops.saturating_sub(products), launch.bytes, other_bytes),
            None => 0,
        },
    };
    Ok(launches.iter().enumerate().map(work).collect())
}

/// 2·m·n·k, if the launch is a matrix product.
fn product_flops(launch: &LaunchRecord) -> Option<u64> {
    Some(2 * number(launch, "m")? * number(launch, "n")? * number(launch, "k")?)
}

/// What blocks of a launch share out among them, if there may be more of it than of them: tiles of a product, those of
/// attention for each head.
fn tiles(launch: &LaunchRecord) -> Option<u64> {
    let heads = match launch.family {
        "attention_hopper" if launch.kernel.contains("_keys_") => number(launch, "kv_heads")?,
        "attention_hopper" => number(launch, "heads")?,
        _ => 1,
    };
    Some(number(launch, "tiles")? * heads)
}

/// A whole number that was passed to a launch.
fn number(launch: &LaunchRecord, wanted: &str) -> Option<u64> {
    launch.numbers.iter().find(|(name, _)| *name == wanted).map(|&(_, value)| value)
}

fn on(gpu: &Gpu, case: &Case, launches: &[(LaunchRecord, usize)], works: &[Work]) -> Result<Prediction> {
    let predict = |((launch, count), work): (&(LaunchRecord, usize), &Work)| time(gpu, launch, *count, *work);
    let launches = launches.iter().zip(works).map(predict).collect::<Result<Vec<LaunchPrediction>>>()?;
    Ok(Prediction {
        name: case.name.clone(),
        shape: case.shape.clone(),
        bytes: case.work.bytes,
        flops: case.work.flops,
        predicted_milliseconds: launches.iter().map(|launch| launch.predicted_milliseconds).sum(),
        predicted_limit: longest(&launches).map_or(Limit::Memory, |launch| launch.predicted_limit),
        launches,
    })
}

/// The launch that takes longest: one that does not fit, if there is one.
fn longest(launches: &[LaunchPrediction]) -> Option<&LaunchPrediction> {
    let time = |launch: &LaunchPrediction| launch.predicted_milliseconds.unwrap_or(f64::INFINITY);
    launches.iter().max_by(|a, b| time(a).total_cmp(&time(b)))
}

impl Prediction {
    /// The launch that takes longest: one that does not fit, if there is one.
    pub fn longest_launch(&self) -> Option<&LaunchPrediction> {
        longest(&self.launches)
    }
}

fn time(gpu: &Gpu, launch: &LaunchRecord, count: usize, work: Work) -> Result<LaunchPrediction> {
    let assembled = assembled(launch, gpu.compute_capability)?;
    let shared = launch.shared + assembled.shared;
    let needs = BlockNeeds { threads: launch.block, registers: assembled.registers, shared };
    let (blocks, multiprocessors) = (launch.blocks as f64, f64::from(gpu.multiprocessors));
    let tensor_cores = assembled.on_tensor_cores();
    let own = gpu.compute_capability != (9, 0) || assembled.instructions.contains_key("HGMMA");
    let tensor_rate = gpu.tensor_flops_per_second * if own { 1.0 } else { MMA_ON_HOPPER };
    let rate = if tensor_cores { tensor_rate } else { gpu.f32_flops_per_second };
    let memory = work.bytes as f64 / gpu.bytes_per_second * (multiprocessors / blocks).max(1.0);
    let tiles = blocks.max(tiles(launch).map_or(blocks, |tiles| tiles as f64));
    let uneven = (tiles / multiprocessors).ceil() * multiprocessors / tiles;
    let compute = work.flops as f64 / rate * uneven;
    let resident = gpu.resident_blocks(needs);
    let time = 1e3 * count as f64 * (memory.max(compute) + LAUNCH);
    Ok(LaunchPrediction {
        kernel: launch.kernel,
        count,
        blocks: launch.blocks,
        threads: launch.block,
        registers: assembled.registers,
        shared,
        occupancy: gpu.occupancy(needs),
        waves: if resident > 0 { blocks / (f64::from(resident) * multiprocessors) } else { 0.0 },
        tensor_cores,
        predicted_milliseconds: (resident > 0).then_some(time),
        predicted_limit: if memory >= compute { Limit::Memory } else { Limit::Compute },
    })
}

/// What of the manifest is needed here.
#[derive(Deserialize)]
struct Manifest {
    modules: BTreeMap<String, Module>,
}

#[derive(Deserialize)]
struct Module {
    kernels: BTreeMap<String, Kernel>,
}

#[derive(Deserialize)]
struct Kernel {
    #[serde(default)]
    assembled: BTreeMap<String, Assembled>,
}

/// What the assembler made of a kernel.
#[derive(Debug, Clone, Deserialize)]
struct Assembled {
    registers: u32,
    shared: u32,
    #[serde(default)]
    instructions: BTreeMap<String, u64>,
}

impl Assembled {
    fn on_tensor_cores(&self) -> bool {
        self.instructions.keys().any(|name| name.contains("MMA"))
    }
}

/// The figures of a launch's kernel for a device: those for its own architecture, else those for sm_80.
fn assembled(launch: &LaunchRecord, compute_capability: (u32, u32)) -> Result<Assembled> {
    use std::sync::LazyLock;
    static KERNELS: LazyLock<std::result::Result<BTreeMap<String, Kernel>, String>> = LazyLock::new(|| {
        let manifest: Manifest = serde_json::from_str(MANIFEST).map_err(|error| error.to_string())?;
        Ok(manifest.modules.into_values().flat_map(|module| module.kernels).collect())
    });
    let own = if compute_capability == (9, 0) { "sm_90a" } else { "sm_80" };
    let kernels =
        KERNELS.as_ref().map_err(|reason| Error::Job(format!("kernels/ptx/manifest.json: {reason}")))?;
    let known = kernels.get(launch.kernel).map(|kernel| &kernel.assembled);
    let figures = known.and_then(|assembled| assembled.get(own).or_else(|| assembled.get("sm_80")));
    figures.cloned().ok_or_else(|| {
        Error::Job(format!(
            "kernels/ptx/manifest.json has no figures of {} for {own}; `cargo ptx` makes them",
            launch.kernel
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(shared: u32) -> LaunchRecord {
        let kernel = "gemm_nt_bf16_128x256";
        let numbers = vec![("m", 256), ("n", 256), ("k", 64)];
        LaunchRecord { kernel, family: "gemm", block: 256, blocks: 2, shared, bytes: 1 << 20, numbers }
    }

    #[test]
    fn what_does_not_fit_has_no_time() {
        let case =
            Case::new("product", "256×64×256", Work { bytes: 1 << 20, flops: 1 << 23 }, |_| Ok(|| Ok(())));
        let predicted = |gpu: &Gpu, shared| {
            let launches = [(launch(48 << 10), 1), (launch(shared), 1)];
            on(gpu, &case, &launches, &share(gpu, case.work, &launches).unwrap()).unwrap()
        };
        let [_, h100, _, rtx4090] = GPUS;
        assert!(predicted(&h100, 96 << 10).predicted_milliseconds.unwrap() > 0.0);
        // An RTX 4090 has 100 KiB, of which 1 is the driver's.
        assert!(predicted(&rtx4090, 96 << 10).predicted_milliseconds.is_some());
        let refused = predicted(&rtx4090, 100 << 10);
        assert_eq!(refused.predicted_milliseconds, None);
        assert_eq!(refused.longest_launch().unwrap().occupancy, 0.0);
    }

    #[test]
    fn blocks_share_out_the_tiles_of_every_head() {
        let numbers = vec![("tiles", 64), ("heads", 28), ("kv_heads", 4)];
        let attention =
            |kernel, family| LaunchRecord { kernel, family, numbers: numbers.clone(), ..launch(0) };
        assert_eq!(tiles(&attention("attention_forward_128_hopper", "attention_hopper")), Some(64 * 28));
        assert_eq!(tiles(&attention("attention_backward_keys_128_hopper", "attention_hopper")), Some(64 * 4));
        // There a block has one tile of one head.
        assert_eq!(tiles(&attention("attention_forward_128_bf16", "attention")), Some(64));
        assert_eq!(tiles(&launch(0)), None);
    }

    #[test]
    fn operations_go_to_tensor_cores_where_some_launches_use_them() {
        let work = Work { bytes: 3 << 20, flops: 1 << 30 };
        let flash = |kernel| LaunchRecord { kernel, family: "attention", numbers: Vec::new(), ..launch(0) };
        let launches = [
            "attention_backward_delta_bf16",
            "attention_backward_queries_64_bf16",
            "attention_backward_keys_64_bf16",
        ]
        .map(|kernel| (flash(kernel), 1));
        let flops: Vec<u64> =
            share(&GPUS[0], work, &launches).unwrap().into_iter().map(|work| work.flops).collect();
        assert_eq!(flops, [0, 1 << 29, 1 << 29]);
    }
}
