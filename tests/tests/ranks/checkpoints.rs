//! Checkpoints that all ranks write at the same time, each its range, and that any number of ranks reads.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use cpift_engine::ranks::Collective;
use cpift_engine::{Buffer, Device, Ranks};
use cpift_kernels::emulator::Schedule;
use cpift_model::checkpoint::TensorFile;
use cpift_model::files::{MANIFEST, Manifest, hash_file};
use cpift_model::progress::{Event, JobReport, Observer, Silent};
use cpift_model::recipe::Stage;
use cpift_model::{Error, Recipe, Result};
use cpift_tests::jobs::{Meddler, Options, SmallJob, Watcher};
use cpift_tests::ranks::{one_thread, run, run_by, run_on};
use serde_json::{Value, json};

use super::jobs::recipe;

const TRAINING: &str = "checkpoint/probe-arithmetic";
const PROBE: &str = "probe/arithmetic/model.safetensors";
/// To the end of the probes, whose checkpoints have importance too.
const OPTIONS: Options<'static> =
    Options { resume: false, until: Some(Stage::Probe), probe: None, probes: None, study: None, ranks: None };
const RESUMED: Options<'static> = Options { resume: true, ..OPTIONS };

type Open = fn() -> Device;

/// One probe of a small model.
fn small() -> (SmallJob, Recipe) {
    small_with(&[])
}

fn small_with(changes: &[(&str, Value)]) -> (SmallJob, Recipe) {
    let job = SmallJob::with_model(&[("num_hidden_layers", 1)]);
    let settings = [
        ("model.max_length", json!(24)),
        ("probe.steps", json!(3)),
        ("probe.batch_size", json!(1)),
        ("checkpoint.every", json!(1)),
    ];
    let mut recipe = recipe(&job, &[&settings, changes].concat());
    recipe.task.truncate(1);
    // Evaluation is of no interest here, and long on the emulator.
    recipe.task[0].eval = None;
    (job, recipe)
}

/// A rank that does something to what rank 0 sends: rank 0 before that, another behind it.
struct Altered<F> {
    ranks: Ranks,
    alter: F,
}

impl<F> fmt::Debug for Altered<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ranks.fmt(formatter)
    }
}

impl<F: Fn(&mut [u8]) + Send + Sync> Collective for Altered<F> {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn reduce_scatter(&self, values: &mut [f32], ranges: &[Range<usize>]) -> cpift_engine::Result<()> {
        let mut buffer = Buffer::from_slice(&one_thread(), values)?;
        self.ranks.reduce_scatter(buffer.view_mut(), ranges)?;
        buffer.view().copy_to_host(values)
    }

    fn all_gather(&self, bytes: &mut [u8], ranges: &[Range<usize>]) -> cpift_engine::Result<()> {
        let mut buffer = Buffer::from_slice(&one_thread(), bytes)?;
        self.ranks.all_gather(buffer.view_mut(), ranges)?;
        buffer.view().copy_to_host(bytes)
    }

    fn broadcast(&self, bytes: &mut [u8]) -> cpift_engine::Result<()> {
        if self.rank() == 0 {
            (self.alter)(bytes);
        }
        self.ranks.broadcast_slice(bytes)?;
        if self.rank() > 0 {
            (self.alter)(bytes);
        }
        Ok(())
    }

    fn barrier(&self) -> cpift_engine::Result<()> {
        self.ranks.barrier()
    }
}

/// Runs a job on so many ranks, of which `rank` does this to what is sent.
fn run_altered(
    (open, size): (Open, usize),
    (rank, alter): (usize, impl Fn(&mut [u8]) + Clone + Send + Sync + 'static),
    job: &SmallJob,
    files: (&Recipe, &str),
    observer: &mut dyn Observer,
) -> (Result<JobReport>, Vec<Result<()>>) {
    let change = |ranks: Ranks| match ranks.rank() == rank {
        true => Ranks::new(Arc::new(Altered { ranks, alter: alter.clone() })),
        false => ranks,
    };
    run_by(&change, &open, job, files, size, &OPTIONS, observer)
}

/// Puts `to` in the place of `from`, as long.
fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    while let Some(start) = bytes.windows(from.len()).position(|window| window == from) {
        bytes[start..start + to.len()].copy_from_slice(to);
    }
}

/// Rank 1 of `one` finds other files than rank 0 under the same names, as on another machine.
fn elsewhere(bytes: &mut [u8]) {
    replace(bytes, b"/one/checkpoint/.", b"/two/checkpoint/.");
}

fn stopped(steps: usize) -> Watcher {
    Watcher { stop_after: Some(steps), ..Watcher::default() }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A tensor's values, file by file.
fn values(folder: &Path, files: &[&str], tensor: &str) -> Vec<u32> {
    let mut all = Vec::new();
    for name in files {
        let file = TensorFile::open(&folder.join(name)).unwrap();
        let shape = file.find(tensor).unwrap().shape.clone();
        let mut buffer = Buffer::zeros(&one_thread(), shape[0]).unwrap();
        file.read_floats(tensor, &shape, buffer.view_mut()).unwrap();
        all.extend(buffer.to_vec().unwrap().into_iter().map(f32::to_bits));
    }
    all
}

/// The tensors of the files that so many ranks have written are those that rank 0 has gathered.
fn compare_files(job: &SmallJob, ranks: usize) {
    let [all, one] = ["all", "one"].map(|run| job.path(run).join(TRAINING).join("step-00000002"));
    let parts: Vec<String> =
        (1..=ranks).map(|number| format!("state-{number}-of-{ranks}.safetensors")).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    assert_eq!(names(&all), [&["manifest.json"], &*parts, &["state.json"]].concat());
    assert_eq!(names(&one), ["manifest.json", "state.json", "state.safetensors"]);
    for tensor in ["weights", "moment1", "moment2", "importance"] {
        let [found, expected] = [values(&all, &parts, tensor), values(&one, &["state.safetensors"], tensor)];
        assert!(found == expected && found.iter().any(|&bits| bits != 0), "{tensor}");
    }
}

/// In f32, and in bf16, whose weights lie split and are joined for the file.
#[test]
fn any_number_of_ranks_goes_on_from_what_some_have_written() {
    let emulated: Open = || Device::emulated(Schedule::Forward);
    let cases: [(&str, Open, usize, &[usize]); 2] =
        [("f32", one_thread, 3, &[1, 2, 3]), ("bf16", emulated, 2, &[1, 2])];
    for (precision, open, writers, readers) in cases {
        // As many as can be dealt to all: the emulator is slow.
        let accumulate = if writers == 3 { 6 } else { 2 };
        let (job, recipe) = small_with(&[
            ("model.precision", json!(precision)),
            ("train.accumulate", json!(accumulate)),
            ("probe.accumulate", json!(accumulate)),
            ("integrate.accumulate", json!(accumulate)),
        ]);
        let job = job.on(open());
        let run = |out: &str, ranks: usize, options: &Options<'_>, observer: &mut dyn Observer| {
            run_on(&open, &job, (&recipe, out), ranks, options, observer).0
        };
        run("whole", writers, &OPTIONS, &mut Silent).unwrap();
        run("all", writers, &OPTIONS, &mut stopped(2)).unwrap_err();
        let gathered = run_altered((open, writers), (1, elsewhere), &job, (&recipe, "one"), &mut stopped(2));
        gathered.0.unwrap_err();
        compare_files(&job, writers);
        for &ranks in readers {
            let [all, one] = ["all", "one"].map(|from| {
                let out = format!("{from} {ranks}");
                cpift_tests::folders::copy(&job.path(from), &job.path(&out));
                run(&out, ranks, &RESUMED, &mut Silent).unwrap();
                job.bytes(&format!("{out}/{PROBE}"))
            });
            assert!(all == one, "{precision}, {ranks} ranks");
            assert!(ranks != writers || all == job.bytes(&format!("whole/{PROBE}")), "{precision}");
        }
    }
}

#[test]
fn a_folder_that_a_rank_does_not_see_is_said() {
    let (job, recipe) = small();
    let mut told = Meddler::new(usize::MAX, || ());
    run_altered((one_thread, 2), (1, elsewhere), &job, (&recipe, "one"), &mut told).0.unwrap();
    let said = |text: &String| text.contains("rank 1 does not see this folder");
    assert!(told.notices.iter().any(said), "{:?}", told.notices);
    let mut told = Meddler::new(usize::MAX, || ());
    run(&job, (&recipe, "all"), 2, &OPTIONS, &mut told).0.unwrap();
    assert!(!told.notices.iter().any(said), "{:?}", told.notices);
    assert!(names(&job.path("all")).iter().all(|name| !name.contains("partial")));
}

/// What is done to a checkpoint's folder.
type Damage<'a> = &'a dyn Fn(&Path);

#[test]
fn a_damaged_or_missing_part_is_passed_over_and_parts_of_others_are_refused() {
    let (job, recipe) = small();
    run(&job, (&recipe, "whole"), 2, &OPTIONS, &mut Silent).0.unwrap();
    run(&job, (&recipe, "run"), 2, &OPTIONS, &mut stopped(2)).0.unwrap_err();
    let go_on = |name: &str, damage: Damage<'_>| {
        cpift_tests::folders::copy(&job.path("run"), &job.path(name));
        damage(&job.path(name).join(TRAINING).join("step-00000002"));
        let mut told = Meddler::new(usize::MAX, || ());
        let report = run(&job, (&recipe, name), 2, &RESUMED, &mut told).0;
        (report, told.notices)
    };
    let part = "state-2-of-2.safetensors";
    let flip = |folder: &Path| {
        let mut bytes = fs::read(folder.join(part)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(folder.join(part), bytes).unwrap();
    };
    let damages: [(&str, Damage<'_>); 2] =
        [("damaged", &flip), ("missing", &|folder| fs::remove_file(folder.join(part)).unwrap())];
    for (name, damage) in damages {
        let (report, notices) = go_on(name, damage);
        report.unwrap();
        assert!(notices.iter().any(|text| text.contains(part)), "{notices:?}");
        assert!(job.bytes(&format!("{name}/{PROBE}")) == job.bytes(&format!("whole/{PROBE}")), "{name}");
    }
    // What the manifest vouches for, and does not belong together.
    let edit = |folder: &Path, change: &dyn Fn(&mut Manifest)| {
        let mut manifest: Manifest =
            serde_json::from_slice(&fs::read(folder.join(MANIFEST)).unwrap()).unwrap();
        change(&mut manifest);
        fs::write(folder.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
    };
    let nonsense = |folder: &Path| {
        let mut bytes = fs::read(folder.join(part)).unwrap();
        replace(&mut bytes, b" of ", b" to ");
        fs::write(folder.join(part), bytes).unwrap();
        let hash = hash_file(&folder.join(part)).unwrap().to_hex().to_string();
        edit(folder, &|manifest| manifest.files[1].blake3 = hash.clone());
    };
    let none_behind = |folder: &Path| edit(folder, &|manifest| drop(manifest.files.remove(1)));
    let none_before = |folder: &Path| edit(folder, &|manifest| drop(manifest.files.remove(0)));
    let twice = |folder: &Path| edit(folder, &|manifest| manifest.files.push(manifest.files[1].clone()));
    let none = |folder: &Path| edit(folder, &|manifest| drop(manifest.files.drain(0..2)));
    let others: [(&str, Damage<'_>, &str); 5] = [
        ("nonsense", &nonsense, "not a range of the"),
        ("behind", &none_behind, "names files with"),
        ("before", &none_before, "the files before it end at 0"),
        ("twice", &twice, "the files before it end at"),
        ("none", &none, "names files with 0 of"),
    ];
    for (name, damage, expected) in others {
        let error = go_on(name, damage).0.unwrap_err();
        assert!(error.is_input() && error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_rank_that_cannot_write_its_part_says_so_and_leaves_nothing() {
    let (job, recipe) = small();
    run(&job, (&recipe, "whole"), 2, &OPTIONS, &mut Silent).0.unwrap();
    // Rank 1 is told of a folder that is not there.
    let astray = |bytes: &mut [u8]| replace(bytes, b"/.step-0", b"/.stop-0");
    let (report, others) = run_altered((one_thread, 2), (1, astray), &job, (&recipe, "run"), &mut Silent);
    let [first, other] = [report.unwrap_err(), others.into_iter().next().unwrap().unwrap_err()];
    assert!(first.to_string().contains("rank 1 has ended"), "{first}");
    let file = "step-00000001/state-2-of-2.safetensors: cannot create: ";
    assert!(matches!(other, Error::File { .. }) && other.to_string().contains(file), "{other}");
    assert_eq!(names(&job.path("run").join(TRAINING)), [""; 0]);
    // The folder is gone for all: rank 0 says so alone.
    let folder = job.path("gone").join(TRAINING);
    let removed = folder.clone();
    let remove = move |bytes: &mut [u8]| {
        if bytes.windows(8).any(|window| window == b"/.step-0") {
            names(&removed).iter().for_each(|name| fs::remove_dir_all(removed.join(name)).unwrap());
        }
    };
    let (report, others) = run_altered((one_thread, 2), (0, remove), &job, (&recipe, "gone"), &mut Silent);
    let [first, other] = [report.unwrap_err(), others.into_iter().next().unwrap().unwrap_err()];
    assert!(first.to_string().contains("state-1-of-2.safetensors: cannot create: "), "{first}");
    assert!(other.to_string().contains("rank 0 has ended"), "{other}");
    for name in ["run", "gone"] {
        run(&job, (&recipe, name), 2, &RESUMED, &mut Silent).0.unwrap();
        assert!(job.bytes(&format!("{name}/{PROBE}")) == job.bytes(&format!("whole/{PROBE}")), "{name}");
    }
}

/// Stops within the evaluation that follows so many steps that are told of.
struct Listener {
    after: usize,
    steps: usize,
    is_within: bool,
}

impl Observer for Listener {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::EvaluationProgress { model, .. } => {
                self.is_within = model.to_string().starts_with("joint")
            }
            Event::Step(_) => (self.steps, self.is_within) = (self.steps + 1, false),
            _ => {}
        }
    }

    fn stop_requested(&self) -> bool {
        self.is_within && self.steps == self.after
    }
}

/// The evaluation that was interrupted is made before the next step: the other ranks do not have the weights yet that are the
/// best then.
#[test]
fn the_best_weights_are_written_by_all_ranks() {
    let job = SmallJob::with_model(&[("num_hidden_layers", 1)]);
    // Far too large steps: after the first ones it only gets worse.
    let train = json!({
        "steps": 4, "batch_size": 2, "accumulate": 6, "learning_rate": 0.05, "schedule": "constant", "warmup": 0, "clip": 0
    });
    let evaluate = json!({"every": 1, "rows": 8, "answers": false, "keep": "best"});
    let recipe = job.recipe(&[("method", json!("joint")), ("train", train), ("evaluate", evaluate)]);
    let run = |out: &str, resume: bool, observer: &mut dyn Observer| {
        let options = Options { resume, ..Options::default() };
        run(&job, (&recipe, out), 2, &options, observer).0
    };
    let stop_after = |after: usize| Listener { after, steps: 0, is_within: false };
    run("once", false, &mut stop_after(1)).unwrap_err();
    run("twice", false, &mut stop_after(0)).unwrap_err();
    run("twice", true, &mut stop_after(1)).unwrap_err();
    for part in ["state-1-of-2.safetensors", "state-2-of-2.safetensors"] {
        let [once, twice] =
            ["once", "twice"].map(|run| job.bytes(&format!("{run}/checkpoint/joint/best-00000001/{part}")));
        assert!(once == twice, "{part}");
    }
    let mut told = Meddler::new(usize::MAX, || ());
    run("once", true, &mut told).unwrap();
    assert!(told.notices.iter().any(|text| text.contains("are kept")), "{:?}", told.notices);
    run("whole", false, &mut Silent).unwrap();
    let [once, whole] = ["once", "whole"].map(|run| job.bytes(&format!("{run}/final/model.safetensors")));
    assert!(once == whole);
}

/// Of split weights each rank looks at its range.
#[test]
fn weights_too_large_for_the_final_type_are_found_by_every_rank() {
    // A step multiplies the weights by 1 − 3·100, and those of norms are 1: after two they no longer fit.
    let (job, recipe) = small_with(&[
        ("model.precision", json!("bf16")),
        ("model.dtype", json!("f16")),
        ("probe.learning_rate", json!(3.0)),
        ("probe.weight_decay", json!(100.0)),
        ("probe.warmup", json!(0)),
    ]);
    let open = || Device::emulated(Schedule::Forward);
    let job = job.on(open());
    let (report, _) = run_on(&open, &job, (&recipe, "run"), 2, &OPTIONS, &mut Silent);
    let message = report.unwrap_err().to_string();
    assert!(message.contains("--resume") && message.contains("too large for float16"), "{message}");
}
