//! Recording: what a training step queues is collected, and then run at once.
//!
//! Between [`Recorder::begin`] and [`Recorder::end`] launches and changes of memory are not run but kept as
//! [`Command`]s, in order. The list is then run as a whole: by a [`Graph`] that was made from an earlier
//! list of the same kernels and shapes, in which only what differs is replaced (learning rate, addresses,
//! tiles of documents), or command by command when such a list comes for the first time. So a step costs one
//! launch a micro-batch instead of some 50 a layer (one a bucket of gradients, where these are sent meanwhile), and
//! nothing of what changes from step to step has to be known here: of two steps on batches of one shape the launch of
//! AdamW alone differs.
//!
//! Whatever cannot wait runs the commands so far first: reading memory back, waiting, and overwriting from the
//! host what a command uses (the tokens of the next micro-batch). Memory that is given back meanwhile is kept for
//! allocations of the same size, in this recording (commands run in order) and in the next one, which so finds
//! it at the same addresses.
//!
//! On CUDA none of this has run on hardware yet; a device whose graphs fail a self-test runs without them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cpift_kernels::launch::{Launch, LaunchError, Request};

use super::command::{Command, Graph};
use super::self_test::SelfTests;
use super::{Backend, Stream, lock};
use crate::buffer::Placement;
use crate::error::{Error, Result};

/// Lists of commands whose graphs are kept: micro-batches of a few shapes, and the step's end.
const MAX_CACHED: usize = 8;
/// More are kept while they have no more commands than this together: where sums of gradients are sent in between, the list of
/// a micro-batch is one for each bucket of some layers.
const MAX_COMMANDS: usize = 1 << 13;
/// Fewer commands than this are not worth a graph.
const MIN_COMMANDS: usize = 4;

/// A list of commands that came before.
struct CachedGraph {
    commands: Vec<Command>,
    /// None while it came only once.
    graph: Option<Box<dyn Graph>>,
}

impl CachedGraph {
    /// In how many commands the other list differs; none where it is of other kernels, or differs in more
    /// than half: a batch of another shape.
    fn differences(&self, commands: &[Command]) -> Option<usize> {
        if self.commands.len() != commands.len() {
            return None;
        }
        let mut differences = 0;
        for (known, command) in self.commands.iter().zip(commands) {
            if !known.is_like(command) {
                return None;
            }
            differences += usize::from(!known.equals(command));
            if differences > commands.len() / 2 {
                return None;
            }
        }
        Some(differences)
    }

    /// Brings the graph up to date, or makes it; false where the device has no graphs.
    fn update(&mut self, backend: &dyn Backend, commands: &[Command]) -> Result<bool> {
        let Some(graph) = &mut self.graph else {
            self.graph = backend.graph(commands)?;
            return Ok(self.graph.is_some());
        };
        for (index, (known, command)) in self.commands.iter().zip(commands).enumerate() {
            if !known.equals(command) {
                graph.replace(index, command)?;
            }
        }
        Ok(true)
    }
}

/// Address and bytes of an allocation.
type Block = (u64, usize);

/// What was collected so far.
struct Recording {
    commands: Vec<Command>,
    /// Given back since the recording began; commands may use it until they have run.
    freed: Vec<Block>,
    /// The same of the host's memory, which is not used again.
    freed_on_host: Vec<Block>,
    /// Given back in the recording before, and not used yet in this one.
    spare: Vec<Block>,
}

/// Takes a block of this size, the last that was put there.
fn take(blocks: &mut Vec<Block>, bytes: usize) -> Option<u64> {
    let place = blocks.iter().rposition(|block| block.1 == bytes)?;
    Some(blocks.remove(place).0)
}

/// A backend whose commands can be recorded.
pub struct Recorder {
    // Dropped before the device they run on.
    cached: Mutex<Vec<CachedGraph>>,
    recording: Mutex<Option<Recording>>,
    /// What the last recording gave back.
    spare: Mutex<Vec<Block>>,
    /// Where the number 1 is, once it was asked for.
    one: Mutex<Option<u64>>,
    /// Whether lists may become graphs.
    graphs: AtomicBool,
    /// Self-tests of kernels for the device's compute capability alone; none where they are trusted without.
    self_tests: Option<SelfTests>,
    backend: Arc<dyn Backend>,
}

impl Recorder {
    /// Records nothing yet. Kernels for the device's compute capability alone are used if they pass
    /// `self_tests`, or where there are none.
    pub fn new(backend: Arc<dyn Backend>, self_tests: Option<SelfTests>) -> Self {
        Self {
            cached: Mutex::default(),
            recording: Mutex::default(),
            spare: Mutex::default(),
            one: Mutex::default(),
            graphs: AtomicBool::new(true),
            self_tests,
            backend,
        }
    }

    /// Where the number 1 is, an f32. It is written before anything that is recorded runs.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn one(&self) -> Result<u64> {
        let mut one = lock(&self.one);
        if let Some(address) = *one {
            return Ok(address);
        }
        let address = self.backend.allocate(size_of::<f32>(), Placement::Device)?;
        // SAFETY: allocated right here, and nothing refers to it yet.
        if let Err(error) = unsafe { self.backend.write(address, &1f32.to_ne_bytes()) } {
            self.give_back(vec![(address, size_of::<f32>())], Placement::Device);
            return Err(error);
        }
        *one = Some(address);
        Ok(address)
    }

    /// Does all self-tests of kernels for this architecture alone that were not done yet.
    ///
    /// # Errors
    /// When one of them broke the device.
    pub fn run_self_tests(&self) -> Result<()> {
        if let Some(self_tests) = &self.self_tests {
            self_tests.run_all(&self.backend);
        }
        self.usable()
    }

    /// # Errors
    /// When a self-test of a kernel broke the device.
    fn usable(&self) -> Result<()> {
        self.self_tests.as_ref().map_or(Ok(()), SelfTests::usable)
    }

    /// From now on lists are run command by command.
    pub fn without_graphs(&self) {
        self.graphs.store(false, Ordering::Relaxed);
        lock(&self.cached).clear();
    }

    /// From now on commands are kept. False when they already are.
    pub fn begin(&self) -> bool {
        let mut recording = lock(&self.recording);
        if recording.is_some() {
            return false;
        }
        let spare = std::mem::take(&mut *lock(&self.spare));
        *recording =
            Some(Recording { commands: Vec::new(), freed: Vec::new(), freed_on_host: Vec::new(), spare });
        true
    }

    /// Runs what was kept, and keeps nothing more.
    pub fn end(&self) -> Result<()> {
        match lock(&self.recording).take() {
            Some(recording) => self.finish(recording),
            None => Ok(()),
        }
    }

    /// Forgets what was kept, because it will not be finished.
    pub fn discard(&self) {
        if let Some(mut recording) = lock(&self.recording).take() {
            recording.commands.clear();
            // There is nothing to run that could fail.
            let _ = self.finish(recording);
        }
    }

    fn finish(&self, mut recording: Recording) -> Result<()> {
        let outcome = self.flush(&mut recording);
        self.give_back(recording.spare, Placement::Device);
        self.give_back(recording.freed_on_host, Placement::Host);
        *lock(&self.spare) = recording.freed;
        outcome
    }

    /// Runs the commands so far.
    fn flush(&self, recording: &mut Recording) -> Result<()> {
        self.run(std::mem::take(&mut recording.commands))
    }

    fn give_back(&self, blocks: Vec<Block>, placement: Placement) {
        for (address, bytes) in blocks {
            // SAFETY: whoever freed it promised that it was allocated with these bytes and is used no more;
            // the commands that did are queued or forgotten.
            unsafe { self.backend.free(address, bytes, placement) }
        }
    }

    /// Gives back all that is kept for other allocations; false where there is nothing.
    fn release(&self) -> Result<bool> {
        let mut blocks = std::mem::take(&mut *lock(&self.spare));
        if let Some(recording) = lock(&self.recording).as_mut() {
            self.flush(recording)?;
            blocks.append(&mut recording.freed);
            blocks.append(&mut recording.spare);
        }
        let any = !blocks.is_empty();
        self.give_back(blocks, Placement::Device);
        Ok(any)
    }

    fn run(&self, commands: Vec<Command>) -> Result<()> {
        if commands.len() < MIN_COMMANDS || !self.graphs.load(Ordering::Relaxed) {
            return self.run_one_by_one(&commands);
        }
        let mut all = lock(&self.cached);
        let differences =
            |(place, known): (usize, &CachedGraph)| Some((known.differences(&commands)?, place));
        let Some((_, place)) = all.iter().enumerate().filter_map(differences).min() else {
            self.run_one_by_one(&commands)?;
            let mut count = commands.len() + all.iter().map(|known| known.commands.len()).sum::<usize>();
            while all.len() >= MAX_CACHED && count > MAX_COMMANDS {
                count -= all.remove(0).commands.len();
            }
            all.push(CachedGraph { commands, graph: None });
            return Ok(());
        };
        // The latest last: the first is the next to be dropped.
        let mut known = all.remove(place);
        let outcome = match known.update(&*self.backend, &commands) {
            Ok(true) => match &known.graph {
                // SAFETY: the graph has these commands, of which `flush`'s callers promised what is asked.
                Some(graph) => unsafe { graph.launch(&*self.backend) },
                None => Ok(()),
            },
            Ok(false) => self.run_one_by_one(&commands),
            Err(_) => {
                // Half updated. The commands themselves say what is wrong, if it is more than the graph.
                known.graph = None;
                self.run_one_by_one(&commands)
            }
        };
        all.push(CachedGraph { commands, ..known });
        outcome
    }

    fn run_one_by_one(&self, commands: &[Command]) -> Result<()> {
        // SAFETY: every command was checked when it was recorded; memory is freed behind them.
        commands.iter().try_for_each(|command| unsafe { command.run(&*self.backend) })
    }

    /// Keeps a command while recording; otherwise gives it back.
    fn keep(&self, command: Command) -> Option<Command> {
        match lock(&self.recording).as_mut() {
            Some(recording) => {
                recording.commands.push(command);
                None
            }
            None => Some(command),
        }
    }

    /// Runs what was kept, if `wanted` says so of the commands.
    fn flush_if(&self, wanted: impl FnOnce(&[Command]) -> bool) -> Result<()> {
        match lock(&self.recording).as_mut() {
            Some(recording) if wanted(&recording.commands) => self.flush(recording),
            _ => Ok(()),
        }
    }
}

impl Launch for Recorder {
    unsafe fn launch(&self, request: &Request<'_>) -> std::result::Result<(), LaunchError> {
        self.usable().map_err(|error| LaunchError::Driver {
            kernel: request.kernel.name,
            message: error.to_string(),
        })?;
        {
            let mut recording = lock(&self.recording);
            if let Some(recording) = recording.as_mut() {
                let &Request { kernel, grid, shared, arguments } = request;
                let arguments = arguments.to_vec();
                recording.commands.push(Command::Launch { kernel, grid, shared, arguments });
                return Ok(());
            }
        }
        // SAFETY: passed on to the caller.
        unsafe { self.backend.launch(request) }
    }

    fn multiprocessors(&self) -> u32 {
        self.backend.multiprocessors()
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.backend.compute_capability()
    }

    fn passes_self_test(&self, group: &'static str) -> bool {
        self.self_tests.as_ref().is_none_or(|self_tests| self_tests.pass(&self.backend, group))
    }
}

impl Backend for Recorder {
    fn allocate(&self, bytes: usize, placement: Placement) -> Result<u64> {
        self.usable()?;
        if placement == Placement::Device
            && let Some(recording) = lock(&self.recording).as_mut()
            && let Some(address) =
                take(&mut recording.freed, bytes).or_else(|| take(&mut recording.spare, bytes))
        {
            return Ok(address);
        }
        match self.backend.allocate(bytes, placement) {
            Err(Error::OutOfMemory { .. }) if self.release()? => self.backend.allocate(bytes, placement),
            outcome => outcome,
        }
    }

    unsafe fn free(&self, address: u64, bytes: usize, placement: Placement) {
        match lock(&self.recording).as_mut() {
            Some(recording) if placement == Placement::Device => recording.freed.push((address, bytes)),
            Some(recording) => recording.freed_on_host.push((address, bytes)),
            // SAFETY: passed on to the caller.
            None => unsafe { self.backend.free(address, bytes, placement) },
        }
    }

    unsafe fn set(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        match self.keep(Command::Set { address, byte, bytes }) {
            // SAFETY: passed on to the caller.
            Some(command) => unsafe { command.run(&*self.backend) },
            None => Ok(()),
        }
    }

    unsafe fn write(&self, address: u64, source: &[u8]) -> Result<()> {
        let range = address..address + source.len() as u64;
        self.flush_if(|commands| commands.iter().any(|command| command.touches(&range)))?;
        // SAFETY: passed on to the caller.
        unsafe { self.backend.write(address, source) }
    }

    unsafe fn read(&self, ranges: &mut [super::Range<'_>]) -> Result<()> {
        self.flush_if(|_| true)?;
        // SAFETY: passed on to the caller.
        unsafe { self.backend.read(ranges) }
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        match self.keep(Command::Copy { to, from, bytes }) {
            // SAFETY: passed on to the caller.
            Some(command) => unsafe { command.run(&*self.backend) },
            None => Ok(()),
        }
    }

    fn synchronize(&self) -> Result<()> {
        self.flush_if(|_| true)?;
        self.backend.synchronize()
    }

    fn graph(&self, commands: &[Command]) -> Result<Option<Box<dyn Graph>>> {
        self.backend.graph(commands)
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
        self.flush_if(|_| true)?;
        self.backend.time(work)
    }

    fn stream(&self) -> Option<Stream> {
        if lock(&self.recording).is_some() { None } else { self.backend.stream() }
    }

    fn with_stream(&self, work: &mut dyn FnMut(Stream) -> Result<()>) -> Result<()> {
        self.flush_if(|_| true)?;
        self.backend.with_stream(work)
    }

    fn cache_bytes(&self) -> usize {
        self.backend.cache_bytes()
    }

    fn memory_bytes(&self) -> Option<u64> {
        self.backend.memory_bytes()
    }

    fn peak_memory_bytes(&self, placement: Placement) -> Option<u64> {
        self.backend.peak_memory_bytes(placement)
    }

    fn name(&self) -> String {
        self.backend.name()
    }

    fn describe(&self) -> String {
        self.backend.describe()
    }

    fn disabled_kernels(&self) -> Vec<String> {
        let failed = self.self_tests.as_ref().map(SelfTests::disabled_kernels);
        [self.backend.disabled_kernels(), failed.unwrap_or_default()].concat()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.discard();
        let spare = std::mem::take(&mut *lock(&self.spare));
        self.give_back(spare, Placement::Device);
        if let Some(address) = lock(&self.one).take() {
            self.give_back(vec![(address, size_of::<f32>())], Placement::Device);
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.backend.fmt(f)
    }
}
