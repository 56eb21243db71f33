//! Memory on a [`GpuDevice`], and copies of host data that follow it there.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;

use bytemuck::Pod;
use cpift_kernels::elementwise::fill_f32;
use cpift_kernels::launch::{Slice, SliceMut};

use super::{GpuDevice, OnGpu};
use crate::buffer::Placement;
use crate::error::Result;

/// An allocation of elements.
#[derive(Debug)]
pub struct GpuMemory<T: Pod> {
    device: GpuDevice,
    /// 0 where there are no elements.
    address: u64,
    length: usize,
    placement: Placement,
    elements: PhantomData<T>,
}

impl<T: Pod> GpuMemory<T> {
    /// `length` zeros in the device's own memory.
    pub fn zeros(device: &GpuDevice, length: usize) -> Result<Self> {
        Self::zeros_in(device, length, Placement::Device)
    }

    /// `length` zeros.
    pub fn zeros_in(device: &GpuDevice, length: usize, placement: Placement) -> Result<Self> {
        let mut memory = Self::allocate(device, length, placement)?;
        memory.all_mut().set_bytes(0)?;
        Ok(memory)
    }

    /// A copy of `values`.
    pub fn from_slice(device: &GpuDevice, values: &[T]) -> Result<Self> {
        let mut memory = Self::scratch(device, values.len())?;
        memory.all_mut().write(values)?;
        Ok(memory)
    }

    /// `length` elements of any value, for what a kernel writes before another reads it.
    pub fn scratch(device: &GpuDevice, length: usize) -> Result<Self> {
        Self::allocate(device, length, Placement::Device)
    }

    fn allocate(device: &GpuDevice, length: usize, placement: Placement) -> Result<Self> {
        let bytes = length * size_of::<T>();
        let address = if bytes == 0 { 0 } else { device.backend().allocate(bytes, placement)? };
        Ok(Self { device: device.clone(), address, length, placement, elements: PhantomData })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// All of it.
    pub fn all(&self) -> GpuSlice<'_, T> {
        GpuSlice { device: &self.device, address: self.address, length: self.length, elements: PhantomData }
    }

    /// All of it, to write.
    pub fn all_mut(&mut self) -> GpuSliceMut<'_, T> {
        GpuSliceMut { slice: self.all(), exclusive: PhantomData }
    }
}

impl<T: Pod> Drop for GpuMemory<T> {
    fn drop(&mut self) {
        let bytes = self.length * size_of::<T>();
        if bytes > 0 {
            // SAFETY: allocated with these bytes in this place; slices borrow the memory and are gone.
            unsafe { self.device.backend().free(self.address, bytes, self.placement) }
        }
    }
}

/// A run of elements, to read.
#[derive(Debug, Clone, Copy)]
pub struct GpuSlice<'a, T: Pod> {
    device: &'a GpuDevice,
    address: u64,
    length: usize,
    elements: PhantomData<&'a [T]>,
}

impl<'a, T: Pod> GpuSlice<'a, T> {
    /// The device it is on.
    pub fn device(&self) -> &'a GpuDevice {
        self.device
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Where it starts, as the device has it; 0 where there are no elements.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// A part. Panics when the range lies outside.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.length,
            "range {range:?} of {} elements",
            self.length
        );
        let address = self.address + (range.start * size_of::<T>()) as u64;
        Self { address, length: range.len(), ..*self }
    }

    /// The same memory as elements of another type. Panics when it is not a whole number of them.
    pub fn cast<U: Pod>(&self) -> GpuSlice<'a, U> {
        let bytes = self.length * size_of::<T>();
        assert!(bytes.is_multiple_of(size_of::<U>()), "{bytes} bytes are no whole number of elements");
        let length = bytes / size_of::<U>();
        GpuSlice { device: self.device, address: self.address, length, elements: PhantomData }
    }

    /// Copies to the host, after everything queued.
    pub fn read(&self, destination: &mut [T]) -> Result<()> {
        debug_assert_eq!(destination.len(), self.length);
        if destination.is_empty() {
            return Ok(());
        }
        // SAFETY: inside an allocation, whose bytes are elements whatever they are.
        unsafe { self.device.backend().read(&mut [(self.address, bytemuck::cast_slice_mut(destination))]) }
    }

    /// [`GpuSlice::read`] of this and another slice of the same device, with one wait.
    pub fn read_with<U: Pod>(
        &self,
        destination: &mut [T],
        other: GpuSlice<'_, U>,
        others: &mut [U],
    ) -> Result<()> {
        debug_assert!(destination.len() == self.length && others.len() == other.length);
        debug_assert!(self.device.is(other.device));
        let own = (self.address, bytemuck::cast_slice_mut(destination));
        let other = (other.address, bytemuck::cast_slice_mut(others));
        // SAFETY: inside allocations, whose bytes are elements whatever they are.
        unsafe { self.device.backend().read(&mut [own, other]) }
    }

    /// As a kernel's argument.
    pub fn argument(&self) -> Slice<'a, T::Kernel>
    where
        T: OnGpu,
    {
        // SAFETY: inside an allocation of this device, borrowed for the lifetime; on a device any bytes are elements.
        unsafe { Slice::new(self.address, self.length) }
    }
}

/// A run of elements, to write.
#[derive(Debug)]
pub struct GpuSliceMut<'a, T: Pod> {
    slice: GpuSlice<'a, T>,
    exclusive: PhantomData<&'a mut [T]>,
}

impl<'a, T: Pod> GpuSliceMut<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.slice.length
    }

    /// The device they are on.
    pub fn device(&self) -> &'a GpuDevice {
        self.slice.device
    }

    /// The same elements, to read.
    pub fn as_slice(&self) -> GpuSlice<'_, T> {
        self.slice
    }

    /// The same for a shorter time.
    pub fn reborrow(&mut self) -> GpuSliceMut<'_, T> {
        GpuSliceMut { slice: self.slice, exclusive: PhantomData }
    }

    /// A part. Panics when the range lies outside.
    pub fn slice(self, range: Range<usize>) -> Self {
        Self { slice: self.slice.slice(range), exclusive: PhantomData }
    }

    /// The same memory as elements of another type. Panics when it is not a whole number of them.
    pub fn cast<U: Pod>(self) -> GpuSliceMut<'a, U> {
        GpuSliceMut { slice: self.slice.cast(), exclusive: PhantomData }
    }

    /// `..middle` and `middle..`. Panics when `middle` lies outside.
    pub fn split_at(self, middle: usize) -> (Self, Self) {
        let part = |range| Self { slice: self.slice.slice(range), exclusive: PhantomData };
        (part(0..middle), part(middle..self.slice.length))
    }

    /// Overwrites the elements by values of the host.
    pub fn write(&mut self, source: &[T]) -> Result<()> {
        debug_assert_eq!(source.len(), self.len());
        if source.is_empty() {
            return Ok(());
        }
        // SAFETY: inside an allocation that is borrowed mutably.
        unsafe { self.slice.device.backend().write(self.slice.address, bytemuck::cast_slice(source)) }
    }

    /// Overwrites the elements by others of the same device.
    pub fn copy_from(&mut self, source: GpuSlice<'_, T>) -> Result<()> {
        debug_assert_eq!(source.len(), self.len());
        let bytes = source.length * size_of::<T>();
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: inside allocations; the source is borrowed, so it does not overlap what is borrowed mutably.
        unsafe { self.slice.device.backend().copy(self.slice.address, source.address, bytes) }
    }

    /// Sets every element. Values of 4 bytes and those whose bytes are all the same take one write of the
    /// memory, others a copy from the host.
    pub fn fill(&mut self, value: T) -> Result<()> {
        let aligned = self.slice.address.is_multiple_of(16);
        match bytemuck::bytes_of(&value) {
            [] => Ok(()),
            [byte, rest @ ..] if rest.iter().all(|other| other == byte) => self.set_bytes(*byte),
            &[a, b, c, d] if aligned => {
                // SAFETY: the same memory, borrowed mutably; f32 takes any bits.
                let target = unsafe { SliceMut::new(self.slice.address, self.len()) };
                let value = f32::from_ne_bytes([a, b, c, d]);
                fill_f32(self.slice.device.launcher(), target, self.len() as u64, value)?;
                Ok(())
            }
            _ => self.write(&vec![value; self.len()]),
        }
    }

    /// Sets every byte.
    fn set_bytes(&mut self, byte: u8) -> Result<()> {
        let bytes = self.len() * size_of::<T>();
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: inside an allocation that is borrowed mutably.
        unsafe { self.slice.device.backend().set(self.slice.address, byte, bytes) }
    }

    /// As a kernel's argument.
    pub fn argument(self) -> SliceMut<'a, T::Kernel>
    where
        T: OnGpu,
    {
        // SAFETY: inside an allocation of this device, borrowed mutably for the lifetime; any bytes are elements.
        unsafe { SliceMut::new(self.slice.address, self.slice.length) }
    }
}

/// Copies of host data, one for each device that has asked for it, kept for the next time.
///
/// Whoever owns the data calls [`DeviceCopy::forget`] when it changes. It is no part of the owner's value:
/// clones start without one, and all are equal.
#[derive(Debug)]
pub struct DeviceCopy<T: Pod>(OnceLock<Box<(GpuMemory<T>, Self)>>);

impl<T: Pod> DeviceCopy<T> {
    /// The copy on `device`; `values` gives what it is made from.
    pub fn get(&self, device: &GpuDevice, values: impl Fn() -> Vec<T>) -> Result<GpuSlice<'_, T>> {
        let mut copy = self;
        loop {
            if copy.0.get().is_none() {
                // Another thread may come first: its copy is as good, or another device's.
                let _ = copy.0.set(Box::new((GpuMemory::from_slice(device, &values())?, Self::default())));
            }
            let (memory, next) = &**copy.0.get().expect("set above");
            if memory.device.is(device) {
                return Ok(memory.all());
            }
            copy = next;
        }
    }

    /// Drops the copy, because the values are about to change.
    pub fn forget(&mut self) {
        self.0 = OnceLock::new();
    }
}

impl<T: Pod> Default for DeviceCopy<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T: Pod> Clone for DeviceCopy<T> {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<T: Pod> PartialEq for DeviceCopy<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T: Pod> Eq for DeviceCopy<T> {}
