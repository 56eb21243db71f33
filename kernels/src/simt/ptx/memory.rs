//! Handles to global memory: thin pointers, unchecked. The launcher checks sizes, the emulator every access.

use core::mem::transmute_copy;
use core::simd::{u32x2, u32x4};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::simt::{Element, Vector};

/// A buffer in global memory, to read.
pub struct Global<T: Element>(*const T);

/// A buffer in global memory, to read and write.
pub struct GlobalMut<T: Element>(*mut T);

impl<T: Element> Clone for Global<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Element> Copy for Global<T> {}
impl<T: Element> Clone for GlobalMut<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Element> Copy for GlobalMut<T> {}

impl<T: Element> Global<T> {
    /// The buffer at `pointer`.
    ///
    /// # Safety
    /// `pointer` is an entry's parameter, valid and initialised for every access of its kernel.
    #[doc(hidden)]
    #[inline(always)]
    pub unsafe fn from_raw(pointer: *const T) -> Self {
        Self(pointer)
    }

    /// Address of element `index`, which may be outside: then nothing is there to read.
    #[inline(always)]
    pub(super) fn address(self, index: usize) -> *const T {
        self.0.wrapping_add(index)
    }

    /// Element `index`.
    #[inline(always)]
    pub fn load(self, index: usize) -> T {
        // SAFETY: the kernel's contract, by which the handle was made.
        unsafe { self.0.add(index).read() }
    }

    /// The vector from element `index` on, whose address must be a multiple of its size.
    #[inline(always)]
    pub fn load_vector<V: Vector<Element = T>>(self, index: usize) -> V {
        // SAFETY: as for `load`; aligned by the kernel's contract.
        unsafe { read_vector(self.0.add(index).cast()) }
    }

    /// Whether it starts at a multiple of 16 bytes: then vectors can be accessed at multiples of their
    /// length. The same in all threads.
    #[inline(always)]
    pub fn is_aligned(self) -> bool {
        (self.0 as usize).is_multiple_of(16)
    }

    /// The buffer from element `count` on.
    #[inline(always)]
    pub fn offset(self, count: usize) -> Self {
        // SAFETY: inside the buffer or at its end, by the kernel's contract.
        Self(unsafe { self.0.add(count) })
    }
}

impl<T: Element> GlobalMut<T> {
    /// The buffer at `pointer`.
    ///
    /// # Safety
    /// As for [`Global::from_raw`], and nothing outside the grid refers to it while the kernel runs.
    #[doc(hidden)]
    #[inline(always)]
    pub unsafe fn from_raw(pointer: *mut T) -> Self {
        Self(pointer)
    }

    /// Element `index`.
    #[inline(always)]
    pub fn load(self, index: usize) -> T {
        self.as_read().load(index)
    }

    /// The vector from element `index` on, whose address must be a multiple of its size.
    #[inline(always)]
    pub fn load_vector<V: Vector<Element = T>>(self, index: usize) -> V {
        self.as_read().load_vector(index)
    }

    /// Writes element `index`.
    #[inline(always)]
    pub fn store(self, index: usize, value: T) {
        // SAFETY: the kernel's contract, by which the handle was made.
        unsafe { self.0.add(index).write(value) }
    }

    /// Writes the vector from element `index` on, whose address must be a multiple of its size.
    #[inline(always)]
    pub fn store_vector<V: Vector<Element = T>>(self, index: usize, value: V) {
        // SAFETY: as for `store`; aligned by the kernel's contract.
        unsafe { write_vector(self.0.add(index).cast(), value) }
    }

    /// Whether it starts at a multiple of 16 bytes: then vectors can be accessed at multiples of their
    /// length. The same in all threads.
    #[inline(always)]
    pub fn is_aligned(self) -> bool {
        (self.0 as usize).is_multiple_of(16)
    }

    /// The buffer from element `count` on.
    #[inline(always)]
    pub fn offset(self, count: usize) -> Self {
        // SAFETY: inside the buffer or at its end, by the kernel's contract.
        Self(unsafe { self.0.add(count) })
    }

    /// The same, to read.
    #[inline(always)]
    pub fn as_read(self) -> Global<T> {
        Global(self.0)
    }
}

/// Reads a vector as one machine vector: plain copies LLVM would split into accesses of 8 bytes.
///
/// # Safety
/// `pointer` is valid and aligned to the vector's size.
#[inline(always)]
unsafe fn read_vector<V: Vector>(pointer: *const V) -> V {
    // SAFETY: the caller's; elements take every bit pattern, and the size of V selects the arm.
    unsafe {
        match size_of::<V>() {
            8 => transmute_copy(&pointer.cast::<u32x2>().read()),
            _ => transmute_copy(&pointer.cast::<u32x4>().read()),
        }
    }
}

/// Writes a vector as one machine vector.
///
/// # Safety
/// As for [`read_vector`].
#[inline(always)]
unsafe fn write_vector<V: Vector>(pointer: *mut V, value: V) {
    // SAFETY: the caller's; vectors have no padding, and the size of V selects the arm.
    unsafe {
        match size_of::<V>() {
            8 => pointer.cast::<u32x2>().write(transmute_copy(&value)),
            _ => pointer.cast::<u32x4>().write(transmute_copy(&value)),
        }
    }
}

/// Integers that can be added to atomically.
pub trait AtomicElement: Element {
    /// Adds to what `pointer` points to.
    ///
    /// # Safety
    /// `pointer` is valid and aligned, and other threads of the grid reach it by atomics alone.
    #[doc(hidden)]
    unsafe fn add_at(pointer: *mut Self, value: Self) -> Self;
}

impl AtomicElement for u32 {
    #[inline(always)]
    unsafe fn add_at(pointer: *mut Self, value: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { AtomicU32::from_ptr(pointer) }.fetch_add(value, Ordering::Relaxed)
    }
}

impl AtomicElement for u64 {
    #[inline(always)]
    unsafe fn add_at(pointer: *mut Self, value: Self) -> Self {
        // SAFETY: the caller's.
        unsafe { AtomicU64::from_ptr(pointer) }.fetch_add(value, Ordering::Relaxed)
    }
}

impl<T: AtomicElement> GlobalMut<T> {
    /// Adds to element `index`, in no order with other threads; gives what it was before.
    #[inline(always)]
    pub fn atomic_add(self, index: usize, value: T) -> T {
        // SAFETY: the kernel's contract, by which the handle was made.
        unsafe { T::add_at(self.0.add(index), value) }
    }
}
