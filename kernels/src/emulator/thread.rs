//! What a running kernel knows of the thread it is in, and how it waits.

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::ptr;

use corosensei::Yielder;

use super::fault::Cause;
use super::shared::SharedMemory;
use super::traffic::Counter;
use crate::launch::Kernel;

/// What a lane gives to a warp operation, and what it gets back.
pub type Words = [u32; 16];

/// Why a thread stopped running.
#[derive(Debug, Clone)]
pub enum Wait {
    /// At the block's barrier.
    Barrier(&'static Location<'static>),
    /// At an operation of its warp, with what it brings.
    Warp(WarpOperation, Words),
    /// For the end of a phase.
    Arrivals(ArrivalWait),
    /// At an operation of four warps, for the others of them.
    Group(GroupOperation),
    /// In it, for its own warp's part to be done.
    Part(GroupOperation),
    /// For good.
    Fault(Cause),
}

/// A phase's end that a thread waits for.
#[derive(Debug, Clone, Copy)]
pub struct ArrivalWait {
    /// Where the barrier is.
    pub byte: u32,
    /// Of the phase.
    pub parity: u32,
    /// In the source.
    pub location: &'static Location<'static>,
}

/// A product that four warps begin together: sums += a·b.
#[derive(Debug, Clone, Copy)]
pub struct GroupOperation {
    /// Where.
    pub location: &'static Location<'static>,
    /// Descriptions of A, by steps of 16 levels.
    pub a: [u64; 4],
    /// Of B.
    pub b: [u64; 4],
    /// Whether k is A's last dimension.
    pub a_along_k: bool,
    /// Whether k is B's.
    pub b_along_k: bool,
    /// Columns, in halves of 128.
    pub halves: usize,
    /// The thread's own sums.
    pub sums: *mut f32,
}

impl GroupOperation {
    /// Whether both are one operation of the group.
    pub fn is_same(&self, other: &Self) -> bool {
        self.location == other.location && (self.a, self.b, self.halves) == (other.a, other.b, other.halves)
    }
}

/// An operation that a warp's lanes do together.
#[derive(Debug, Clone, Copy)]
pub struct WarpOperation {
    /// As it is called in the source.
    pub name: &'static str,
    /// Where.
    pub location: &'static Location<'static>,
    /// What it is: turns what the lanes brought into what they get.
    pub combine: fn(&mut [Words; 32]),
    /// Whether it orders the warp's memory accesses.
    pub orders_memory: bool,
}

/// The block in progress, shared by its threads.
#[derive(Debug)]
pub struct Context<'a> {
    /// What runs.
    pub kernel: &'a Kernel,
    /// Blocks in each direction.
    pub grid: [u32; 3],
    /// This block.
    pub block: [u32; 3],
    /// The thread that runs now.
    pub thread: Cell<u32>,
    /// How it gives up control.
    pub yielder: Cell<*const Yielder<Words, Wait>>,
    /// The block's shared memory.
    pub shared: RefCell<SharedMemory>,
    /// What counts the launch's traffic, if anything does.
    pub counter: Option<&'a RefCell<Counter>>,
}

thread_local! {
    static CURRENT: Cell<*const Context<'static>> = const { Cell::new(ptr::null()) };
}

/// Makes `context` that of kernel code on this OS thread while `work` runs.
pub fn enter<R>(context: &Context<'_>, work: impl FnOnce() -> R) -> R {
    struct Restore(*const Context<'static>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.get());
    CURRENT.set(ptr::from_ref(context).cast());
    work()
}

/// Reads the context of the thread in progress. Panics outside of kernels.
pub fn with<R>(read: impl FnOnce(&Context<'_>) -> R) -> R {
    let context = CURRENT.get();
    assert!(!context.is_null(), "a function of the device API was called outside of a kernel");
    // SAFETY: `enter` holds a reference to it for as long as the pointer is set.
    read(unsafe { &*context })
}

/// Tells the launch's counter, if it has one.
pub fn count(note: impl FnOnce(&mut Counter)) {
    with(|context| {
        if let Some(counter) = context.counter {
            note(&mut counter.borrow_mut());
        }
    });
}

/// Gives up control until the scheduler has what the thread waits for.
pub fn suspend(wait: Wait) -> Words {
    let yielder = with(|context| context.yielder.get());
    // SAFETY: the scheduler sets it to the running coroutine's own before it resumes it.
    unsafe { &*yielder }.suspend(wait)
}

/// Ends the launch with a fault of this thread.
pub fn fault(cause: Cause) -> ! {
    suspend(Wait::Fault(cause));
    unreachable!("a thread at fault is not resumed")
}
