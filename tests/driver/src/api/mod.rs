//! The driver's functions, under the names and with the types that CUDA gives them.

// Names and parameters are CUDA's. What each function demands of its pointers is said by CUDA's reference, and
// is the caller's promise; what can be checked is.
#![allow(non_snake_case)]

mod device;
mod graph;
mod memory;
mod module;
pub mod nccl;
#[cfg(test)]
mod nccl_tests;
#[cfg(test)]
mod order_tests;
mod stream;
mod tensor_map;
#[cfg(test)]
mod tests;

use cudarc::driver::sys::CUresult;

use crate::state::{Outcome, violation};

/// Writes a result where the caller wants it.
///
/// # Safety
/// The pointer is null or points to memory for a `T`.
unsafe fn give<T>(place: *mut T, value: T) -> Outcome {
    if place.is_null() {
        return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, "no place for a result"));
    }
    // SAFETY: the caller's promise.
    unsafe { place.write(value) };
    Ok(())
}

/// A number as the handle it is given out as.
fn handle<T>(number: usize) -> *mut T {
    std::ptr::without_provenance_mut(number)
}
