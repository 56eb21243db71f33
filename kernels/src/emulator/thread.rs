//! What a running kernel knows of the thread it is in, and how it waits.

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::{fmt, ptr};

use super::rules::Rules;
use super::shared::SharedMemory;
use super::traffic::Counter;
use crate::fault::Cause;
use crate::launch::Kernel;

/// Where in a kernel a thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// In the source.
    Source(&'static Location<'static>),
    /// In a line of PTX.
    Ptx(u32),
}

impl Point {
    /// Where the function was called that calls this.
    #[track_caller]
    pub fn caller() -> Self {
        Self::Source(Location::caller())
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(location) => location.fmt(f),
            Self::Ptx(line) => write!(f, "line {line} of the PTX"),
        }
    }
}

/// What a lane gives to a warp operation, and what it gets back.
pub type Words = [u32; 16];

/// Why a thread stopped running.
#[derive(Debug, Clone)]
pub enum Wait {
    /// At the block's barrier.
    Barrier(Point),
    /// At an operation of its warp, with what it brings.
    Warp(WarpOperation, Words),
    /// For the end of a phase.
    Mbarrier(MbarrierWait),
    /// At an operation of four warps, for the others of them.
    Warpgroup(WgmmaOperation),
    /// In it, for its own warp's part to be done.
    Part(WgmmaOperation),
    /// For good.
    Fault(Cause),
}

/// A phase's end that a thread waits for.
#[derive(Debug, Clone, Copy)]
pub struct MbarrierWait {
    /// Where the barrier is.
    pub byte: u32,
    /// Of the phase.
    pub parity: u32,
    /// Where.
    pub point: Point,
}

/// Products that four warps begin together and wait for.
#[derive(Debug, Clone, Copy)]
pub struct WgmmaOperation {
    /// Where.
    pub point: Point,
    /// The thread's part of them in order, lent until it goes on.
    pub instructions: *const [WgmmaInstruction],
}

/// One of them (`wgmma.mma_async`): sums += a·b over 16 along k, of 64 rows.
#[derive(Debug, Clone, Copy)]
pub struct WgmmaInstruction {
    /// The left operand.
    pub a: WgmmaA,
    /// The right operand.
    pub b: SharedOperand,
    /// Columns of the sums, a multiple of 8.
    pub columns: u32,
    /// Whether the product is added to what the sums are; otherwise they begin at zero.
    pub accumulate: bool,
    /// The thread's own sums, lent as the instructions are: half as many as there are columns.
    pub sums: *mut f32,
}

/// A left operand.
#[derive(Debug, Clone, Copy)]
pub enum WgmmaA {
    /// In shared memory.
    Shared(SharedOperand),
    /// The thread's own part of its warp's 16 rows, as of [`matrix_multiply`](crate::simt::matrix_multiply).
    Registers([u32; 4]),
}

/// Where an operand lies in shared memory, see [`MatrixDescriptor`](crate::simt::MatrixDescriptor).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedOperand {
    /// As the tensor cores are told.
    pub bits: u64,
    /// Whether k is its last dimension.
    pub k_major: bool,
}

impl WgmmaOperation {
    /// Whether both are one operation of the warpgroup.
    ///
    /// # Safety
    /// The threads of both are suspended in it.
    pub unsafe fn is_same(&self, other: &Self) -> bool {
        // SAFETY: lent until the threads go on.
        let (own, others) = unsafe { (&*self.instructions, &*other.instructions) };
        self.point == other.point
            && own.len() == others.len()
            && own.iter().zip(others).all(|(own, other)| own.is_same(other))
    }
}

impl WgmmaInstruction {
    /// Whether both are one instruction of the warpgroup: what lanes hold in registers is their own.
    fn is_same(&self, other: &Self) -> bool {
        let same_a = match (self.a, other.a) {
            (WgmmaA::Shared(own), WgmmaA::Shared(other)) => own == other,
            (WgmmaA::Registers(_), WgmmaA::Registers(_)) => true,
            _ => false,
        };
        same_a && (self.b, self.columns, self.accumulate) == (other.b, other.columns, other.accumulate)
    }
}

/// An operation that a warp's lanes do together.
#[derive(Debug, Clone, Copy)]
pub struct WarpOperation {
    /// As it is called in the source.
    pub name: &'static str,
    /// Where.
    pub point: Point,
    /// What it is: turns what the lanes brought into what they get.
    pub combine: fn(&mut [Words; 32], Rules),
    /// Whether it orders the warp's memory accesses.
    pub orders_memory: bool,
}

/// Gives control to what runs the block's threads.
pub trait Suspend {
    /// Returns once the thread is resumed, with what it waited for.
    fn suspend(&self, wait: Wait) -> Words;
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
    /// How it gives up control; set while it runs.
    pub suspend: Cell<Option<*const dyn Suspend>>,
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
    let suspend = with(|context| context.suspend.get()).expect("the thread runs");
    // SAFETY: the scheduler sets it to the running coroutine's own before it resumes it.
    unsafe { &*suspend }.suspend(wait)
}

/// Ends the launch with a fault of this thread.
pub fn fault(cause: Cause) -> ! {
    suspend(Wait::Fault(cause));
    unreachable!("a thread at fault is not resumed")
}
