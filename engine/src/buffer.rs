//! Contiguous device memory and views into it.
//!
//! Operations take [`View`] (read) and [`ViewMut`] (write), never slices, so that their signatures
//! do not change with the device. The borrow checker sees to it that outputs do not alias inputs.

use std::alloc::{Layout as AllocLayout, alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;

use bytemuck::Pod;

use crate::device::Device;
use crate::error::{Error, Result, check_length};

/// Alignment of every allocation in bytes: a cache line pair, and what flat segments are aligned to.
pub const ALIGNMENT: usize = 256;

/// A contiguous run of elements on a device.
#[derive(Debug)]
pub struct Buffer<T: Pod> {
    storage: HostMemory<T>,
}

impl<T: Pod> Buffer<T> {
    /// `length` zeros. Host pages are only committed when first written.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn zeros(device: &Device, length: usize) -> Result<Self> {
        match device {
            Device::Cpu(_) => Ok(Self { storage: HostMemory::zeros(length)? }),
        }
    }

    /// A copy of `values` on the device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn from_slice(device: &Device, values: &[T]) -> Result<Self> {
        let mut buffer = Self::zeros(device, values.len())?;
        buffer.view_mut().copy_from_host(values)?;
        Ok(buffer)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.storage.length
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.storage.length == 0
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.len() * size_of::<T>()
    }

    /// All of it, to read.
    pub fn view(&self) -> View<'_, T> {
        View { data: self.storage.as_slice() }
    }

    /// All of it, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        ViewMut { data: self.storage.as_mut_slice() }
    }

    /// A range of it, to read. Panics when the range lies outside.
    pub fn slice(&self, range: Range<usize>) -> View<'_, T> {
        self.view().slice(range)
    }

    /// A range of it, to write. Panics when the range lies outside.
    pub fn slice_mut(&mut self, range: Range<usize>) -> ViewMut<'_, T> {
        ViewMut { data: &mut self.storage.as_mut_slice()[range] }
    }

    /// A copy on the host.
    pub fn to_vec(&self) -> Vec<T> {
        self.view().to_vec()
    }
}

/// Read access to a run of elements on a device.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T: Pod> {
    data: &'a [T],
}

impl<'a, T: Pod> View<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// A range of the view. Panics when the range lies outside.
    pub fn slice(&self, range: Range<usize>) -> View<'a, T> {
        View { data: &self.data[range] }
    }

    /// A copy on the host.
    pub fn to_vec(&self) -> Vec<T> {
        self.data.to_vec()
    }

    /// Copies the elements into `destination` on the host.
    ///
    /// # Errors
    /// When the lengths differ.
    pub fn copy_to_host(&self, destination: &mut [T]) -> Result<()> {
        check_length("copy_to_host", "destination", destination.len(), self.len())?;
        destination.copy_from_slice(self.data);
        Ok(())
    }

    /// The elements as a slice where the memory is the host's: the CPU operations' way in.
    pub(crate) fn host(&self) -> &'a [T] {
        self.data
    }
}

/// Write access to a run of elements on a device.
#[derive(Debug)]
pub struct ViewMut<'a, T: Pod> {
    data: &'a mut [T],
}

impl<'a, T: Pod> ViewMut<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The same view for a shorter time, so that it can be passed on and used again.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut { data: self.data }
    }

    /// The same elements, to read.
    pub fn as_view(&self) -> View<'_, T> {
        View { data: self.data }
    }

    /// A range of the view. Panics when the range lies outside.
    pub fn slice(self, range: Range<usize>) -> ViewMut<'a, T> {
        ViewMut { data: &mut self.data[range] }
    }

    /// Two disjoint views: `..middle` and `middle..`. Panics when `middle` lies outside.
    pub fn split_at(self, middle: usize) -> (ViewMut<'a, T>, ViewMut<'a, T>) {
        let (left, right) = self.data.split_at_mut(middle);
        (ViewMut { data: left }, ViewMut { data: right })
    }

    /// Overwrites the elements with those of `source` on the host.
    ///
    /// # Errors
    /// When the lengths differ.
    pub fn copy_from_host(&mut self, source: &[T]) -> Result<()> {
        check_length("copy_from_host", "source", source.len(), self.len())?;
        self.data.copy_from_slice(source);
        Ok(())
    }

    /// Overwrites the elements with those of `source` on the same device.
    ///
    /// # Errors
    /// When the lengths differ.
    pub fn copy_from(&mut self, source: View<'_, T>) -> Result<()> {
        check_length("copy_from", "source", source.len(), self.len())?;
        self.data.copy_from_slice(source.data);
        Ok(())
    }

    /// Sets every element to `value`.
    pub fn fill(&mut self, value: T) {
        self.data.fill(value);
    }

    /// The elements as a slice where the memory is the host's: the CPU operations' way in.
    pub(crate) fn host(self) -> &'a mut [T] {
        self.data
    }
}

/// An aligned allocation on the host, zeroed by the system.
#[derive(Debug)]
struct HostMemory<T: Pod> {
    pointer: NonNull<T>,
    length: usize,
}

// SAFETY: the allocation is owned by this value alone and T is plain data.
unsafe impl<T: Pod + Send> Send for HostMemory<T> {}
// SAFETY: shared access only hands out `&[T]`.
unsafe impl<T: Pod + Sync> Sync for HostMemory<T> {}

impl<T: Pod> HostMemory<T> {
    fn zeros(length: usize) -> Result<Self> {
        let out_of_memory =
            || Error::OutOfMemory { device: "cpu".to_owned(), bytes: length.saturating_mul(size_of::<T>()) };
        let layout = Self::layout(length).ok_or_else(out_of_memory)?;
        if layout.size() == 0 {
            return Ok(Self { pointer: NonNull::dangling(), length });
        }
        // SAFETY: the layout's size is not zero.
        let pointer = unsafe { alloc_zeroed(layout) };
        let pointer = NonNull::new(pointer.cast::<T>()).ok_or_else(out_of_memory)?;
        Ok(Self { pointer, length })
    }

    fn layout(length: usize) -> Option<AllocLayout> {
        let bytes = length.checked_mul(size_of::<T>())?;
        AllocLayout::from_size_align(bytes, ALIGNMENT).ok()
    }

    fn as_slice(&self) -> &[T] {
        // SAFETY: the allocation holds `length` elements, zeroed at birth, and any bits are a valid T (Pod).
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.length) }
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.length) }
    }
}

impl<T: Pod> Drop for HostMemory<T> {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.length).filter(|layout| layout.size() != 0) {
            // SAFETY: allocated in `zeros` with this same layout.
            unsafe { dealloc(self.pointer.as_ptr().cast(), layout) };
        }
    }
}
