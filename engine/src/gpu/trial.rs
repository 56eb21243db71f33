//! A first test of the kernels that are for one compute capability alone, when a device is opened.
//!
//! They rest on more of the hardware than others do: permutations of shared memory, barriers for arrivals, the copy
//! engine. A device on which they are refused, or wrong, computes with the kernels for all devices. One that they break
//! cannot be used again by the same process, which the second opening reports.

use cpift_kernels::gemm_hopper::{gemm_nn_hopper, gemm_nt_f32_hopper, gemm_nt_hopper, gemm_tn_hopper};
use half::bf16;

use super::{GpuDevice, GpuMemory};
use crate::error::Result;

/// Rows, columns and terms of the products: edges of all tiles, terms for more stages than are held at once.
const SIZES: [usize; 3] = [136, 264, 456];

/// The device that `open` opens, as it is if the first test of its own kernels passes. Otherwise, since a kernel that
/// failed may have taken the device with it, it is opened again, without them.
///
/// # Errors
/// Those of `open`.
pub fn with_own_kernels(open: impl Fn() -> Result<GpuDevice>) -> Result<GpuDevice> {
    let device = open()?;
    if device.launcher().compute_capability() != (9, 0) || products(&device).unwrap_or(false) {
        return Ok(device);
    }
    drop(device);
    let device = open()?;
    device.backend.without_own_kernels();
    Ok(device)
}

/// Whether products are right, to the last bit: of small whole numbers, whose sums are exact in any order.
fn products(device: &GpuDevice) -> Result<bool> {
    let [m, n, k] = SIZES;
    let numbers = |length: usize, factor: usize| -> Vec<i32> {
        (0..length).map(|index| (index * factor % 97 % 5) as i32 - 2).collect()
    };
    let (left, right) = (numbers(m * k, 31), numbers(n * k, 53));
    let values = |numbers: &[i32]| -> Vec<bf16> {
        numbers.iter().map(|&number| bf16::from_f32(number as f32)).collect()
    };
    let a = GpuMemory::from_slice(device, &values(&left))?;
    let b = GpuMemory::from_slice(device, &values(&right))?;
    let sizes = SIZES.map(|size| size as u64);
    // Where the terms of a sum lie: step by level, of the row and of the column.
    let sum = |a: (usize, usize), b: (usize, usize)| -> f32 {
        let terms = (0..k).map(|level| left[a.0 + level * a.1] * right[b.0 + level * b.1]);
        terms.sum::<i32>() as f32
    };
    let matrix = |sum: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
        (0..m * n).map(|index| sum(index / n, index % n)).collect()
    };
    let nt = matrix(&|row, column| sum((row * k, 1), (column * k, 1)));
    let nn = matrix(&|row, column| sum((row * k, 1), (column, n)));
    let tn = matrix(&|row, column| sum((row, m), (column, n)));
    let rounded = |values: &[f32]| -> Vec<bf16> { values.iter().copied().map(bf16::from_f32).collect() };
    for halves in [1, 2] {
        let (a, b) = (a.all().argument(), b.all().argument());
        let mut out = GpuMemory::<bf16>::zeros(device, m * n)?;
        let mut sums = GpuMemory::<f32>::zeros(device, m * n)?;
        gemm_nt_hopper(device.launcher(), halves, a, b, None, out.all_mut().argument(), sizes)?;
        let mut right = read(&out)? == rounded(&nt);
        gemm_nn_hopper(device.launcher(), halves, a, b, out.all_mut().argument(), sizes, false)?;
        right &= read(&out)? == rounded(&nn);
        gemm_tn_hopper(device.launcher(), halves, a, b, sums.all_mut().argument(), sizes)?;
        right &= read(&sums)? == tn;
        gemm_nt_f32_hopper(device.launcher(), halves, a, b, None, sums.all_mut().argument(), sizes)?;
        right &= read(&sums)? == nt;
        if !right {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read<T: bytemuck::Pod + Default>(memory: &GpuMemory<T>) -> Result<Vec<T>> {
    let mut values = vec![T::default(); memory.len()];
    memory.all().read(&mut values)?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use cpift_kernels::emulator::Schedule;

    use super::*;
    use crate::error::Error;

    #[test]
    fn right_kernels_pass_the_first_test() {
        let open = || Ok(GpuDevice::emulated_like(Schedule::Forward, (9, 0)));
        let device = with_own_kernels(open).unwrap();
        assert_eq!(device.launcher().compute_capability(), (9, 0));
    }

    #[test]
    fn without_kernels_of_its_own_a_device_is_as_others() {
        // Reads zeros, whatever is launched.
        let log = crate::LaunchLog::of_device((9, 0), 132);
        let device = with_own_kernels(|| Ok(GpuDevice::logging(&log))).unwrap();
        assert_eq!(device.launcher().compute_capability(), (8, 0));
        assert_eq!(device.launcher().multiprocessors(), 132);
        assert!(device.backend().describe().ends_with("without its own kernels, which fail a first test"));
        let failed = with_own_kernels(|| Err(Error::UnknownDevice { name: "no".to_owned() }));
        assert!(failed.is_err());
    }
}
