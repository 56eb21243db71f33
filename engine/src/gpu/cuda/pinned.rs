//! Memory of the host that kernels reach: pages that stay where they are, at the same addresses for both (unified
//! addressing, which every 64-bit driver has).

use std::collections::BTreeMap;
use std::ptr;
use std::sync::Mutex;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use crate::gpu::lock;

/// What is allocated, by address. Allocations of this kind are few, large and long-lived.
#[derive(Debug, Default)]
pub struct Pinned(Mutex<BTreeMap<u64, usize>>);

impl Pinned {
    /// So many bytes, with any content. The context is current.
    pub fn allocate(&self, bytes: usize) -> Result<u64, DriverError> {
        // SAFETY: freed by `free`.
        let start = unsafe { result::malloc_host(bytes, sys::CU_MEMHOSTALLOC_DEVICEMAP) }?;
        lock(&self.0).insert(start as u64, bytes);
        Ok(start as u64)
    }

    /// Gives back what lies at this address. The context is current.
    ///
    /// # Safety
    /// It comes from [`Pinned::allocate`], and nothing that is queued uses it.
    pub unsafe fn free(&self, address: u64) -> Result<(), DriverError> {
        lock(&self.0).remove(&address);
        // SAFETY: the caller's promise.
        unsafe { result::free_host(address as *mut _) }
    }

    /// Whether an address is in memory of this kind.
    pub fn contains(&self, address: u64) -> bool {
        let allocations = lock(&self.0);
        let before = allocations.range(..=address).next_back();
        before.is_some_and(|(start, &bytes)| address - start < bytes as u64)
    }

    /// Copies into such memory.
    ///
    /// # Safety
    /// The range lies inside an allocation, and nothing that is queued uses it.
    pub unsafe fn write(address: u64, source: &[u8]) {
        // SAFETY: the caller's promise; memory of the host at an address of the host.
        unsafe { ptr::copy_nonoverlapping(source.as_ptr(), address as *mut u8, source.len()) }
    }

    /// Copies out of such memory.
    ///
    /// # Safety
    /// As for [`Pinned::write`].
    pub unsafe fn read(address: u64, destination: &mut [u8]) {
        // SAFETY: as in `write`.
        unsafe { ptr::copy_nonoverlapping(address as *const u8, destination.as_mut_ptr(), destination.len()) }
    }
}
