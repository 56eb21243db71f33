//! The CPU as a device: a thread pool of fixed size.

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::error::{Error, Result};

/// The CPU as a device.
#[derive(Debug, Clone)]
pub struct CpuDevice {
    pool: Arc<rayon::ThreadPool>,
}

impl CpuDevice {
    pub(crate) fn new(threads: Option<NonZeroUsize>) -> Result<Self> {
        let threads = match threads {
            Some(threads) => threads.get(),
            None => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("cpift-cpu-{index}"))
            .build()
            .map_err(|error| Error::DeviceUnavailable {
                name: "cpu".to_owned(),
                reason: format!("{threads} threads could not be started: {error}"),
            })?;
        Ok(Self { pool: Arc::new(pool) })
    }

    /// Number of threads of the pool.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` in the pool: rayon's parallel iterators inside it use these threads.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }
}
