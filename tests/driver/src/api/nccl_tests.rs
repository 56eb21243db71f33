//! What ranks do together, by threads of this process that have a device; and what is wrong with it, each done once.

use std::ffi::{c_int, c_void};
use std::ptr::{null_mut, without_provenance_mut};
use std::thread::scope;

use cudarc::driver::sys::{CUcontext, CUdeviceptr, CUresult, CUstream};
use cudarc::nccl::sys::{ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclResult_t, ncclUniqueId};

use super::tests::alone;
use super::{device::*, memory::*, nccl::*, stream::*};
use crate::state::take_violations;

const OK: CUresult = CUresult::CUDA_SUCCESS;
const DONE: ncclResult_t = ncclResult_t::ncclSuccess;
const WRONG: ncclResult_t = ncclResult_t::ncclInvalidUsage;
const F32: ncclDataType_t = ncclDataType_t::ncclFloat32;

/// A rank with a stream and memory for 12 numbers.
pub(super) struct Rank {
    pub(super) rank: usize,
    pub(super) stream: CUstream,
    pub(super) pinned: *mut f32,
    pub(super) memory: CUdeviceptr,
    pub(super) communicator: ncclComm_t,
}

pub(super) const NUMBERS: usize = 12;

impl Rank {
    fn new(rank: usize, size: usize, identification: ncclUniqueId) -> Self {
        let (mut context, mut stream, mut pinned): (CUcontext, CUstream, *mut c_void) =
            (null_mut(), null_mut(), null_mut());
        let (mut memory, mut communicator) = (0, null_mut());
        // SAFETY: places for results.
        unsafe {
            assert_eq!(cuInit(0), OK);
            assert_eq!(cuDevicePrimaryCtxRetain(&mut context, 0), OK);
            assert_eq!(cuCtxSetCurrent(context), OK);
            assert_eq!(cuStreamCreate(&mut stream, 1), OK);
            assert_eq!(cuMemHostAlloc(&mut pinned, 4 * NUMBERS, 0), OK);
            assert_eq!(cuMemAllocAsync(&mut memory, 4 * NUMBERS, stream), OK);
            let rank = rank as c_int;
            assert_eq!(ncclCommInitRank(&mut communicator, size as c_int, identification, rank), DONE);
        }
        let rank = Self { rank, stream, pinned: pinned.cast(), memory, communicator };
        rank.upload(std::array::from_fn(|index| rank.number(index)));
        take_violations();
        rank
    }

    /// What a rank has at first.
    pub(super) fn number(&self, index: usize) -> f32 {
        (index + 100 * self.rank) as f32
    }

    fn upload(&self, numbers: [f32; NUMBERS]) {
        // SAFETY: pinned memory of so many numbers.
        unsafe {
            self.pinned.copy_from(numbers.as_ptr(), NUMBERS);
            assert_eq!(cuMemcpyHtoDAsync_v2(self.memory, self.pinned.cast(), 4 * NUMBERS, self.stream), OK);
        }
    }

    pub(super) fn download(&self) -> [f32; NUMBERS] {
        let mut numbers = [0.0; NUMBERS];
        // SAFETY: pinned memory of so many numbers, read once the copy has run.
        unsafe {
            assert_eq!(cuMemcpyDtoHAsync_v2(self.pinned.cast(), self.memory, 4 * NUMBERS, self.stream), OK);
            assert_eq!(cuStreamSynchronize(self.stream), OK);
            numbers.as_mut_ptr().copy_from(self.pinned, NUMBERS);
        }
        numbers
    }

    /// Number `index` on the device.
    pub(super) fn at<T>(&self, index: usize) -> *mut T {
        without_provenance_mut(self.memory as usize + 4 * index)
    }

    pub(super) fn reduce(&self, index: usize, count: usize, root: usize, stream: CUstream) -> ncclResult_t {
        let (place, root) = (self.at(index), root as c_int);
        // SAFETY: what is checked.
        unsafe {
            ncclReduce(place, place, count, F32, ncclRedOp_t::ncclSum, root, self.communicator, stream.cast())
        }
    }

    fn broadcast(&self, index: usize, count: usize, root: usize) -> ncclResult_t {
        let (place, root, stream) = (self.at(index), root as c_int, self.stream.cast());
        // SAFETY: what is checked.
        unsafe { ncclBroadcast(place, place, count, F32, root, self.communicator, stream) }
    }

    pub(super) fn wait(&self) -> CUresult {
        // SAFETY: a stream that is there.
        unsafe { cuStreamSynchronize(self.stream) }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        // Some of it is gone already in some tests.
        // SAFETY: made in `new`, used no more.
        unsafe {
            cuMemFreeAsync(self.memory, self.stream);
            cuStreamDestroy_v2(self.stream);
            cuMemFreeHost(self.pinned.cast());
            ncclCommDestroy(self.communicator);
            cuDevicePrimaryCtxRelease_v2(0);
        }
    }
}

/// Runs `work` on as many ranks, each on a thread; what they give back, in their order.
pub(super) fn each<T: Send>(size: usize, work: impl Fn(&Rank) -> T + Sync) -> Vec<T> {
    let _alone = alone();
    let mut identification = ncclUniqueId { internal: [0; 128] };
    // SAFETY: a place for the result.
    assert_eq!(unsafe { ncclGetUniqueId(&mut identification) }, DONE);
    let work = &work;
    scope(|scope| {
        let ranks: Vec<_> =
            (0..size).map(|rank| scope.spawn(move || work(&Rank::new(rank, size, identification)))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// What `work` says is wrong, on each of two ranks.
pub(super) fn violations(work: impl Fn(&Rank) + Sync) -> Vec<Vec<String>> {
    each(2, |rank| {
        work(rank);
        take_violations()
    })
}

#[test]
fn sums_parts_and_wholes_are_those_of_all_ranks() {
    for size in [2, 3] {
        let sum = |index: usize| (0..size).map(|rank| (index + 100 * rank) as f32).sum::<f32>();
        let part = NUMBERS / size;
        each(size, |rank| {
            let Rank { communicator, stream, .. } = *rank;
            let own = part * rank.rank;
            // SAFETY: what is checked.
            let status = unsafe {
                let sum = ncclRedOp_t::ncclSum;
                ncclReduceScatter(rank.at(0), rank.at(own), part, F32, sum, communicator, stream.cast())
            };
            assert_eq!(status, DONE);
            let numbers = rank.download();
            for (index, number) in numbers.into_iter().enumerate() {
                let is_own = (own..own + part).contains(&index);
                assert!(if is_own { number == sum(index) } else { number.is_nan() }, "{index}: {number}");
            }
            // SAFETY: what is checked.
            let status =
                unsafe { ncclAllGather(rank.at(own), rank.at(0), part, F32, communicator, stream.cast()) };
            assert_eq!(status, DONE);
            assert_eq!(rank.download(), std::array::from_fn(sum));

            rank.upload(std::array::from_fn(|index| rank.number(index)));
            assert_eq!(rank.reduce(1, 2, 1, stream), DONE);
            assert_eq!(rank.broadcast(5, 3, 1), DONE);
            // SAFETY: what is checked; two f64 take the place of four numbers.
            let status = unsafe {
                let (place, f64) = (rank.at(8), ncclDataType_t::ncclFloat64);
                ncclAllReduce(place, place.cast(), 2, f64, ncclRedOp_t::ncclSum, communicator, stream.cast())
            };
            assert_eq!(status, DONE);
            let numbers = rank.download();
            let reduced = if rank.rank == 1 { [sum(1), sum(2)] } else { [numbers[1], numbers[2]] };
            assert!(numbers[1..3] == reduced || numbers[1].is_nan() && rank.rank != 1);
            assert_eq!(numbers[5..8], [105.0, 106.0, 107.0]);
            assert_eq!(take_violations(), [""; 0]);
        });
    }
}

#[test]
fn groups_begin_and_end() {
    let found = violations(|rank| {
        // SAFETY: no pointers.
        unsafe {
            assert_eq!(ncclGroupEnd(), WRONG);
            assert_eq!(ncclGroupStart(), DONE);
            assert_eq!(rank.reduce(0, 4, 0, rank.stream), DONE);
            assert_ne!(rank.wait(), OK);
            assert_eq!(ncclGroupEnd(), DONE);
        }
        // What the group had.
        if rank.rank == 0 {
            assert_eq!(rank.download()[0], 100.0);
        } else {
            rank.download();
        }
    });
    for found in found {
        assert!(found[0].contains("the end of a group that was not begun"), "{found:?}");
        assert!(found[1].contains("waiting while a group of NCCL is open"), "{found:?}");
    }
}

/// One rank counts otherwise, names another root, or does things in another order.
#[test]
fn ranks_that_do_not_do_the_same_are_told() {
    let mistakes: [&(dyn Fn(&Rank) + Sync); 3] = [
        &|rank| assert_eq!(rank.reduce(0, 4 + rank.rank, 0, rank.stream), DONE),
        &|rank| assert_eq!(rank.reduce(0, 4, rank.rank, rank.stream), DONE),
        &|rank| {
            let reduce = || assert_eq!(rank.reduce(0, 4, 0, rank.stream), DONE);
            if rank.rank == 0 {
                reduce();
            }
            assert_eq!(rank.broadcast(4, 4, 0), DONE);
            if rank.rank == 1 {
                reduce();
            }
        },
    ];
    for mistake in mistakes {
        for (rank, found) in violations(|rank| {
            mistake(rank);
            // Not by the stream's wait, after which all calls of the process fail.
            let stream = crate::state::state().streams[&(rank.stream as usize)].clone();
            assert!(stream.drain().is_err());
        })
        .into_iter()
        .enumerate()
        {
            assert!(found.len() == 1 && found[0].starts_with(&format!("rank {rank} came to ")), "{found:?}");
        }
    }
}

#[test]
fn memory_and_streams_are_those_of_the_operation() {
    let found = violations(|rank| {
        let Rank { communicator, stream, .. } = *rank;
        assert_eq!(rank.reduce(NUMBERS - 1, 2, 0, stream), WRONG);
        assert_eq!(rank.reduce(0, 4, 2, stream), WRONG);
        assert_eq!(rank.reduce(0, 4, 0, null_mut()), WRONG);
        // SAFETY: what is checked.
        unsafe {
            let (from, to, sum) = (rank.at(0), rank.at(1), ncclRedOp_t::ncclSum);
            assert_eq!(ncclAllReduce(from, to, 2, F32, sum, communicator, stream.cast()), WRONG);
            let minimum = ncclRedOp_t::ncclMin;
            assert_eq!(ncclAllReduce(from, from, 2, F32, minimum, communicator, stream.cast()), WRONG);
        }
        // Another stream works on it, what came before is waited for.
        let mut other = null_mut();
        assert_eq!(rank.wait(), OK);
        // SAFETY: a place for the result; memory that is there.
        unsafe {
            assert_eq!(cuStreamCreate(&mut other, 1), OK);
            assert_eq!(cuMemsetD8Async(rank.memory, 0, 8, other), OK);
        }
        assert_eq!(rank.reduce(0, 4, 0, stream), WRONG);
        // SAFETY: memory that is there, given back.
        unsafe {
            assert_eq!(cuStreamSynchronize(other), OK);
            assert_eq!(cuMemFreeAsync(rank.memory, stream), OK);
        }
        assert_eq!(rank.reduce(0, 4, 0, stream), WRONG);
    });
    let expected = [
        "leave the allocation",
        "the root 2 of 2 ranks",
        "a stream is null",
        "memory that overlaps",
        "ncclMin of F32",
        "that another stream works on",
        "was freed",
    ];
    for found in found {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found}");
        }
    }
}
