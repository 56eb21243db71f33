//! Gradients as products: with a place for the sums of parts, where a product is cut along k.

use cpift_kernels::dispatch::gemm::GemmElement;
use cpift_kernels::launch::{Slice, SliceMut};

use super::{GpuDevice, GpuMemory};
use crate::error::Result;

/// Room for the sums of the parts that a product of these sizes is cut into; none where it is not cut.
fn sums<K: GemmElement>(gpu: &GpuDevice, sizes @ [m, n, _]: [u64; 3]) -> Result<GpuMemory<f32>> {
    let parts = u64::from(K::gemm_splits(gpu.launcher(), sizes));
    GpuMemory::scratch(gpu, if parts > 1 { (parts * m * n) as usize } else { 0 })
}

/// out = a·b, or out += a·b to `accumulate`; out `[m, n]`, a `[m, k]`, b `[k, n]`.
pub fn multiply<K: GemmElement>(
    gpu: &GpuDevice,
    factors: [Slice<'_, K>; 2],
    out: SliceMut<'_, K>,
    sizes: [u64; 3],
    accumulate: bool,
) -> Result<()> {
    let mut sums = sums::<K>(gpu, sizes)?;
    Ok(K::gemm_nn(gpu.launcher(), factors, sums.all_mut().argument(), out, sizes, accumulate)?)
}

/// out += aᵀ·b; out `[m, n]`, a `[k, m]`, b `[k, n]`.
pub fn add_transposed<K: GemmElement>(
    gpu: &GpuDevice,
    factors: [Slice<'_, K>; 2],
    out: SliceMut<'_, f32>,
    sizes: [u64; 3],
) -> Result<()> {
    let mut sums = sums::<K>(gpu, sizes)?;
    Ok(K::gemm_tn(gpu.launcher(), factors, sums.all_mut().argument(), out, sizes)?)
}
