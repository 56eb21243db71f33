//! Timing: the cache is flushed before every run, the median of the runs counts.

use std::time::{Duration, Instant};

use cpift_engine::ops::linear;
use cpift_engine::ops::norm::{self, Clip};
use cpift_engine::ops::streams;
use cpift_engine::ops::subtract::subtract;
use cpift_engine::{Buffer, Device, Real, Result, View, ViewMut};

use super::case::Run;
use super::inputs::random;

/// Most runs of a case.
const MOST_RUNS: usize = 200;
/// Least runs of a case, however long they take.
const LEAST_RUNS: usize = 3;
/// What takes the cache's place where the system does not tell its size.
const USUAL_CACHE: usize = 32 << 20;
/// Elements by which what ceilings are measured on is longer than a power of two: streams that lie powers of two apart
/// share the sets of caches and the banks of memory, which real weights seldom do. A multiple of what streams need.
const UNEVEN: usize = 4 * 82_240;
/// Elements that a thread copies at once.
const COPIED_AT_ONCE: usize = 1 << 20;

/// Flushes the last cache by going through memory that is larger.
pub struct CacheFlush {
    device: Device,
    memory: Buffer<f32>,
}

impl CacheFlush {
    /// Takes twice the cache's size.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(device: &Device) -> Result<Self> {
        let cache = match device.cache_bytes() {
            0 => USUAL_CACHE,
            bytes => bytes,
        };
        Ok(Self { device: device.clone(), memory: random::<f32>(device, 2 * cache / size_of::<f32>(), 1)? })
    }

    /// On a GPU writes the memory; on a CPU reads it, so that nothing is left to be written back later.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn flush(&mut self) -> Result<()> {
        match self.device {
            Device::Gpu(_) => self.memory.view_mut().fill(1.0),
            Device::Cpu(_) => norm::squared_norm(&self.device, self.memory.view(), None)
                .map(|sum| _ = std::hint::black_box(sum)),
        }
    }
}

/// Times of a case's runs.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// The median, in seconds.
    pub median: f64,
    /// The least, in seconds.
    pub least: f64,
    /// How many runs there were.
    pub runs: usize,
}

/// Runs `run` once to warm up, then again and again for `budget`, at least three times, with the cache flushed
/// between.
///
/// # Errors
/// The engine's.
pub fn measure(
    device: &Device,
    run: &mut dyn Run,
    flush: &mut CacheFlush,
    budget: Duration,
) -> Result<Times> {
    let start = Instant::now();
    let mut times = Vec::new();
    // The first run counts as none: it touches memory and loads kernels.
    for index in 0..=MOST_RUNS {
        run.reset()?;
        flush.flush()?;
        let time = device.time(|| run.run())?.as_secs_f64();
        if index > 0 {
            times.push(time);
        }
        if times.len() >= LEAST_RUNS && start.elapsed() >= budget {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(Times { median: times[times.len() / 2], least: times[0], runs: times.len() })
}

/// What the machine can do, as measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ceilings {
    /// A large copy, in bytes read and written per second.
    pub copy: f64,
    /// A summing read of a large buffer, in bytes per second.
    pub read: f64,
    /// An update in place, in bytes read and written per second: on a CPU of several streams, on a GPU with one more
    /// that is read alone.
    pub update: f64,
    /// The best rate of a matrix product, in floating-point operations per second.
    pub matrix: f64,
}

impl Ceilings {
    /// Measures them; those of memory by the fastest run, since what others do meanwhile can only slow one down.
    ///
    /// # Errors
    /// When memory runs out, or the device fails.
    pub fn measure<T: Real>(device: &Device, flush: &mut CacheFlush, budget: Duration) -> Result<Self> {
        let of_memory = Self::of_memory(device, flush, budget)?;
        Ok(Self { matrix: matrix_rate::<T>(device, flush, budget)?, ..of_memory })
    }

    /// Those of memory.
    fn of_memory(device: &Device, flush: &mut CacheFlush, budget: Duration) -> Result<Self> {
        // A share of the device's memory, where that is little. Otherwise four times the cache, in which a run leaves what
        // it wrote last.
        let most = device.memory_bytes().map_or(usize::MAX, |bytes| bytes as usize / 64);
        let length = (2 * flush.memory.len()).max(1 << 25).min(most) + UNEVEN;
        let source = random::<f32>(device, length, 2)?;
        let mut target = random::<f32>(device, length, 3)?;
        let bytes = source.bytes() as f64;
        let mut copy = || match device {
            Device::Gpu(_) => target.view_mut().copy_from(source.view()),
            Device::Cpu(_) => copy_by_all(target.view_mut(), source.view()),
        };
        let copied = 2.0 * bytes / measure(device, &mut copy, flush, budget)?.least;
        // On a GPU that which allocates nothing and is not waited for.
        let mut clip = Clip::new(device, length)?;
        let mut read = || match device {
            Device::Gpu(_) => clip.measure(source.view(), None, 1.0),
            Device::Cpu(cpu) => {
                std::hint::black_box(streams::read(cpu, source.view()));
                Ok(())
            }
        };
        let read = bytes / measure(device, &mut read, flush, budget)?.least;
        let mut update = || match device {
            Device::Gpu(_) => subtract(device, target.view_mut(), source.view()),
            Device::Cpu(cpu) => {
                streams::update(cpu, target.view_mut());
                Ok(())
            }
        };
        let passes = if matches!(device, Device::Cpu(_)) { 2.0 } else { 3.0 };
        let update = passes * bytes / measure(device, &mut update, flush, budget)?.least;
        Ok(Self { copy: copied, read, update, matrix: 0.0 })
    }

    /// The better of these and of memory's measured again: others may have used it the first time.
    ///
    /// # Errors
    /// As [`Ceilings::measure`].
    pub fn measured_again(self, device: &Device, flush: &mut CacheFlush, budget: Duration) -> Result<Self> {
        let again = Self::of_memory(device, flush, budget)?;
        Ok(Self {
            copy: self.copy.max(again.copy),
            read: self.read.max(again.read),
            update: self.update.max(again.update),
            matrix: self.matrix,
        })
    }

    /// What memory gives at best, in bytes per second: the best of copying, reading and updating.
    pub fn memory(&self) -> f64 {
        self.copy.max(self.read).max(self.update)
    }
}

/// The best rate of square products of elements T, in floating-point operations per second.
///
/// # Errors
/// When memory runs out, or the device fails.
pub fn matrix_rate<T: Real>(device: &Device, flush: &mut CacheFlush, budget: Duration) -> Result<f64> {
    let sides: &[usize] =
        if matches!(device, Device::Cpu(_)) { &[512, 1024] } else { &[64, 256, 1024, 4096, 8192] };
    let mut best = 0.0;
    for &side in sides {
        let shape = linear::Shape { rows: side, inputs: side, outputs: side };
        let make = |seed| random::<T>(device, side * side, seed);
        let (x, weight, mut y) = (make(1)?, make(2)?, make(3)?);
        let mut product = || linear::forward(device, &shape, x.view(), weight.view(), None, y.view_mut());
        let times = measure(device, &mut product, flush, budget)?;
        best = f64::max(best, shape.forward_work(size_of::<T>()).flops as f64 / times.median);
        // Only what stands in for a GPU is so slow.
        if !matches!(device, Device::Cpu(_)) && times.median > budget.as_secs_f64() {
            break;
        }
    }
    Ok(best)
}

/// Copies on the host with all threads.
fn copy_by_all(mut target: ViewMut<'_, f32>, source: View<'_, f32>) -> Result<()> {
    if source.len() <= COPIED_AT_ONCE {
        return target.copy_from(source);
    }
    let middle = source.len() / 2;
    let (left, right) = target.split_at(middle);
    let (first, second) = (source.slice(0..middle), source.slice(middle..source.len()));
    let (left, right) = rayon::join(|| copy_by_all(left, first), || copy_by_all(right, second));
    left.and(right)
}
