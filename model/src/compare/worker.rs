//! One run of a comparison, in a process of its own: so its memory can be measured, and a fault is its alone.
//!
//! The process that runs the comparison names folder and unit; what the unit is stands in its file. It holds the
//! run's standard input open and reads the number of steps made from its standard output, one a line. Closing the
//! input, or ending in whatever way, makes the run stop with a checkpoint. The run's exit code is
//! [`Error::exit_code`], or [`BUSY`].

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cpift_engine::Device;

use super::folder::{ComparisonFolder, Unit, UnitResult};
use crate::data::Preparation;
use crate::error::{Error, FileAction, Result};
use crate::job::{Job, JobOptions};
use crate::machine;
use crate::progress::{Event, Observer};

/// Exit code that says another process works on the run.
pub const BUSY: u8 = 75;

/// Shortest time between two lines about the steps made.
const PAUSE: Duration = Duration::from_millis(300);

/// What a run's process is told beside folder and unit.
pub struct WorkOptions<'a> {
    /// Where to compute.
    pub device: &'a Device,
    /// Folder of tokenized data that is kept between runs; none tokenizes every time.
    pub cache: Option<&'a Path>,
    /// Keep the run's models.
    pub keep_models: bool,
    /// Set to stop with a checkpoint when standard input ends; `log` must ask it.
    pub stop: &'a Arc<AtomicBool>,
    /// Told everything the job tells.
    pub log: &'a mut dyn Observer,
}

/// Works on the unit `id` of the comparison in `folder` unless it is done; false when another process does.
///
/// # Errors
/// Whatever goes wrong in the job, or its outcome cannot be written.
pub fn work(folder: &Path, id: &str, options: WorkOptions<'_>) -> Result<bool> {
    stop_with_parent(Arc::clone(options.stop));
    let folder = ComparisonFolder::existing(folder);
    let unit = folder.read_unit(id)?;
    let Some(_lock) = folder.lock(&unit.id)? else { return Ok(false) };
    if folder.is_done(&unit) {
        return Ok(true);
    }
    let out = folder.run(&unit.id);
    let probes = unit.probes.as_ref().map(|id| folder.run(id));
    let study = unit.study();
    let job = JobOptions {
        recipe: &unit.recipe,
        out: &out,
        resume: out.exists(),
        until: unit.until,
        probe: None,
        probes: probes.as_deref(),
        study: study.as_ref(),
        preparation: Preparation { cache: options.cache, ..Preparation::default() },
        ranks: None,
    };
    let job = Job::prepare(options.device, &job)?;
    let report = job.run(&mut Counting { log: options.log, steps: 0, told: Instant::now() })?;
    let probes = folder.probes(&unit.id)?;
    let outcome = UnitResult { report, peak_memory_bytes: machine::peak_memory_bytes(), probes };
    folder.finish(&unit, &outcome, options.keep_models)?;
    Ok(true)
}

fn stop_with_parent(stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        // An error is an end too.
        let _ = std::io::stdin().lock().read_to_end(&mut rest);
        stop.store(true, Ordering::Relaxed);
    });
}

/// Tells the steps made on standard output and everything to the log.
struct Counting<'a> {
    log: &'a mut dyn Observer,
    steps: u64,
    told: Instant,
}

impl Observer for Counting<'_> {
    fn event(&mut self, event: Event<'_>) {
        if matches!(event, Event::Step(_)) {
            self.steps += 1;
            if self.told.elapsed() >= PAUSE {
                self.told = Instant::now();
                let mut stdout = std::io::stdout().lock();
                // Whoever does not listen does not need it.
                let _ = writeln!(stdout, "{}", self.steps).and_then(|()| stdout.flush());
            }
        }
        self.log.event(event);
    }

    fn stop_requested(&self) -> bool {
        self.log.stop_requested()
    }
}

/// A run under way, as the process that started it sees it.
pub struct Worker<'a> {
    pub unit: &'a Unit,
    child: Child,
    steps: Arc<AtomicU64>,
}

impl<'a> Worker<'a> {
    /// Starts a run by this command; what it says goes to its log.
    pub fn start(unit: &'a Unit, folder: &ComparisonFolder, mut command: Command) -> Result<Self> {
        let path = folder.log(&unit.id);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::file(&path, FileAction::Create))?;
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
        Ok(Self { unit, child, steps })
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// The exit code of a run that has ended, which is none where a signal ended it.
    pub fn ended(&mut self) -> Result<Option<Option<i32>>> {
        let status = self.child.try_wait();
        let status = status.map_err(|error| Error::Job(format!("a run was lost: {error}")))?;
        Ok(status.map(|status| status.code()))
    }

    /// Closes what the runs listen to, which makes them stop with a checkpoint, and waits for them.
    pub fn stop_all(mut workers: Vec<Self>) {
        for worker in &mut workers {
            drop(worker.child.stdin.take());
        }
        for worker in &mut workers {
            // One that cannot be waited for has gone.
            let _ = worker.child.wait();
        }
    }

    /// The error of a run: of the input where its exit code says so. The last line of its log says what.
    pub fn failure(id: &str, code: Option<i32>, log: &Path) -> Error {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        let said =
            last.map_or("it ended without a word", |line| line.strip_prefix("error: ").unwrap_or(line));
        match code {
            Some(2) => Error::format(log, said),
            _ => Error::Job(format!("the run {id} failed: {said}")),
        }
    }
}
