//! What GPUs of several processes exchange: NCCL, on the stream of the device; sums of gradients that are final while the
//! backward pass still runs, on a stream beside it.
//!
//! Operations are in place, on ranges that the ranks own: sums by a group of one reduce for each range, since a bucket of
//! gradients is rarely cut evenly; what is gathered by NCCL's all-gather where all ranges have one length, as those of a model
//! over a power of two of ranks usually have, else by a group of broadcasts. NCCL adds in an order of its own, which is the same
//! each time for the same ranks on the same machines.
//!
//! **Not yet run on hardware**: tests have a stand-in for the library (`tests/driver`).

mod clock;
mod library;
mod watch;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use self::library::{Communicator, Library, Region};
use super::{Collective, OnLoss};
use crate::error::{Error, Result};
use crate::gpu::{Event, GpuDevice, SideStream, Stream};
use clock::Clock;
use watch::Watch;

/// The GPUs of all ranks, as one of them has them.
pub struct Nccl {
    /// Ends before the communicator does.
    watch: Option<Watch>,
    communicator: Arc<Communicator>,
    clocks: Mutex<Clocks>,
    rank: usize,
    /// Where sums run beside the backward pass.
    side_stream: SideStream,
    /// The device, whose stream all of this is queued in.
    device: GpuDevice,
}

/// What takes how long.
#[derive(Default)]
struct Clocks {
    /// Operations in the stream of the device.
    operations: Clock,
    /// Those in the stream beside it.
    beside: Clock,
    /// What the device's stream waits for these.
    waits: Clock,
}

/// Seconds that operations took which have ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Occupied {
    /// In which the device did nothing else.
    pub alone: f64,
    /// In which it ran the backward pass.
    pub hidden: f64,
}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Nccl").field("rank", &self.rank).finish_non_exhaustive()
    }
}

/// The version of NCCL's library, where it is found and can be used.
///
/// # Errors
/// In words, for people, why not.
pub fn version() -> std::result::Result<String, String> {
    Library::get().map(|library| library.version().to_owned()).map_err(|reason| format!("NCCL: {reason}"))
}

impl Nccl {
    /// Connects the GPUs of all ranks, which are told of it by `host`. `on_loss` is called, on another thread, when that fails
    /// later.
    ///
    /// # Errors
    /// The library cannot be used, or says that the devices cannot be connected; another rank has ended.
    pub fn connect(host: &dyn Collective, device: &GpuDevice, on_loss: OnLoss) -> Result<Self> {
        let library = Library::get().map_err(failed)?;
        let mut unique_id = match host.rank() {
            0 => library.identify().map_err(failed)?,
            _ => [0; 128],
        };
        host.broadcast(&mut unique_id)?;
        let who = [host.rank(), host.size()];
        let mut opened = None;
        device.with_stream(&mut |stream| {
            let met = Communicator::meet(library, unique_id, who, stream).map_err(failed)?;
            let side_stream = SideStream::beside(stream).map_err(|error| failed(of_streams(error)))?;
            opened = Some((Arc::new(met), side_stream));
            Ok(())
        })?;
        let (communicator, side_stream) = opened.expect("made above, or an error was given back");
        Ok(Self {
            watch: Some(Watch::start(Arc::clone(&communicator), on_loss)?),
            communicator,
            clocks: Mutex::default(),
            rank: host.rank(),
            side_stream,
            device: device.clone(),
        })
    }

    /// Whether memory of `device` can be exchanged.
    pub fn is_for(&self, device: &GpuDevice) -> bool {
        self.device.is(device)
    }

    /// How long the device was occupied with operations that have ended.
    pub fn occupied(&self) -> Occupied {
        let mut clocks = self.clocks();
        let waits = clocks.waits.seconds();
        let hidden = (clocks.beside.seconds() - waits).max(0.0);
        Occupied { alone: clocks.operations.seconds() + waits, hidden }
    }

    /// Queues beside the device's stream, behind everything queued in that so far: each of `ranges` of the f32 at `address`
    /// becomes on its rank the sum over all ranks; on the others it then means nothing.
    ///
    /// # Errors
    /// As [`Nccl::reduce_scatter`].
    ///
    /// # Safety
    /// As [`Nccl::reduce_scatter`]: until [`Nccl::wait_for_side_stream`] has returned.
    pub unsafe fn reduce_beside(&self, address: u64, ranges: &[Range<usize>]) -> Result<()> {
        let side = self.side_stream.stream();
        self.device.with_stream(&mut |stream| {
            hold(side, stream).map_err(failed)?;
            // SAFETY: the caller's promise.
            let queue = || unsafe { self.reduce(address, ranges, side) };
            self.clocks().beside.measure(side, queue).map_err(failed)
        })
    }

    /// Has what is queued on the device from now on run behind all that is queued beside it. Where the stream cannot wait, the
    /// host has waited when this returns, unless the device does nothing any more.
    ///
    /// # Errors
    /// What the driver says.
    pub fn wait_for_side_stream(&self) -> Result<()> {
        let side = self.side_stream.stream();
        let waits = self.device.with_stream(&mut |stream| {
            self.clocks().waits.measure(stream, || hold(stream, side)).map_err(failed)
        });
        if waits.is_err() {
            let _ = self.side_stream.synchronize();
        }
        waits
    }

    /// Queues: of `ranges` of the f32 at `address` this rank's becomes the sum over all ranks; the others then mean nothing.
    ///
    /// # Errors
    /// What driver or library say.
    ///
    /// # Safety
    /// The ranges lie inside an allocation of the device that nothing else refers to meanwhile.
    pub unsafe fn reduce_scatter(&self, address: u64, ranges: &[Range<usize>]) -> Result<()> {
        // SAFETY: the caller's promise.
        self.queue(&|stream| unsafe { self.reduce(address, ranges, stream) })
    }

    /// Queues in this stream: each of `ranges` of the f32 at `address` becomes on its rank the sum over all ranks.
    ///
    /// # Safety
    /// As [`Nccl::reduce_scatter`].
    unsafe fn reduce(
        &self,
        address: u64,
        ranges: &[Range<usize>],
        stream: Stream,
    ) -> std::result::Result<(), String> {
        self.communicator.group(|| {
            with_elements(ranges).try_for_each(|(root, range)| {
                // SAFETY: the caller's promise.
                unsafe { self.communicator.reduce(region::<f32>(address, range), root, stream) }
            })
        })
    }

    /// Queues: every one of `ranges` of the bytes at `address` becomes that of its rank.
    ///
    /// # Errors
    /// As [`Nccl::reduce_scatter`].
    ///
    /// # Safety
    /// As [`Nccl::reduce_scatter`].
    pub unsafe fn all_gather(&self, address: u64, ranges: &[Range<usize>]) -> Result<()> {
        self.queue(&|stream| {
            let region = |range: &Range<usize>| region::<u8>(address, range);
            if have_one_length(ranges) {
                // SAFETY: the caller's promise.
                return unsafe { self.communicator.all_gather(address, region(&ranges[self.rank]), stream) };
            }
            self.communicator.group(|| {
                with_elements(ranges).try_for_each(|(root, range)| {
                    // SAFETY: the caller's promise.
                    unsafe { self.communicator.broadcast(region(range), root, stream) }
                })
            })
        })
    }

    /// Queues: the bytes at `address` become those of rank 0.
    ///
    /// # Errors
    /// As [`Nccl::reduce_scatter`].
    ///
    /// # Safety
    /// As [`Nccl::reduce_scatter`].
    pub unsafe fn broadcast(&self, address: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        self.queue(&|stream| unsafe {
            self.communicator.broadcast(Region { address, count: bytes }, 0, stream)
        })
    }

    /// Queues: `count` f64 at `address` become the sums over all ranks.
    ///
    /// # Errors
    /// As [`Nccl::reduce_scatter`].
    ///
    /// # Safety
    /// As [`Nccl::reduce_scatter`].
    pub unsafe fn sum(&self, address: u64, count: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        self.queue(&|stream| unsafe { self.communicator.all_reduce(Region { address, count }, stream) })
    }

    /// Queues an operation behind everything that was queued on the device.
    fn queue(&self, operation: &dyn Fn(Stream) -> std::result::Result<(), String>) -> Result<()> {
        let mut clocks = self.clocks();
        let clock = &mut clocks.operations;
        self.device.with_stream(&mut |stream| clock.measure(stream, || operation(stream)).map_err(failed))
    }

    fn clocks(&self) -> std::sync::MutexGuard<'_, Clocks> {
        self.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        drop(self.watch.take());
        // What is queued has to have run. Where it cannot, the process is about to end; after a fault of this one the others
        // may not come to it.
        if std::thread::panicking() || self.device.synchronize().is_err() {
            std::mem::forget(Arc::clone(&self.communicator));
        } else {
            *self.clocks() = Clocks::default();
        }
    }
}

fn failed(reason: String) -> Error {
    Error::Ranks { reason }
}

/// Has `stream` go on only when `other` has come to where it is now.
fn hold(stream: Stream, other: Stream) -> std::result::Result<(), String> {
    let held = Event::new(other).and_then(|event| {
        event.record()?;
        event.hold(stream)
    });
    held.map_err(of_streams)
}

fn of_streams(error: impl std::fmt::Display) -> String {
    format!("streams of a device: the driver says {error}")
}

/// A range of elements behind an address.
fn region<T>(address: u64, range: &Range<usize>) -> Region {
    Region { address: address + (range.start * size_of::<T>()) as u64, count: range.len() }
}

/// Whether there is as much for each rank.
fn have_one_length(ranges: &[Range<usize>]) -> bool {
    ranges.windows(2).all(|pair| pair[0].len() == pair[1].len())
}

/// The ranges that have elements, with their ranks.
fn with_elements(ranges: &[Range<usize>]) -> impl Iterator<Item = (usize, &Range<usize>)> {
    ranges.iter().enumerate().filter(|(_, range)| !range.is_empty())
}
