//! Work over the device's threads: static splits, work lists, memory that several threads write.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

/// Part `index` of `parts` nearly equal ranges of `0..length`, cut at multiples of `multiple`.
pub fn part(length: usize, parts: usize, index: usize, multiple: usize) -> Range<usize> {
    let blocks = length.div_ceil(multiple);
    let cut = |index: usize| (blocks * index / parts * multiple).min(length);
    cut(index)..cut(index + 1)
}

/// Runs `work` for each of `0..count` on the pool's threads, each index once, lower ones first.
/// Which thread takes which is left to timing, so `work(i)` must write what no other index writes.
pub fn for_each(count: usize, work: impl Fn(usize) + Sync) {
    let threads = rayon::current_num_threads().min(count);
    if threads <= 1 {
        (0..count).for_each(work);
        return;
    }
    let next = AtomicUsize::new(0);
    (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                break;
            }
            work(index);
        }
    });
}

/// Spins before a waiting thread offers its core to others: about 0.2 ms.
const SPINS: u32 = 5000;

/// Waits for something that another thread is about to do.
#[inline]
pub fn wait_until(done: impl Fn() -> bool) {
    let mut spins = 0;
    while !done() {
        spins += 1;
        if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
}

/// A counter on cache lines of its own, so that threads that count elsewhere do not slow it down.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counter(AtomicUsize);

/// Runs `work(phase, index)` for each index below `counts[phase]`, phase after phase: no index starts
/// before all of the phase before are done. A phase needs no waking of threads, unlike a call of
/// [`for_each`]: each moves on by itself.
///
/// In every phase a thread starts on a part that is its own, the calling thread on the first one as in
/// rayon's splits, and helps with the others' when that is done. So what one phase or operation leaves
/// in a core's cache is found there by the next.
pub fn for_each_phase(counts: &[usize], work: impl Fn(usize, usize) + Sync) {
    let threads = rayon::current_num_threads();
    let Some(caller) = rayon::current_thread_index().filter(|_| threads > 1) else {
        counts.iter().enumerate().for_each(|(phase, &count)| (0..count).for_each(|index| work(phase, index)));
        return;
    };
    let counters = |count| -> Vec<Counter> { std::iter::repeat_with(Counter::default).take(count).collect() };
    let (taken, finished) = (counters(counts.len() * threads), counters(counts.len()));
    (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
        let thread = rayon::current_thread_index().expect("a thread of the pool");
        let own = (thread + threads - caller) % threads;
        for (phase, &count) in counts.iter().enumerate() {
            let mut done = 0;
            for index in 0..threads {
                let owner = (own + index) % threads;
                let part = part(count, threads, owner, 1);
                let taken = &taken[phase * threads + owner].0;
                while let Some(index) = part.clone().nth(taken.fetch_add(1, Ordering::Relaxed)) {
                    work(phase, index);
                    done += 1;
                }
            }
            finished[phase].0.fetch_add(done, Ordering::Release);
            // Whoever holds what is left is at work on it: nothing waits for a thread that sleeps.
            wait_until(|| finished[phase].0.load(Ordering::Acquire) == count);
        }
    });
}

/// Floats of a cache line, aligned to it.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `work` at least `length` floats of this thread, aligned to a cache line, whose content is left
/// over from earlier uses. The memory is kept, so that only the largest request allocates; nested uses
/// each have their own.
pub fn with_scratch<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut scratch = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    let blocks = length.div_ceil(16);
    if scratch.len() < blocks {
        scratch.resize(blocks, Zeroable::zeroed());
    }
    let result = work(bytemuck::cast_slice_mut(&mut scratch));
    SCRATCH.with_borrow_mut(|kept| kept.push(scratch));
    result
}

/// Cuts `length` floats off the front of memory that [`with_scratch`] lends.
pub fn take<'a>(memory: &mut &'a mut [f32], length: usize) -> &'a mut [f32] {
    memory.split_off_mut(..length).expect("scratch of the length asked for")
}

/// A mutable slice of which several threads each write their own parts.
#[derive(Debug, Clone, Copy)]
pub struct SharedMut<'a, T> {
    pointer: *mut T,
    length: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for `&mut [T]`; that parts do not overlap is the caller's duty in `range`.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Takes the slice over for its whole lifetime.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { pointer: slice.as_mut_ptr(), length: slice.len(), lifetime: PhantomData }
    }

    /// A part of the slice. Panics when the range lies outside.
    ///
    /// # Safety
    /// While the returned slice lives, nothing else may access an element of the range.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's duty")]
    #[inline(always)]
    pub unsafe fn range(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: inside the slice, checked above; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.len()) }
    }

    /// The `C` elements from `start` on, without a check.
    ///
    /// # Safety
    /// They lie inside the slice, and while the returned array lives, nothing else may access them.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's duty")]
    #[inline(always)]
    pub unsafe fn array<const C: usize>(&self, start: usize) -> &mut [T; C] {
        // SAFETY: inside the slice and exclusive by the caller's promise.
        unsafe { &mut *self.pointer.add(start).cast::<[T; C]>() }
    }

    /// Number of elements of the slice.
    pub fn length(&self) -> usize {
        self.length
    }

    /// A part of the slice, to read. Panics when the range lies outside.
    ///
    /// # Safety
    /// While the returned slice lives, nothing may write an element of the range.
    #[inline(always)]
    pub unsafe fn read(&self, range: Range<usize>) -> &[T] {
        assert!(range.start <= range.end && range.end <= self.length);
        // SAFETY: inside the slice, checked above; not written meanwhile by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.pointer.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for (length, parts, multiple) in [(0, 3, 8), (1, 2, 8), (17, 2, 8), (1000, 7, 16), (24, 3, 1)] {
            let mut next = 0;
            for index in 0..parts {
                let range = part(length, parts, index, multiple);
                assert_eq!(range.start, next);
                assert!(range.end == length || range.end.is_multiple_of(multiple));
                next = range.end;
            }
            assert_eq!(next, length);
        }
    }

    #[test]
    fn phases_come_one_after_another_and_every_index_runs_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("three threads");
        for counts in [vec![5, 0, 1, 40, 2], vec![], vec![0], vec![7; 50]] {
            let ran: Vec<Vec<AtomicUsize>> =
                counts.iter().map(|&count| (0..count).map(|_| AtomicUsize::new(0)).collect()).collect();
            let run = |phase: usize, index: usize| {
                for earlier in &ran[..phase] {
                    assert!(earlier.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
                ran[phase][index].fetch_add(1, Ordering::Relaxed);
            };
            pool.install(|| for_each_phase(&counts, run));
            assert!(ran.iter().flatten().all(|count| count.load(Ordering::Relaxed) == 1));
            ran.iter().flatten().for_each(|count| count.store(0, Ordering::Relaxed));
            for_each_phase(&counts, run);
            assert!(ran.iter().flatten().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn nested_scratch_is_apart() {
        with_scratch(20, |outer| {
            outer.fill(1.0);
            with_scratch(40, |inner| inner.fill(2.0));
            assert!(outer.iter().all(|&value| value == 1.0) && outer.as_ptr().addr().is_multiple_of(64));
        });
    }

    #[test]
    fn every_index_runs_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("three threads");
        let counts: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        pool.install(|| for_each(100, |index| _ = counts[index].fetch_add(1, Ordering::Relaxed)));
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
}
