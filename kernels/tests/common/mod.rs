//! What tests of kernels share: inputs, buffers, comparisons.

// Each test uses a part.
#![allow(dead_code)]

pub mod attention;
pub mod delta_rule;
pub mod product;

use std::sync::Mutex;

use cpift_kernels::emulator::Schedule;
use cpift_kernels::launch::{Launch, LaunchError, Request, Slice, SliceMut, TensorCores};
use cpift_kernels::simt::{Element, F32x4, Real};

/// Orders of threads and blocks that must not show in a result.
pub const SCHEDULES: [Schedule; 3] = [Schedule::Forward, Schedule::Reverse, Schedule::Shuffled(17)];

/// A buffer aligned to 16 bytes.
pub struct Buffer<T: Element> {
    memory: Vec<F32x4>,
    length: usize,
    elements: std::marker::PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    /// Every byte 0xff: NaN as f32 and as bf16.
    pub fn poisoned(length: usize) -> Self {
        let memory = vec![F32x4([f32::from_bits(u32::MAX); 4]); (length * size_of::<T>()).div_ceil(16)];
        Self { memory, length, elements: std::marker::PhantomData }
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[T]) -> Self {
        let mut buffer = Self::poisoned(values.len());
        buffer.as_mut_slice().copy_from_slice(values);
        buffer
    }

    /// Its elements.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: as long, as aligned; elements take every bit pattern.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.length) }
    }

    /// Its elements.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.length) }
    }

    /// As a kernel's argument.
    pub fn read(&self) -> Slice<'_, T> {
        slice(self.as_slice())
    }

    /// As a kernel's argument.
    pub fn write(&mut self) -> SliceMut<'_, T> {
        slice_mut(self.as_mut_slice())
    }
}

/// As a kernel's argument.
pub fn slice<T: Element>(values: &[T]) -> Slice<'_, T> {
    // SAFETY: host memory, borrowed for the lifetime of the result.
    unsafe { Slice::new(values.as_ptr() as u64, values.len()) }
}

/// As a kernel's argument.
pub fn slice_mut<T: Element>(values: &mut [T]) -> SliceMut<'_, T> {
    // SAFETY: host memory, borrowed mutably for the lifetime of the result.
    unsafe { SliceMut::new(values.as_mut_ptr() as u64, values.len()) }
}

/// `length` numbers spread over -1..1, the same for the same seed (splitmix64), as `E` holds them.
pub fn random<E: Real>(seed: u64, length: usize) -> Buffer<E> {
    let mut buffer = Buffer::poisoned(length);
    for (index, value) in (0u64..).zip(buffer.as_mut_slice()) {
        *value = E::from_f32((bits(seed, index) >> 40) as f32 / (1u64 << 23) as f32 - 1.0);
    }
    buffer
}

/// Number `index` of the sequence of `seed`.
pub fn bits(seed: u64, index: u64) -> u64 {
    let mut z = (seed << 32 | index).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// The values, exactly.
pub fn widen<E: Real>(values: &[E]) -> Vec<f64> {
    values.iter().map(|value| f64::from(value.to_f32())).collect()
}

/// The bits of the values: NaN is equal to itself.
pub fn to_bits<E: Real>(values: &[E]) -> Vec<u32> {
    values.iter().map(|value| value.to_f32().to_bits()).collect()
}

/// Fails unless every element is within `tolerance` times the largest expected magnitude.
#[track_caller]
pub fn assert_close<E: Real>(what: &str, actual: &[E], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths differ");
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    for (index, (actual, &expected)) in widen(actual).into_iter().zip(expected).enumerate() {
        let error = (actual - expected).abs() / scale;
        // Written so that NaN fails.
        assert!(
            error <= tolerance,
            "{what}[{index}] is {actual}, not {expected}: off by {error:e} of {scale:e}"
        );
    }
}

/// A launcher that notes the kernels it is to launch and runs none.
#[derive(Debug)]
pub struct Record {
    names: Mutex<Vec<&'static str>>,
    multiprocessors: u32,
    compute_capability: (u32, u32),
}

impl Record {
    /// Of a device like this.
    pub fn of(compute_capability: (u32, u32), multiprocessors: u32) -> Self {
        Self { names: Mutex::default(), multiprocessors, compute_capability }
    }

    /// What was noted, in order.
    pub fn names(self) -> Vec<&'static str> {
        self.names.into_inner().expect("not poisoned")
    }
}

impl Launch for Record {
    unsafe fn launch(&self, request: &Request<'_>) -> Result<(), LaunchError> {
        // Blocks that go from tile to tile fill a multiprocessor each.
        let persistent =
            request.kernel.architecture == "sm_90a" && request.kernel.tensor_cores != TensorCores::Unused;
        assert!(request.grid[0] <= self.multiprocessors || !persistent, "{}", request.kernel.name);
        self.names.lock().expect("not poisoned").push(request.kernel.name);
        Ok(())
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.compute_capability
    }
}
