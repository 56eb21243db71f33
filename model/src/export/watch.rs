//! Stops and progress.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// How far an export or its way back is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportProgress {
    /// Bytes that were read.
    pub done: u64,
    /// All that are to be read.
    pub total: u64,
}

/// Counts what is read, and stops where somebody asks for it.
pub(super) struct Watch<'a> {
    stop: &'a AtomicBool,
    observer: &'a mut (dyn FnMut(ExportProgress) + Send),
    progress: ExportProgress,
}

impl<'a> Watch<'a> {
    pub fn new(
        stop: &'a AtomicBool,
        observer: &'a mut (dyn FnMut(ExportProgress) + Send),
        total: u64,
    ) -> Self {
        let progress = ExportProgress { done: 0, total };
        observer(progress);
        Self { stop, observer, progress }
    }

    /// Counts bytes that were read.
    ///
    /// # Errors
    /// Somebody asked to stop.
    pub fn add(&mut self, bytes: u64) -> Result<()> {
        self.progress.done += bytes;
        (self.observer)(self.progress);
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::Stopped { position: "before all was read; nothing was written".to_owned() }),
            false => Ok(()),
        }
    }
}
