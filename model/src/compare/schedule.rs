//! Runs side by side: which comes next, what they have done, how long it will take.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::collect::{Collection, collect};
use super::folder::{ComparisonFolder, Unit};
use super::prepare::Prepared;
use super::results::{Comparison, Origin};
use super::worker::{BUSY, Worker};
use crate::error::{Error, Result};

/// Time between two looks at the runs.
const PAUSE: Duration = Duration::from_millis(50);
/// Time before a run that another process has is asked for again.
const RETRY: Duration = Duration::from_secs(2);
/// What evaluating and starting a run costs, in steps: for the time left.
const OVERHEAD_STEPS: u64 = 20;

/// How a comparison is run.
pub struct RunOptions<'a> {
    /// Its folder.
    pub out: &'a Path,
    /// Continue what is in the folder.
    pub resume: bool,
    /// Runs side by side.
    pub jobs: usize,
    /// Name and version of the program, for the results.
    pub program: String,
    /// The command that makes the comparison, for the results.
    pub command: String,
    /// The command whose process works on the unit of a name, by [`super::work`].
    pub worker: &'a dyn Fn(&Unit) -> Result<Command>,
    /// Becomes true when the comparison is to stop.
    pub stop: &'a AtomicBool,
    /// Told how far it is, several times a second and when a run ends.
    pub observer: &'a mut dyn FnMut(&Progress<'_>),
}

/// How far a comparison is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Runs in all.
    pub runs: usize,
    /// Runs that are done.
    pub done: usize,
    /// Runs side by side.
    pub jobs: usize,
    /// Steps in all, with what starting and evaluating a run costs.
    pub steps: u64,
    /// Of these the steps made.
    pub steps_done: u64,
    /// Seconds left at the rate so far; none before anything is done.
    pub seconds_left: Option<f64>,
    /// The run that has just ended.
    pub ended: Option<&'a Unit>,
}

impl Prepared {
    /// Runs every unit that is not done, and collects what came out into `results.json`.
    ///
    /// # Errors
    /// The folder holds something else; the first run that fails, after the others have stopped with a checkpoint;
    /// or the stop that was asked for.
    pub fn run(self, options: RunOptions<'_>) -> Result<Comparison> {
        let folder = ComparisonFolder::open(options.out, &self.spec, options.resume)?;
        self.units.iter().try_for_each(|unit| folder.write_unit(unit))?;
        let (program, command, jobs) = (options.program.clone(), options.command.clone(), options.jobs);
        Schedule::new(&folder, &self.units, options).run()?;
        let origin = Origin { program, command, jobs, ..self.collection.origin };
        let found = collect(&folder, Collection { origin, ..self.collection })?;
        found.write(folder.root())?;
        Ok(found)
    }
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

/// Processes that work through the units.
struct Schedule<'a, 'o> {
    folder: &'a ComparisonFolder,
    units: &'a [Unit],
    states: Vec<State>,
    workers: Vec<Worker<'a>>,
    options: RunOptions<'o>,
    began: Instant,
    /// Steps that were made before this process began.
    before: u64,
}

impl<'a, 'o> Schedule<'a, 'o> {
    fn new(folder: &'a ComparisonFolder, units: &'a [Unit], options: RunOptions<'o>) -> Self {
        let state = |unit| if folder.is_done(unit) { State::Done } else { State::Waiting };
        let states = units.iter().map(state).collect();
        let began = Instant::now();
        let mut schedule = Self { folder, units, states, workers: Vec::new(), options, began, before: 0 };
        schedule.before = schedule.steps_of_done();
        schedule
    }

    /// Works until every unit is done, by this process or by others. Runs that still go on when it ends, also by an
    /// error, are stopped with a checkpoint and waited for.
    fn run(mut self) -> Result<()> {
        let result = self.work();
        Worker::stop_all(self.workers);
        result
    }

    fn work(&mut self) -> Result<()> {
        self.report(None);
        loop {
            if self.options.stop.load(Ordering::Relaxed) {
                let position = format!("after {} of {} runs", self.done(), self.units.len());
                return Err(Error::Interrupted { position });
            }
            while self.workers.len() < self.options.jobs
                && let Some(next) = self.next()
            {
                self.states[next] = State::Running;
                let unit = &self.units[next];
                self.workers.push(Worker::start(unit, self.folder, (self.options.worker)(unit)?)?);
            }
            if self.workers.is_empty() && self.states.iter().all(|state| *state == State::Done) {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
            for index in (0..self.workers.len()).rev() {
                let Some(code) = self.workers[index].ended()? else { continue };
                let unit = self.workers.swap_remove(index).unit;
                let stopping = self.options.stop.load(Ordering::Relaxed);
                let state = match code {
                    Some(0) if self.folder.is_done(unit) => State::Done,
                    Some(code) if code == i32::from(BUSY) => State::Elsewhere(Instant::now()),
                    // Stopped by the same Ctrl-C: the flag says so at the next round.
                    Some(code) if code == i32::from(Error::INTERRUPTED) && stopping => State::Waiting,
                    code => return Err(Worker::failure(&unit.id, code, &self.folder.log(&unit.id))),
                };
                let place = self.units.iter().position(|known| known.id == unit.id).unwrap_or_default();
                self.states[place] = state;
                if state == State::Done {
                    self.report(Some(unit));
                }
            }
            self.report(None);
        }
    }

    /// The unit to start: specialists first, since others wait for them, then by steps, so that no long run is
    /// left for the end.
    fn next(&mut self) -> Option<usize> {
        for (unit, state) in self.units.iter().zip(&mut self.states) {
            if let State::Elsewhere(asked) = *state
                && asked.elapsed() >= RETRY
            {
                *state = if self.folder.is_done(unit) { State::Done } else { State::Waiting };
            }
        }
        let is_done = |id: &String| {
            self.units.iter().zip(&self.states).any(|(unit, state)| unit.id == *id && *state == State::Done)
        };
        let ready = self.units.iter().enumerate().filter(|(index, unit)| {
            self.states[*index] == State::Waiting && unit.probes.as_ref().is_none_or(is_done)
        });
        let urgency = |unit: &Unit| (unit.is_specialists(), unit.steps);
        // Of equals the first: the order of the table.
        ready.rev().max_by_key(|(_, unit)| urgency(unit)).map(|(index, _)| index)
    }

    fn done(&self) -> usize {
        self.states.iter().filter(|state| **state == State::Done).count()
    }

    fn steps_of_done(&self) -> u64 {
        let done = self.units.iter().zip(&self.states).filter(|(_, state)| **state == State::Done);
        done.map(|(unit, _)| unit.steps + OVERHEAD_STEPS).sum()
    }

    fn report(&mut self, ended: Option<&Unit>) {
        let done = self.done();
        let steps: u64 = self.units.iter().map(|unit| unit.steps + OVERHEAD_STEPS).sum();
        let under_way: u64 = self.workers.iter().map(Worker::steps).sum();
        let steps_done = (self.steps_of_done() + under_way).min(steps);
        let here = steps_done.saturating_sub(self.before);
        let rate = self.began.elapsed().as_secs_f64() / here as f64;
        (self.options.observer)(&Progress {
            runs: self.units.len(),
            done,
            jobs: self.options.jobs,
            steps,
            steps_done,
            seconds_left: (here > 0).then(|| rate * (steps - steps_done) as f64),
            ended,
        });
    }
}
