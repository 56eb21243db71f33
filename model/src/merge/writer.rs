//! Writing behind: a thread that takes files piece by piece, and one that brings them to the disk meanwhile.

use std::fs::File;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use super::clock::DiskClock;
use crate::error::{Error, FileAction, Result};
use crate::files::{FileWriter, ResumableFolder};

/// Pieces that wait to be written.
const QUEUE: usize = 8;

/// Bytes after which the disk is asked to take what was written, so that it works from the beginning and not at the end.
const FLUSH: u64 = 32 << 20;

/// What the writing thread is told.
enum Order {
    Begin(String),
    Piece { memory: Vec<u64>, bytes: usize },
    Header(Vec<u8>),
    End,
}

/// What the flushing thread is told.
enum Flush {
    /// To bring to the disk what was written so far.
    Some(File),
    /// To say what went wrong with a file that has all been written.
    End(Sender<Option<std::io::Error>>),
}

/// Where pieces of files are handed over.
pub(super) struct Writer {
    orders: SyncSender<Order>,
    free: Receiver<Vec<u64>>,
    made: usize,
}

/// The other end: what the writing thread works with.
pub(super) struct Orders {
    orders: Receiver<Order>,
    free: Sender<Vec<u64>>,
}

/// The writing thread is gone: it has the error.
pub(super) struct Gone;

pub(super) fn pair() -> (Writer, Orders) {
    let (orders, received) = sync_channel(QUEUE);
    let (returned, free) = channel();
    (Writer { orders, free, made: 0 }, Orders { orders: received, free: returned })
}

impl Writer {
    fn order(&self, order: Order) -> std::result::Result<(), Gone> {
        self.orders.send(order).map_err(|_| Gone)
    }

    /// Begins a file.
    pub fn begin(&self, name: &str, header: &[u8]) -> std::result::Result<(), Gone> {
        self.order(Order::Begin(name.to_owned()))?;
        self.order(Order::Header(header.to_vec()))
    }

    /// Memory for a piece of so many bytes.
    pub fn memory(&mut self, bytes: usize) -> std::result::Result<Vec<u64>, Gone> {
        let mut memory = match self.free.try_recv() {
            Ok(memory) => memory,
            Err(_) if self.made < QUEUE + 2 => {
                self.made += 1;
                Vec::new()
            }
            Err(_) => self.free.recv().map_err(|_| Gone)?,
        };
        let words = bytes.div_ceil(size_of::<u64>());
        if memory.len() < words {
            memory.resize(words, 0);
        }
        Ok(memory)
    }

    /// Appends a piece to the file.
    pub fn put(&self, memory: Vec<u64>, bytes: usize) -> std::result::Result<(), Gone> {
        self.order(Order::Piece { memory, bytes })
    }

    /// Ends the file.
    pub fn end(&self) -> std::result::Result<(), Gone> {
        self.order(Order::End)
    }
}

impl Orders {
    /// Writes until the other end is dropped. `written` is called with the name of every file that is whole.
    pub fn work(
        self,
        folder: &mut ResumableFolder,
        clock: &DiskClock,
        mut written: impl FnMut(&str),
    ) -> Result<()> {
        std::thread::scope(|scope| {
            let (flushes, asked) = sync_channel::<Flush>(1);
            scope.spawn(move || {
                // The system tells of a write that failed once: to whoever flushes first.
                let mut failed = None;
                for flush in asked {
                    match flush {
                        Flush::Some(file) => failed = failed.or(clock.during(|| file.sync_data()).err()),
                        Flush::End(outcome) => {
                            let _ = outcome.send(failed.take());
                        }
                    }
                }
            });
            let mut current: Option<(String, FileWriter)> = None;
            let mut flushed = 0;
            for order in &self.orders {
                match (order, &mut current) {
                    (Order::Begin(name), current) => {
                        let file = folder.create(&name)?;
                        *current = Some((name, file));
                        flushed = 0;
                    }
                    (Order::Header(bytes), Some((_, file))) => clock.during(|| file.put(&bytes))?,
                    (Order::Piece { memory, bytes }, Some((_, file))) => {
                        let piece = &bytemuck::cast_slice::<u64, u8>(&memory)[..bytes];
                        clock.during(|| file.append(piece))?;
                        file.digest(piece);
                        // The other end may be gone already.
                        let _ = self.free.send(memory);
                        if file.bytes() - flushed >= FLUSH {
                            flushed = file.bytes();
                            // Where a flush is waiting already it takes this along.
                            let _ = flushes.try_send(Flush::Some(file.handle()?));
                        }
                    }
                    (Order::End, current) => {
                        if let Some((name, file)) = current.take() {
                            let (outcome, received) = channel();
                            let asked = flushes.send(Flush::End(outcome));
                            if let Some(error) = asked.ok().and_then(|()| received.recv().ok()).flatten() {
                                let path = folder.destination().join(&name);
                                return Err(Error::file(&path, FileAction::Write)(error));
                            }
                            clock.during(|| folder.keep(&name, file))?;
                            written(&name);
                        }
                    }
                    (Order::Header(_) | Order::Piece { .. }, None) => {
                        return Err(Error::Job("a file was written to before it was begun".to_owned()));
                    }
                }
            }
            Ok(())
        })
    }
}
