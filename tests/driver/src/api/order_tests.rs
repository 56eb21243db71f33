//! Two streams of a device, one for what ranks do together: the right order, and each way to miss it.

use std::ffi::c_void;
use std::process::Command;
use std::ptr::null_mut;

use cudarc::driver::sys::{CUevent, CUresult, CUstream};
use cudarc::nccl::sys::{ncclDataType_t, ncclRedOp_t, ncclResult_t};

use super::nccl_tests::{NUMBERS, Rank, each, violations};
use super::tests::{function, load};
use super::{memory::*, module::*, nccl::*, stream::*};
use crate::state::{SETTINGS, take_violations};

const OK: CUresult = CUresult::CUDA_SUCCESS;
const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
const DONE: ncclResult_t = ncclResult_t::ncclSuccess;
const WRONG: ncclResult_t = ncclResult_t::ncclInvalidUsage;

/// A rank whose memory was written in its stream, `compute`, with a second stream and two events.
struct Streams<'a> {
    rank: &'a Rank,
    compute: CUstream,
    communication: CUstream,
    ready: CUevent,
    done: CUevent,
}

impl<'a> Streams<'a> {
    fn new(rank: &'a Rank) -> Self {
        let (mut communication, mut ready, mut done) = (null_mut(), null_mut(), null_mut());
        // SAFETY: places for results.
        unsafe {
            assert_eq!(cuStreamCreate(&mut communication, 1), OK);
            assert_eq!(cuEventCreate(&mut ready, 0), OK);
            assert_eq!(cuEventCreate(&mut done, 0), OK);
        }
        Self { rank, compute: rank.stream, communication, ready, done }
    }

    fn record(&self, event: CUevent, stream: CUstream) {
        // SAFETY: an event and a stream that are there.
        assert_eq!(unsafe { cuEventRecord(event, stream) }, OK);
    }

    fn wait(&self, stream: CUstream, event: CUevent) {
        // SAFETY: an event and a stream that are there.
        assert_eq!(unsafe { cuStreamWaitEvent(stream, event, 0) }, OK);
    }

    /// What comes next in `behind` waits for all that is in `before`.
    fn order(&self, before: CUstream, event: CUevent, behind: CUstream) {
        self.record(event, before);
        self.wait(behind, event);
    }

    fn synchronize(&self, stream: CUstream) {
        // SAFETY: a stream that is there.
        assert_eq!(unsafe { cuStreamSynchronize(stream) }, OK);
    }

    fn reduce(&self, index: usize, count: usize) -> ncclResult_t {
        self.rank.reduce(index, count, 0, self.communication)
    }

    /// Numbers 4 to 8 are summed for rank 0, 8 to 12 for rank 1, beside what is still queued in `compute`.
    fn sum_beside(&self) {
        self.order(self.compute, self.ready, self.communication);
        // SAFETY: no pointers.
        unsafe {
            assert_eq!(ncclGroupStart(), DONE);
            assert_eq!(self.rank.reduce(4, 4, 0, self.communication), DONE);
            assert_eq!(self.rank.reduce(8, 4, 1, self.communication), DONE);
            assert_eq!(ncclGroupEnd(), DONE);
        }
        self.record(self.done, self.communication);
    }

    /// Zeroes numbers.
    fn clear(&self, index: usize, count: usize, stream: CUstream) -> CUresult {
        // SAFETY: what is checked.
        unsafe { cuMemsetD8Async(self.rank.memory + 4 * index as u64, 0, 4 * count, stream) }
    }

    /// Makes numbers 1.5, by a kernel.
    fn fill(&self, index: usize, count: u64, stream: CUstream) -> CUresult {
        let module = load("elementwise");
        let kernel = function(module, "fill_f32").unwrap();
        let (place, value): (*mut f32, _) = (self.rank.at(index), 1.5f32);
        let mut arguments: [*mut c_void; 3] = [
            (&raw const place).cast_mut().cast(),
            (&raw const count).cast_mut().cast(),
            (&raw const value).cast_mut().cast(),
        ];
        // SAFETY: three arguments of the kernel's types; the launch has them when the module is gone.
        unsafe {
            let arguments = arguments.as_mut_ptr();
            let result = cuLaunchKernel(kernel, 1, 1, 1, 256, 1, 1, 0, stream, arguments, null_mut());
            assert_eq!(cuModuleUnload(module), OK);
            result
        }
    }

    /// Copies number `index` to the host, to number `to` of its pinned memory, not waited for.
    fn read(&self, index: usize, to: usize, stream: CUstream) -> CUresult {
        // SAFETY: what is checked; pinned memory has as many numbers.
        unsafe {
            let to = self.rank.pinned.add(to).cast();
            cuMemcpyDtoHAsync_v2(to, self.rank.at::<c_void>(index) as u64, 4, stream)
        }
    }
}

impl Drop for Streams<'_> {
    fn drop(&mut self) {
        // SAFETY: made in `new`, used no more.
        unsafe {
            cuStreamDestroy_v2(self.communication);
            cuEventDestroy_v2(self.ready);
            cuEventDestroy_v2(self.done);
        }
    }
}

#[test]
fn sums_beside_other_work_are_those_of_all_ranks() {
    each(2, |rank| {
        let streams = Streams::new(rank);
        let Streams { compute, communication, ready, done, .. } = streams;
        streams.sum_beside();
        // Other numbers of the same memory, meanwhile.
        assert_eq!(streams.clear(0, 2, compute), OK);
        assert_eq!(streams.fill(2, 2, compute), OK);
        assert_eq!(streams.clear(6, 0, compute), OK, "nothing in the midst of what is summed");
        streams.wait(compute, done);
        let numbers = rank.download();
        assert_eq!(numbers[..4], [0.0, 0.0, 1.5, 1.5]);
        for (index, number) in numbers.into_iter().enumerate().skip(4) {
            let (is_own, sum) = (index / 4 == rank.rank + 1, (2 * index + 100) as f32);
            assert!(if is_own { number == sum } else { number.is_nan() }, "{index}: {number}");
        }
        let mut milliseconds = -1.0;
        // SAFETY: a place for the result, and events that are there.
        assert_eq!(unsafe { cuEventElapsedTime(&mut milliseconds, ready, done) }, OK);
        assert!(milliseconds >= 0.0);

        // The host's waits order as well, also that for an event; reads need no order.
        assert_eq!(streams.clear(0, NUMBERS, compute), OK);
        streams.synchronize(compute);
        assert_eq!(streams.fill(0, 4, communication), OK);
        streams.record(done, communication);
        // SAFETY: an event that is there.
        assert_eq!(unsafe { cuEventSynchronize(done) }, OK);
        assert_eq!(streams.read(0, 0, compute), OK);
        assert_eq!(streams.read(0, 1, communication), OK);
        assert_eq!(take_violations(), [""; 0]);
    });
}

/// Each event is recorded again while waits for its earlier record are queued.
#[test]
fn streams_wait_for_each_other_in_turn() {
    for host_waits_for_both in [false, true] {
        each(2, |rank| {
            let streams = Streams::new(rank);
            let Streams { compute, communication, ready, done, .. } = streams;
            for round in 0..3 {
                streams.order(compute, ready, communication);
                let (place, sum) = (rank.at(0), ncclRedOp_t::ncclSum);
                // SAFETY: what is checked.
                let status = unsafe {
                    let f32 = ncclDataType_t::ncclFloat32;
                    ncclAllReduce(place, place.cast(), 4, f32, sum, rank.communicator, communication.cast())
                };
                assert_eq!(status, DONE);
                streams.order(communication, done, compute);
                assert_eq!(streams.clear(round, 1, compute), OK);
            }
            if host_waits_for_both {
                streams.synchronize(communication);
            }
            // Of two ranks that have the same the sum is twice as much.
            assert_eq!(rank.download()[..4], [0.0, 0.0, 0.0, 4.0 * 106.0]);
            assert_eq!(take_violations(), [""; 0]);
        });
    }
}

/// What comes before what is passed on by waits.
#[test]
fn a_wait_is_also_for_what_the_other_stream_waited_for() {
    each(1, |rank| {
        let streams = Streams::new(rank);
        let mut third = null_mut();
        // SAFETY: a place for the result.
        assert_eq!(unsafe { cuStreamCreate(&mut third, 1) }, OK);
        assert_eq!(streams.fill(0, 4, streams.compute), OK);
        streams.order(streams.compute, streams.ready, streams.communication);
        streams.order(streams.communication, streams.done, third);
        assert_eq!(streams.clear(0, 2, third), OK);
        streams.synchronize(third);
        assert_eq!(rank.download()[..4], [0.0, 0.0, 1.5, 1.5]);
        assert_eq!(take_violations(), [""; 0]);
        // SAFETY: a stream that is there.
        assert_eq!(unsafe { cuStreamDestroy_v2(third) }, OK);
    });
}

/// What is missing, and what is then said.
#[test]
fn work_on_the_same_bytes_needs_an_order() {
    type Mistake<'a> = (&'a str, [&'a str; 2], &'a (dyn Fn(&Streams) + Sync));
    let mistakes: [Mistake; 12] = [
        ("communication does not wait", ["Reduce writes", "a copy writes"], &|streams| {
            assert_eq!(streams.reduce(0, 4), WRONG);
        }),
        ("it waits for what was never recorded", ["Reduce writes", "a copy writes"], &|streams| {
            streams.wait(streams.communication, streams.ready);
            assert_eq!(streams.reduce(0, 4), WRONG);
        }),
        ("it waits for what was recorded before", ["Reduce writes", "a memset writes"], &|streams| {
            streams.record(streams.ready, streams.compute);
            assert_eq!(streams.clear(3, 1, streams.compute), OK);
            streams.wait(streams.communication, streams.ready);
            assert_eq!(streams.reduce(0, 4), WRONG);
        }),
        ("it waits for an earlier record", ["Reduce writes", "fill_f32 writes"], &|streams| {
            streams.order(streams.compute, streams.ready, streams.communication);
            assert_eq!(streams.fill(0, 4, streams.compute), OK);
            streams.record(streams.ready, streams.compute);
            assert_eq!(streams.reduce(0, 4), WRONG);
        }),
        (
            "it does not wait for what has run but was not waited for",
            ["Reduce writes", "a memset writes"],
            &|streams| {
                streams.order(streams.compute, streams.ready, streams.communication);
                assert_eq!(streams.clear(3, 1, streams.compute), OK);
                // SAFETY: an event that is there.
                assert_eq!(unsafe { cuEventSynchronize(streams.ready) }, OK);
                assert_eq!(streams.reduce(0, 4), WRONG);
            },
        ),
        ("a copy reads no sums", ["a copy reads", "Reduce writes"], &|streams| {
            streams.sum_beside();
            assert_eq!(streams.read(9, 0, streams.compute), INVALID);
        }),
        ("a kernel does not wait for sums", ["fill_f32 writes", "(out)"], &|streams| {
            streams.sum_beside();
            assert_eq!(streams.fill(4, 1, streams.compute), INVALID);
        }),
        ("ranges overlap", ["a memset writes", "Reduce writes"], &|streams| {
            streams.sum_beside();
            assert_eq!(streams.clear(0, 5, streams.compute), INVALID);
        }),
        ("memory is freed too early", ["a free writes", "Reduce writes"], &|streams| {
            streams.sum_beside();
            // SAFETY: what is checked.
            assert_eq!(unsafe { cuMemFreeAsync(streams.rank.memory, streams.compute) }, INVALID);
        }),
        ("memory is used too early", ["a memset writes", "an allocation writes"], &|streams| {
            let mut memory = 0;
            // SAFETY: a place for the result; what is checked.
            unsafe {
                assert_eq!(cuMemAllocAsync(&mut memory, 8, streams.compute), OK);
                assert_eq!(cuMemsetD8Async(memory, 0, 8, streams.communication), INVALID);
                assert_eq!(cuMemFreeAsync(memory, streams.compute), OK);
            }
        }),
        ("what is read is written", ["a memset writes", "a copy reads"], &|streams| {
            streams.synchronize(streams.compute);
            assert_eq!(streams.read(0, 0, streams.communication), OK);
            assert_eq!(streams.clear(0, 1, streams.compute), INVALID);
        }),
        ("a wait has flags", ["with flags", ""], &|streams| {
            // SAFETY: what is checked.
            let result = unsafe { cuStreamWaitEvent(streams.compute, streams.ready, 1) };
            assert_eq!(result, INVALID);
        }),
    ];
    for (missing, parts, mistake) in mistakes {
        for found in violations(|rank| mistake(&Streams::new(rank))) {
            let is_said = found.len() == 1 && parts.iter().all(|part| found[0].contains(part));
            assert!(is_said, "{missing}: {found:?}");
        }
    }
}

/// The same where work is done at once, which is another process's setting.
#[test]
fn it_does_not_matter_when_work_is_done() {
    if SETTINGS.eager {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let (_, module) = module_path!().split_once("::").unwrap();
    let output = command.arg(module).env("CPIFT_STAND_IN_EAGER", "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !text.contains(" 0 passed"), "{text}");
}
