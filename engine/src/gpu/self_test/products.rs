//! The self-test of products.

use cpift_kernels::dispatch::gemm_hopper::{gemm_nn_hopper, gemm_nt_hopper, gemm_tn_hopper};
use half::bf16;

use super::{Launcher, read};
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory};

/// Rows, columns and terms of the products: edges of all tiles, terms for more stages than are held at once.
const SIZES: [usize; 3] = [136, 264, 456];

/// Products of small whole numbers, whose sums are exact in any order.
pub fn test(device: &GpuDevice) -> Result<Option<String>> {
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
    // Where the terms of a sum lie: step along k, of the row and of the column.
    let sum = |a: (usize, usize), b: (usize, usize)| -> f32 {
        let terms = (0..k).map(|index| left[a.0 + index * a.1] * right[b.0 + index * b.1]);
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
        let launcher = &Launcher { device: device.launcher(), passes_self_test: true };
        let wrong = |kernel: &str| Ok(Some(format!("{kernel} by tiles of 128 by {}", 128 * halves)));
        gemm_nt_hopper(launcher, halves, a, b, None, out.all_mut().argument(), sizes)?;
        if read(&out)? != rounded(&nt) {
            return wrong("gemm_nt_hopper");
        }
        gemm_nn_hopper(launcher, halves, a, b, out.all_mut().argument(), sizes, false)?;
        if read(&out)? != rounded(&nn) {
            return wrong("gemm_nn_hopper");
        }
        gemm_tn_hopper(launcher, halves, a, b, sums.all_mut().argument(), sizes)?;
        if read(&sums)? != tn {
            return wrong("gemm_tn_hopper");
        }
        gemm_nt_hopper(launcher, halves, a, b, None, sums.all_mut().argument(), sizes)?;
        if read(&sums)? != nt {
            return wrong("gemm_nt_f32_hopper");
        }
    }
    Ok(None)
}
