//! Probes that processes make apart, each one of them, and runs that go on from there.

use std::cell::Cell;
use std::fs;
use std::time::Instant;

use cpift_model::files::folder_bytes;
use cpift_model::job::RunFolder;
use cpift_model::progress::{Column, Event, JobReport, Observer, Silent, StepReport};
use cpift_model::recipe::{Recipe, Stage};
use cpift_model::{Error, Result};
use cpift_tests::jobs::{Options, SmallJob, TASKS, Watcher};
use serde_json::json;

/// Three probes of four steps, six of stage 4; measured while they are trained.
fn recipe(job: &SmallJob) -> Recipe {
    job.recipe(&[("evaluate", json!({"every": 2, "rows": 5})), ("metrics", json!({"tensorboard": true}))])
}

/// Makes one probe of a run.
fn make(
    job: &SmallJob,
    recipe: &Recipe,
    out: &str,
    task: &str,
    observer: &mut dyn Observer,
) -> Result<JobReport> {
    job.run_with(recipe, out, &Options { probe: Some(task), ..Options::default() }, observer)
}

fn stop_after(steps: usize) -> Watcher {
    Watcher { stop_after: Some(steps), ..Watcher::default() }
}

/// The steps on record, training by training, without times.
fn steps(job: &SmallJob, run: &str) -> Vec<StepReport> {
    let text = String::from_utf8(job.bytes(&format!("{run}/metrics.jsonl"))).unwrap();
    let parse = |line: &str| {
        let step: StepReport = serde_json::from_str(line).unwrap();
        StepReport { seconds: 0.0, time: 0.0, evaluation_seconds: 0.0, ..step }
    };
    let mut steps: Vec<StepReport> = text.lines().map(parse).collect();
    steps.sort_by_key(|step| step.stage.training(&step.part));
    steps
}

/// Bits, records and tables of two runs, but for times.
#[track_caller]
fn assert_same_run(job: &SmallJob, one: &str, other: &str) {
    let mut files = ["final", "fused"].map(|model| format!("{model}/model.safetensors")).to_vec();
    files.extend(TASKS.map(|task| format!("probe/{task}/importance.safetensors")));
    files.extend(TASKS.map(|task| format!("core/{task}.mask.safetensors")));
    files.extend(["groups.json", "scores.json", "answers.json"].map(str::to_owned));
    for file in files {
        let [one, other] = [one, other].map(|run| job.bytes(&format!("{run}/{file}")));
        assert!(one == other, "{file} differs");
    }
    assert_eq!(steps(job, one), steps(job, other));
    let [one, other] = [one, other].map(|run| RunFolder::read(&job.path(run)).unwrap());
    let table = |run: &RunFolder| {
        let report = run.result.clone().unwrap();
        JobReport { seconds: 0.0, model: None, ..report }
    };
    assert_eq!(table(&one), table(&other));
    for run in [one, other] {
        let events = run.path.join("tensorboard");
        assert_eq!(fs::read_dir(&events).unwrap().count(), TASKS.len() + 1, "{}", events.display());
        assert!(!run.path.join("probe-runs").exists());
    }
}

/// Counts steps, and names models that are measured and probes that are there.
#[derive(Default)]
struct Counter {
    steps: usize,
    measured: Vec<String>,
    reused: Vec<String>,
}

impl Observer for Counter {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Step(_) => self.steps += 1,
            Event::EvaluationStarted { column, .. } => self.measured.push(column.to_string()),
            Event::StageReused { part, .. } => self.reused.push(part.to_owned()),
            _ => {}
        }
    }
}

#[test]
fn probes_made_apart_end_with_the_same_bits_and_records() {
    let job = SmallJob::new();
    let recipe = recipe(&job);
    job.run(&recipe, "whole", false, &mut Silent).unwrap();
    // One after the other and at the same time, in another order than the recipe's.
    let report = make(&job, &recipe, "apart", "logic", &mut Silent).unwrap();
    assert_eq!((report.tasks.len(), report.tasks[0].task.as_str(), report.steps), (1, "logic", 4));
    assert!(report.tasks[0].scores.iter().all(Option::is_some), "{report:?}");
    let together = std::thread::scope(|scope| {
        let started = ["code", "arithmetic"].map(|task| {
            let (job, recipe) = (&job, &recipe);
            scope.spawn(move || make(job, recipe, "apart", task, &mut Silent).map(drop))
        });
        started.map(|process| process.join().unwrap())
    });
    together.into_iter().for_each(|outcome| outcome.unwrap());

    // What is there is made no second time, and is in a report already.
    let mut watcher = Watcher::default();
    let again = make(&job, &recipe, "apart", "logic", &mut watcher).unwrap();
    assert_eq!((watcher.steps, &again.tasks), (0, &report.tasks));
    let before = RunFolder::read(&job.path("apart")).unwrap();
    assert_eq!((before.steps.len(), before.scores.len()), (12, 4));
    let times = before.seconds;

    let mut counter = Counter::default();
    job.run(&recipe, "apart", true, &mut counter).unwrap();
    // What was measured of base and probes is not measured again.
    assert_eq!(
        (counter.steps, counter.measured),
        (6, vec!["fused"; 3].into_iter().chain(["final"; 3]).map(str::to_owned).collect())
    );
    assert_eq!(counter.reused, TASKS.map(str::to_owned));
    assert_same_run(&job, "whole", "apart");
    let after = RunFolder::read(&job.path("apart")).unwrap();
    assert!(after.seconds > times && times > 0.0);
    let record = after.record.unwrap();
    let mut makers: Vec<_> = record.processes.iter().map(|process| process.probe.as_deref()).collect();
    makers.sort_unstable();
    assert_eq!(makers, [None, Some("arithmetic"), Some("code"), Some("logic")]);
    assert_eq!(record.plan, RunFolder::read(&job.path("whole")).unwrap().record.unwrap().plan);
    // A probe of a finished run is there, too.
    make(&job, &recipe, "apart", "code", &mut stop_after(0)).unwrap();
}

/// Stopped within a probe and gone on; stopped within another, which the run goes on with; and one that is not there.
#[test]
fn stopped_probes_go_on_apart_and_in_the_run() {
    let job = SmallJob::new();
    let recipe = recipe(&job);
    job.run(&recipe, "whole", false, &mut Silent).unwrap();
    let stopped = |task: &str, steps: usize| {
        let outcome = make(&job, &recipe, "apart", task, &mut stop_after(steps));
        assert!(matches!(outcome, Err(Error::Interrupted { .. })), "{outcome:?}");
    };
    stopped("code", 2);
    let mut watcher = Watcher::default();
    make(&job, &recipe, "apart", "code", &mut watcher).unwrap();
    assert_eq!((watcher.steps, &watcher.events), (2, &vec!["probe code from 2".to_owned()]));
    stopped("logic", 3);
    // The run itself had come less far with it.
    let outcome = job.run(&recipe, "apart", true, &mut stop_after(1));
    assert!(matches!(outcome, Err(Error::Interrupted { .. })), "{outcome:?}");
    stopped("arithmetic", 3);
    let mut watcher = Watcher::default();
    job.run(&recipe, "apart", true, &mut watcher).unwrap();
    for event in ["probe arithmetic from 3", "reused probe code", "probe logic from 3"] {
        assert!(watcher.events.contains(&event.to_owned()), "{event}: {:?}", watcher.events);
    }
    assert_same_run(&job, "whole", "apart");
}

/// A process that is killed while it takes a probe over does all of it again.
#[test]
fn a_probe_half_taken_over_is_taken_over_again() {
    let job = SmallJob::new();
    let recipe = recipe(&job);
    job.run(&recipe, "whole", false, &mut Silent).unwrap();
    for task in ["arithmetic", "code"] {
        make(&job, &recipe, "apart", task, &mut Silent).unwrap();
    }
    let left = job.path("left");
    cpift_tests::folders::copy(&job.path("apart/probe-runs"), &left);
    let count = || {
        let run = RunFolder::read(&job.path("apart")).unwrap();
        (run.seconds, run.record.unwrap().processes.len())
    };
    let until = Options { resume: true, until: Some(Stage::Probe), ..Options::default() };
    job.run_with(&recipe, "apart", &until, &mut Silent).unwrap();
    let (seconds, processes) = count();
    let began = Instant::now();
    // As it was before the folders were renamed.
    cpift_tests::folders::copy(&left, &job.path("apart/probe-runs"));
    fs::remove_dir_all(job.path("apart/probe/code")).unwrap();
    let mut watcher = Watcher::default();
    job.run_with(&recipe, "apart", &until, &mut watcher).unwrap();
    assert_eq!(watcher.steps, 0, "{:?}", watcher.events);
    let (later, more) = count();
    // This process adds itself and its own time.
    assert_eq!(more, processes + 1);
    assert!(later - seconds <= began.elapsed().as_secs_f64(), "{seconds} {later}");
    job.run(&recipe, "apart", true, &mut Silent).unwrap();
    assert_same_run(&job, "whole", "apart");
}

/// Calls something in the middle of a job, once.
struct Within<F: FnMut()> {
    is_time: fn(&Event<'_>) -> bool,
    call: F,
    called: bool,
}

impl<F: FnMut()> Within<F> {
    /// After the third step of a training.
    fn third_step(call: F) -> Self {
        let is_time = |event: &Event<'_>| matches!(event, Event::Step(step) if step.number == 3);
        Self { is_time, call, called: false }
    }

    /// When a checkpoint is written, before another step is on record.
    fn checkpoint(call: F) -> Self {
        let is_time = |event: &Event<'_>| matches!(event, Event::Checkpoint { .. });
        Self { is_time, call, called: false }
    }
}

impl<F: FnMut()> Observer for Within<F> {
    fn event(&mut self, event: Event<'_>) {
        if (self.is_time)(&event) && !self.called {
            self.called = true;
            (self.call)();
        }
    }
}

#[test]
fn processes_that_do_not_go_together_are_refused() {
    let job = SmallJob::new();
    let recipe = recipe(&job);
    let refusal = |outcome: Result<JobReport>| {
        let error = outcome.unwrap_err();
        assert!(error.is_input(), "{error}");
        error.to_string().replace(job.path("").to_str().unwrap(), "")
    };
    let probe = |recipe: &Recipe, task: &str| refusal(make(&job, recipe, "run", task, &mut Silent));
    assert_eq!(
        probe(&recipe, "maths"),
        "`--probe`: there is no task `maths`: the tasks are arithmetic, code, logic"
    );
    let joint = job.recipe(&[("method", json!("joint"))]);
    assert_eq!(probe(&joint, "code"), "`--probe`: the method `joint` trains no probes: leave it out");
    let mut brought = recipe.clone();
    brought.task[1].model = Some(job.path("blank"));
    assert_eq!(
        probe(&brought, "code"),
        "`--probe`: task `code` brings a model (task.model): it has no probe to train"
    );
    assert!(!job.path("run").exists());

    let resume = |resume| refusal(job.run(&recipe, "run", resume, &mut Silent));
    let busy = "run: another process is working in this folder; wait for it or stop it";
    let call = || {
        let same =
            "run: another process is making the probe of `code` in this folder; wait for it or stop it";
        assert_eq!(probe(&recipe, "code"), same);
        assert_eq!(resume(true), busy);
        make(&job, &recipe, "run", "logic", &mut Silent).unwrap();
        let mut seed = recipe.clone();
        seed.seed = 18;
        let message = probe(&seed, "arithmetic");
        assert!(message.contains("begun with `seed = 17`, the recipe now says `seed = 18`"), "{message}");
        let rows = job.bytes("logic.train.jsonl");
        let last = rows.iter().rposition(|&byte| byte == b'\n').unwrap();
        fs::write(job.path("logic.train.jsonl"), &rows[..last]).unwrap();
        let message = probe(&recipe, "arithmetic");
        assert!(message.contains("logic.train.jsonl: has changed since the run was begun"), "{message}");
        fs::write(job.path("logic.train.jsonl"), rows).unwrap();
    };
    make(&job, &recipe, "run", "code", &mut Within::third_step(call)).unwrap();
    let message = resume(false);
    assert!(message.contains("already holds a run: continue it with --resume"), "{message}");
    // And the other way round.
    let call = || assert_eq!(probe(&recipe, "code"), busy);
    job.run(&recipe, "run", true, &mut Within::third_step(call)).unwrap();
}

/// Of what another run has made nothing is taken, and what is damaged is named.
#[test]
fn only_whole_probes_of_the_run_are_taken_over() {
    let job = SmallJob::new();
    let recipe = recipe(&job);
    let mut other = recipe.clone();
    other.seed = 18;
    make(&job, &other, "other", "code", &mut Silent).unwrap();
    make(&job, &recipe, "run", "logic", &mut Silent).unwrap();
    let swapped = job.path("run/probe-runs/code");
    cpift_tests::folders::copy(&job.path("other/probe-runs/code"), &swapped);
    for outcome in
        [job.run(&recipe, "run", true, &mut Silent), make(&job, &recipe, "run", "code", &mut Silent)]
    {
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains("probe-runs/code/made/probe/code: belongs to another run"), "{message}");
    }
    fs::remove_dir_all(swapped).unwrap();
    fs::remove_file(job.path("run/probe-runs/logic/made/probe/logic/manifest.json")).unwrap();
    for outcome in
        [job.run(&recipe, "run", true, &mut Silent), make(&job, &recipe, "run", "logic", &mut Silent)]
    {
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains("made/probe/logic to make it again"), "{message}");
    }
}

/// Where locks do nothing, a second process takes over what the first is at work on: both may end, and one is kept.
#[test]
fn two_processes_for_one_probe_do_no_harm_without_locks() {
    let job = SmallJob::new();
    let mut recipe = recipe(&job);
    recipe.checkpoint.every = 2;
    job.run(&recipe, "whole", false, &mut Silent).unwrap();
    for second_ends in [true, false] {
        let out = format!("apart-{second_ends}");
        let call = || {
            // Another file is another lock.
            fs::remove_file(job.path(&format!("{out}/probe-runs/code/.lock"))).unwrap();
            let mut watcher = Watcher::default();
            if !second_ends {
                watcher.stop_after = Some(1);
            }
            let second = make(&job, &recipe, &out, "code", &mut watcher);
            assert_eq!(second.is_ok(), second_ends, "{second:?}");
            assert_eq!(watcher.events, ["probe code from 2"]);
        };
        let first = make(&job, &recipe, &out, "code", &mut Within::checkpoint(call));
        if second_ends {
            first.unwrap();
        } else {
            let message = first.unwrap_err().to_string();
            assert!(message.contains("has taken over what this one had"), "{message}");
        }
        job.run(&recipe, &out, true, &mut Silent).unwrap();
        assert_same_run(&job, "whole", &out);
    }
}

/// How large the folder of a probe becomes, and what its process planned.
struct Scales<'a> {
    job: &'a SmallJob,
    most: Cell<u64>,
    planned: (u64, usize),
}

impl Observer for Scales<'_> {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Started(plan) = event {
            self.planned = (plan.disk_bytes, plan.trainings.len());
        }
        let folder = self.job.path("apart/probe-runs/code");
        self.most.set(self.most.get().max(folder_bytes(&folder).unwrap_or(0)));
    }
}

#[test]
fn the_plan_of_a_probe_says_what_its_folder_takes() {
    // Large enough that text does not count.
    let job = SmallJob::with_model(&[("hidden_size", 64), ("intermediate_size", 192), ("head_dim", 32)]);
    let recipe = job.recipe(&[("checkpoint.every", json!(1)), ("checkpoint.keep", json!(1))]);
    let mut scales = Scales { job: &job, most: Cell::new(0), planned: (0, 0) };
    make(&job, &recipe, "apart", "code", &mut scales).unwrap();
    let (most, (planned, trainings)) = (scales.most.get(), scales.planned);
    // A model that is written while its checkpoint is still there is no event.
    let made = job.path("apart/probe-runs/code/made/probe/code");
    let model = folder_bytes(&made).unwrap();
    assert!(most <= planned && most + model > planned / 10 * 7, "{most} and {model} of {planned}");
    assert_eq!(trainings, 1);
}

/// Stops when a probe is about to be measured.
#[derive(Default)]
struct StopBeforeMeasuring(bool);

impl Observer for StopBeforeMeasuring {
    fn event(&mut self, event: Event<'_>) {
        self.0 |= matches!(event, Event::EvaluationStarted { column: Column::Probe, .. });
    }

    fn stop_requested(&self) -> bool {
        self.0
    }
}

/// Its process has ended between training and measuring.
#[test]
fn a_probe_that_is_whole_and_not_measured_is_taken_over() {
    let job = SmallJob::new();
    let recipe = recipe(&job);
    job.run(&recipe, "whole", false, &mut Silent).unwrap();
    let outcome = make(&job, &recipe, "apart", "code", &mut StopBeforeMeasuring::default());
    assert!(matches!(outcome, Err(Error::Interrupted { .. })), "{outcome:?}");
    assert!(!job.path("apart/probe-runs/code/made").exists());
    let mut watcher = Watcher::default();
    job.run(&recipe, "apart", true, &mut watcher).unwrap();
    assert!(watcher.events.contains(&"reused probe code".to_owned()), "{:?}", watcher.events);
    assert_same_run(&job, "whole", "apart");
}

/// What messages about a damaged probe advise.
#[test]
fn a_probe_that_was_removed_is_made_again() {
    let job = SmallJob::new();
    let recipe = recipe(&job);
    job.run(&recipe, "whole", false, &mut Silent).unwrap();
    make(&job, &recipe, "apart", "code", &mut Silent).unwrap();
    let probe = job.path("apart/probe-runs/code/made/probe/code");
    fs::remove_dir_all(&probe).unwrap();
    let mut watcher = Watcher::default();
    make(&job, &recipe, "apart", "code", &mut watcher).unwrap();
    assert_eq!(watcher.steps, 4);
    assert!(probe.is_dir());
    job.run(&recipe, "apart", true, &mut Silent).unwrap();
    assert_same_run(&job, "whole", "apart");
}
