//! Jobs whose optimizer keeps compact state.

use std::fs;
use std::sync::atomic::AtomicBool;

use cpift_engine::Device;
use cpift_model::checkpoint::{Checkpoint, TensorFile};
use cpift_model::cores::{Cores, CoresRequest};
use cpift_model::job::RunFolder;
use cpift_model::progress::{Plan, Silent};
use cpift_model::state_type::StateType;
use cpift_model::{Error, Recipe};
use cpift_tests::jobs::{SmallJob, TASKS, Watcher};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

const COMPACT: (&str, &str) = ("train.memory", "compact");

/// The changes of a recipe, with compact state.
fn compact(changes: &[(&'static str, Value)]) -> Vec<(&'static str, Value)> {
    let sections = [COMPACT.0, "probe.memory", "integrate.memory"].map(|key| (key, json!(COMPACT.1)));
    sections.into_iter().chain(changes.iter().cloned()).collect()
}

fn bytes_of(plan: &Plan, part: &str) -> u64 {
    plan.memory.iter().filter(|of| of.name == part).map(|of| of.bytes).sum()
}

/// Half of the moments and all of the importance, as planned; the run's disk less by the importance of all tasks.
#[test]
fn the_plan_has_the_state_that_is_kept() {
    let job = SmallJob::new();
    let (exact, small) = (job.recipe(&[]), job.recipe(&compact(&[])));
    let (exact, small) = (job.plan(&exact).unwrap(), job.plan(&small).unwrap());
    assert_eq!((exact.state, small.state), (StateType::Exact, StateType::Compact));
    assert_eq!(bytes_of(&exact, "moments"), 2 * bytes_of(&small, "moments"));
    assert_eq!(bytes_of(&exact, "importance"), bytes_of(&exact, "weights"));
    assert_eq!(bytes_of(&small, "importance"), 0);
    // And a checkpoint of stage 4 by half of the moments.
    let flat = bytes_of(&exact, "weights");
    assert_eq!(exact.disk_bytes - small.disk_bytes, TASKS.len() as u64 * flat + flat);
    // Fisher information is no difference: it has to be kept, in bf16.
    let fisher = job.recipe(&compact(&[("probe.importance", json!("fisher"))]));
    assert_eq!(2 * bytes_of(&job.plan(&fisher).unwrap(), "importance"), flat);
}

/// Every stage, stopped in a probe and in stage 4 and continued: the same bits, on the CPU and on the emulator. Cores
/// are what moved most, by the models alone; frozen coordinates keep their bits.
#[test]
fn a_compact_run_continues_to_the_same_bits() {
    for device in
        [Device::cpu(std::num::NonZeroUsize::new(2)).unwrap(), Device::from_name("emulated", None).unwrap()]
    {
        let job = SmallJob::with_model(&[("num_hidden_layers", 1)]).brief().on(device);
        let few =
            [("probe.steps", json!(2)), ("integrate.steps", json!(4)), ("integrate.frozen", json!("all"))];
        let recipe = job.recipe(&compact(&few));
        let report = job.run(&recipe, "whole", false, &mut Silent).unwrap();
        assert!(report.frozen_verified > 0);
        let stops = [Some(1), Some(2), Some(5), None];
        for (index, stop_after) in stops.into_iter().enumerate() {
            let mut watcher = Watcher { stop_after, ..Watcher::default() };
            let outcome = job.run(&recipe, "stopped", index > 0, &mut watcher);
            match stop_after {
                Some(_) => assert!(matches!(outcome, Err(Error::Interrupted { .. }))),
                None => assert_eq!(outcome.unwrap().steps, report.steps),
            }
        }
        for file in ["final/model.safetensors", "fused/model.safetensors", "core/code.mask.safetensors"] {
            assert!(job.bytes(&format!("whole/{file}")) == job.bytes(&format!("stopped/{file}")), "{file}");
        }

        let base = base_of(&job);
        for task in TASKS {
            assert!(!job.path(&format!("whole/probe/{task}/importance.safetensors")).exists());
            let (core, probe) = (job.core("whole", task), job.weights(&format!("whole/probe/{task}")));
            let moved = |index: usize| (probe[index] - base[index]).abs();
            let least_inside = core.indices().map(moved).fold(f32::INFINITY, f32::min);
            let layout = Checkpoint::open(&job.path("whole/fused")).unwrap().layout().clone();
            let outside = layout
                .segments()
                .iter()
                .flat_map(|segment| segment.range())
                .filter(|&index| !core.get(index));
            let most_outside = outside.map(moved).fold(0.0, f32::max);
            assert!(least_inside >= most_outside && least_inside > 0.0, "{least_inside} {most_outside}");
        }
        cores_of_the_probes_are_the_jobs(&job, &recipe);
    }
}

/// State in the host's memory, on a GPU whose memory is the host's too: only where things are is different.
#[test]
fn offloaded_state_has_the_bits_of_compact_state() {
    let job = SmallJob::with_model(&[("num_hidden_layers", 1)])
        .brief()
        .on(Device::from_name("emulated", None).unwrap());
    let of = |memory: &str, precision: &str| {
        let sections = [COMPACT.0, "probe.memory", "integrate.memory"].map(|key| (key, json!(memory)));
        let few = [
            ("model.max_length", json!(24)),
            ("probe.steps", json!(1)),
            ("probe.batch_size", json!(1)),
            ("integrate.steps", json!(2)),
            ("integrate.batch_size", json!(1)),
            ("model.precision", json!(precision)),
        ];
        job.recipe(&[&sections[..], &few].concat())
    };
    job.run(&of("compact", "bf16"), "compact", false, &mut Silent).unwrap();
    // Before the last step.
    let mut watcher = Watcher { stop_after: Some(4), ..Watcher::default() };
    job.run(&of("offload", "bf16"), "offload", false, &mut watcher).unwrap_err();
    job.run(&of("offload", "bf16"), "offload", true, &mut Silent).unwrap();
    for file in ["final/model.safetensors", "fused/model.safetensors", "core/code.mask.safetensors"] {
        let [own, other] = ["offload", "compact"].map(|run| job.bytes(&format!("{run}/{file}")));
        assert!(own == other, "{file}");
    }

    let plan = job.plan(&of("offload", "bf16")).unwrap();
    let found = |name: &str| plan.memory.iter().find(|part| part.name == name);
    assert!(found("weights and gradients").unwrap().on_host && found("moments").unwrap().on_host);
    assert_eq!(bytes_of(&plan, "weights and gradients"), 2 * bytes_of(&plan, "rounded weights"));
    assert!(!found("rounded weights").unwrap().on_host && !found("sums of gradients").unwrap().on_host);
    // Products read the master weights.
    let plan = job.plan(&of("offload", "f32")).unwrap();
    let on_host = |name: &str| plan.memory.iter().find(|part| part.name == name).unwrap().on_host;
    assert!(!on_host("weights") && on_host("gradients") && on_host("moments"));
}

#[test]
fn a_cpu_has_no_other_memory() {
    let job = SmallJob::new();
    let sections = [COMPACT.0, "probe.memory", "integrate.memory"].map(|key| (key, json!("offload")));
    let error = job.plan(&job.recipe(&sections)).unwrap_err().to_string();
    assert!(error.contains("train.memory") && error.contains("on the CPU use \"compact\""), "{error}");
}

/// The probes as models that someone has: their cores are those of the job, and so are the overlaps.
fn cores_of_the_probes_are_the_jobs(job: &SmallJob, recipe: &Recipe) {
    let request = CoresRequest {
        base: job.path(&format!("still/probe/{}", TASKS[0])),
        models: TASKS.map(|task| (task.to_owned(), job.path(&format!("whole/probe/{task}")))).to_vec(),
        settings: recipe.core.clone(),
        threshold: recipe.group.threshold,
    };
    let (out, device) = (job.path("found"), cpift_engine::Device::cpu(None).unwrap());
    let cores = Cores::new(&request).unwrap();
    let report = cores.run(&device, &out, &AtomicBool::new(false), &mut |_| {}).unwrap();
    let run = RunFolder::read(&job.path("whole")).unwrap();
    let groups = run.groups.unwrap();
    assert_eq!(report.overlap.jaccard, groups.jaccard);
    assert_eq!(report.overlap.sign_agreement, groups.sign_agreement);
    let by_job = run.cores.unwrap();
    for (task, (found, expected)) in TASKS.iter().zip(report.cores.tasks.iter().zip(&by_job.tasks)) {
        assert_eq!((found.size, found.threshold), (expected.size, expected.threshold), "{task}");
        assert!((found.relative_move / expected.relative_move - 1.0).abs() < 1e-6);
        let file =
            |folder: &str| TensorFile::open(&job.path(&format!("{folder}/{task}.mask.safetensors"))).unwrap();
        let (found, expected) = (file("found"), file("whole/core"));
        for segment in Checkpoint::open(&job.path("whole/fused")).unwrap().layout().segments() {
            let words = [&found, &expected].map(|file| file.read_u64(&segment.name).unwrap());
            assert_eq!(words[0], words[1], "{task}: {}", segment.name);
        }
    }
    std::fs::remove_dir_all(out).unwrap();
}

/// The weights that the job starts from.
fn base_of(job: &SmallJob) -> Vec<f32> {
    let still = [("probe.learning_rate", json!(0.0)), ("probe.weight_decay", json!(0.0))];
    let recipe = job.recipe(&compact(&still));
    job.run_until(&recipe, "still", false, Some(cpift_model::recipe::Stage::Probe), &mut Silent).unwrap();
    job.weights(&format!("still/probe/{}", TASKS[0]))
}

/// Accumulated importance is kept, and its core is another than that of the moves.
#[test]
fn fisher_information_is_accumulated_beside_compact_moments() {
    let job = SmallJob::new();
    let recipe = job.recipe(&compact(&[("probe.importance", json!("fisher"))]));
    job.run(&recipe, "fisher", false, &mut Silent).unwrap();
    let bytes = job.bytes("fisher/probe/code/importance.safetensors");
    let stored = SafeTensors::deserialize(&bytes).unwrap().tensors();
    assert!(!stored.is_empty() && stored.iter().all(|(_, tensor)| tensor.dtype() == Dtype::BF16));
    job.run(&job.recipe(&compact(&[])), "net", false, &mut Silent).unwrap();
    assert!(job.bytes("fisher/core/code.mask.safetensors") != job.bytes("net/core/code.mask.safetensors"));
}

/// A run has one kind of state: `auto` stands for what it was begun with, and another is another run.
#[test]
fn another_state_is_another_run() {
    let job = SmallJob::new();
    let mut watcher = Watcher { stop_after: Some(2), ..Watcher::default() };
    job.run(&job.recipe(&[]), "run", false, &mut watcher).unwrap_err();
    let identity: Value = serde_json::from_slice(&job.bytes("run/identity.json")).unwrap();
    assert_eq!(identity["state"], "exact");

    let error = job.run(&job.recipe(&compact(&[])), "run", true, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("begun with `memory = \"auto\"`"), "{error}");

    // As if `auto` had stood for the other: its checkpoints are not those of this run.
    fs::write(job.path("run/identity.json"), identity.to_string().replace("exact", "compact")).unwrap();
    let error = job.run(&job.recipe(&[]), "run", true, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("another run"), "{error}");
}

/// Runs of the version before this key say nothing of it: they are told as what they are.
#[test]
fn a_run_of_a_version_without_the_key_is_told_so() {
    let job = SmallJob::new();
    let mut watcher = Watcher { stop_after: Some(2), ..Watcher::default() };
    job.run(&job.recipe(&[]), "run", false, &mut watcher).unwrap_err();
    let mut identity: Value = serde_json::from_slice(&job.bytes("run/identity.json")).unwrap();
    identity.as_object_mut().unwrap().remove("state");
    identity["recipe"] = json!("of another version");
    fs::write(job.path("run/identity.json"), identity.to_string()).unwrap();
    let error = job.run(&job.recipe(&[]), "run", true, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("by another version of cpift-engine"), "{error}");
}

#[test]
fn trainings_cannot_differ_in_it() {
    let job = SmallJob::new();
    let text = format!(
        "[model]\nconfig = {:?}\n[train]\nsteps = 1\nmemory = \"exact\"\n[probe]\nmemory = \"compact\"\n\
         [[task]]\nname = \"a\"\ntrain = \"arithmetic.train.jsonl\"\n\
         [[task]]\nname = \"b\"\ntrain = \"code.train.jsonl\"\n",
        job.path("blank/config.json")
    );
    let path = job.path("recipe.toml");
    fs::write(&path, text).unwrap();
    let error = cpift_model::Recipe::load(&path, &[]).unwrap_err().to_string();
    assert!(error.contains("probe.memory") && error.contains("set it under [train] alone"), "{error}");
}
