//! What the machine has: memory, and the speed of matrix products.

use std::time::{Duration, Instant, SystemTime};

use cpift_engine::ops::linear;
use cpift_engine::{Buffer, Device, Real, bf16};

use crate::compute::ComputeType;
use crate::error::{Error, Result};
use crate::files::human_bytes;

/// Time the measurement of [`matmul_rate`] takes.
const MEASURED_TIME: Duration = Duration::from_millis(40);
/// A product that takes this long is large enough to measure.
const LARGE: Duration = Duration::from_millis(2);

/// Bytes of memory this process may use: the machine's, or its container's limit where that is less.
/// `None` where the system does not say.
pub fn memory_bytes() -> Option<u64> {
    let installed = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_total(&text));
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
    installed.into_iter().chain(limit).min()
}

/// The time in seconds since 1970 (UTC); 0 on a clock set before.
pub fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Fails when `needed` bytes are more than the device has, or than [`memory_bytes`] where its memory is the host's,
/// before any of them is taken.
///
/// # Errors
/// Naming `key`, both sizes, and `remedy`: what to lower.
pub fn require_memory(device: &Device, key: &str, needed: u64, remedy: &str) -> Result<()> {
    match device.memory_bytes() {
        Some(available) if needed > available => {
            let (needed, available) = (human_bytes(needed), human_bytes(available));
            let name = device.name();
            Err(Error::setting(
                key,
                format!("{needed} of memory are needed on {name}, which has {available}: {remedy}"),
            ))
        }
        Some(_) => Ok(()),
        None => require_host_memory(key, needed, remedy),
    }
}

/// Fails when `needed` bytes are more than [`memory_bytes`], before any of them is taken.
///
/// # Errors
/// As [`require_memory`].
pub fn require_host_memory(key: &str, needed: u64, remedy: &str) -> Result<()> {
    match memory_bytes() {
        Some(available) if needed > available => {
            let (needed, available) = (human_bytes(needed), human_bytes(available));
            Err(Error::setting(
                key,
                format!("{needed} of memory are needed and there are {available}: {remedy}"),
            ))
        }
        _ => Ok(()),
    }
}

/// Most memory this process has held so far, in bytes. `None` where the system does not say.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Name of the processor. `None` where the system does not say.
pub fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn meminfo_total(text: &str) -> Option<u64> {
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    kibibytes.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Measured speed in FLOP/s of matrix products that are large for the device: its practical peak. Takes about 50 ms.
///
/// # Errors
/// When memory for three matrices cannot be had: 3 MiB on a CPU, up to 200 MiB on a GPU.
pub fn matmul_rate(device: &Device, compute: ComputeType) -> Result<f64> {
    Ok(match compute {
        ComputeType::F32 => measured_rate::<f32>(device)?,
        ComputeType::Bf16 => measured_rate::<bf16>(device)?,
    })
}

fn measured_rate<T: Real>(device: &Device) -> cpift_engine::Result<f64> {
    let most = if matches!(device, Device::Cpu(_)) { 512 } else { 4096 };
    let mut size = 64;
    loop {
        // Too small to keep the device busy, until it takes a moment; not larger, for an emulated one.
        let time = product_time::<T>(device, size, Duration::ZERO)?;
        if size >= most || time > LARGE {
            let time = product_time::<T>(device, size, MEASURED_TIME)?;
            return Ok(2.0 * (size as f64).powi(3) / time.as_secs_f64());
        }
        size *= 2;
    }
}

/// The least time of a product of square matrices, of two or as many as fit in `budget`.
fn product_time<T: Real>(device: &Device, size: usize, budget: Duration) -> cpift_engine::Result<Duration> {
    let shape = linear::Shape { rows: size, inputs: size, outputs: size };
    let buffer = || -> cpift_engine::Result<Buffer<T>> {
        let mut buffer = Buffer::zeros(device, size * size)?;
        // Touched, since untouched pages are all the same page of zeros and faster than real ones.
        buffer.view_mut().fill(T::from_f32(0.5))?;
        Ok(buffer)
    };
    let (x, weight, mut y) = (buffer()?, buffer()?, buffer()?);
    let mut least = Duration::MAX;
    let (began, mut runs) = (Instant::now(), 0);
    while runs < 2 || began.elapsed() < budget {
        // A GPU only queues products; it says itself how long they take.
        let time =
            device.time(|| linear::forward(device, &shape, x.view(), weight.view(), None, y.view_mut()))?;
        least = least.min(time).max(Duration::from_nanos(1));
        runs += 1;
    }
    Ok(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_system() {
        assert_eq!(meminfo_total("MemTotal:       24620000 kB\nMemFree: 1 kB\n"), Some(24_620_000 * 1024));
        assert_eq!(meminfo_total("MemFree: 1 kB\n"), None);
        assert_eq!(meminfo_total("MemTotal: many\n"), None);
    }

    #[test]
    fn the_rate_is_a_positive_number() {
        let rate = matmul_rate(&Device::cpu(None).unwrap(), ComputeType::F32).unwrap();
        assert!(rate.is_finite() && rate > 0.0, "{rate}");
    }
}
