//! The memory a job says it will need, against what it allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use cpift_model::Recipe;
use cpift_model::progress::Silent;
use cpift_tests::jobs::SmallJob;
use serde_json::{Value, json};

/// Smaller allocations are lists, names and the like, which no plan counts.
const LARGE: usize = 16 << 10;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's memory, with the bytes held in large allocations counted.
struct Counting;

impl Counting {
    fn took(bytes: usize) {
        if bytes >= LARGE {
            PEAK.fetch_max(HELD.fetch_add(bytes, Ordering::Relaxed) + bytes, Ordering::Relaxed);
        }
    }
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::took(layout.size());
        // SAFETY: the caller's promises are those asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::took(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if layout.size() >= LARGE {
            HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        }
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What a job takes and what its plan says, without the program itself, most of which is no allocation of the job's, and
/// without tokens, which are lists of a row each.
fn taken_and_planned(job: &SmallJob, recipe: &Recipe, out: &str) -> (u64, u64, Vec<(String, u64)>) {
    let planned = job.plan(recipe).unwrap();
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    job.run(recipe, out, false, &mut Silent).unwrap();
    let taken = (PEAK.load(Ordering::Relaxed) - before) as u64;
    let parts = planned.memory.iter().filter(|part| !["program", "tokenized data"].contains(&&*part.name));
    let parts: Vec<_> = parts.map(|part| (part.name.clone(), part.bytes)).collect();
    (taken, parts.iter().map(|(_, bytes)| bytes).sum(), parts)
}

/// A model of a few million parameters, so that what no plan counts is little beside it. With each kind of state, with
/// fusion by the importance of a model that a task brings, and with merges.
#[test]
fn a_job_takes_what_its_plan_says_to_5_percent() {
    let job =
        SmallJob::with_model(&[("hidden_size", 256), ("intermediate_size", 1024), ("num_hidden_layers", 6)])
            .brief();
    let changes = |others: &[(&'static str, Value)]| {
        let small =
            [("probe.steps", json!(1)), ("integrate.steps", json!(2)), ("core.fraction", json!(0.01))];
        job.recipe(&[&small, others].concat())
    };
    let compact = ["train.memory", "probe.memory", "integrate.memory"].map(|key| (key, json!("compact")));
    // Not measured: what threads allocate once, and keep, is of the program.
    job.run(&changes(&[]), "first", false, &mut Silent).unwrap();
    let mut brought = changes(&[("fuse.conflict", json!("max"))]);
    brought.task[0].model = Some(job.path("first/final"));
    let recomputing =
        ["train.recompute", "probe.recompute", "integrate.recompute"].map(|key| (key, json!(true)));
    let by_importance = [("fuse.conflict", json!("max"))];
    let ties = [("fuse.backbone", json!("ties"))];
    let half = [("method", json!("half")), ("train.steps", json!(3))];
    let mut outcomes = Vec::new();
    for (name, recipe) in [
        ("brought", brought),
        ("compact", changes(&[&compact[..], &recomputing, &by_importance].concat())),
        ("ties", changes(&[&compact[..], &ties].concat())),
        ("half", changes(&half)),
    ] {
        outcomes.push((name, taken_and_planned(&job, &recipe, name)));
    }
    for (name, (taken, planned, parts)) in &outcomes {
        let is_close = taken <= planned && 20 * taken >= 19 * planned;
        assert!(is_close, "{name}: {taken} taken, {planned} planned: {parts:?}; {outcomes:?}");
    }
}
