//! Token ids, positions and the like: indices that an operation checks before it uses them.

use std::ops::Range;

use crate::buffer::{Buffer, View};
use crate::device::Device;
use crate::error::{Result, check};

/// Up to a fixed number of u32 on a device. The host keeps a copy, so that what they point to can be
/// checked, and grouped, without waiting for the device.
#[derive(Debug)]
pub struct Indices {
    host: Vec<u32>,
    device: Buffer<u32>,
}

impl Indices {
    /// Room for `capacity` indices; there are none yet.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn with_capacity(device: &Device, capacity: usize) -> Result<Self> {
        Ok(Self { host: Vec::with_capacity(capacity), device: Buffer::zeros(device, capacity)? })
    }

    /// These indices, and no room for more.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn from_slice(device: &Device, values: &[u32]) -> Result<Self> {
        let mut indices = Self::with_capacity(device, values.len())?;
        indices.set(values)?;
        Ok(indices)
    }

    /// Replaces the indices by others.
    ///
    /// # Errors
    /// More than there is room for.
    pub fn set(&mut self, values: &[u32]) -> Result<()> {
        let capacity = self.device.len();
        check("indices", values.len() <= capacity, || {
            format!("{} indices do not fit where there is room for {capacity}", values.len())
        })?;
        self.device.slice_mut(0..values.len()).copy_from_host(values)?;
        self.host.clear();
        self.host.extend_from_slice(values);
        Ok(())
    }

    /// All of them.
    pub fn view(&self) -> IndexView<'_> {
        IndexView { host: &self.host, device: self.device.slice(0..self.host.len()) }
    }

    /// A range of them. Panics when it lies outside.
    pub fn slice(&self, range: Range<usize>) -> IndexView<'_> {
        self.view().slice(range)
    }
}

/// Read access to a run of indices.
#[derive(Debug, Clone, Copy)]
pub struct IndexView<'a> {
    host: &'a [u32],
    device: View<'a, u32>,
}

impl<'a> IndexView<'a> {
    /// Number of indices.
    pub fn len(&self) -> usize {
        self.host.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.host.is_empty()
    }

    /// A range of the view. Panics when it lies outside.
    pub fn slice(&self, range: Range<usize>) -> Self {
        Self { host: &self.host[range.clone()], device: self.device.slice(range) }
    }

    /// The indices on the host, wherever the device is.
    pub fn host(&self) -> &'a [u32] {
        self.host
    }

    /// The indices on the device.
    pub fn device(&self) -> View<'a, u32> {
        self.device
    }
}

/// Fails unless every slot is one of `states` elements, `state_length` of which are a slot's.
pub(crate) fn check_slots(
    op: &'static str,
    slots: IndexView<'_>,
    state_length: usize,
    states: usize,
) -> Result<()> {
    let needed = slots.host().iter().max().map_or(0, |&slot| slot as usize + 1);
    check(op, needed * state_length <= states, || {
        format!("states of {states} elements have no slot {}", needed - 1)
    })
}
