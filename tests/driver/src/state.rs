//! What the driver knows between calls, and how calls begin and end.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs::OpenOptions;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::CUresult;

use crate::api::nccl::is_group_open;
use crate::collective::Communicator;
use crate::execute;
use crate::graph::{Executable, Graph};
use crate::launch::Function;
use crate::memory::Memory;
use crate::order::Order;
use crate::ptx;
use crate::settings::{Failure, Settings};
use crate::stream::{Event, Stream, Work};

/// How calls end.
pub type Outcome<T = ()> = Result<T, CUresult>;

/// What the environment asked for, read once.
pub static SETTINGS: LazyLock<Settings> = LazyLock::new(Settings::from_environment);

static STATE: LazyLock<Mutex<State>> = LazyLock::new(Mutex::default);

thread_local! {
    /// The thread's current context; 0 is none.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Everything there is. Handles are numbers that are never used twice.
#[derive(Debug, Default)]
pub struct State {
    initialised: bool,
    last_handle: usize,
    /// By handle; how often each was retained, and of which device it is.
    pub contexts: HashMap<usize, (usize, i32)>,
    pub memory: Memory,
    pub streams: HashMap<usize, Arc<Stream>>,
    /// Of the streams' work.
    pub order: Order,
    pub events: HashMap<usize, Arc<Event>>,
    pub modules: HashMap<usize, (usize, Arc<ptx::Module>)>,
    pub functions: HashMap<usize, Function>,
    pub graphs: HashMap<usize, Graph>,
    pub executables: HashMap<usize, Executable>,
    /// Of NCCL.
    pub communicators: HashMap<usize, Arc<Communicator>>,
    /// What an asynchronous failure has made of all calls from then on.
    sticky: Option<CUresult>,
    pub counts: Counts,
}

/// What was called how often.
#[derive(Debug, Default)]
pub struct Counts {
    pub launches: u64,
    pub graph_launches: u64,
    pub graph_updates: u64,
    pub waits: u64,
    pub modules: u64,
}

impl State {
    /// A number for something new.
    pub fn handle(&mut self) -> usize {
        // Not small, and aligned as pointers are.
        self.last_handle += 64;
        0x5_0000 + self.last_handle
    }

    /// The context that is current on this thread.
    pub fn context(&self) -> Outcome<usize> {
        let context = CURRENT.get();
        if self.contexts.contains_key(&context) {
            return Ok(context);
        }
        let message =
            if context == 0 { "no context is current" } else { "the current context was given back" };
        Err(violation(CUresult::CUDA_ERROR_INVALID_CONTEXT, message))
    }

    /// A stream of the current context; what was queued in it before a failure is gone.
    pub fn stream(&self, handle: usize) -> Outcome<Arc<Stream>> {
        let stream = known(&self.streams, handle, "stream")?;
        self.own(stream.context, "stream")?;
        Ok(stream.clone())
    }

    /// An event of the current context.
    pub fn event(&self, handle: usize) -> Outcome<Arc<Event>> {
        let event = known(&self.events, handle, "event")?;
        self.own(event.context, "event")?;
        Ok(event.clone())
    }

    /// Fails unless something belongs to the current context.
    pub fn own(&self, context: usize, what: &str) -> Outcome {
        if self.context()? == context {
            return Ok(());
        }
        let message = format!("a {what} of another context than the current");
        Err(violation(CUresult::CUDA_ERROR_INVALID_HANDLE, &message))
    }

    /// Takes everything of a context out, and tells what its owner forgot.
    pub fn release(&mut self, context: usize) {
        let mut leaks = Vec::new();
        let (allocations, bytes) = self.memory.release(Some(context));
        if allocations > 0 {
            leaks.push(format!("{allocations} allocations of {bytes} bytes"));
        }
        let mut count = |what: &str, number: usize| {
            if number > 0 {
                leaks.push(format!("{number} {what}"));
            }
        };
        // Functions go with their modules.
        self.functions.retain(|_, function| function.context != context);
        count("streams", taken(&mut self.streams, |stream| stream.context == context));
        count("events", taken(&mut self.events, |event| event.context == context));
        count("modules", taken(&mut self.modules, |module| module.0 == context));
        count("graphs", taken(&mut self.graphs, |graph| graph.context == context));
        count("graphs made ready", taken(&mut self.executables, |graph| graph.context == context));
        count("communicators", taken(&mut self.communicators, |known| known.context == context));
        if self.contexts.len() == 1 {
            count("pieces of pinned memory", self.memory.release(None).0);
            self.order = Order::default();
        }
        for leak in leaks {
            let _ = violation(CUresult::CUDA_SUCCESS, &format!("the context was given back with {leak}"));
        }
        self.contexts.remove(&context);
        let executed = execute::executed();
        if !executed.is_empty() {
            log(&format!("executed: {}", executed.join(" ")));
        }
        let Counts { launches, graph_launches, graph_updates, waits, modules } = self.counts;
        log(&format!(
            "counts: launches {launches} graphs {graph_launches} updates {graph_updates} waits {waits} modules \
             {modules} peak {} pinned {}",
            self.memory.peak, self.memory.pinned_peak
        ));
    }
}

/// Takes out of a map what meets a condition; returns how many there were.
fn taken<K, V>(map: &mut impl Retain<K, V>, mut condition: impl FnMut(&V) -> bool) -> usize {
    let mut number = 0;
    map.retain_values(|value| {
        let gone = condition(value);
        number += usize::from(gone);
        !gone
    });
    number
}

/// The kinds of map here.
trait Retain<K, V> {
    fn retain_values(&mut self, keep: impl FnMut(&V) -> bool);
}

impl<K, V> Retain<K, V> for HashMap<K, V> {
    fn retain_values(&mut self, mut keep: impl FnMut(&V) -> bool) {
        self.retain(|_, value| keep(value));
    }
}

impl<K: Ord, V> Retain<K, V> for BTreeMap<K, V> {
    fn retain_values(&mut self, mut keep: impl FnMut(&V) -> bool) {
        self.retain(|_, value| keep(value));
    }
}

/// What a handle stands for.
pub fn known<'a, V>(map: &'a HashMap<usize, V>, handle: usize, what: &str) -> Outcome<&'a V> {
    map.get(&handle).ok_or_else(|| missing(handle, what))
}

/// What a handle stands for, to change.
pub fn known_mut<'a, V>(map: &'a mut HashMap<usize, V>, handle: usize, what: &str) -> Outcome<&'a mut V> {
    map.get_mut(&handle).ok_or_else(|| missing(handle, what))
}

/// There is nothing under a handle.
pub fn missing(handle: usize, what: &str) -> CUresult {
    let message =
        if handle == 0 { format!("a {what} is null") } else { format!("a {what} that is not there") };
    violation(CUresult::CUDA_ERROR_INVALID_HANDLE, &message)
}

/// The state, for a moment.
pub fn state() -> MutexGuard<'static, State> {
    // Every call leaves it whole, or says that it has panicked.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a context current on this thread.
pub fn set_current(context: usize) {
    CURRENT.set(context);
}

/// Starts the driver.
pub fn initialise() -> Outcome {
    if SETTINGS.failures.contains(&Failure::Init) {
        return Err(CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH);
    }
    if SETTINGS.devices == 0 {
        return Err(CUresult::CUDA_ERROR_NO_DEVICE);
    }
    state().initialised = true;
    Ok(())
}

/// A call of the driver: refused before `cuInit`, and after an asynchronous failure.
pub fn call(name: &str, work: impl FnOnce() -> Outcome) -> CUresult {
    let before = || {
        let state = state();
        if !state.initialised {
            return Err(violation(CUresult::CUDA_ERROR_NOT_INITIALIZED, "a call before cuInit"));
        }
        state.sticky.map_or(Ok(()), Err)
    };
    match catch_unwind(AssertUnwindSafe(|| before().and_then(|()| work()))) {
        Ok(Ok(())) => CUresult::CUDA_SUCCESS,
        Ok(Err(error)) => {
            log(&format!("{name}: {error:?}"));
            error
        }
        Err(_) => violation(CUresult::CUDA_ERROR_UNKNOWN, &format!("{name} panicked")),
    }
}

/// Queues work, unless it meets another stream's in memory without an order; it is done when somebody waits for it, or at
/// once where the settings say so.
pub fn queue(stream: &Arc<Stream>, works: impl IntoIterator<Item = Work>) -> Outcome {
    {
        let mut state = state();
        for work in works {
            let added = state.order.add(stream.handle, work.name(), work.accesses());
            added.map_err(|message| violation(CUresult::CUDA_ERROR_INVALID_VALUE, &message))?;
            stream.push(work);
        }
    }
    if SETTINGS.eager {
        // Reported by later calls.
        let _ = wait(stream);
    }
    Ok(())
}

/// Does what was queued in a stream. A failure is every later call's too. The state must not be locked.
pub fn wait(stream: &Stream) -> Outcome {
    if is_group_open() {
        let message = "waiting while a group of NCCL is open, whose operations have not begun";
        return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, message));
    }
    stream.drain().inspect_err(|&error| state().sticky = Some(error))
}

/// Writes down that a rule was broken; gives back the error that goes with it.
pub fn violation(error: CUresult, message: &str) -> CUresult {
    log(&format!("violation: {message}"));
    #[cfg(test)]
    VIOLATIONS.with_borrow_mut(|violations| violations.push(message.to_owned()));
    error
}

#[cfg(test)]
thread_local! {
    /// Of calls on this thread.
    static VIOLATIONS: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Rules broken by calls on this thread since this was last asked.
#[cfg(test)]
pub fn take_violations() -> Vec<String> {
    VIOLATIONS.take()
}

/// Adds a line to the log, if there is one.
pub fn log(line: &str) {
    if let Some(path) = &SETTINGS.log
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path)
    {
        // There is nobody to tell.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}
