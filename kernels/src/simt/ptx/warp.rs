//! Operations of a warp: all 32 lanes take part.

/// All lanes, as the `.sync` instructions name them.
const LANES: u32 = u32::MAX;
/// Clamp operand of `shfl`: segments of the whole warp, indices up to 31.
const WHOLE_WARP: u32 = 31;

#[allow(improper_ctypes)]
unsafe extern "C" {
    #[link_name = "llvm.nvvm.bar.warp.sync"]
    safe fn bar_warp_sync(lanes: u32);
    #[link_name = "llvm.nvvm.shfl.sync.bfly.i32"]
    safe fn shfl_bfly_u32(lanes: u32, value: u32, mask: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.bfly.f32"]
    safe fn shfl_bfly_f32(lanes: u32, value: f32, mask: u32, clamp: u32) -> f32;
    #[link_name = "llvm.nvvm.shfl.sync.down.i32"]
    safe fn shfl_down_u32(lanes: u32, value: u32, delta: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.down.f32"]
    safe fn shfl_down_f32(lanes: u32, value: f32, delta: u32, clamp: u32) -> f32;
    #[link_name = "llvm.nvvm.shfl.sync.idx.i32"]
    safe fn shfl_idx_u32(lanes: u32, value: u32, lane: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.idx.f32"]
    safe fn shfl_idx_f32(lanes: u32, value: f32, lane: u32, clamp: u32) -> f32;
    #[link_name = "llvm.nvvm.vote.ballot.sync"]
    safe fn vote_ballot(lanes: u32, predicate: bool) -> u32;
    #[link_name = "llvm.nvvm.vote.any.sync"]
    safe fn vote_any(lanes: u32, predicate: bool) -> bool;
    #[link_name = "llvm.nvvm.vote.all.sync"]
    safe fn vote_all(lanes: u32, predicate: bool) -> bool;
}

/// Barrier of the warp. What its lanes wrote before is seen by them behind.
#[inline(always)]
pub fn sync_warp() {
    bar_warp_sync(LANES);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u32 {}
    impl Sealed for f32 {}
}

/// What lanes can exchange: 32 bits.
pub trait ShuffleValue: Copy + sealed::Sealed {
    #[doc(hidden)]
    fn bfly(self, mask: u32) -> Self;
    #[doc(hidden)]
    fn down(self, delta: u32) -> Self;
    #[doc(hidden)]
    fn idx(self, lane: u32) -> Self;
}

impl ShuffleValue for u32 {
    #[inline(always)]
    fn bfly(self, mask: u32) -> Self {
        shfl_bfly_u32(LANES, self, mask, WHOLE_WARP)
    }
    #[inline(always)]
    fn down(self, delta: u32) -> Self {
        shfl_down_u32(LANES, self, delta, WHOLE_WARP)
    }
    #[inline(always)]
    fn idx(self, lane: u32) -> Self {
        shfl_idx_u32(LANES, self, lane, WHOLE_WARP)
    }
}

impl ShuffleValue for f32 {
    #[inline(always)]
    fn bfly(self, mask: u32) -> Self {
        shfl_bfly_f32(LANES, self, mask, WHOLE_WARP)
    }
    #[inline(always)]
    fn down(self, delta: u32) -> Self {
        shfl_down_f32(LANES, self, delta, WHOLE_WARP)
    }
    #[inline(always)]
    fn idx(self, lane: u32) -> Self {
        shfl_idx_f32(LANES, self, lane, WHOLE_WARP)
    }
}

/// `value` of the lane whose number differs in the bits of `mask`.
#[inline(always)]
pub fn shuffle_xor<T: ShuffleValue>(value: T, mask: u32) -> T {
    value.bfly(mask)
}

/// `value` of the lane `delta` further on; behind the last lane, the own.
#[inline(always)]
pub fn shuffle_down<T: ShuffleValue>(value: T, delta: u32) -> T {
    value.down(delta)
}

/// `value` of lane `lane` modulo 32.
#[inline(always)]
pub fn shuffle_idx<T: ShuffleValue>(value: T, lane: u32) -> T {
    value.idx(lane)
}

/// Bit i is `predicate` of lane i.
#[inline(always)]
pub fn ballot(predicate: bool) -> u32 {
    vote_ballot(LANES, predicate)
}

/// Whether `predicate` holds in any lane.
#[inline(always)]
pub fn any(predicate: bool) -> bool {
    vote_any(LANES, predicate)
}

/// Whether `predicate` holds in all lanes.
#[inline(always)]
pub fn all(predicate: bool) -> bool {
    vote_all(LANES, predicate)
}
