//! Handles to global and shared memory; every access is checked.

use std::marker::PhantomData;
use std::panic::Location;

use crate::emulator::Cause;
use crate::emulator::instructions::{self, Kind, Point};
use crate::emulator::thread::{count, fault, with};
use crate::emulator::traffic::Access;
use crate::launch::Argument;
use crate::simt::{Element, Vector};

/// A buffer in global memory, to read.
#[derive(Debug)]
pub struct Global<T: Element> {
    pointer: *mut T,
    length: usize,
    /// Elements of the buffer before `pointer`, for messages.
    offset: usize,
    /// Which of the kernel's parameters it is.
    parameter: usize,
}

/// A buffer in global memory, to read and write.
#[derive(Debug)]
pub struct GlobalMut<T: Element>(Global<T>);

impl<T: Element> Clone for Global<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Element> Copy for Global<T> {}
impl<T: Element> Clone for GlobalMut<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Element> Copy for GlobalMut<T> {}

impl<T: Element> Global<T> {
    /// The buffer passed at `index`, which steps on.
    #[doc(hidden)]
    pub fn bind(arguments: &[Argument], index: &mut usize) -> Self {
        *index += 1;
        match arguments[*index - 1] {
            Argument::Buffer { address, length } => {
                Self { pointer: address as *mut T, length, offset: 0, parameter: *index - 1 }
            }
            other => panic!("argument {index} is {other:?}, not a buffer"),
        }
    }

    /// Element `index`.
    #[track_caller]
    pub fn load(self, index: usize) -> T {
        self.check("load from", index, 1);
        self.note(Access::Load, index, 1);
        // SAFETY: inside the buffer, checked above; the buffer is valid while the launch runs.
        unsafe { self.pointer.add(index).read() }
    }

    /// The vector from element `index` on, whose address must be a multiple of its size.
    #[track_caller]
    pub fn load_vector<V: Vector<Element = T>>(self, index: usize) -> V {
        self.check_vector::<V>("load from", index);
        self.note(Access::Load, index, V::LENGTH);
        // SAFETY: inside the buffer and aligned, checked above.
        unsafe { self.pointer.add(index).cast::<V>().read() }
    }

    /// Whether it starts at a multiple of 16 bytes: then vectors can be accessed at multiples of their
    /// length. The same in all threads.
    pub fn is_aligned(self) -> bool {
        (self.pointer as usize).is_multiple_of(16)
    }

    /// The 16 bytes from element `index` on, which must be aligned to 16 bytes, whatever they are.
    #[track_caller]
    pub(super) fn load_bytes(self, index: usize) -> [u8; 16] {
        self.check("load from", index, 16 / size_of::<T>());
        self.check_alignment("load from", index, 16);
        self.note(Access::Load, index, 16 / size_of::<T>());
        // SAFETY: inside the buffer, checked above.
        unsafe { self.pointer.add(index).cast::<[u8; 16]>().read() }
    }

    /// The buffer from element `count` on.
    #[track_caller]
    pub fn offset(self, count: usize) -> Self {
        if count > self.length {
            self.out_of_bounds("offset of", count);
        }
        // SAFETY: inside the buffer or at its end, checked above.
        let pointer = unsafe { self.pointer.add(count) };
        Self { pointer, length: self.length - count, offset: self.offset + count, ..self }
    }

    /// Counts an access of `elements` elements from `index` on.
    fn note(self, access: Access, index: usize, elements: usize) {
        count(|counter| {
            let (first, size) = (self.offset + index, size_of::<T>());
            counter.access(access, self.parameter, first * size..(first + elements) * size);
        });
    }

    #[track_caller]
    fn check(self, access: &'static str, index: usize, count: usize) {
        if index.checked_add(count).is_none_or(|end| end > self.length) {
            self.out_of_bounds(access, index);
        }
    }

    #[track_caller]
    fn check_vector<V: Vector<Element = T>>(self, access: &'static str, index: usize) {
        self.check(access, index, V::LENGTH);
        self.check_alignment(access, index, align_of::<V>());
    }

    /// Faults unless element `index` is at a multiple of `align` bytes.
    #[track_caller]
    fn check_alignment(self, access: &'static str, index: usize, align: usize) {
        let address = self.pointer.wrapping_add(index) as usize;
        if !address.is_multiple_of(align) {
            let (parameter, location) = (self.name(), Location::caller().to_string());
            fault(Cause::Misaligned { access, parameter, index: self.offset + index, address, location });
        }
    }

    #[track_caller]
    fn out_of_bounds(self, access: &'static str, index: usize) -> ! {
        fault(Cause::OutOfBounds {
            access,
            parameter: self.name(),
            index: self.offset + index,
            length: self.offset + self.length,
            location: Location::caller().to_string(),
        })
    }

    fn name(self) -> &'static str {
        with(|context| context.kernel.parameters[self.parameter].name)
    }
}

impl<T: Element> GlobalMut<T> {
    /// The buffer passed at `index`, which steps on.
    #[doc(hidden)]
    pub fn bind(arguments: &[Argument], index: &mut usize) -> Self {
        Self(Global::bind(arguments, index))
    }

    /// Element `index`.
    #[track_caller]
    pub fn load(self, index: usize) -> T {
        self.0.load(index)
    }

    /// The vector from element `index` on, whose address must be a multiple of its size.
    #[track_caller]
    pub fn load_vector<V: Vector<Element = T>>(self, index: usize) -> V {
        self.0.load_vector(index)
    }

    /// Writes element `index`.
    #[track_caller]
    pub fn store(self, index: usize, value: T) {
        self.0.check("store to", index, 1);
        self.0.note(Access::Store, index, 1);
        // SAFETY: inside the buffer, checked above; nothing else refers to it while the launch runs.
        unsafe { self.0.pointer.add(index).write(value) }
    }

    /// Writes the vector from element `index` on, whose address must be a multiple of its size.
    #[track_caller]
    pub fn store_vector<V: Vector<Element = T>>(self, index: usize, value: V) {
        self.0.check_vector::<V>("store to", index);
        self.0.note(Access::Store, index, V::LENGTH);
        // SAFETY: inside the buffer and aligned, checked above.
        unsafe { self.0.pointer.add(index).cast::<V>().write(value) }
    }

    /// Whether it starts at a multiple of 16 bytes: then vectors can be accessed at multiples of their
    /// length. The same in all threads.
    pub fn is_aligned(self) -> bool {
        self.0.is_aligned()
    }

    /// The buffer from element `count` on.
    #[track_caller]
    pub fn offset(self, count: usize) -> Self {
        Self(self.0.offset(count))
    }

    /// The same, to read.
    pub fn as_read(self) -> Global<T> {
        self.0
    }
}

/// Integers that can be added to atomically.
pub trait AtomicElement: Element {
    /// Sum modulo 2^bits.
    #[doc(hidden)]
    fn wrapping_sum(self, other: Self) -> Self;
}

impl AtomicElement for u32 {
    fn wrapping_sum(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
}

impl AtomicElement for u64 {
    fn wrapping_sum(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
}

impl<T: AtomicElement> GlobalMut<T> {
    /// Adds to element `index`, in no order with other threads; gives what it was before.
    #[track_caller]
    pub fn atomic_add(self, index: usize, value: T) -> T {
        let before = self.load(index);
        self.store(index, before.wrapping_sum(value));
        before
    }
}

/// An array in the block's shared memory.
#[derive(Debug)]
pub struct Shared<T: Element> {
    /// Where it starts.
    byte: u32,
    /// In elements.
    length: u32,
    elements: PhantomData<T>,
}

impl<T: Element> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Element> Copy for Shared<T> {}

impl<T: Element> Shared<T> {
    /// `length` elements from byte `byte` of the block's dynamic shared memory on.
    pub fn new(byte: u32, length: u32) -> Self {
        Self { byte, length, elements: PhantomData }
    }

    /// Element `index`.
    #[track_caller]
    pub fn load(self, index: u32) -> T {
        let pointer = self.access(Kind::Load, index, size_of::<T>(), align_of::<T>());
        // SAFETY: `access` has checked bounds and alignment.
        unsafe { pointer.cast::<T>().read() }
    }

    /// Writes element `index`.
    #[track_caller]
    pub fn store(self, index: u32, value: T) {
        let pointer = self.access(Kind::Store, index, size_of::<T>(), align_of::<T>());
        // SAFETY: as for `load`.
        unsafe { pointer.cast::<T>().write(value) }
    }

    /// The 16 bytes from element `index` on, which must be aligned to 16 bytes.
    #[track_caller]
    pub fn load_vector<V: Vector<Element = T>>(self, index: u32) -> V {
        const { assert!(size_of::<V>() == 16) };
        let pointer = self.access(Kind::Load, index, size_of::<V>(), align_of::<V>());
        // SAFETY: as for `load`.
        unsafe { pointer.cast::<V>().read() }
    }

    /// Writes the 16 bytes from element `index` on, which must be aligned to 16 bytes.
    #[track_caller]
    pub fn store_vector<V: Vector<Element = T>>(self, index: u32, value: V) {
        const { assert!(size_of::<V>() == 16) };
        let pointer = self.access(Kind::Store, index, size_of::<V>(), align_of::<V>());
        // SAFETY: as for `load`.
        unsafe { pointer.cast::<V>().write(value) }
    }

    /// `length` elements from `first` on.
    #[track_caller]
    pub fn part(self, first: u32, length: u32) -> Self {
        assert!(
            first.checked_add(length).is_some_and(|end| end <= self.length),
            "elements {first} to {first} + {length} of an array of {} in shared memory",
            self.length
        );
        Self { byte: self.byte + first * size_of::<T>() as u32, length, ..self }
    }

    /// Where it starts.
    pub(super) fn byte(self) -> u32 {
        self.byte
    }

    /// Bytes that it has.
    pub(super) fn bytes(self) -> u64 {
        u64::from(self.length) * size_of::<T>() as u64
    }

    /// Checks and notes an access of `bytes` bytes at element `index`.
    #[track_caller]
    pub(super) fn access(self, kind: Kind, index: u32, bytes: usize, align: usize) -> *mut u8 {
        let size = size_of::<T>() as u64;
        let start = u64::from(self.byte);
        let array = start..start + u64::from(self.length) * size;
        let byte = start + u64::from(index) * size;
        instructions::access_shared(Point::caller(), kind, array, byte, bytes, align)
    }
}

impl Shared<u32> {
    /// Adds to element `index`, in no order with other threads; gives what it was before.
    #[track_caller]
    pub fn atomic_add(self, index: u32, value: u32) -> u32 {
        let pointer = self.access(Kind::Atomic, index, size_of::<u32>(), align_of::<u32>()).cast::<u32>();
        // SAFETY: `access` has checked bounds and alignment.
        unsafe {
            let before = pointer.read();
            pointer.write(before.wrapping_add(value));
            before
        }
    }
}
