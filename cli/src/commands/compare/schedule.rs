//! Runs side by side: which comes next, what they have done, how long it will take.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal};
use std::num::NonZeroUsize;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cpift_model::compare::{ComparisonFolder, Unit};
use cpift_model::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};

use super::unit::{BUSY, failure};
use crate::display::{tell, units::duration};
use crate::interrupt;

/// Time between two looks at the runs.
const PAUSE: Duration = Duration::from_millis(50);
/// Time before a run that another process has is asked for again.
const RETRY: Duration = Duration::from_secs(2);
/// What evaluating and starting a run costs, in steps: for the time left.
const OVERHEAD_STEPS: u64 = 20;

/// Processes that work through the units.
pub struct Workers<'a> {
    /// The comparison's folder.
    pub folder: &'a ComparisonFolder,
    /// Runs side by side.
    pub jobs: usize,
    /// Threads of each.
    pub threads: NonZeroUsize,
    /// Where they compute.
    pub device: &'a str,
    /// Keep all models.
    pub keep_models: bool,
    /// Becomes true when the comparison is to stop.
    pub stop: Arc<AtomicBool>,
}

/// A run under way.
struct Worker<'a> {
    unit: &'a Unit,
    child: Child,
    steps: Arc<AtomicU64>,
}

/// What is known of a unit.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Waiting,
    Running,
    /// Another process had it when it was last asked for.
    Elsewhere(Instant),
    Done,
}

impl Workers<'_> {
    /// Works until every unit is done, by this process or by others.
    ///
    /// # Errors
    /// The first run that fails, after the others have stopped with a checkpoint; or the stop that was asked for.
    pub fn run(&self, units: &[Unit]) -> Result<()> {
        let mut states: Vec<State> = units
            .iter()
            .map(|unit| if self.folder.is_done(unit) { State::Done } else { State::Waiting })
            .collect();
        let mut workers: Vec<Worker<'_>> = Vec::new();
        let progress = Progress::new(units, &states, self.jobs);
        loop {
            if self.stop.load(Ordering::Relaxed) {
                stop_all(workers);
                let done = states.iter().filter(|state| **state == State::Done).count();
                return Err(Error::Interrupted { position: format!("after {done} of {} runs", units.len()) });
            }
            while workers.len() < self.jobs
                && let Some(next) = self.next(units, &mut states)
            {
                states[next] = State::Running;
                workers.push(self.start(&units[next])?);
            }
            if workers.is_empty() && states.iter().all(|state| *state == State::Done) {
                progress.finish();
                return Ok(());
            }
            std::thread::sleep(PAUSE);
            for index in (0..workers.len()).rev() {
                let ended = workers[index].child.try_wait();
                let Some(status) = ended.map_err(|error| Error::Job(format!("a run was lost: {error}")))?
                else {
                    continue;
                };
                let worker = workers.swap_remove(index);
                let place = units.iter().position(|unit| unit.id == worker.unit.id).unwrap_or_default();
                states[place] = match status.code() {
                    Some(0) if self.folder.is_done(worker.unit) => State::Done,
                    Some(code) if code == i32::from(BUSY) => State::Elsewhere(Instant::now()),
                    // Stopped by the same Ctrl-C: the flag says so at the next round.
                    Some(code)
                        if code == i32::from(interrupt::EXIT_CODE) && self.stop.load(Ordering::Relaxed) =>
                    {
                        State::Waiting
                    }
                    code => {
                        progress.finish();
                        stop_all(workers);
                        return Err(failure(&worker.unit.id, code, &self.folder.log(&worker.unit.id)));
                    }
                };
                progress.ended(worker.unit, states[place] == State::Done, &states);
            }
            progress.show(&workers, &states);
        }
    }

    /// The unit to start: specialists first, since others wait for them, then by steps, so that no long run is
    /// left for the end.
    fn next(&self, units: &[Unit], states: &mut [State]) -> Option<usize> {
        for (unit, state) in units.iter().zip(states.iter_mut()) {
            if let State::Elsewhere(asked) = *state
                && asked.elapsed() >= RETRY
            {
                *state = if self.folder.is_done(unit) { State::Done } else { State::Waiting };
            }
        }
        let is_done = |id: &String| {
            units.iter().zip(states.iter()).any(|(unit, state)| unit.id == *id && *state == State::Done)
        };
        let ready = units.iter().enumerate().filter(|(index, unit)| {
            states[*index] == State::Waiting && unit.probes.as_ref().is_none_or(is_done)
        });
        let urgency = |unit: &Unit| (unit.is_specialists(), unit.steps);
        // Of equals the first: the order of the table.
        ready.rev().max_by_key(|(_, unit)| urgency(unit)).map(|(index, _)| index)
    }

    fn start<'u>(&self, unit: &'u Unit) -> Result<Worker<'u>> {
        let program = std::env::current_exe()
            .map_err(|error| Error::Job(format!("this program cannot be found to start runs: {error}")))?;
        let path = self.folder.log(&unit.id);
        let log =
            File::options().create(true).append(true).open(&path).map_err(Error::file(&path, "create"))?;
        let mut command = Command::new(program);
        command.arg("compare-unit").arg(self.folder.root()).arg(&unit.id);
        command.args(["--device", self.device, "--threads", &self.threads.to_string()]);
        if self.keep_models {
            command.arg("--keep-models");
        }
        command.env("NO_COLOR", "1").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command
            .spawn()
            .map_err(|error| Error::Job(format!("the run {} cannot be started: {error}", unit.id)))?;
        let steps = Arc::new(AtomicU64::new(0));
        if let Some(stdout) = child.stdout.take() {
            let steps = Arc::clone(&steps);
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
                    if let Ok(made) = line.parse() {
                        steps.store(made, Ordering::Relaxed);
                    }
                }
            });
        }
        Ok(Worker { unit, child, steps })
    }
}

/// Closes what the runs listen to, which makes them stop with a checkpoint, and waits for them.
fn stop_all(mut workers: Vec<Worker<'_>>) {
    for worker in &mut workers {
        drop(worker.child.stdin.take());
    }
    for worker in &mut workers {
        // One that cannot be waited for has gone.
        let _ = worker.child.wait();
    }
}

/// How far the comparison is, on standard error.
struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
    jobs: usize,
    /// Steps of all units, overhead included.
    total: u64,
    costs: Vec<u64>,
    /// Steps that were made before this process began.
    before: u64,
    runs: usize,
}

impl Progress {
    fn new(units: &[Unit], states: &[State], jobs: usize) -> Self {
        let costs: Vec<u64> = units.iter().map(|unit| unit.steps + OVERHEAD_STEPS).collect();
        let total = costs.iter().sum();
        let before = done_cost(&costs, states);
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = ProgressStyle::with_template("{bar:30} {msg}");
            ProgressBar::new(total).with_style(template.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        let progress = Self { bar, began: Instant::now(), jobs, total, costs, before, runs: units.len() };
        let done = states.iter().filter(|state| **state == State::Done).count();
        tell(&format!("{} runs, {done} of them done, {jobs} side by side\n", units.len()));
        progress
    }

    /// A line where there is no bar.
    fn ended(&self, unit: &Unit, is_done: bool, states: &[State]) {
        if self.bar.is_none() && is_done {
            tell(&format!("{} {}\n", self.summary(done_cost(&self.costs, states), states), unit.id));
        }
    }

    fn show(&self, workers: &[Worker<'_>], states: &[State]) {
        if let Some(bar) = &self.bar {
            let under_way: u64 = workers.iter().map(|worker| worker.steps.load(Ordering::Relaxed)).sum();
            let made = (done_cost(&self.costs, states) + under_way).min(self.total);
            bar.set_position(made);
            bar.set_message(self.summary(made, states));
        }
    }

    fn summary(&self, made: u64, states: &[State]) -> String {
        let done = states.iter().filter(|state| **state == State::Done).count();
        let here = made.saturating_sub(self.before);
        let left = match here {
            0 => "time left unknown".to_owned(),
            _ => {
                let seconds = self.began.elapsed().as_secs_f64() / here as f64 * (self.total - made) as f64;
                format!("{} left", duration(seconds))
            }
        };
        format!("{done} of {} runs, {left}, {} side by side", self.runs, self.jobs)
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn done_cost(costs: &[u64], states: &[State]) -> u64 {
    costs.iter().zip(states).filter(|(_, state)| **state == State::Done).map(|(cost, _)| cost).sum()
}
