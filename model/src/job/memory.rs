//! What memory a job takes, and how much of it the optimizer's state may have.

use cpift_engine::ranks::ranges;
use cpift_engine::{Device, Placement, Real, bf16};

use super::inputs::{Evaluated, Inputs};
use super::stage_memory::{StageMemory, stage_memory};
use super::trainings::{accumulated, trainings_settings};
use crate::checkpoint::staging_bytes;
use crate::data::{Dataset, Row};
use crate::error::{Error, Result};
use crate::evaluation::generation_bytes;
use crate::machine;
use crate::progress::{MemoryPart, Plan, StageKind};
use crate::recipe::{Recipe, RecomputeSetting, StateMemory, TrainSettings};
use crate::score::Scoring;
use crate::state_type::{LargerState, StateType};
use crate::transformer::{BatchLimits, ComputeType, MemoryPlan, Purpose, Recompute, Transformer};

/// Bytes of the program itself: its code as far as it runs, threads, names, lists, and what the allocator keeps. Without
/// those of CUDA's driver. A run of SmolLM2-135M took 68 MiB beside the other parts.
const PROGRAM: u64 = 72 << 20;

/// A job's memory.
pub struct JobMemory {
    /// Its parts at the peak.
    pub parts: Vec<MemoryPart>,
    /// What each stage takes, in their order.
    pub stages: Vec<(StageKind, u64)>,
    /// What a rank takes that is not rank 0: it trains, and does nothing else.
    pub other_rank: u64,
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
    saving: Saving,
    max_tokens: usize,
) -> Result<JobMemory> {
    let part = |name: &str, bytes: u64| MemoryPart { name: name.to_owned(), bytes, on_host: false };
    let host_part = |name: &str, bytes: u64| MemoryPart { on_host: true, ..part(name, bytes) };
    let Saving { state, recompute, ranks } = saving;
    // The first and the last range differ by a few bytes.
    let own = ranges(inputs.layout.len(), ranks).pop().unwrap_or_default();
    let of_state = state.parts_of_rank(&inputs.layout, compute, accumulated(recipe, state), own).into_iter();
    let mut parts: Vec<MemoryPart> = of_state
        .map(|of| MemoryPart { on_host: of.placement == Placement::Host, ..part(of.name, of.bytes as u64) })
        .collect();
    let limits = BatchLimits { tokens: max_tokens, documents: most_documents(recipe, inputs, max_tokens) };
    let purpose = Purpose::Training { recompute };
    let (transformer, generation) = match compute {
        ComputeType::F32 => plan_passes::<f32>(inputs, device, limits, purpose)?,
        ComputeType::Bf16 => plan_passes::<bf16>(inputs, device, limits, purpose)?,
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
    let other_rank = sum(&parts) + PROGRAM;
    parts.extend(of_stages);
    parts.push(host_part("program", PROGRAM));
    // A row's two lists are allocations of their own, each with a header of the allocator's; and its hash.
    let row_bytes = |dataset: &Dataset| {
        let lists = dataset.tokens() * (size_of::<u32>() + size_of::<bool>());
        (lists + dataset.len() * (size_of::<Row>() + 48)) as u64
    };
    let trained: u64 = inputs.tasks.iter().map(|task| row_bytes(&task.train)).sum();
    let evaluated: u64 = inputs.evaluated().map(|evaluated| row_bytes(&evaluated.rows)).sum();
    parts.push(host_part("tokenized data", trained + evaluated));
    let throughout = sum(&parts) - bytes_of_stages;
    let of_stage = |(stage, memory): &(StageKind, Vec<StageMemory>)| {
        let most = memory.iter().map(|memory| memory.bytes(is_gpu)).max().unwrap_or(0);
        (*stage, throughout + most as u64)
    };
    Ok(JobMemory { stages: stages.iter().map(of_stage).collect(), parts, other_rank })
}

/// What a transformer takes that computes in `T`, and what answering the longest evaluation takes beyond it.
fn plan_passes<T: Real>(
    inputs: &Inputs,
    device: &Device,
    limits: BatchLimits,
    purpose: Purpose,
) -> Result<(MemoryPlan, usize)> {
    let config = &inputs.base.config;
    let bytes = inputs.evaluated().filter_map(|Evaluated { rows, sample, answers, .. }| {
        Some(generation_bytes::<T>(config, device, limits.tokens, rows, sample, answers.as_ref()?))
    });
    let transformer = Transformer::<T>::memory_plan(config, device, limits, purpose)?;
    Ok((transformer, bytes.max().unwrap_or(0)))
}

/// Documents of a batch of up to `max_tokens` tokens, if the shortest ones came together: rows that are trained on or
/// measured, and prompts that are answered.
fn most_documents(recipe: &Recipe, inputs: &Inputs, max_tokens: usize) -> usize {
    let batch_size = |settings: &TrainSettings| settings.batch_size;
    let together = trainings_settings(recipe).into_iter().map(batch_size).max().unwrap_or(1);
    let packs = trainings_settings(recipe).iter().any(|settings| settings.pack);
    let trained = inputs.tasks.iter().filter(|_| packs).flat_map(|task| task.train.rows());
    let packed = count_repeated(trained.map(|row| row.tokens.len()), max_tokens);
    let measured = inputs.evaluated().flat_map(|evaluated| evaluated.rows.rows());
    let measured = count_shortest(measured.map(|row| row.tokens.len()).collect(), max_tokens);
    let prompt_length = |row: &Row| row.prompt().len();
    let evaluations = inputs
        .evaluated()
        .filter_map(|evaluated| Some((evaluated.rows.as_ref(), evaluated.answers.as_ref()?)));
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

/// What a job's memory is saved by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saving {
    /// How the optimizer's state is kept.
    pub state: StateType,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// Over how many ranks moments and importance are dealt.
    pub ranks: usize,
}

/// Plans the job with what the recipe asks for. Where it says `auto`, the state is what the run was `begun` with, if it was;
/// else exact, compact or, for a GPU, in the host's memory: the first with which the job fits the memory there is. Before
/// another state is taken, which has other bits, layers are computed again. Several ranks keep exact state.
///
/// # Errors
/// As `plan`, or state in the host's memory without a GPU beside it.
pub fn choose_saving(
    recipe: &Recipe,
    begun: Option<StateType>,
    device: &Device,
    ranks: usize,
    plan: impl Fn(Saving) -> Result<Plan>,
) -> Result<Plan> {
    if recipe.train.memory == StateMemory::Offload && !has_host(device) {
        let reason =
            "`offload` keeps the state in the host's memory beside a GPU: on the CPU use \"compact\"";
        return Err(Error::setting("train.memory", reason));
    }
    let states = match (recipe.train.memory, begun) {
        (StateMemory::Exact, _) | (StateMemory::Auto, None | Some(StateType::Exact)) if ranks > 1 => {
            vec![StateType::Exact]
        }
        (memory, begun) if ranks > 1 => {
            let reason = match (memory, begun) {
                (StateMemory::Auto, Some(begun)) => format!("the run was begun with {} state", begun.name()),
                (memory, _) => format!("is `{}`", memory.name()),
            };
            let reason = format!("{reason}, and {ranks} ranks keep exact state, each its own range of it");
            return Err(Error::setting("train.memory", reason));
        }
        (StateMemory::Exact, _) => vec![StateType::Exact],
        (StateMemory::Compact, _) => vec![StateType::Compact],
        (StateMemory::Offload, _) => vec![StateType::Offload],
        (StateMemory::Auto, Some(StateType::Exact)) => vec![StateType::Exact],
        (StateMemory::Auto, Some(_)) if has_host(device) => vec![StateType::Compact, StateType::Offload],
        (StateMemory::Auto, Some(_)) => vec![StateType::Compact],
        (StateMemory::Auto, None) if has_host(device) => StateType::ALL.to_vec(),
        (StateMemory::Auto, None) => vec![StateType::Exact, StateType::Compact],
    };
    let savings = states.iter().flat_map(|&state| {
        recomputes(recipe).into_iter().map(move |recompute| Saving { state, recompute, ranks })
    });
    let savings: Vec<Saving> = savings.collect();
    let mut too_large: Vec<LargerState> = Vec::new();
    for (index, &saving) in savings.iter().enumerate() {
        let planned = plan(saving)?;
        let next = savings.get(index + 1);
        if next.is_none() || check_device_memory(&planned, device).is_ok() {
            return Ok(Plan { too_large, ..planned });
        }
        if next.is_some_and(|next| next.state != saving.state) {
            too_large.push(LargerState { state: saving.state, bytes: device_bytes(&planned, device) });
        }
    }
    Err(Error::Job("a job has at least one kind of state".to_owned()))
}

/// What may be computed again, the least first: one transformer makes all trainings, so it is what one of them asks for, or
/// more where one leaves it open.
fn recomputes(recipe: &Recipe) -> Vec<Recompute> {
    let settings = trainings_settings(recipe).into_iter().map(|settings| settings.recompute);
    let (mut least, mut is_open) = (Recompute::Nothing, false);
    for setting in settings {
        match setting {
            RecomputeSetting::Of(asked) => least = least.max(asked),
            RecomputeSetting::Auto => is_open = true,
        }
    }
    match is_open {
        true => Recompute::ALL.into_iter().filter(|recompute| *recompute >= least).collect(),
        false => vec![least],
    }
}

/// Whether there is a host's memory beside the device's: of the emulator, one and the same.
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

/// What to do where memory does not suffice for a job of this plan.
fn less_memory(plan: &Plan, device: &Device) -> String {
    let mut changes = Vec::new();
    if plan.recompute < Recompute::Layer {
        changes.push("recompute = true");
    }
    match plan.state {
        StateType::Exact => changes.push("memory = \"compact\""),
        StateType::Compact if has_host(device) => changes.push("memory = \"offload\""),
        StateType::Compact | StateType::Offload => {}
    }
    let set = if changes.is_empty() { String::new() } else { format!(", or set {}", changes.join(" or ")) };
    format!("lower batch_size or model.max_length{set} (`plan` shows the parts)")
}

/// The same where it is the host's beside a GPU: the key, and what to do.
fn less_host_memory(state: StateType) -> (&'static str, &'static str) {
    match state {
        StateType::Offload => (
            "train.memory",
            "the host has to hold most of the state with \"offload\"; \"compact\" keeps it on the GPU",
        ),
        StateType::Exact | StateType::Compact => {
            ("train.batch_size", "use shorter or fewer rows, or another machine (`plan` shows the parts)")
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
            let (key, remedy) = less_host_memory(plan.state);
            machine::require_host_memory(key, bytes(plan, true), remedy)
        }
        None => Ok(()),
    }
}

/// The same of the memory that the optimizer's state is in.
fn check_device_memory(plan: &Plan, device: &Device) -> Result<()> {
    let (remedy, needed) = (less_memory(plan, device), device_bytes(plan, device));
    match device.memory_bytes() {
        Some(_) => machine::require_memory(device, "train.batch_size", needed, &remedy),
        None => machine::require_host_memory("train.batch_size", needed, &remedy),
    }
}

/// Bytes of the parts that are in the host's memory, or in the device's.
fn bytes(plan: &Plan, on_host: bool) -> u64 {
    plan.memory.iter().filter(|part| part.on_host == on_host).map(|part| part.bytes).sum()
}

/// Adds to a failure for want of memory what to do: others use the device as well, or memory is in pieces.
pub fn explain_out_of_memory(error: Error, plan: &Plan, device: &Device) -> Error {
    match error {
        Error::Engine(error @ cpift_engine::Error::OutOfMemory { .. }) => {
            Error::Job(format!("{error}; {}", less_memory(plan, device)))
        }
        other => other,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use cpift_engine::{Device, LaunchLog};

    use super::{Saving, choose_saving, count_repeated, count_shortest, less_memory, recomputes};
    use crate::progress::{MemoryPart, Plan};
    use crate::recipe::{Method, Recipe, RecomputeSetting, StateMemory};
    use crate::state_type::StateType;
    use crate::transformer::Recompute;

    const SMALL: u64 = 1 << 20;
    const TOO_LARGE: u64 = 1 << 60;

    /// [`chosen_on`] the CPU.
    fn chosen(
        memory: StateMemory,
        begun: Option<StateType>,
        bytes: impl Fn(Saving) -> u64,
    ) -> (Saving, Vec<u64>) {
        chosen_on(&Device::cpu(None).unwrap(), memory, begun, bytes)
    }

    /// What is chosen, and the sizes that were too large, where a job takes as many bytes as `bytes` says.
    fn chosen_on(
        device: &Device,
        memory: StateMemory,
        begun: Option<StateType>,
        bytes: impl Fn(Saving) -> u64,
    ) -> (Saving, Vec<u64>) {
        let mut recipe = Recipe::default();
        recipe.train.memory = memory;
        let plan = choose_saving(&recipe, begun, device, 1, |saving| {
            let memory = vec![MemoryPart { name: "all".to_owned(), bytes: bytes(saving), on_host: false }];
            let Saving { state, recompute, .. } = saving;
            Ok(Plan { memory, state, recompute, ..empty_plan() })
        });
        let plan = plan.unwrap();
        let saving = Saving { state: plan.state, recompute: plan.recompute, ranks: 1 };
        (saving, plan.too_large.iter().map(|larger| larger.bytes).collect())
    }

    /// Of nothing.
    pub fn empty_plan() -> Plan {
        Plan {
            method: Method::Cpift,
            device: String::new(),
            architecture: String::new(),
            parameters: 0,
            tasks: Vec::new(),
            measures: Vec::new(),
            trainings: Vec::new(),
            memory: Vec::new(),
            state: StateType::Exact,
            recompute: Recompute::Nothing,
            too_large: Vec::new(),
            disk_bytes: 0,
            disk_bytes_without_probes: None,
            stages: Vec::new(),
            training_flops: 0.0,
            evaluations: 0,
            stage_evaluations: Vec::new(),
            evaluation_flops: 0.0,
            flops_per_evaluation: 0.0,
            notices: Vec::new(),
            rank_bytes: Vec::new(),
        }
    }

    #[test]
    fn what_is_done_already_is_not_advised() {
        let device = cpift_engine::Device::cpu(None).unwrap();
        let advice = less_memory(&empty_plan(), &device);
        assert!(advice.contains("or set recompute = true or memory = \"compact\" ("), "{advice}");
        let (state, recompute) = (StateType::Compact, Recompute::Layer);
        let advice = less_memory(&Plan { state, recompute, ..empty_plan() }, &device);
        assert!(advice.contains("max_length (`plan`"), "{advice}");
    }

    #[test]
    fn auto_is_exact_where_that_fits_and_stays_what_a_run_was_begun_with() {
        let by_state =
            |bytes: [u64; 2]| move |saving: Saving| bytes[usize::from(saving.state == StateType::Compact)];
        let exact = Saving { state: StateType::Exact, recompute: Recompute::Nothing, ranks: 1 };
        let compact = Saving { state: StateType::Compact, ..exact };
        let most = |saving: Saving| Saving { recompute: Recompute::Layer, ..saving };
        for (memory, begun, bytes, expected) in [
            (StateMemory::Auto, None, [SMALL, SMALL], (exact, vec![])),
            (StateMemory::Auto, None, [TOO_LARGE, SMALL], (compact, vec![TOO_LARGE])),
            // Even compact state may not fit: the check that follows says so.
            (StateMemory::Auto, None, [TOO_LARGE, TOO_LARGE], (most(compact), vec![TOO_LARGE])),
            (StateMemory::Auto, Some(StateType::Exact), [TOO_LARGE, SMALL], (most(exact), vec![])),
            (StateMemory::Auto, Some(StateType::Compact), [SMALL, SMALL], (compact, vec![])),
            (StateMemory::Exact, None, [TOO_LARGE, SMALL], (most(exact), vec![])),
            (StateMemory::Compact, None, [SMALL, SMALL], (compact, vec![])),
        ] {
            assert_eq!(chosen(memory, begun, by_state(bytes)), expected, "{memory:?} {begun:?} {bytes:?}");
        }
    }

    /// And a run that was begun with compact state goes on with the same bits elsewhere.
    #[test]
    fn auto_takes_the_hosts_memory_beside_a_gpu() {
        let gpu = Device::logging(&LaunchLog::new());
        let bytes = |saving: Saving| if saving.state == StateType::Offload { SMALL } else { TOO_LARGE };
        let offload = Saving { state: StateType::Offload, recompute: Recompute::Nothing, ranks: 1 };
        let chosen = |begun| chosen_on(&gpu, StateMemory::Auto, begun, bytes);
        assert_eq!(chosen(None), (offload, vec![TOO_LARGE; 2]));
        assert_eq!(chosen(Some(StateType::Compact)), (offload, vec![TOO_LARGE]));
        assert_eq!(chosen(Some(StateType::Exact)).0.state, StateType::Exact);
        let advice = less_memory(&Plan { state: StateType::Compact, ..empty_plan() }, &gpu);
        assert!(advice.contains("memory = \"offload\""), "{advice}");
    }

    #[test]
    fn layers_are_computed_again_before_another_state_is_taken() {
        for (fits, expected) in [
            (Recompute::Nothing, Recompute::Nothing),
            (Recompute::Mlp, Recompute::Mlp),
            (Recompute::Layer, Recompute::Layer),
        ] {
            let bytes = |saving: Saving| if saving.recompute >= fits { SMALL } else { TOO_LARGE };
            let saving = Saving { state: StateType::Exact, recompute: expected, ranks: 1 };
            assert_eq!(chosen(StateMemory::Auto, None, bytes), (saving, vec![]));
        }
    }

    #[test]
    fn several_ranks_keep_exact_state() {
        let cpu = Device::cpu(None).unwrap();
        let chosen = |memory, begun| {
            let mut recipe = Recipe::default();
            recipe.train.memory = memory;
            let plan = |Saving { state, recompute, ranks }| {
                assert_eq!(ranks, 2);
                let all = MemoryPart { name: "all".to_owned(), bytes: TOO_LARGE, on_host: false };
                Ok(Plan { memory: vec![all], state, recompute, ..empty_plan() })
            };
            let plan = choose_saving(&recipe, begun, &cpu, 2, plan);
            plan.map(|plan| plan.state).map_err(|error| error.to_string())
        };
        for (memory, begun) in [
            (StateMemory::Auto, None),
            (StateMemory::Auto, Some(StateType::Exact)),
            (StateMemory::Exact, None),
        ] {
            assert_eq!(chosen(memory, begun), Ok(StateType::Exact), "{memory:?} {begun:?}");
        }
        let refused = chosen(StateMemory::Compact, None).unwrap_err();
        assert!(refused.contains("is `compact`, and 2 ranks keep exact state"), "{refused}");
        let refused = chosen(StateMemory::Auto, Some(StateType::Compact)).unwrap_err();
        assert!(refused.contains("begun with compact state"), "{refused}");
    }

    /// A job's trainings have one transformer.
    #[test]
    fn what_one_training_asks_for_all_have() {
        let mut recipe = Recipe::default();
        assert_eq!(recomputes(&recipe), Recompute::ALL);
        recipe.probe.training.recompute = RecomputeSetting::Of(Recompute::Mlp);
        assert_eq!(recomputes(&recipe), [Recompute::Mlp, Recompute::Layer]);
        recipe.integrate.training.recompute = RecomputeSetting::Of(Recompute::Nothing);
        assert_eq!(recomputes(&recipe), [Recompute::Mlp]);
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
