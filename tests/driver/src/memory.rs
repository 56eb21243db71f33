//! Memory that kernels reach: the device's, under addresses that the host cannot use, and pinned memory of the host, under
//! its own addresses.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::sys::CUresult;

use crate::state::{Outcome, violation};

/// What device addresses are more than the host's. With it they are no addresses of the processor at all.
const APART: u64 = 1 << 60;
/// What addresses are multiples of, and sizes are rounded up to.
const ALIGN: usize = 512;
/// What memory holds that nobody has written: NaN, and indices out of range.
const POISON: u8 = 0xff;

/// An allocation.
#[derive(Debug)]
pub struct Block {
    host: NonNull<u8>,
    layout: Layout,
    /// As asked for.
    pub bytes: usize,
    /// Whose it is; none where it is the host's, which all contexts reach.
    pub context: Option<usize>,
    /// Never used twice, as addresses are.
    pub number: u64,
}

// SAFETY: plain memory that belongs to the block; work on it is ordered by the streams.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// Fresh memory; none where the host has no more.
    fn new(bytes: usize, context: Option<usize>, number: u64) -> Option<Self> {
        // Some more, so that the address behind the last byte is nobody else's.
        let layout = Layout::from_size_align(bytes.checked_add(ALIGN)?, ALIGN).ok()?;
        // SAFETY: the size is not zero.
        let host = NonNull::new(unsafe { alloc(layout) })?;
        let block = Self { host, layout, bytes, context, number };
        block.poison();
        Some(block)
    }

    /// Its address on the device; pinned memory has that of the host.
    pub fn address(&self) -> u64 {
        self.host.as_ptr() as u64 + if self.context.is_some() { APART } else { 0 }
    }

    /// Makes its content useless.
    pub fn poison(&self) {
        // SAFETY: the block's own bytes.
        unsafe { self.host.as_ptr().write_bytes(POISON, self.bytes) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.host.as_ptr(), self.layout) }
    }
}

/// A range inside an allocation, which stays as long as this does.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where it is.
    pub block: Arc<Block>,
    /// Bytes of the allocation before it.
    pub offset: usize,
    /// How long it is.
    pub bytes: usize,
}

impl Place {
    /// Of its first byte, for the host.
    pub fn host(&self) -> *mut u8 {
        // SAFETY: `Memory::place` has checked that the offset is inside, or behind the last byte.
        unsafe { self.block.host.as_ptr().add(self.offset) }
    }

    /// Bytes from here to the end of the allocation.
    pub fn rest(&self) -> usize {
        self.block.bytes - self.offset
    }
}

/// All allocations of a machine.
#[derive(Debug, Default)]
pub struct Memory {
    live: BTreeMap<u64, Arc<Block>>,
    last_number: u64,
    /// Addresses and sizes of what is gone, for messages.
    freed: BTreeMap<u64, usize>,
    in_use: u64,
    /// Most bytes that were in use at once.
    pub peak: u64,
    pinned_in_use: u64,
    /// Most bytes of pinned memory that were in use at once.
    pub pinned_peak: u64,
}

impl Memory {
    /// Bytes in use.
    pub fn in_use(&self) -> u64 {
        self.in_use
    }

    /// Allocates, if no more than `total` bytes are in use then.
    pub fn allocate(&mut self, bytes: usize, total: u64, context: usize) -> Outcome<u64> {
        if bytes == 0 {
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, "an allocation of no bytes"));
        }
        let after = self.in_use.saturating_add(rounded(bytes));
        if after > total {
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        let address = self.insert(bytes, Some(context))?;
        self.in_use = after;
        self.peak = self.peak.max(after);
        Ok(address)
    }

    /// Allocates pinned memory of the host.
    pub fn allocate_pinned(&mut self, bytes: usize) -> Outcome<u64> {
        if bytes == 0 {
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, "pinned memory of no bytes"));
        }
        let address = self.insert(bytes, None)?;
        self.pinned_in_use += rounded(bytes);
        self.pinned_peak = self.pinned_peak.max(self.pinned_in_use);
        Ok(address)
    }

    fn insert(&mut self, bytes: usize, context: Option<usize>) -> Outcome<u64> {
        self.last_number += 1;
        let block = Block::new(bytes, context, self.last_number);
        let block = block.ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        let address = block.address();
        self.freed.remove(&address);
        self.live.insert(address, Arc::new(block));
        Ok(address)
    }

    /// Takes out pinned memory that no work still has.
    pub fn free_pinned(&mut self, address: u64) -> Outcome {
        let found = self.live.get(&address).filter(|block| block.context.is_none());
        let Some(block) = found else {
            let message = "pinned memory is given back that is not there";
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, message));
        };
        if Arc::strong_count(block) > 1 {
            // Kept, since work that is queued would use it.
            let message = "pinned memory is given back while queued work uses it";
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, message));
        }
        self.pinned_in_use -= rounded(block.bytes);
        self.freed.insert(address, block.bytes);
        self.live.remove(&address);
        Ok(())
    }

    /// Pinned memory with all of these bytes.
    pub fn pinned(&self, address: u64, bytes: usize, what: &str) -> Outcome<Place> {
        let found = self.live.range(..=address).next_back().map(|(_, block)| block);
        let inside = |block: &&Arc<Block>| {
            let offset = (address - block.address()) as usize;
            block.context.is_none() && offset + bytes <= block.bytes
        };
        let Some(block) = found.filter(inside) else {
            let message = format!("{what}: an asynchronous copy with memory of the host that is not pinned");
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, &message));
        };
        Ok(Place { block: block.clone(), offset: (address - block.address()) as usize, bytes })
    }

    /// Takes out the allocation of the device at this address, and gives back all of it; work that was queued before still
    /// has it.
    pub fn free(&mut self, address: u64) -> Outcome<Place> {
        let is_pinned = self.live.get(&address).is_some_and(|block| block.context.is_none());
        if is_pinned {
            let message = format!("free of {address:#x}, which is pinned memory of the host");
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, &message));
        }
        let Some(block) = self.live.remove(&address) else {
            let message = match self.live.range(..=address).next_back() {
                Some((start, block)) if address < start + block.bytes as u64 => {
                    format!("free of {address:#x}, which is inside an allocation, not its start")
                }
                _ if self.freed.contains_key(&address) => {
                    format!("free of {address:#x}, which was freed before")
                }
                _ => format!("free of {address:#x}, which was never allocated"),
            };
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, &message));
        };
        self.in_use -= rounded(block.bytes);
        self.freed.insert(address, block.bytes);
        let bytes = block.bytes;
        Ok(Place { block, offset: 0, bytes })
    }

    /// The place of `bytes` bytes at a device address; `what` is said of one that is wrong.
    pub fn place(&self, address: u64, bytes: usize, context: usize, what: &str) -> Outcome<Place> {
        let wrong = |message: String| {
            violation(CUresult::CUDA_ERROR_INVALID_VALUE, &format!("{what}: {address:#x} {message}"))
        };
        let found = self.live.range(..=address).next_back();
        let Some(block) =
            found.map(|(_, block)| block).filter(|block| address - block.address() <= block.bytes as u64)
        else {
            let freed = self.freed.range(..=address).next_back();
            let message = match freed {
                Some((start, &size)) if address < start + size as u64 => {
                    format!("is in memory that was freed ({size} bytes at {start:#x})")
                }
                _ => "is not device memory".to_owned(),
            };
            return Err(wrong(message));
        };
        if block.context.is_some_and(|owner| owner != context) {
            return Err(wrong("is memory of another context".to_owned()));
        }
        let offset = (address - block.address()) as usize;
        if bytes > block.bytes - offset {
            let (size, start) = (block.bytes, block.address());
            return Err(wrong(format!(
                "and {bytes} bytes leave the allocation of {size} bytes at {start:#x}"
            )));
        }
        Ok(Place { block: block.clone(), offset, bytes })
    }

    /// The same of the device's own memory alone.
    pub fn device_place(&self, address: u64, bytes: usize, context: usize, what: &str) -> Outcome<Place> {
        let place = self.place(address, bytes, context, what)?;
        if place.block.context.is_none() {
            let message = format!("{what}: {address:#x} is not device memory, but the host's");
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, &message));
        }
        Ok(place)
    }

    /// Takes out all that belongs to a context, or with none all pinned memory; returns number and bytes.
    pub fn release(&mut self, context: Option<usize>) -> (usize, usize) {
        let gone: Vec<Arc<Block>> =
            self.live.values().filter(|block| block.context == context).cloned().collect();
        for block in &gone {
            self.live.remove(&block.address());
            let in_use = if context.is_some() { &mut self.in_use } else { &mut self.pinned_in_use };
            *in_use -= rounded(block.bytes);
        }
        (gone.len(), gone.iter().map(|block| block.bytes).sum())
    }
}

/// What an allocation of these bytes takes.
fn rounded(bytes: usize) -> u64 {
    bytes.next_multiple_of(ALIGN) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_memory_is_counted() {
        let mut memory = Memory::default();
        let address = memory.allocate(1000, 2048, 1).unwrap();
        assert!(address.is_multiple_of(256));
        assert_eq!(memory.allocate(2000, 2048, 1), Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
        let place = memory.place(address + 10, 990, 1, "test").unwrap();
        assert_eq!((place.offset, place.rest()), (10, 990));
        for (address, bytes, context) in
            [(address + 10, 991, 1), (address - 1, 1, 1), (address, 1, 2), (17, 1, 1)]
        {
            assert!(memory.place(address, bytes, context, "test").is_err());
        }
        assert!(memory.free(address + 1).is_err());
        let place = memory.free(address).unwrap();
        assert!(memory.free(address).is_err() && memory.place(address, 1, 1, "test").is_err());
        assert_eq!((memory.in_use(), memory.peak, place.bytes), (0, 1024, 1000));
    }

    #[test]
    fn pinned_memory_is_the_hosts_and_every_contexts() {
        let mut memory = Memory::default();
        let address = memory.allocate_pinned(1000).unwrap();
        // SAFETY: allocated with these bytes at an address of the host.
        unsafe { (address as *mut u8).write_bytes(7, 1000) };
        let place = memory.place(address + 999, 1, 2, "test").unwrap();
        assert!(memory.device_place(address, 1, 2, "test").is_err());
        // SAFETY: one byte inside.
        assert_eq!(unsafe { *place.host() }, 7);
        assert!(memory.place(address + 999, 2, 1, "test").is_err());
        assert!(
            memory.pinned(address, 1000, "test").is_ok() && memory.pinned(address, 1001, "test").is_err()
        );
        assert!(memory.free(address).is_err(), "it is not the device's");
        assert!(memory.free_pinned(address).is_err(), "a place still has it");
        drop(place);
        memory.free_pinned(address).unwrap();
        assert!(memory.free_pinned(address).is_err() && memory.place(address, 1, 1, "test").is_err());
        assert_eq!((memory.in_use(), memory.pinned_peak), (0, 1024));
        let own = memory.allocate(8, 2048, 1).unwrap();
        assert!(memory.pinned(own, 8, "test").is_err() && memory.free_pinned(own).is_err());
    }
}
