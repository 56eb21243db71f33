//! Work over the device's threads: static splits, work lists, memory that several threads write.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytemuck::Zeroable;
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

thread_local! {
    static SCRATCH: RefCell<Vec<[f32; 16]>> = const { RefCell::new(Vec::new()) };
}

/// Lends `work` at least `length` floats of this thread, whose content is left over from earlier uses.
/// The memory is kept, so that only the largest request allocates.
pub fn with_scratch<R>(length: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken out rather than borrowed: a nested use then allocates instead of failing.
    let mut scratch = SCRATCH.with(RefCell::take);
    let blocks = length.div_ceil(16);
    if scratch.len() < blocks {
        scratch.resize(blocks, Zeroable::zeroed());
    }
    let result = work(scratch.as_flattened_mut());
    SCRATCH.with(|kept| kept.replace(scratch));
    result
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

    /// Start of the slice, for code that writes strided parts of it.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.pointer
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
    fn every_index_runs_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("three threads");
        let counts: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        pool.install(|| for_each(100, |index| _ = counts[index].fetch_add(1, Ordering::Relaxed)));
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }
}
