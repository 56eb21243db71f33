//! The memory a job says it will need, against what it allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use cpift_model::progress::Silent;
use cpift_tests::jobs::SmallJob;
use serde_json::json;

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

/// With generation, and with fusion by the importance of a model that a task brings.
#[test]
fn a_job_takes_no_more_than_its_plan_says() {
    let job =
        SmallJob::with_model(&[("hidden_size", 128), ("intermediate_size", 512), ("num_hidden_layers", 4)]);
    let few_steps = [("probe.steps", json!(1)), ("integrate.steps", json!(3))];
    job.run(&job.recipe(&few_steps), "brought", false, &mut Silent).unwrap();
    let mut recipe = job.recipe(&few_steps);
    recipe.task[0].model = Some(job.path("brought/final"));
    recipe.fuse.conflict = cpift_model::recipe::Conflict::Max;

    let planned = job.plan(&recipe).unwrap();
    let before = HELD.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    job.run(&recipe, "run", false, &mut Silent).unwrap();
    let taken = (PEAK.load(Ordering::Relaxed) - before) as u64;
    let parts: Vec<_> = planned.memory.iter().map(|part| (part.name.as_str(), part.bytes)).collect();
    // But for the program itself, most of which is no allocation of the job's.
    let program = planned.memory.iter().find(|part| part.name == "program").unwrap().bytes;
    let of_the_job = planned.memory_bytes() - program;
    assert!(taken <= of_the_job && 2 * taken > of_the_job, "{taken} taken, planned {parts:?}");
}
