//! Looks now and then whether NCCL has lost the other ranks: an operation that waits for them on a device does not say so.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::failed;
use super::library::Communicator;
use crate::error::Result;
use crate::ranks::{Loss, OnLoss};

const INTERVAL: Duration = Duration::from_secs(1);

/// The thread that looks.
pub struct Watch {
    /// Dropped to end it.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Calls `on_loss` once something is wrong.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(communicator: Arc<Communicator>, on_loss: OnLoss) -> Result<Self> {
        let (end, ended) = channel::<()>();
        let look = move || {
            while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                if let Err(reason) = communicator.check() {
                    on_loss(Loss::Gone(reason));
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("NCCL".to_owned()).spawn(look);
        let thread = thread.map_err(|error| failed(format!("NCCL cannot be watched: {error}")))?;
        Ok(Self { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
