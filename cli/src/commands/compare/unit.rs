//! One run of a comparison, in a process of its own: so its memory can be measured, and a fault is its alone.

use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cpift_model::compare::{ComparisonFolder, Outcome};
use cpift_model::job::{Job, JobOptions};
use cpift_model::progress::{Event, Observer};
use cpift_model::{Error, Result, machine};

use crate::args::compare::CompareUnit;
use crate::display::progress::Progress;
use crate::display::style::Style;
use crate::{interrupt, recipe};

/// Exit code that says another process works on the run.
pub const BUSY: u8 = 75;

/// Shortest time between two lines about the steps made.
const PAUSE: Duration = Duration::from_millis(300);

/// Works on the run unless it is done; false when another process does.
pub fn run(arguments: &CompareUnit, threads: Option<NonZeroUsize>) -> Result<bool> {
    let stop = interrupt::install("stopping after this step with a checkpoint")?.begin();
    stop_with_parent(Arc::clone(&stop));
    let folder = ComparisonFolder::existing(&arguments.folder);
    let unit = folder.read_unit(&arguments.id)?;
    let Some(_claim) = folder.claim(&unit.id)? else { return Ok(false) };
    if folder.is_done(&unit) {
        return Ok(true);
    }
    let loaded = recipe::load(&folder.recipe(&unit.id), &[])?;
    let chosen = super::super::Chosen::open(&arguments.device.device, threads)?;
    let (out, cache) = (folder.run(&unit.id), super::super::token_cache());
    let probes = unit.probes.as_ref().map(|id| folder.run(id));
    let options = JobOptions {
        recipe: &loaded.recipe,
        recipe_text: &loaded.text,
        out: &out,
        resume: out.exists(),
        until: unit.until,
        probes: probes.as_deref(),
        pairs: unit.pairs,
        cache: cache.as_deref(),
    };
    let job = Job::prepare(&chosen.device, &options)?;
    let log = Progress::new(Style::PLAIN, false, None, Arc::clone(&stop));
    let report = job.run(&mut Counting { log, steps: 0, told: Instant::now() })?;
    let probes = folder.probes(&unit.id)?;
    let outcome = Outcome { report, peak_memory_bytes: machine::peak_memory_bytes(), probes };
    folder.finish(&unit, &outcome, arguments.keep_models)?;
    Ok(true)
}

/// The process that started this one holds its standard input open. Where it ends, for whatever reason, or asks
/// for it by closing, this one stops with a checkpoint.
fn stop_with_parent(stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        // An error is an end too.
        let _ = std::io::stdin().lock().read_to_end(&mut rest);
        stop.store(true, Ordering::Relaxed);
    });
}

/// Tells the steps made on standard output, one number a line, and everything else to the log.
struct Counting {
    log: Progress,
    steps: u64,
    told: Instant,
}

impl Observer for Counting {
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

/// What a run that failed said last, from its log.
pub fn last_words(log: &str) -> Option<&str> {
    let line = log.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.strip_prefix("error: ").unwrap_or(line))
}

/// The error of a run: of the input where its exit code says so.
pub fn failure(id: &str, code: Option<i32>, log: &std::path::Path) -> Error {
    let said = std::fs::read_to_string(log).unwrap_or_default();
    let said = last_words(&said).unwrap_or("it ended without a word");
    match code {
        Some(2) => Error::format(log, said),
        _ => Error::Job(format!("the run {id} failed: {said}")),
    }
}
