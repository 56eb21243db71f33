//! A ring of places in shared memory, which the copy engine fills and groups of warps empty.
//!
//! Of every place two barriers tell: `full`, at which the bytes that come arrive, and `empty`, at which warps arrive
//! when they have read them. One thread waits for `empty` and starts the copies, the groups wait for `full`, so the
//! one is ahead of the others by as many places as there are.

use crate::simt::*;

/// Where a block has its ring, in its dynamic shared memory.
#[derive(Clone, Copy)]
pub struct Ring {
    /// First byte, a multiple of 1024, where the [permutation](crate::simt#tiles-in-shared-memory) begins.
    pub byte: u32,
    /// Bytes of a place, a multiple of 1024.
    pub place: u32,
    /// Number of places.
    pub places: u32,
    /// First byte of the barriers, a multiple of 8.
    pub barriers: u32,
}

impl Ring {
    /// Bytes of the barriers.
    pub const fn barrier_bytes(self) -> u32 {
        16 * self.places
    }

    /// Makes the barriers, of which `empty` awaits so many warps: for one thread, before its [`fence_arrivals`].
    #[inline(always)]
    pub fn init(self, warps: u32) {
        for index in 0..self.places {
            let place = Place { ring: self, index, parity: 0 };
            place.full().init(1);
            place.empty().init(warps);
        }
    }

    /// The place that comes first.
    #[inline(always)]
    pub fn first(self) -> Place {
        Place { ring: self, index: 0, parity: 0 }
    }
}

/// A place in the ring, as one thread comes to it.
#[derive(Clone, Copy)]
pub struct Place {
    ring: Ring,
    index: u32,
    /// Of the phase of its barriers: how often the ring was passed, modulo 2.
    parity: u32,
}

impl Place {
    /// The one that comes next.
    #[inline(always)]
    pub fn next(self) -> Self {
        if self.index + 1 == self.ring.places {
            Self { index: 0, parity: self.parity ^ 1, ..self }
        } else {
            Self { index: self.index + 1, ..self }
        }
    }

    /// `bytes` of it from its byte `from` on.
    #[inline(always)]
    pub fn part<T: Element>(self, from: u32, bytes: u32) -> Shared<T> {
        let first = self.ring.byte + self.index * self.ring.place + from;
        Shared::new(first, bytes / size_of::<T>() as u32)
    }

    #[inline(always)]
    fn full(self) -> Arrivals {
        Arrivals::new(self.ring.barriers + 16 * self.index)
    }

    #[inline(always)]
    fn empty(self) -> Arrivals {
        Arrivals::new(self.ring.barriers + 16 * self.index + 8)
    }

    /// Waits until the place is free, and gives the barrier at which `bytes` bytes of copies are to arrive, all that
    /// are started next. For the thread that fetches.
    #[inline(always)]
    pub fn await_free(self, bytes: u32) -> Arrivals {
        // The first time round this is the phase before the first, which is over.
        self.empty().wait(self.parity ^ 1);
        self.full().arrive_expecting(bytes);
        self.full()
    }

    /// Waits until the bytes have arrived. For all threads that read them.
    #[inline(always)]
    pub fn await_full(self) {
        self.full().wait(self.parity);
    }

    /// This warp has read them. For all its lanes.
    #[inline(always)]
    pub fn release(self) {
        if lane_id() == 0 {
            self.empty().arrive();
        }
    }
}
