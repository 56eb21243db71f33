//! What a run folder takes, and runs that do not keep their probes.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};

use cpift_model::Error;
use cpift_model::files::folder_bytes;
use cpift_model::progress::{Event, Observer, Plan, Silent, StageKind};
use cpift_model::recipe::Recipe;
use cpift_tests::jobs::{SmallJob, TASKS, Watcher};
use serde_json::json;

const RECORD: &str = "removed-probes.json";

fn without_probes(job: &SmallJob) -> Recipe {
    job.recipe(&[("checkpoint.keep_probes", json!(false))])
}

fn probes(job: &SmallJob, run: &str) -> Vec<bool> {
    TASKS.map(|task| job.path(&format!("{run}/probe/{task}")).exists()).into()
}

#[track_caller]
fn assert_same_run(job: &SmallJob, one: &str, other: &str) {
    let models = ["final/model.safetensors", "fused/model.safetensors"];
    for file in models.into_iter().chain(["core/code.mask.safetensors", "groups.json", "scores.json"]) {
        let [one, other] = [one, other].map(|run| job.bytes(&format!("{run}/{file}")));
        assert!(one == other, "{file} differs");
    }
}

/// Stopped in a probe and in stage 4, where the probes are gone; then continued without a stage that was made of them.
#[test]
fn a_run_that_removes_its_probes_ends_with_the_same_bits() {
    let job = SmallJob::new();
    job.run(&job.recipe(&[]), "kept", false, &mut Silent).unwrap();
    assert_eq!(probes(&job, "kept"), [true; 3]);
    let recipe = without_probes(&job);
    let mut resumed = false;
    // Of twelve steps of probes and six of stage 4.
    for (stop_after, there) in [(2, false), (8, true), (4, false), (1, false)] {
        let mut watcher = Watcher { stop_after: Some(stop_after), ..Watcher::default() };
        let outcome = job.run(&recipe, "removed", resumed, &mut watcher);
        assert!(matches!(outcome, Err(Error::Interrupted { .. })), "{outcome:?}");
        assert_eq!(job.path("removed/probe/code").exists(), there, "after {stop_after} more");
        resumed = true;
    }
    assert!(job.path(&format!("removed/{RECORD}")).exists() && !job.path("removed/probe").exists());
    // As if the removal had been interrupted.
    copy(&job.path("kept/probe/code"), &job.path("removed/probe/code"));
    let mut watcher = Watcher::default();
    job.run(&recipe, "removed", true, &mut watcher).unwrap();
    assert_eq!(watcher.steps, 3);
    for task in TASKS {
        assert!(watcher.events.contains(&format!("reused probe {task}")), "{:?}", watcher.events);
    }
    assert_eq!(probes(&job, "removed"), [false; 3]);
    assert_same_run(&job, "kept", "removed");

    // Whatever of it is gone is made again, and the probes as far as that needs them.
    for (gone, steps) in [("final", 6), ("fused", 18), ("core", 18), ("scores.json", 12)] {
        let path = job.path(&format!("removed/{gone}"));
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.unwrap();
        if ["fused", "core"].contains(&gone) {
            fs::remove_dir_all(job.path("removed/final")).unwrap();
        }
        if gone == "core" {
            fs::remove_dir_all(job.path("removed/fused")).unwrap();
            fs::remove_file(job.path("removed/groups.json")).unwrap();
        }
        let mut watcher = Watcher::default();
        job.run(&recipe, "removed", true, &mut watcher).unwrap();
        assert_eq!(watcher.steps, steps, "{gone} removed: {:?}", watcher.events);
        assert_same_run(&job, "kept", "removed");
        assert_eq!(probes(&job, "removed"), [false; 3]);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// The probes that another run has trained stay, and a record that was edited is not used.
#[test]
fn only_the_runs_own_probes_are_removed() {
    let job = SmallJob::new();
    job.run(&job.recipe(&[]), "specialists", false, &mut Silent).unwrap();
    let source = job.path("specialists");
    let options = cpift_tests::jobs::Options { probes: Some(&source), ..Default::default() };
    job.run_with(&without_probes(&job), "after", &options, &mut Silent).unwrap();
    assert_eq!(probes(&job, "specialists"), [true; 3]);
    assert!(!job.path(&format!("after/{RECORD}")).exists());

    let recipe = without_probes(&job);
    job.run(&recipe, "edited", false, &mut Silent).unwrap();
    let record = job.path(&format!("edited/{RECORD}"));
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replacen("\"arithmetic\": \"", "\"arithmetic\": \"0", 1)).unwrap();
    let error = job.run(&recipe, "edited", true, &mut Silent).unwrap_err().to_string();
    assert!(error.contains(RECORD) && error.contains("was edited"), "{error}");
}

/// How large the run folder becomes, as far as events show it.
struct Scales {
    run: PathBuf,
    most: Cell<u64>,
}

impl Observer for Scales {
    fn event(&mut self, _: Event<'_>) {
        if self.run.exists() {
            self.most.set(self.most.get().max(folder_bytes(&self.run).unwrap()));
        }
    }
}

/// Exact and compact, with probes and without.
#[test]
fn the_run_folder_takes_what_is_planned() {
    let shape = [("hidden_size", 192), ("intermediate_size", 768), ("num_hidden_layers", 4)];
    let job = SmallJob::with_model(&shape).brief();
    for (name, memory, keep) in
        [("exact", "exact", true), ("compact", "compact", true), ("few", "compact", false)]
    {
        let steps = ["probe.steps", "integrate.steps"].map(|key| (key, json!(2)));
        let state = ["train.memory", "probe.memory", "integrate.memory"].map(|key| (key, json!(memory)));
        let others = [("checkpoint.every", json!(1)), ("checkpoint.keep", json!(1))];
        let keep = [("checkpoint.keep_probes", json!(keep))];
        let recipe = job.recipe(&[&steps[..], &state, &others, &keep].concat());
        let plan = job.plan(&recipe).unwrap();
        let mut scales = Scales { run: job.path(name), most: Cell::new(0) };
        job.run(&recipe, name, false, &mut scales).unwrap();
        // A model that is written while its checkpoint is still there is no event.
        let model = fs::metadata(job.path(&format!("{name}/final/model.safetensors"))).unwrap().len();
        let most = scales.most.get();
        assert!(most <= plan.disk_bytes, "{name}: {most} of {plan:?}");
        assert!(most + model > plan.disk_bytes / 10 * 7, "{name}: {most} of {plan:?}");
        let after = folder_bytes(&job.path(name)).unwrap();
        let planned = last(&plan).disk_bytes_after;
        assert!(after <= planned && after > planned / 10 * 7, "{name}: {after} of {planned}");
        let stages = plan.stages.iter().map(|of| of.stage).collect::<Vec<_>>();
        use StageKind::{Core, Fuse, Group, Integrate, Probe};
        assert_eq!(stages, [Probe, Core, Group, Fuse, Integrate]);
        assert_eq!(plan.stages.iter().map(|of| of.disk_bytes).max(), Some(plan.disk_bytes));
        assert!(plan.stages.iter().all(|of| of.memory_bytes <= plan.memory_bytes()), "{plan:?}");
    }
}

fn last(plan: &Plan) -> &cpift_model::progress::StagePlan {
    plan.stages.last().unwrap()
}
