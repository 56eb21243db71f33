//! Contiguous device memory and views into it.
//!
//! Operations take [`View`] (read) and [`ViewMut`] (write), never slices, so that their signatures
//! do not change with the device. The borrow checker sees to it that outputs do not alias inputs.

use std::alloc::{Layout as AllocLayout, alloc_zeroed, dealloc};
use std::ops::Range;
use std::ptr::NonNull;

use bytemuck::Pod;

use cpift_kernels::launch::{Slice, SliceMut};

use crate::device::Device;
use crate::error::{Error, Result, check_length};
use crate::gpu::{GpuDevice, GpuMemory, GpuSlice, GpuSliceMut, OnGpu};
use crate::layout::ALIGNMENT;

/// Which memory a [`Buffer`] of a device is in. Operations take either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// The device's own.
    #[default]
    Device,
    /// For a GPU the host's, in pages that stay where they are ("pinned"): kernels read and write it over the bus, at the
    /// bus's rate and not the memory's. For a CPU the same as [`Placement::Device`].
    Host,
}

/// A contiguous run of elements on a device.
#[derive(Debug)]
pub struct Buffer<T: Pod> {
    storage: Storage<T>,
}

#[derive(Debug)]
enum Storage<T: Pod> {
    Host(HostMemory<T>),
    Gpu(GpuMemory<T>),
}

impl<T: Pod> Buffer<T> {
    /// `length` zeros in the device's own memory. Host pages are only committed when first written.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn zeros(device: &Device, length: usize) -> Result<Self> {
        Self::zeros_in(device, length, Placement::Device)
    }

    /// `length` zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn zeros_in(device: &Device, length: usize, placement: Placement) -> Result<Self> {
        let storage = match device {
            Device::Cpu(_) => Storage::Host(HostMemory::zeros(length)?),
            Device::Gpu(gpu) => Storage::Gpu(GpuMemory::zeros_in(gpu, length, placement)?),
        };
        Ok(Self { storage })
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
        match &self.storage {
            Storage::Host(memory) => memory.length,
            Storage::Gpu(memory) => memory.len(),
        }
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.len() * size_of::<T>()
    }

    /// All of it, to read.
    pub fn view(&self) -> View<'_, T> {
        let data = match &self.storage {
            Storage::Host(memory) => Data::Host(memory.as_slice()),
            Storage::Gpu(memory) => Data::Gpu(memory.all()),
        };
        View { data }
    }

    /// All of it, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        let data = match &mut self.storage {
            Storage::Host(memory) => DataMut::Host(memory.as_mut_slice()),
            Storage::Gpu(memory) => DataMut::Gpu(memory.all_mut()),
        };
        ViewMut { data }
    }

    /// A range of it, to read. Panics when the range lies outside.
    pub fn slice(&self, range: Range<usize>) -> View<'_, T> {
        self.view().slice(range)
    }

    /// A range of it, to write. Panics when the range lies outside.
    pub fn slice_mut(&mut self, range: Range<usize>) -> ViewMut<'_, T> {
        self.view_mut().slice(range)
    }

    /// A copy on the host. On a GPU this waits for everything queued before.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        self.view().to_vec()
    }
}

/// Read access to a run of elements on a device.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T: Pod> {
    data: Data<'a, T>,
}

#[derive(Debug, Clone, Copy)]
enum Data<'a, T: Pod> {
    Host(&'a [T]),
    Gpu(GpuSlice<'a, T>),
}

impl<'a, T: Pod> View<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self.data {
            Data::Host(elements) => elements.len(),
            Data::Gpu(elements) => elements.len(),
        }
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A range of the view. Panics when the range lies outside.
    pub fn slice(&self, range: Range<usize>) -> View<'a, T> {
        let data = match self.data {
            Data::Host(elements) => Data::Host(&elements[range]),
            Data::Gpu(elements) => Data::Gpu(elements.slice(range)),
        };
        View { data }
    }

    /// The same memory as elements of another type. Panics when it is not a whole number of them.
    pub(crate) fn cast<U: Pod>(&self) -> View<'a, U> {
        let data = match self.data {
            Data::Host(elements) => Data::Host(bytemuck::cast_slice(elements)),
            Data::Gpu(elements) => Data::Gpu(elements.cast()),
        };
        View { data }
    }

    /// A copy on the host. On a GPU this waits for everything queued before.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        match self.data {
            Data::Host(elements) => Ok(elements.to_vec()),
            Data::Gpu(elements) => {
                let mut values = vec![T::zeroed(); elements.len()];
                elements.read(&mut values)?;
                Ok(values)
            }
        }
    }

    /// These elements and those of another view: of the same GPU with one wait for both.
    ///
    /// # Errors
    /// As [`View::to_vec`].
    pub fn to_vec_with<U: Pod>(&self, other: View<'_, U>) -> Result<(Vec<T>, Vec<U>)> {
        match (self.data, other.data) {
            (Data::Gpu(own), Data::Gpu(others))
                if !self.is_empty() && !other.is_empty() && own.device().is(others.device()) =>
            {
                let (mut values, mut other_values) =
                    (vec![T::zeroed(); own.len()], vec![U::zeroed(); others.len()]);
                own.read_with(&mut values, others, &mut other_values)?;
                Ok((values, other_values))
            }
            _ => Ok((self.to_vec()?, other.to_vec()?)),
        }
    }

    /// Copies the elements into `destination` on the host. On a GPU this waits for everything queued before.
    ///
    /// # Errors
    /// When the lengths differ, or the device has failed.
    pub fn copy_to_host(&self, destination: &mut [T]) -> Result<()> {
        check_length("copy_to_host", "destination", destination.len(), self.len())?;
        match self.data {
            Data::Host(elements) => destination.copy_from_slice(elements),
            Data::Gpu(elements) => elements.read(destination)?,
        }
        Ok(())
    }

    /// The elements as a slice where the memory is the host's: the CPU operations' way in. Panics when it
    /// is a GPU's: the buffer and the operation were given different devices.
    pub(crate) fn host(&self) -> &'a [T] {
        match self.data {
            Data::Host(elements) => elements,
            Data::Gpu(_) => panic!("a buffer on a GPU was passed to an operation on the CPU"),
        }
    }

    /// Where the elements start on `gpu`. Panics when they are not there.
    pub(crate) fn address(&self, gpu: &GpuDevice) -> u64 {
        match self.data {
            Data::Gpu(elements) if elements.device().is(gpu) => elements.address(),
            _ => panic!("a buffer of another device was passed to an operation on {gpu:?}"),
        }
    }

    /// The elements as a kernel's argument: the GPU operations' way in. Panics when they are not on `gpu`.
    pub(crate) fn on(&self, gpu: &GpuDevice) -> Slice<'a, T::Kernel>
    where
        T: OnGpu,
    {
        match self.data {
            Data::Gpu(elements) if elements.device().is(gpu) => elements.argument(),
            _ => panic!("a buffer of another device was passed to an operation on {gpu:?}"),
        }
    }
}

/// Write access to a run of elements on a device.
#[derive(Debug)]
pub struct ViewMut<'a, T: Pod> {
    data: DataMut<'a, T>,
}

#[derive(Debug)]
enum DataMut<'a, T: Pod> {
    Host(&'a mut [T]),
    Gpu(GpuSliceMut<'a, T>),
}

/// Where the elements of a [`ViewMut`] are.
pub(crate) enum Target<'a, T> {
    /// In the host's memory.
    Host(&'a mut [T]),
    /// At this address of a GPU.
    Gpu(u64),
}

impl<'a, T: Pod> ViewMut<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match &self.data {
            DataMut::Host(elements) => elements.len(),
            DataMut::Gpu(elements) => elements.len(),
        }
    }

    /// True when there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The GPU whose memory it is; none where it is the host's.
    pub(crate) fn gpu(&self) -> Option<&GpuDevice> {
        match &self.data {
            DataMut::Host(_) => None,
            DataMut::Gpu(elements) => Some(elements.device()),
        }
    }

    /// Where the elements are.
    pub(crate) fn target(self) -> Target<'a, T> {
        match self.data {
            DataMut::Host(elements) => Target::Host(elements),
            DataMut::Gpu(elements) => Target::Gpu(elements.as_slice().address()),
        }
    }

    /// The same view for a shorter time, so that it can be passed on and used again.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        let data = match &mut self.data {
            DataMut::Host(elements) => DataMut::Host(elements),
            DataMut::Gpu(elements) => DataMut::Gpu(elements.reborrow()),
        };
        ViewMut { data }
    }

    /// The same elements, to read.
    pub fn as_view(&self) -> View<'_, T> {
        let data = match &self.data {
            DataMut::Host(elements) => Data::Host(elements),
            DataMut::Gpu(elements) => Data::Gpu(elements.as_slice()),
        };
        View { data }
    }

    /// A range of the view. Panics when the range lies outside.
    pub fn slice(self, range: Range<usize>) -> ViewMut<'a, T> {
        let data = match self.data {
            DataMut::Host(elements) => DataMut::Host(&mut elements[range]),
            DataMut::Gpu(elements) => DataMut::Gpu(elements.slice(range)),
        };
        ViewMut { data }
    }

    /// The same memory as elements of another type. Panics when it is not a whole number of them.
    pub(crate) fn cast<U: Pod>(self) -> ViewMut<'a, U> {
        let data = match self.data {
            DataMut::Host(elements) => DataMut::Host(bytemuck::cast_slice_mut(elements)),
            DataMut::Gpu(elements) => DataMut::Gpu(elements.cast()),
        };
        ViewMut { data }
    }

    /// Takes `middle..` out of the view, which keeps `..middle`. Panics when `middle` lies outside.
    pub fn split_off(&mut self, middle: usize) -> ViewMut<'a, T> {
        let whole = std::mem::replace(self, ViewMut { data: DataMut::Host(&mut []) });
        let (left, right) = whole.split_at(middle);
        *self = left;
        right
    }

    /// Two disjoint views: `..middle` and `middle..`. Panics when `middle` lies outside.
    pub fn split_at(self, middle: usize) -> (ViewMut<'a, T>, ViewMut<'a, T>) {
        match self.data {
            DataMut::Host(elements) => {
                let (left, right) = elements.split_at_mut(middle);
                (ViewMut { data: DataMut::Host(left) }, ViewMut { data: DataMut::Host(right) })
            }
            DataMut::Gpu(elements) => {
                let (left, right) = elements.split_at(middle);
                (ViewMut { data: DataMut::Gpu(left) }, ViewMut { data: DataMut::Gpu(right) })
            }
        }
    }

    /// Overwrites the elements with those of `source` on the host.
    ///
    /// # Errors
    /// When the lengths differ, or the device has failed.
    pub fn copy_from_host(&mut self, source: &[T]) -> Result<()> {
        check_length("copy_from_host", "source", source.len(), self.len())?;
        match &mut self.data {
            DataMut::Host(elements) => elements.copy_from_slice(source),
            DataMut::Gpu(elements) => elements.write(source)?,
        }
        Ok(())
    }

    /// Overwrites the elements with those of `source` on the same device, or between the host and a GPU.
    ///
    /// # Errors
    /// When the lengths differ, or the device has failed.
    pub fn copy_from(&mut self, source: View<'_, T>) -> Result<()> {
        check_length("copy_from", "source", source.len(), self.len())?;
        match (&mut self.data, source.data) {
            (DataMut::Host(elements), _) => source.copy_to_host(elements),
            (DataMut::Gpu(elements), Data::Host(source)) => elements.write(source),
            (DataMut::Gpu(elements), Data::Gpu(source)) => elements.copy_from(source),
        }
    }

    /// Sets every element to `value`.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn fill(&mut self, value: T) -> Result<()> {
        match &mut self.data {
            DataMut::Host(elements) => elements.fill(value),
            DataMut::Gpu(elements) => elements.fill(value)?,
        }
        Ok(())
    }

    /// The elements as a slice where the memory is the host's: the CPU operations' way in. Panics when it
    /// is a GPU's: the buffer and the operation were given different devices.
    pub(crate) fn host(self) -> &'a mut [T] {
        match self.data {
            DataMut::Host(elements) => elements,
            DataMut::Gpu(_) => panic!("a buffer on a GPU was passed to an operation on the CPU"),
        }
    }

    /// The elements as a kernel's argument: the GPU operations' way in. Panics when they are not on `gpu`.
    pub(crate) fn on(self, gpu: &GpuDevice) -> SliceMut<'a, T::Kernel>
    where
        T: OnGpu,
    {
        match self.data {
            DataMut::Gpu(elements) if elements.as_slice().device().is(gpu) => elements.argument(),
            _ => panic!("a buffer of another device was passed to an operation on {gpu:?}"),
        }
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
