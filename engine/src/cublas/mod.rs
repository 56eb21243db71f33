//! Products by NVIDIA's cuBLAS, where its library is installed: to compare the engine's own with, and for nothing
//! else. No operation needs it.
//!
//! The library (cuBLASLt, of CUDA 11 or newer) is looked for when [`Cublas::open`] is called. Its heuristic chooses
//! the algorithm, with [`WORKSPACE`] bytes to use; sums are f32, as the engine's. Not yet run on hardware.

mod layout;
mod library;

use std::marker::PhantomData;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Error, Result, check, check_length};
use crate::gpu::{GpuDevice, GpuMemory, Stream};
use crate::number::Number;
pub use layout::{ColumnMajor, Product};
use library::{Library, Plan};

/// Bytes of memory that an algorithm may use: 64 MiB.
pub const WORKSPACE: usize = 64 << 20;
/// What the library is told that addresses are multiples of, which is its default.
const ALIGNMENT: u64 = 256;
const OP: &str = "product of cuBLAS";

/// Whether the library is there: an error names what was looked for, or what is wrong with it. Without a device.
///
/// # Errors
/// In words, for people.
pub fn find() -> std::result::Result<(), String> {
    library::find()
}

/// The library, opened on a device.
pub struct Cublas {
    // Given back before the memory and the device.
    library: Library,
    workspace: GpuMemory<f32>,
    gpu: GpuDevice,
}

impl Cublas {
    /// Opens it, and takes memory for [`WORKSPACE`].
    ///
    /// # Errors
    /// Why there is none, in words for people: another device than CUDA's, no library, or one that refuses.
    pub fn open(device: &Device) -> std::result::Result<Self, String> {
        let other = || format!("cuBLAS is for CUDA devices, and this is {}", device.name());
        let Device::Gpu(gpu) = device else { return Err(other()) };
        let stream = gpu.backend().stream().ok_or_else(other)?;
        find()?;
        let workspace = GpuMemory::scratch(gpu, WORKSPACE / size_of::<f32>());
        let workspace = workspace.map_err(|error| format!("no memory for cuBLAS: {error}"))?;
        Ok(Self { library: Library::open(stream)?, workspace, gpu: gpu.clone() })
    }

    /// Its version, as `12.8.4`.
    pub fn version(&self) -> String {
        self.library.version()
    }

    /// Has an algorithm chosen for a product of matrices of T into one of C: T and C are f32, or T is bf16.
    ///
    /// # Errors
    /// When the library has none, in words for people.
    pub fn prepare<T: Number, C: Number>(
        &self,
        product: Product,
    ) -> std::result::Result<Prepared<'_, T, C>, String> {
        let gemm = product.column_major();
        let plan = self.library.plan(&gemm, [size_of::<T>(), size_of::<C>()], WORKSPACE)?;
        Ok(Prepared { cublas: self, plan, product, types: PhantomData })
    }

    /// Where to queue products; none while what is queued is recorded.
    fn stream(&self) -> Result<Stream> {
        self.gpu.backend().stream().ok_or_else(|| Error::Argument {
            op: OP,
            reason: "cannot be recorded: call it outside `Device::record`".to_owned(),
        })
    }
}

/// A product with its algorithm.
pub struct Prepared<'a, T, C> {
    cublas: &'a Cublas,
    plan: Plan,
    product: Product,
    types: PhantomData<fn() -> (T, C)>,
}

impl<T: Number, C: Number> Prepared<'_, T, C> {
    /// C = op(A)·op(B), or C += that where the product accumulates; queued as the engine's operations are.
    ///
    /// # Errors
    /// A length that does not fit, a view that does not start at a multiple of 256 bytes, a call inside
    /// [`Device::record`](crate::Device::record), or what the library says. Panics for buffers of another device.
    pub fn run(&self, a: View<'_, T>, b: View<'_, T>, c: ViewMut<'_, C>) -> Result<()> {
        let Product { m, n, k, .. } = self.product;
        check_length(OP, "a", a.len(), m * k)?;
        check_length(OP, "b", b.len(), k * n)?;
        check_length(OP, "c", c.len(), m * n)?;
        let Cublas { gpu, workspace, .. } = self.cublas;
        // The library's first factor is B.
        let addresses = [b.address(gpu), a.address(gpu), c.as_view().address(gpu)];
        check(OP, addresses.iter().all(|address| address.is_multiple_of(ALIGNMENT)), || {
            format!("views must start at multiples of {ALIGNMENT} bytes, and start at {addresses:x?}")
        })?;
        let stream = self.cublas.stream()?;
        // SAFETY: the addresses are of as many elements of the plan's types as it was made for, on this device and
        // borrowed; the stream is the one that all memory of the device is used and given back in, and so is the
        // workspace. Products run one after another in it, so that they may share that.
        let done = unsafe {
            self.plan.run(&self.cublas.library, addresses, workspace.all().address(), WORKSPACE, stream)
        };
        done.map_err(|reason| Error::Device { device: gpu.backend().name(), reason })
    }
}

#[cfg(test)]
mod tests {
    use cpift_kernels::emulator::Schedule;

    use super::*;

    #[test]
    fn other_devices_have_no_cublas_and_say_so() {
        for (device, name) in
            [(Device::cpu(None).unwrap(), "cpu"), (Device::emulated(Schedule::Forward), "emulated")]
        {
            let reason = Cublas::open(&device).err().unwrap();
            assert_eq!(reason, format!("cuBLAS is for CUDA devices, and this is {name}"));
        }
    }
}
