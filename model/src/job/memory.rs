//! What memory a job takes, and how much of it the optimizer's state may have.

use cpift_engine::{Device, Placement, Real, bf16};

use super::inputs::Inputs;
use super::stage_memory::{StageMemory, stage_memory};
use super::trainings::{accumulated, trainings_settings};
use crate::checkpoint::staging_bytes;
use crate::data::{Dataset, Row};
use crate::error::{Error, Result};
use crate::evaluation::generation_bytes;
use crate::machine;
use crate::progress::{LargerState, MemoryPart, Plan, StageKind};
use crate::recipe::{Recipe, StateMemory, TrainSettings};
use crate::score::Scoring;
use crate::state_type::StateType;
use crate::transformer::{BatchLimits, ComputeType, MemoryPlan, Purpose, Transformer};

/// Bytes of the program itself: its code as far as it runs, threads, names, lists, and what the allocator keeps. Without
/// those of CUDA's driver. A run of SmolLM2-135M took 68 MiB beside the other parts.
const PROGRAM: u64 = 72 << 20;

/// A job's memory.
pub struct JobMemory {
    /// Its parts at the peak.
    pub parts: Vec<MemoryPart>,
    /// What each stage takes, in their order.
    pub stages: Vec<(StageKind, u64)>,
}

/// The parts of a job's memory at its peak, and what each stage takes.
///
/// # Errors
/// A size overflows.
pub fn plan_memory(
    recipe: &Recipe,
    inputs: &Inputs,
    device: &Device,
    compute: ComputeType,
    state: StateType,
    max_tokens: usize,
) -> Result<JobMemory> {
    let part = |name: &str, bytes: u64| MemoryPart { name: name.to_owned(), bytes, on_host: false };
    let host_part = |name: &str, bytes: u64| MemoryPart { on_host: true, ..part(name, bytes) };
    let of_state = state.parts(&inputs.layout, compute, accumulated(recipe, state)).into_iter();
    let mut parts: Vec<MemoryPart> = of_state
        .map(|of| MemoryPart { on_host: of.placement == Placement::Host, ..part(of.name, of.bytes as u64) })
        .collect();
    let limits = BatchLimits { tokens: max_tokens, documents: most_documents(recipe, inputs, max_tokens) };
    let (transformer, generation) = match compute {
        ComputeType::F32 => plan_passes::<f32>(inputs, device, limits, purpose(recipe))?,
        ComputeType::Bf16 => plan_passes::<bf16>(inputs, device, limits, purpose(recipe))?,
    };
    parts.extend(transformer.parts.iter().map(|(name, bytes)| part(name, *bytes as u64)));
    // Answers are generated, or files read and written, or models fused; never two of these at once.
    let staging = staging_bytes(&inputs.layout, device.threads());
    let stages = stage_memory(recipe, inputs, generation, staging);
    let is_gpu = matches!(device, Device::Gpu(_));
    let most = |of: fn(&StageMemory) -> usize| {
        stages.iter().flat_map(|(_, stage)| stage).map(of).max().unwrap_or(0) as u64
    };
    let of_stages = if is_gpu {
        vec![
            part("answers, files or fusion", most(|stage| stage.buffers + stage.copies)),
            host_part("files and masks", most(|stage| stage.masks + stage.files + stage.beside_gpu)),
        ]
    } else {
        vec![part("answers, files or fusion", most(|stage| stage.buffers + stage.masks + stage.files))]
    };
    let sum = |parts: &[MemoryPart]| parts.iter().map(|part| part.bytes).sum::<u64>();
    let bytes_of_stages = sum(&of_stages);
    parts.extend(of_stages);
    parts.push(host_part("program", PROGRAM));
    // A row's two lists are allocations of their own, each with a header of the allocator's; and its hash.
    let row_bytes = |dataset: &Dataset| {
        let lists = dataset.tokens() * (size_of::<u32>() + size_of::<bool>());
        (lists + dataset.len() * (size_of::<Row>() + 48)) as u64
    };
    let data =
        inputs.tasks.iter().map(|task| row_bytes(&task.train) + task.eval.as_deref().map_or(0, row_bytes));
    parts.push(host_part("tokenized data", data.sum()));
    let throughout = sum(&parts) - bytes_of_stages;
    let of_stage = |(stage, memory): &(StageKind, Vec<StageMemory>)| {
        let most = memory.iter().map(|memory| memory.bytes(is_gpu)).max().unwrap_or(0);
        (*stage, throughout + most as u64)
    };
    Ok(JobMemory { stages: stages.iter().map(of_stage).collect(), parts })
}

/// What a transformer takes that computes in `T`, and what answering the longest evaluation takes beyond it.
fn plan_passes<T: Real>(
    inputs: &Inputs,
    device: &Device,
    limits: BatchLimits,
    purpose: Purpose,
) -> Result<(MemoryPlan, usize)> {
    let config = &inputs.base.config;
    let bytes = inputs.tasks.iter().filter_map(|task| {
        let (eval, answers) = (task.eval.as_deref()?, task.answers.as_ref()?);
        Some(generation_bytes::<T>(config, device, limits.tokens, eval, &task.evaluation_sample, answers))
    });
    let transformer = Transformer::<T>::memory_plan(config, device, limits, purpose)?;
    Ok((transformer, bytes.max().unwrap_or(0)))
}

/// How the job's transformer is used: recomputing when any of its fine-tunes asks for it.
pub fn purpose(recipe: &Recipe) -> Purpose {
    let recompute = trainings_settings(recipe).iter().any(|settings| settings.recompute);
    Purpose::Training { recompute }
}

/// Documents of a batch of up to `max_tokens` tokens, if the shortest ones came together: rows that are trained on or
/// measured, and prompts that are answered.
fn most_documents(recipe: &Recipe, inputs: &Inputs, max_tokens: usize) -> usize {
    let batch_size = |settings: &TrainSettings| settings.batch_size;
    let together = trainings_settings(recipe).into_iter().map(batch_size).max().unwrap_or(1);
    let packs = trainings_settings(recipe).iter().any(|settings| settings.pack);
    let trained = inputs.tasks.iter().filter(|_| packs).flat_map(|task| task.train.rows());
    let packed = count_repeated(trained.map(|row| row.tokens.len()), max_tokens);
    let measured = inputs.tasks.iter().filter_map(|task| task.eval.as_deref()).flat_map(Dataset::rows);
    let measured = count_shortest(measured.map(|row| row.tokens.len()).collect(), max_tokens);
    let prompt_length = |row: &Row| row.prompt().len();
    let evaluations =
        inputs.tasks.iter().filter_map(|task| Some((task.eval.as_deref()?, task.answers.as_ref()?)));
    let prompts = evaluations.clone().flat_map(|(eval, _)| eval.rows());
    let prompts = count_shortest(prompts.map(prompt_length).collect(), max_tokens);
    // Each option of a row is a document, which the prompt begins.
    let chosen = evaluations.filter(|(_, answers)| answers.scoring == Scoring::Choice);
    let options = count_repeated(chosen.flat_map(|(eval, _)| eval.rows()).map(prompt_length), max_tokens);
    together.max(packed).max(measured).max(prompts).max(options)
}

/// How many documents come to `limit` at most, where each of these lengths may occur any number of times.
fn count_repeated(lengths: impl Iterator<Item = usize>, limit: usize) -> usize {
    lengths.min().map_or(0, |shortest| limit / shortest.max(1))
}

/// How many of these lengths, the shortest first, come to `limit` at most.
fn count_shortest(mut lengths: Vec<usize>, limit: usize) -> usize {
    lengths.sort_unstable();
    let sums = lengths.iter().scan(0_usize, |sum, &length| {
        *sum = sum.saturating_add(length);
        Some(*sum)
    });
    sums.take_while(|&sum| sum <= limit).count()
}

/// Plans the job with the state that the recipe asks for. `auto` is what the run was `begun` with, if it was; else exact
/// state where the job then fits the memory there is, or compact state, and for a GPU, if neither does, the host's memory.
///
/// # Errors
/// As `plan`, or state in the host's memory without a GPU beside it.
pub fn choose_state(
    recipe: &Recipe,
    begun: Option<StateType>,
    device: &Device,
    plan: impl Fn(StateType) -> Result<Plan>,
) -> Result<Plan> {
    match (recipe.train.memory, begun) {
        (StateMemory::Exact, _) => plan(StateType::Exact),
        (StateMemory::Compact, _) => plan(StateType::Compact),
        (StateMemory::Offload, _) if !has_host(device) => {
            let reason =
                "`offload` keeps the state in the host's memory beside a GPU: on the CPU use \"compact\"";
            Err(Error::setting("train.memory", reason))
        }
        (StateMemory::Offload, _) => plan(StateType::Offload),
        (StateMemory::Auto, Some(state)) => plan(state),
        (StateMemory::Auto, None) => {
            let (preferred, smallest) = match has_host(device) {
                true => (&[StateType::Exact, StateType::Compact][..], StateType::Offload),
                false => (&[StateType::Exact][..], StateType::Compact),
            };
            let mut too_large = Vec::new();
            for &state in preferred {
                let planned = plan(state)?;
                if check_device_memory(&planned, device).is_ok() {
                    return Ok(Plan { too_large, ..planned });
                }
                too_large.push(LargerState { state, bytes: device_bytes(&planned, device) });
            }
            Ok(Plan { too_large, ..plan(smallest)? })
        }
    }
}

/// Whether the device has memory of its own, beside the host's.
fn has_host(device: &Device) -> bool {
    matches!(device, Device::Gpu(_))
}

/// Bytes of what has to fit where exact and compact state is.
fn device_bytes(plan: &Plan, device: &Device) -> u64 {
    match device.memory_bytes() {
        Some(_) => bytes(plan, false),
        None => plan.memory_bytes(),
    }
}

/// What to do where memory does not suffice for a job with this state.
fn less_memory(state: StateType, device: &Device) -> &'static str {
    match state {
        StateType::Exact => {
            "lower batch_size or model.max_length, or set recompute = true or memory = \"compact\" (`plan` shows the \
             parts)"
        }
        StateType::Compact if has_host(device) => {
            "lower batch_size or model.max_length, or set recompute = true or memory = \"offload\" (`plan` shows the \
             parts)"
        }
        StateType::Compact | StateType::Offload => {
            "lower batch_size or model.max_length, or set recompute = true (`plan` shows the parts)"
        }
    }
}

/// Fails when the job needs more memory than the device and the host have, before any of it is taken.
///
/// # Errors
/// Saying what to lower.
pub fn check_memory(plan: &Plan, device: &Device) -> Result<()> {
    check_device_memory(plan, device)?;
    match device.memory_bytes() {
        Some(_) => {
            let remedy = less_memory(plan.state, device);
            machine::require_host_memory("train.batch_size", bytes(plan, true), remedy)
        }
        None => Ok(()),
    }
}

/// The same of the memory that the optimizer's state is in.
fn check_device_memory(plan: &Plan, device: &Device) -> Result<()> {
    let (remedy, needed) = (less_memory(plan.state, device), device_bytes(plan, device));
    match device.memory_bytes() {
        Some(_) => machine::require_memory(device, "train.batch_size", needed, remedy),
        None => machine::require_host_memory("train.batch_size", needed, remedy),
    }
}

/// Bytes of the parts that are in the host's memory, or in the device's.
fn bytes(plan: &Plan, on_host: bool) -> u64 {
    plan.memory.iter().filter(|part| part.on_host == on_host).map(|part| part.bytes).sum()
}

/// Adds to a failure for want of memory what to do: others use the device as well, or memory is in pieces.
pub fn explain_out_of_memory(error: Error, state: StateType, device: &Device) -> Error {
    match error {
        Error::Engine(error @ cpift_engine::Error::OutOfMemory { .. }) => {
            Error::Job(format!("{error}; {}", less_memory(state, device)))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::{choose_state, count_repeated, count_shortest, less_memory};
    use crate::progress::{MemoryPart, Plan};
    use crate::recipe::{Method, Recipe, StateMemory};
    use crate::state_type::StateType;

    /// What is chosen, and the sizes that were too large, where a job takes so many bytes with exact state and with compact.
    fn chosen(memory: StateMemory, begun: Option<StateType>, bytes: [u64; 2]) -> (StateType, Vec<u64>) {
        let device = cpift_engine::Device::cpu(None).unwrap();
        let mut recipe = Recipe::default();
        recipe.train.memory = memory;
        let plan = choose_state(&recipe, begun, &device, |state| {
            let bytes = if state == StateType::Exact { bytes[0] } else { bytes[1] };
            let memory = vec![MemoryPart { name: "all".to_owned(), bytes, on_host: false }];
            Ok(Plan { memory, state, ..empty_plan() })
        });
        let plan = plan.unwrap();
        (plan.state, plan.too_large.iter().map(|larger| larger.bytes).collect())
    }

    fn empty_plan() -> Plan {
        Plan {
            method: Method::Cpift,
            device: String::new(),
            architecture: String::new(),
            parameters: 0,
            tasks: Vec::new(),
            trainings: Vec::new(),
            memory: Vec::new(),
            state: StateType::Exact,
            too_large: Vec::new(),
            disk_bytes: 0,
            stages: Vec::new(),
            training_flops: 0.0,
            evaluations: 0,
            stage_evaluations: Vec::new(),
            evaluation_flops: 0.0,
            flops_per_evaluation: 0.0,
            notices: Vec::new(),
        }
    }

    #[test]
    fn what_is_done_already_is_not_advised() {
        let device = cpift_engine::Device::cpu(None).unwrap();
        assert!(less_memory(StateType::Exact, &device).contains("compact"));
        let advice = less_memory(StateType::Compact, &device);
        assert!(!advice.contains("compact") && !advice.contains("offload"), "{advice}");
    }

    #[test]
    fn auto_is_exact_where_that_fits_and_stays_what_a_run_was_begun_with() {
        let (small, too_large) = (1 << 20, 1 << 60);
        for (memory, begun, bytes, expected) in [
            (StateMemory::Auto, None, [small, small], (StateType::Exact, vec![])),
            (StateMemory::Auto, None, [too_large, small], (StateType::Compact, vec![too_large])),
            // Even compact state may not fit: the check that follows says so.
            (StateMemory::Auto, None, [too_large, too_large], (StateType::Compact, vec![too_large])),
            (StateMemory::Auto, Some(StateType::Exact), [too_large, small], (StateType::Exact, vec![])),
            (StateMemory::Auto, Some(StateType::Compact), [small, small], (StateType::Compact, vec![])),
            (StateMemory::Exact, None, [too_large, small], (StateType::Exact, vec![])),
            (StateMemory::Compact, None, [small, small], (StateType::Compact, vec![])),
        ] {
            assert_eq!(chosen(memory, begun, bytes), expected, "{memory:?} {begun:?} {bytes:?}");
        }
    }

    #[test]
    fn as_many_documents_as_fit_are_counted_shortest_first() {
        assert_eq!(count_shortest(vec![9, 1, 4, 2], 7), 3);
        assert_eq!(count_shortest(vec![9, 1, 4, 2], 6), 2);
        assert_eq!(count_shortest(vec![9, 10], 3), 0);
        assert_eq!(count_shortest(vec![], 3), 0);
    }

    #[test]
    fn the_shortest_document_may_be_all_that_a_batch_holds() {
        assert_eq!(count_repeated([9, 2, 4].into_iter(), 7), 3);
        assert_eq!(count_repeated([9, 2, 4].into_iter(), 8), 4);
        assert_eq!(count_repeated([9, 10].into_iter(), 3), 0);
        assert_eq!(count_repeated([0].into_iter(), 3), 3, "a document has a token at least");
        assert_eq!(count_repeated([].into_iter(), 3), 0);
    }
}
