//! Buffers as launchers take them.

use std::marker::PhantomData;

use super::Argument;
use crate::tensor_map::TensorMapLayout;
use crate::values::Element;

/// Device memory to read, as a launcher sees it.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a, T: Element> {
    address: u64,
    length: usize,
    lifetime: PhantomData<&'a [T]>,
}

impl<T: Element> Default for Slice<'_, T> {
    /// No elements.
    fn default() -> Self {
        Self { address: 0, length: 0, lifetime: PhantomData }
    }
}

impl<T: Element> Slice<'_, T> {
    /// `length` elements at `address`.
    ///
    /// # Safety
    /// For the lifetime, the memory is valid on the device of every launcher this is passed to, holds
    /// initialised elements, and nothing writes it.
    pub unsafe fn new(address: u64, length: usize) -> Self {
        Self { address, length, lifetime: PhantomData }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether it starts at a multiple of 16 bytes.
    pub fn is_aligned(&self) -> bool {
        self.address.is_multiple_of(16)
    }

    /// As an argument.
    pub fn argument(&self) -> Argument {
        Argument::Buffer { address: self.address, length: self.length }
    }

    /// As an argument: a matrix of so many rows and columns, of which tiles of so many rows are copied.
    pub fn tensor_map(&self, rows: u64, columns: u64, box_rows: u32) -> Argument {
        let element_bytes = size_of::<T>() as u32;
        let (address, length) = (self.address, self.length);
        Argument::TensorMap(TensorMapLayout { address, length, element_bytes, rows, columns, box_rows })
    }
}

/// Device memory to write, as a launcher sees it.
#[derive(Debug)]
pub struct SliceMut<'a, T: Element> {
    address: u64,
    length: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

impl<T: Element> SliceMut<'_, T> {
    /// `length` elements at `address`.
    ///
    /// # Safety
    /// For the lifetime, the memory is valid on the device of every launcher this is passed to, holds
    /// initialised elements, and nothing else reads or writes it.
    pub unsafe fn new(address: u64, length: usize) -> Self {
        Self { address, length, lifetime: PhantomData }
    }

    /// The same for a shorter time.
    pub fn reborrow(&mut self) -> SliceMut<'_, T> {
        SliceMut { address: self.address, length: self.length, lifetime: PhantomData }
    }

    /// The same elements, to read, where kernels launched before have written them.
    pub fn as_read(&self) -> Slice<'_, T> {
        Slice { address: self.address, length: self.length, lifetime: PhantomData }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// As an argument.
    pub fn argument(&self) -> Argument {
        Argument::Buffer { address: self.address, length: self.length }
    }
}
