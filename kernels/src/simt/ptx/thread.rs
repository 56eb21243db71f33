//! Which thread this is, and the barrier of its block.

#[allow(improper_ctypes)]
unsafe extern "C" {
    #[link_name = "llvm.nvvm.read.ptx.sreg.tid.x"]
    safe fn tid_x() -> u32;
    #[link_name = "llvm.nvvm.read.ptx.sreg.ntid.x"]
    safe fn ntid_x() -> u32;
    #[link_name = "llvm.nvvm.read.ptx.sreg.ctaid.x"]
    safe fn ctaid_x() -> u32;
    #[link_name = "llvm.nvvm.read.ptx.sreg.ctaid.y"]
    safe fn ctaid_y() -> u32;
    #[link_name = "llvm.nvvm.read.ptx.sreg.ctaid.z"]
    safe fn ctaid_z() -> u32;
    #[link_name = "llvm.nvvm.read.ptx.sreg.nctaid.x"]
    safe fn nctaid_x() -> u32;
    #[link_name = "llvm.nvvm.barrier.cta.sync.aligned.all"]
    safe fn barrier_cta_sync(barrier: u32);
}

/// Index of this thread in its block.
#[inline(always)]
pub fn thread_idx() -> u32 {
    tid_x()
}

/// Threads of a block.
#[inline(always)]
pub fn block_dim() -> u32 {
    ntid_x()
}

/// Index of this block in direction x.
#[inline(always)]
pub fn block_idx() -> u32 {
    ctaid_x()
}

/// Index of this block in direction y.
#[inline(always)]
pub fn block_idx_y() -> u32 {
    ctaid_y()
}

/// Index of this block in direction z.
#[inline(always)]
pub fn block_idx_z() -> u32 {
    ctaid_z()
}

/// Blocks in direction x.
#[inline(always)]
pub fn grid_dim() -> u32 {
    nctaid_x()
}

/// Barrier of the block: every thread must reach the same one. What was written before is seen behind.
#[inline(always)]
pub fn sync_threads() {
    barrier_cta_sync(0);
}
