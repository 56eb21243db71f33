//! `bench` and its arguments.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueHint};
use cpift_benches::kernels::SHAPES;
use cpift_benches::predict::GPUS;
use cpift_model::state_type::StateType;

use super::{DeviceArgument, PrecisionArgument, positive, seconds};

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Measure whole train steps: random weights, random tokens
    #[command(after_long_help = BENCH_STEP_EXAMPLES)]
    Step(BenchStep),
    /// Measure every operation against what the machine can do
    #[command(long_about = BENCH_KERNELS_ABOUT, after_long_help = BENCH_KERNELS_EXAMPLES)]
    Kernels(BenchKernels),
}

const BENCH_STEP_EXAMPLES: &str = "\
Forward, backward, clipping and AdamW; medians over the steps after two warm-ups.

Operations are counted per token as 6·N + 6·layers·(heads·head_dim)·T: N parameters, without an embedding that is only \
looked up, and causal attention over T tokens. MFU is their share of the best rate of a large matrix product, measured \
after the steps.

Example:
  cpift-engine bench step --config config.json --batch 4 --length 256

--json: {\"tokens_per_second\", \"step_ms\", \"parameters\", \"peak_memory_bytes\", \"flops_per_second\", \
\"matrix_flops_per_second\", \"mfu\", \"parts\": {…}}, times in milliseconds.";

/// `bench step`.
#[derive(Debug, Args)]
pub struct BenchStep {
    /// A model's config.json.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
    /// Sequences in a step.
    #[arg(long, value_name = "B", value_parser = positive)]
    pub batch: usize,
    /// Tokens in a sequence.
    #[arg(long, value_name = "T", value_parser = positive)]
    pub length: usize,
    /// Steps to measure, after two that are not.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = positive)]
    pub steps: usize,
    /// Accumulate importance and freeze 1 % of the parameters, as CPI-FT does.
    #[arg(long)]
    pub importance: bool,
    /// How the optimizer's state is kept: exact, in f32; compact, gradients and moments in bf16 and no `net` importance;
    /// offload, for GPUs, the same in the host's memory.
    #[arg(long, value_name = "KIND", default_value = "exact", value_parser = state_type)]
    pub memory: StateType,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
    /// What to compute in.
    #[command(flatten)]
    pub precision: PrecisionArgument,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgument,
}

fn state_type(text: &str) -> Result<StateType, String> {
    StateType::ALL
        .into_iter()
        .find(|state| state.name() == text)
        .ok_or_else(|| "use exact, compact or offload".to_owned())
}

const BENCH_KERNELS_ABOUT: &str = "\
Measure every operation against what the machine can do.

Each operation runs at the shapes of real models on random numbers, with the cache flushed before each run; on a GPU \
times are those of its own clock. Bytes and operations are those stated beside the operation's code: what its definition needs, on a \
GPU in as many passes as it takes; work beyond them counts against it. The ceilings are measured first: a large copy and a large read (the better one counts), \
and the best matrix product of all. `limit` is what would bound the operation at these ceilings, `share` how much of \
that bound it reaches. It is - where an operation is faster than the ceilings: at small sizes caches hold what it \
works on, and on some machines more streams at once reach more.

Ctrl-C ends the measurement and prints what there is.";

const BENCH_KERNELS_EXAMPLES: &str = "\
Examples:
  cpift-engine bench kernels
  cpift-engine bench kernels --filter adamw --parameters 100000000
  cpift-engine bench kernels --model 0.5B 7B --tokens 1024 --json > kernels.json
  cpift-engine bench kernels --predict --filter 7B
  cpift-engine bench kernels --predict h100 --compare kernels.json";

/// `bench kernels`.
#[derive(Debug, Args)]
pub struct BenchKernels {
    /// Only operations with this in their name, as in `linear forward gate 0.5B`.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub filter: String,
    /// Models whose layers' shapes are taken: Qwen2.5 of these sizes. On a CPU 0.5B unless given, on a GPU all.
    #[arg(long, value_name = "SIZE", num_args = 1.., value_parser = PossibleValuesParser::new(model_names()))]
    pub model: Vec<String>,
    /// Tokens of a batch; on a CPU 256 unless given, on a GPU 8192.
    #[arg(long, value_name = "N", value_parser = positive)]
    pub tokens: Option<usize>,
    /// Tokens of a document, at most as many as of the batch; on a CPU 256 unless given, on a GPU 2048.
    #[arg(long, value_name = "T", value_parser = positive)]
    pub length: Option<usize>,
    /// Parameters that the optimizer, selection and fusion work on; unless given 200 million on a GPU, on a
    /// CPU 20 million or as many as make its last cache of no account.
    #[arg(long, value_name = "D", value_parser = positive)]
    pub parameters: Option<usize>,
    /// Measure nothing: predict times on these GPUs, all of them when none is named, from the kernels' contracts and
    /// the assembler's figures. Sizes are a GPU's unless given.
    #[arg(long, value_name = "GPU", num_args = 0.., value_parser = PossibleValuesParser::new(gpu_names()))]
    pub predict: Option<Vec<String>>,
    /// A file that `bench kernels --json` wrote on that GPU: its times stand beside the predicted ones.
    #[arg(long, value_name = "FILE", requires = "predict", value_hint = ValueHint::FilePath)]
    pub compare: Option<PathBuf>,
    /// Time for each operation; at least three runs are made in any case.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5, value_parser = seconds)]
    pub seconds: f64,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// What to compute in.
    #[command(flatten)]
    pub precision: PrecisionArgument,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgument,
}

fn gpu_names() -> [&'static str; GPUS.len()] {
    GPUS.map(|gpu| gpu.name)
}

fn model_names() -> [&'static str; SHAPES.len()] {
    SHAPES.map(|shape| shape.name)
}
