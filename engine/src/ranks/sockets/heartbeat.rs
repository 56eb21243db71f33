//! Whether the other ranks are still there, watched beside what they do: a rank may wait for another where nothing says that
//! this one is gone, as on a GPU.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use super::super::{Loss, OnLoss};
use crate::error::{Error, Result};

/// How often a rank says how it is.
const INTERVAL: Duration = Duration::from_millis(250);
/// Intervals of silence after which another is taken for gone: a machine that is off closes no connection. They are counted
/// by reads that got nothing, so that ranks which were all suspended for a while do not miss each other.
const SILENCE: u32 = 80;

/// How a rank is: what it says every interval.
const WORKING: u8 = 1;
/// It ends in order.
const FINISHED: u8 = 2;
/// It is gone without a word.
const DROPPED: u8 = 3;
/// It ends with the exit code that is added to this, and has said why.
const FAILED: u8 = 100;

/// The threads that watch other ranks.
#[derive(Debug)]
pub struct Heartbeat {
    /// How this rank is.
    state: Arc<AtomicU8>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Heartbeat {
    /// Watches the rank at the other end of each connection.
    ///
    /// # Errors
    /// When a connection cannot be set up, or a thread not be started.
    pub fn start(connections: Vec<(usize, TcpStream)>, on_loss: OnLoss) -> Result<Self> {
        let state = Arc::new(AtomicU8::new(WORKING));
        let watched = connections.into_iter().map(|(rank, stream)| {
            stream.set_read_timeout(Some(INTERVAL))?;
            let (state, on_loss) = (Arc::clone(&state), Arc::clone(&on_loss));
            std::thread::Builder::new().name(format!("heartbeat {rank}")).spawn(move || {
                let Some(loss) = watch(stream, rank, &state) else { return };
                // The others that this rank is connected with learn of it before it ends.
                let code = if let Loss::Failed(code) = loss { code } else { 1 };
                if state.swap(FAILED.saturating_add(code), Ordering::AcqRel) == WORKING {
                    sleep(3 * INTERVAL);
                    on_loss(loss);
                }
            })
        });
        let threads: std::io::Result<Vec<_>> = watched.collect();
        let threads = threads.map_err(|error| Error::Ranks {
            reason: format!("the other ranks cannot be watched: {error}"),
        })?;
        Ok(Self { state, threads: Mutex::new(threads) })
    }

    /// From here on nobody misses anybody.
    pub fn finish(&self) {
        self.end(FINISHED);
    }

    /// From here on the others end too, with this exit code.
    pub fn fail(&self, code: u8) {
        self.end(FAILED.saturating_add(code));
    }

    /// Says the last word, and waits until it has arrived.
    fn end(&self, word: u8) {
        self.state.store(word, Ordering::Release);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Heartbeat {
    /// Where there was no last word the others miss this rank by its connections, which its threads close.
    fn drop(&mut self) {
        let _ = self.state.compare_exchange(WORKING, DROPPED, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Says how this rank is, until it ends; says how the other one does, where that is before its time.
fn watch(mut stream: TcpStream, rank: usize, state: &AtomicU8) -> Option<Loss> {
    let mut silent = 0;
    let gone = |reason: &str| {
        let is_missed = state.load(Ordering::Acquire) == WORKING;
        is_missed.then(|| Loss::Gone(format!("rank {rank} {reason}")))
    };
    loop {
        let own = state.load(Ordering::Acquire);
        if own == DROPPED {
            return None;
        }
        if stream.write_all(&[own]).is_err() {
            return gone("has ended");
        }
        if own != WORKING {
            wait_for_the_last_word(&mut stream);
            return None;
        }
        let mut received = [0; 64];
        match stream.read(&mut received) {
            Ok(0) => return gone("has ended"),
            Ok(count) => {
                let last = received[count - 1];
                if last != WORKING {
                    // The other one waits for an answer, whatever it is.
                    let _ = stream.write_all(&[last]);
                    return last.checked_sub(FAILED).map(Loss::Failed);
                }
                silent = 0;
                sleep(INTERVAL);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                silent += 1;
                if silent == SILENCE {
                    return gone("has not been heard of for 20 s");
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return gone("has ended"),
        }
    }
}

/// Stays until the other rank has said its last word too: what is on a connection that is closed before could be lost.
fn wait_for_the_last_word(stream: &mut TcpStream) {
    let mut received = [0; 64];
    for _ in 0..SILENCE {
        match stream.read(&mut received) {
            Ok(0) => return,
            Ok(count) if received[..count].iter().any(|&byte| byte != WORKING) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}
