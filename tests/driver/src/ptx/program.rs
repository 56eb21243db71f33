//! A kernel's body ready to be executed: instructions whose operands are places of a thread's registers.

use super::arithmetic::Function;

/// A place in a thread's registers. Constants have places too, which nothing writes.
pub type Slot = u16;

/// Places of what a thread is told of itself, then of what goes nowhere.
pub const THREAD: Slot = 0;
pub const THREADS: Slot = 1;
pub const BLOCK: [Slot; 3] = [2, 3, 4];
pub const BLOCKS: [Slot; 3] = [5, 6, 7];
pub const CLOCK: Slot = 8;
pub const SINK: Slot = 9;
/// What they are called.
pub const SPECIAL: [(&str, Slot); 10] = [
    ("%tid.x", THREAD),
    ("%ntid.x", THREADS),
    ("%ctaid.x", BLOCK[0]),
    ("%ctaid.y", BLOCK[1]),
    ("%ctaid.z", BLOCK[2]),
    ("%nctaid.x", BLOCKS[0]),
    ("%nctaid.y", BLOCKS[1]),
    ("%nctaid.z", BLOCKS[2]),
    // Stands still: nothing waits so long that it is over a limit.
    ("%globaltimer", CLOCK),
    ("_", SINK),
];

/// What registers hold before anything is written to them: a NaN and an index out of range.
pub const POISON: u64 = u64::MAX;

/// The body of a kernel.
#[derive(Debug, Default)]
pub struct Program {
    /// In order.
    pub code: Vec<Instruction>,
    /// The line in the text that each comes from.
    pub lines: Vec<u32>,
    /// What a thread's registers hold at first: poison, and constants.
    pub registers: Vec<u64>,
    /// Operands of instructions that have many.
    pub lists: Vec<Slot>,
    /// What the tensor cores are to do for warpgroups.
    pub products: Vec<GroupProduct>,
    /// For each, those that a fence must part it from whatever comes in between.
    pub clashes: Vec<Vec<usize>>,
    /// Bytes of shared memory that the body declares; what a launch asks for begins behind.
    pub shared: u32,
}

/// Some of a program's [`lists`](Program::lists).
#[derive(Debug, Clone, Copy)]
pub struct List {
    /// The first.
    pub start: u32,
    /// How many.
    pub length: u16,
}

/// Kinds of memory that are loaded from and stored to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Buffers that were passed.
    Global,
    /// Buffers that nothing writes while the kernel runs.
    Constant,
    /// The block's.
    Shared,
    /// The kernel's parameters.
    Parameter,
}

/// An address: what a register holds, and a constant.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    /// The register.
    pub base: Slot,
    /// Bytes that are added.
    pub offset: i32,
}

/// Which lane a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShuffleMode {
    /// The one whose number differs in the bits of the operand.
    Xor,
    /// The one so many further on.
    Down,
    /// The one so many before.
    Up,
    /// The one of this number.
    Index,
}

/// One instruction.
#[derive(Debug, Clone, Copy)]
pub enum Instruction {
    /// Computes.
    Compute { function: Function, to: Slot, from: [Slot; 4] },
    /// Goes on elsewhere.
    Branch { to: u32 },
    /// Goes on elsewhere where a predicate is what it must be.
    BranchIf { predicate: Slot, holds: bool, to: u32 },
    /// Loads elements of so many bytes.
    Load { space: Space, bytes: u8, to: List, address: Address },
    /// Stores elements of so many bytes.
    Store { space: Space, bytes: u8, from: List, address: Address },
    /// Adds to an integer of so many bytes.
    AtomicAdd { space: Space, bytes: u8, to: Slot, address: Address, value: Slot },
    /// `bar.sync 0`.
    Barrier,
    /// `bar.warp.sync`.
    WarpBarrier { lanes: Slot },
    /// `shfl.sync`, whose predicate says whether the other lane is inside of the segment.
    Shuffle {
        mode: ShuffleMode,
        to: Slot,
        inside: Slot,
        value: Slot,
        operand: Slot,
        clamp: Slot,
        lanes: Slot,
    },
    /// `vote.sync.ballot`.
    Ballot { to: Slot, predicate: Slot, lanes: Slot },
    /// `elect.sync`: a lane's number, and whether it is the thread's own.
    Elect { to: Slot, elected: Slot, lanes: Slot },
    /// `mma.sync`: four results, A, B and C.
    Multiply { list: List },
    /// `ldmatrix`, by generic addresses or those of shared memory.
    LoadMatrices { transposed: bool, generic: bool, to: List, address: Address },
    /// `cp.async` of 16 bytes, of which so many are read.
    CopyAsync { to: Address, from: Address, read: Slot },
    /// `cp.async.commit_group`.
    CommitCopies,
    /// `cp.async.wait_group`.
    WaitCopies { latest: Slot },
    /// `mbarrier.init`.
    InitMbarrier { barrier: Address, count: Slot },
    /// `mbarrier.inval`.
    InvalidateMbarrier { barrier: Address },
    /// `mbarrier.arrive`, with bytes that are expected.
    Arrive { barrier: Address, bytes: Slot },
    /// `mbarrier.try_wait.parity`.
    AwaitPhase { to: Slot, barrier: Address, parity: Slot },
    /// `fence.proxy.async`.
    FenceAsync,
    /// `cp.async.bulk.tensor`: the map, then coordinates.
    CopyTile { to: Address, tile: List, barrier: Address },
    /// `wgmma.fence`.
    GroupFence,
    /// Some of the instructions behind it, before any of `wgmma`, access registers of products.
    Touch { registers: List },
    /// `wgmma.mma_async`, the place among the program's products.
    GroupMultiply { product: u32 },
    /// `wgmma.commit_group`.
    GroupCommit,
    /// `wgmma.wait_group`.
    GroupWait { latest: Slot },
    /// `trap`, and `brkpt`, which ends a launch where no debugger is attached.
    Trap,
    /// `ret` and `exit`.
    Return,
}

/// A product of 64 rows by 16 along k for a warpgroup.
#[derive(Debug, Clone, Copy)]
pub struct GroupProduct {
    /// Columns of B and of the sums.
    pub columns: u32,
    /// Half as many as columns.
    pub sums: List,
    /// A's description, or four registers that hold its part.
    pub a: List,
    /// Whether k is the last dimension of A in shared memory.
    pub a_along_k: bool,
    /// B's description.
    pub b: Slot,
    /// Whether k is the last dimension of B.
    pub b_along_k: bool,
    /// Whether the product is added to the sums.
    pub accumulate: Slot,
}

impl Program {
    /// The places of a list.
    pub fn list(&self, list: List) -> &[Slot] {
        &self.lists[list.start as usize..][..usize::from(list.length)]
    }
}
