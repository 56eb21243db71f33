//! Numbers of merges chosen by rows: `cpift_model::sweep`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_engine::Device;
use cpift_model::Result;
use cpift_model::checkpoint::WeightType;
use cpift_model::evaluation::{Evaluator, FileSettings};
use cpift_model::files::read_json;
use cpift_model::merge::{MergeRequest, Method, Parameters};
use cpift_model::recipe::TaskSettings;
use cpift_model::sweep::{
    self, Measurement, Output, SWEEP_FILE, Sweep, SweepPoint, SweepProgress, SweepReport,
};
use cpift_model::transformer::ComputeType;
use cpift_tests::folders::{self, read_safetensors, values, write_safetensors};
use cpift_tests::numeric::random;
use tempfile::TempDir;

use super::{merge_into, request};

/// A model as the fine-tune `tune`, and as `base` the same with noise.
struct Models(TempDir);

/// What was seen of a sweep.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Numbers of the values that were merged with.
    merged: BTreeSet<usize>,
    /// Those of the values that were evaluated.
    evaluated: BTreeSet<usize>,
}

/// Where a sweep is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Never,
    /// In the evaluation of a value, by its number.
    Evaluating(usize),
    /// In the last merge.
    MergingBest,
}

/// How a sweep goes.
struct Way<'a> {
    values: &'a str,
    resume: bool,
    stop: Stop,
    generate: bool,
}

/// To its end, with answers.
fn whole(values: &str) -> Way<'_> {
    Way { values, resume: false, stop: Stop::Never, generate: true }
}

impl Models {
    fn new() -> Self {
        let models = Self(TempDir::new().unwrap());
        for name in ["base", "tune"] {
            folders::copy(&folders::seesaw().join("base-small"), &models.path(name));
        }
        let file = models.path("base").join("model.safetensors");
        let mut tensors = read_safetensors(&file);
        for (seed, tensor) in tensors.values_mut().enumerate() {
            let trained = values(tensor);
            let noise = random(seed as u64, trained.len());
            let noisy = trained.iter().zip(noise).map(|(value, noise)| value + 0.1 * noise);
            tensor.bytes = noisy.flat_map(f32::to_le_bytes).collect();
        }
        write_safetensors(&file, &tensors);
        for (name, task) in [("sort.jsonl", "logic"), ("code.jsonl", "code")] {
            let text = fs::read_to_string(folders::seesaw().join(format!("{task}.eval.jsonl"))).unwrap();
            fs::write(models.path(name), text.lines().take(6).collect::<Vec<_>>().join("\n")).unwrap();
        }
        models
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn data(&self) -> Vec<PathBuf> {
        vec![self.path("sort.jsonl"), self.path("code.jsonl")]
    }

    fn request(&self) -> MergeRequest {
        request(self.0.path(), Method::Arithmetic, Some("base"), &[("tune", 1.0)])
    }

    /// Sweeps into `out`, and what was seen of it.
    fn sweep(&self, request: &MergeRequest, way: &Way<'_>) -> (Result<SweepReport>, Seen) {
        let (device, data, task) = (Device::cpu(None).unwrap(), self.data(), TaskSettings::default());
        let (compute, generate) = (ComputeType::F32, way.generate);
        let measurement = Measurement { device: &device, compute, data: &data, task: &task, generate };
        let output = Output { device: &device, folder: &self.path("out"), resume: way.resume };
        let sweep: Sweep = way.values.parse().unwrap();
        let (stop, mut seen) = (AtomicBool::new(false), Seen::default());
        let report = sweep::run(&sweep, request, &measurement, output, &stop, &mut |progress| {
            let at = match progress {
                SweepProgress::Merging(number, _) => {
                    seen.merged.insert(number);
                    return;
                }
                SweepProgress::Measuring(number, ..) => {
                    seen.evaluated.insert(number);
                    Stop::Evaluating(number)
                }
                SweepProgress::MergingBest(..) => Stop::MergingBest,
                _ => return,
            };
            stop.store(way.stop == at, Ordering::Relaxed);
        });
        (report, seen)
    }

    /// Loss and share of right answers of a model on a file.
    fn measure(&self, model: &Path, data: &Path) -> (f64, Option<f64>) {
        let device = Device::cpu(None).unwrap();
        let mut evaluator = Evaluator::open(&device, model, ComputeType::F32).unwrap();
        let settings = FileSettings::of_task(&TaskSettings::default(), true, evaluator.tokenizer());
        let found = evaluator.evaluate(data, &settings, &mut |_| Ok(())).unwrap();
        (found.loss, found.score)
    }

    fn weights(&self, folder: &str) -> Vec<u8> {
        fs::read(self.path(folder).join("model.safetensors")).unwrap()
    }
}

#[test]
fn the_best_value_makes_the_model() {
    let models = Models::new();
    let mut request = models.request();
    request.dtype = Some(WeightType::BF16);
    let report = models.sweep(&request, &whole("scale=0.5,1,-1,1.5")).0.unwrap();
    assert!(report.by_score);
    let rank = |point: &SweepPoint| (-point.score.unwrap(), point.loss);
    let best = (0..4)
        .min_by(|&a, &b| rank(&report.points[a]).partial_cmp(&rank(&report.points[b])).expect("no NaN"));
    assert_eq!(Some(report.best), best);
    assert!(report.best > 0, "the first is the best: the test shows nothing");
    for (number, point) in report.points.iter().enumerate() {
        let mut request = request.clone();
        request.parameters = Parameters { scale: Some(point.value.into()), ..Parameters::default() };
        let merged = models.path("merged");
        merge_into(&request, &merged, 1).unwrap();
        let expected = models.data().iter().map(|file| models.measure(&merged, file)).collect::<Vec<_>>();
        let found: Vec<_> = point.files.iter().map(|file| (file.loss, file.score)).collect();
        assert_eq!(found, expected, "{}", point.value);
        assert_eq!(point.loss, (expected[0].0 + expected[1].0) / 2.0);
        assert_eq!(point.score, Some((expected[0].1.unwrap() + expected[1].1.unwrap()) / 2.0));
        assert!(point.files.iter().all(|file| file.rows == 6));
        assert_eq!(models.weights("out") == models.weights("merged"), number == report.best);
        fs::remove_dir_all(merged).unwrap();
    }
    let written: Option<SweepReport> = read_json(&models.path("out").join(SWEEP_FILE)).unwrap();
    assert_eq!(written, Some(report));
    assert!(!models.path(".out.sweep").exists());
}

/// Stopped in a value and in the last merge, then gone on with, also with other values.
#[test]
fn a_stopped_sweep_goes_on_behind_its_last_value() {
    let models = Models::new();
    let (request, way) = (models.request(), whole("scale=0.5,0,1"));
    let without_answers = Way { generate: false, ..whole("scale=0.5,0,1") };
    let (report, seen) = models.sweep(&request, &without_answers);
    let report = report.unwrap();
    assert_eq!((seen.merged, seen.evaluated), ([0, 1, 2].into(), [0, 1, 2].into()));
    assert!(!report.by_score && report.best > 0, "{report:?}");
    let weights = models.weights("out");
    fs::remove_dir_all(models.path("out")).unwrap();

    let stopped = |stop: Stop, resume: bool| {
        let way = Way { stop, resume, generate: false, ..whole(way.values) };
        let (outcome, seen) = models.sweep(&request, &way);
        assert!(!models.path("out").exists());
        (outcome.unwrap_err().to_string(), seen.evaluated)
    };
    // In the first value there is nothing to go on with.
    let (error, _) = stopped(Stop::Evaluating(0), false);
    assert_eq!(error, "stopped with 0 of 3 values measured; continue with --resume");
    assert!(!models.path(".out.sweep").exists());
    let (error, _) = stopped(Stop::Evaluating(1), false);
    assert_eq!(error, "stopped with 1 of 3 values measured; continue with --resume");

    // What was measured is not lost by leaving out --resume, and of no use for others.
    let (error, _) = stopped(Stop::Never, false);
    assert!(error.contains(".out.sweep: has 1 value that an unfinished sweep has measured"), "{error}");
    let with_answers = Way { resume: true, ..whole(way.values) };
    let error = models.sweep(&request, &with_answers).0.unwrap_err();
    assert!(error.is_input() && error.to_string().contains("is of a sweep with other rows"), "{error}");
    let rows = fs::read(models.path("code.jsonl")).unwrap();
    fs::write(models.path("code.jsonl"), rows.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    let (error, _) = stopped(Stop::Never, true);
    assert!(error.contains("is of a sweep with other rows"), "{error}");
    fs::write(models.path("code.jsonl"), rows).unwrap();

    let (error, evaluated) = stopped(Stop::MergingBest, true);
    assert_eq!(error, "stopped with all values measured; continue with --resume");
    assert_eq!(evaluated, [1, 2].into());
    // Another order, and one value more.
    let more = Way { resume: true, generate: false, ..whole("scale=1,0,0.25,0.5") };
    let (outcome, seen) = models.sweep(&request, &more);
    assert_eq!(seen.evaluated, [2].into());
    let found = outcome.unwrap();
    let of_value = |report: &SweepReport, value: f64| {
        report.points.iter().find(|point| point.value == value).cloned().unwrap()
    };
    for value in [0.0, 0.5, 1.0] {
        assert_eq!(of_value(&found, value), of_value(&report, value));
    }
    assert_eq!(found.points[found.best].value == 0.25, models.weights("out") != weights);
    assert!(!models.path(".out.sweep").exists());
}

/// What is wrong is said before anything is merged, and nothing is left.
#[test]
fn what_cannot_be_tried_is_refused_first() {
    let models = Models::new();
    let refused = |request: &MergeRequest, values: &str| {
        let (outcome, seen) = models.sweep(request, &whole(values));
        let error = outcome.unwrap_err();
        assert!(error.is_input() && seen == Seen::default(), "{error}");
        let names = fs::read_dir(models.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.count(), 4, "something is left of: {error}");
        error.to_string()
    };
    let average = request(models.0.path(), Method::Average, None, &[("base", 1.0), ("tune", 1.0)]);
    let message = refused(&average, "scale=0.5,1");
    assert!(message.starts_with("`--sweep`: tries scale 0.5, which "), "{message}");
    let mut changed = models.request();
    changed.parameters.scale = Some(0.5.into());
    assert_eq!(refused(&changed, "scale=0.5,1"), "`--sweep`: tries scale: leave out --scale");
    let mut changed = models.request();
    changed.slices[0].parameters.scale = Some(0.5.into());
    let message = refused(&changed, "scale=0.5,1");
    assert!(message.contains("which the configuration sets for a slice or a model"), "{message}");
    // A configuration is told no more than that a number is not used.
    let mut changed = average.clone();
    changed.configuration = Some("merge.yml".into());
    let message = refused(&changed, "scale=0.5,1");
    assert_eq!(message, "`--sweep`: tries scale, but 0.5 and 1 make the same model");

    let rows = fs::read(models.path("code.jsonl")).unwrap();
    fs::write(models.path("code.jsonl"), "{\"prompt\": \"a\"}\n").unwrap();
    assert!(refused(&models.request(), "scale=1").contains("code.jsonl:1"));
    fs::remove_file(models.path("code.jsonl")).unwrap();
    fs::create_dir(models.path("code.jsonl")).unwrap();
    assert!(refused(&models.request(), "scale=1").contains("code.jsonl"));
    fs::remove_dir(models.path("code.jsonl")).unwrap();
    fs::write(models.path("code.jsonl"), rows).unwrap();
    for name in ["base", "tune"] {
        let config = models.path(name).join("config.json");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("\"llama\"", "\"gptj\"")).unwrap();
    }
    let message = refused(&models.request(), "scale=1");
    assert!(message.contains("gptj"), "{message}");
}
