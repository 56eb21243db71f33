//! Small whole jobs: a tiny model, a few rows of the seesaw tasks, a recipe.

use std::fs;
use std::path::{Path, PathBuf};

use cpift_engine::{Buffer, Device, Layout, Mask, Ranks};
use cpift_model::checkpoint::{Checkpoint, TensorFile};
use cpift_model::data::Preparation;
use cpift_model::job::{Job, JobOptions, Study, plan_recipe};
use cpift_model::progress::{Event, JobReport, Observer, Plan};
use cpift_model::recipe::Stage;
use cpift_model::{Recipe, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::folders;

/// Tasks of the small job, with the seesaw files they take their first rows from.
pub const TASKS: [&str; 3] = ["arithmetic", "code", "logic"];

/// A folder with everything a small job reads.
pub struct SmallJob {
    folder: TempDir,
    device: Device,
    /// Most tokens of an answer, where not as many as the longest reference asks for.
    answer: Option<usize>,
}

impl SmallJob {
    /// A blank model (about 9,000 parameters), 30 training and 8 evaluation rows of each task.
    pub fn new() -> Self {
        Self::with_model(&[])
    }

    /// The same with other fields in the model's configuration.
    pub fn with_model(changes: &[(&str, usize)]) -> Self {
        let folder = TempDir::new().unwrap();
        let seesaw = folders::seesaw();
        fs::create_dir(folder.path().join("blank")).unwrap();
        for file in fs::read_dir(seesaw.join("blank")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), folder.path().join("blank").join(file.file_name())).unwrap();
        }
        let config = folder.path().join("blank/config.json");
        let mut fields: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
        let small = [
            ("hidden_size", 16),
            ("intermediate_size", 24),
            ("num_hidden_layers", 2),
            ("num_attention_heads", 2),
            ("num_key_value_heads", 1),
            ("head_dim", 8),
        ];
        for &(key, value) in small.iter().chain(changes) {
            fields[key] = json!(value);
        }
        fs::write(&config, fields.to_string()).unwrap();
        for task in TASKS {
            for (split, rows) in [("train", 30), ("eval", 8)] {
                let name = format!("{task}.{split}.jsonl");
                let text = fs::read_to_string(seesaw.join(&name)).unwrap();
                let head: Vec<&str> = text.lines().take(rows).collect();
                fs::write(folder.path().join(name), head.join("\n")).unwrap();
            }
        }
        Self { folder, device: Device::cpu(std::num::NonZeroUsize::new(2)).unwrap(), answer: None }
    }

    /// The same files, but jobs run on `device` from now on.
    pub fn on(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// The same with a row of each task to evaluate on, whose answer has two tokens at most: enough for every kernel of
    /// evaluation, and short on the emulator.
    pub fn brief(self) -> Self {
        for task in TASKS {
            let path = self.path(&format!("{task}.eval.jsonl"));
            let rows = fs::read_to_string(&path).unwrap();
            fs::write(&path, rows.lines().next().unwrap()).unwrap();
        }
        Self { answer: Some(2), ..self }
    }

    /// A path inside the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The recipe, with `changes` merged in: `"section.key"` or `"key"` to values.
    pub fn recipe(&self, changes: &[(&str, Value)]) -> Recipe {
        let train = json!({
            "steps": 4, "batch_size": 4, "accumulate": 2, "learning_rate": 3e-3, "warmup": 1, "pack": false
        });
        let with = |extra: Value| {
            let mut section = train.clone();
            section.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            section
        };
        let task = |name: &&str| {
            json!({
                "name": name,
                "train": self.path(&format!("{name}.train.jsonl")),
                "eval": self.path(&format!("{name}.eval.jsonl")),
                "max_new_tokens": self.answer,
            })
        };
        let mut recipe = json!({
            "seed": 17,
            "model": { "config": self.path("blank/config.json"), "max_length": 48 },
            "task": TASKS.iter().map(task).collect::<Vec<_>>(),
            "train": train,
            "probe": with(json!({})),
            "core": { "fraction": 0.05 },
            "group": { "threshold": 1.5 },
            "integrate": with(json!({ "steps": 6, "sample": 0.5 })),
            "checkpoint": { "every": 3, "keep": 2 },
        });
        for (key, value) in changes {
            match key.split_once('.') {
                Some((section, key)) => recipe[section][key] = value.clone(),
                None => recipe[*key] = value.clone(),
            }
        }
        serde_json::from_value(recipe).unwrap()
    }

    /// Runs a recipe into the folder `out`.
    pub fn run(
        &self,
        recipe: &Recipe,
        out: &str,
        resume: bool,
        observer: &mut dyn Observer,
    ) -> Result<JobReport> {
        self.run_until(recipe, out, resume, None, observer)
    }

    /// Runs a recipe into the folder `out`, to the end of a stage.
    pub fn run_until(
        &self,
        recipe: &Recipe,
        out: &str,
        resume: bool,
        until: Option<Stage>,
        observer: &mut dyn Observer,
    ) -> Result<JobReport> {
        self.run_with(recipe, out, &Options { resume, until, ..Options::default() }, observer)
    }

    /// Runs a recipe into the folder `out`, with these options.
    pub fn run_with(
        &self,
        recipe: &Recipe,
        out: &str,
        options: &Options<'_>,
        observer: &mut dyn Observer,
    ) -> Result<JobReport> {
        let Options { resume, until, probe, probes, study, ranks } = *options;
        let out = self.path(out);
        let options = JobOptions {
            recipe,
            out: &out,
            resume,
            until,
            probe,
            probes,
            study,
            preparation: Preparation::default(),
            ranks,
        };
        Job::prepare(&self.device, &options)?.run(observer)
    }

    /// What a recipe would do.
    pub fn plan(&self, recipe: &Recipe) -> Result<Plan> {
        plan_recipe(&self.device, recipe, &Preparation::default(), 1)
    }

    /// Bytes of a file of a run.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// All weights of a model folder of the job.
    pub fn weights(&self, folder: &str) -> Vec<f32> {
        let checkpoint = Checkpoint::open(&self.path(folder)).unwrap();
        let mut weights = Buffer::zeros(&Device::cpu(None).unwrap(), checkpoint.layout().len()).unwrap();
        checkpoint.load_into(weights.view_mut()).unwrap();
        weights.to_vec().unwrap()
    }

    /// Layout of a model folder of the job.
    pub fn layout(&self, folder: &str) -> Layout {
        Checkpoint::open(&self.path(folder)).unwrap().layout().clone()
    }

    /// Importance that a task's probe has accumulated, as a run folder has it: tensor after tensor.
    pub fn importance(&self, run: &str, task: &str) -> Vec<f32> {
        let layout = self.layout(&format!("{run}/probe/{task}"));
        let file =
            TensorFile::open(&self.path(&format!("{run}/probe/{task}/importance.safetensors"))).unwrap();
        let mut values = Buffer::zeros(&Device::cpu(None).unwrap(), layout.len()).unwrap();
        file.read_layout(&layout, "", values.view_mut()).unwrap();
        let values = values.to_vec().unwrap();
        layout.segments().iter().flat_map(|segment| values[segment.range()].to_vec()).collect()
    }

    /// A task's core, as a run folder has it.
    pub fn core(&self, run: &str, task: &str) -> Mask {
        let layout = self.layout(&format!("{run}/fused"));
        let file = TensorFile::open(&self.path(&format!("{run}/core/{task}.mask.safetensors"))).unwrap();
        let mut words = vec![0; layout.len().div_ceil(64)];
        for segment in layout.segments() {
            let part = file.read_u64(&segment.name).unwrap();
            words[segment.offset / 64..][..part.len()].copy_from_slice(&part);
        }
        Mask::from_words(layout.len(), words).unwrap()
    }
}

impl Default for SmallJob {
    fn default() -> Self {
        Self::new()
    }
}

/// How a small job is run, beside its recipe: as [`JobOptions`] has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Continue what is there.
    pub resume: bool,
    /// End after this stage.
    pub until: Option<Stage>,
    /// The one probe to make.
    pub probe: Option<&'a str>,
    /// Run whose probes are taken over.
    pub probes: Option<&'a Path>,
    /// What is done instead of the method.
    pub study: Option<&'a Study>,
    /// Who trains with this process.
    pub ranks: Option<&'a Ranks>,
}

/// Asks to stop after a number of steps, and remembers what it saw.
#[derive(Debug, Default)]
pub struct Watcher {
    /// Steps after which it asks to stop; none for never.
    pub stop_after: Option<usize>,
    /// Steps seen.
    pub steps: usize,
    /// Names of the events seen, without steps.
    pub events: Vec<String>,
}

impl Observer for Watcher {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Step(_) => self.steps += 1,
            Event::StageReused { stage, part } => self.events.push(format!("reused {} {part}", stage.name())),
            Event::TrainingStarted { title, step, .. } => self.events.push(format!("{title} from {step}")),
            _ => {}
        }
    }

    fn stop_requested(&self) -> bool {
        self.stop_after.is_some_and(|steps| self.steps >= steps)
    }
}

/// Changes a file after so many steps, and keeps what it is told.
pub struct Meddler {
    after: usize,
    change: Box<dyn Fn()>,
    steps: usize,
    /// What it was told.
    pub notices: Vec<String>,
}

impl Meddler {
    /// One that calls `change` after `after` steps.
    pub fn new(after: usize, change: impl Fn() + 'static) -> Self {
        Self { after, change: Box::new(change), steps: 0, notices: Vec::new() }
    }
}

impl Observer for Meddler {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Step(_) => {
                self.steps += 1;
                if self.steps == self.after {
                    (self.change)();
                }
            }
            Event::Notice(text) => self.notices.push(text.to_owned()),
            _ => {}
        }
    }

    fn stop_requested(&self) -> bool {
        false
    }
}
