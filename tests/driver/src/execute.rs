//! What a launch executes: the kernel's Rust source, its PTX, or both, whose results must be the same bits.

use std::collections::btree_map::Entry::{Occupied, Vacant};
use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use cpift_kernels::emulator::Emulator;
use cpift_kernels::launch::{Argument, Direction, Kernel, Launch, LaunchError, Request};
use cpift_kernels::modules;

use crate::ptx::{self, Entry, Module};

/// What launches execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Runs {
    /// The kernel's source.
    #[default]
    Source,
    /// The PTX.
    Ptx,
    /// First the source, then from the same memory the PTX. A byte that differs fails the launch.
    Both,
}

impl FromStr for Runs {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "source" => Ok(Self::Source),
            "ptx" => Ok(Self::Ptx),
            "both" => Ok(Self::Both),
            _ => Err(()),
        }
    }
}

/// Kernels that were executed from PTX to the end.
static EXECUTED: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());

/// Names of the kernels that this process has executed from PTX to the end.
pub fn executed() -> Vec<&'static str> {
    EXECUTED.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
}

/// The entry of a kernel in the committed PTX; none of a kernel that is not there.
///
/// # Errors
/// The PTX is not understood.
pub fn committed(kernel: &Kernel) -> Result<Option<Arc<Entry>>, LaunchError> {
    /// Those that were read, by family.
    static MODULES: Mutex<BTreeMap<&str, Arc<Module>>> = Mutex::new(BTreeMap::new());
    let Some(text) = [(9, 0), (8, 0)].into_iter().find_map(|device| modules::ptx(kernel.family, device))
    else {
        return Ok(None);
    };
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    let module = match modules.entry(kernel.family) {
        Occupied(module) => module.into_mut(),
        Vacant(place) => {
            let module = Module::parse(text)
                .map_err(|message| LaunchError::Driver { kernel: kernel.name, message })?;
            place.insert(Arc::new(module))
        }
    };
    Ok(module.entries.get(kernel.name).cloned())
}

/// Executes a launch.
///
/// # Safety
/// As for [`Launch::launch`]; the entry is the kernel's.
///
/// # Errors
/// As for [`Launch::launch`]; what differs, where both are executed.
pub unsafe fn launch(
    runs: Runs,
    emulator: &Emulator,
    request: &Request<'_>,
    entry: &Entry,
) -> Result<(), LaunchError> {
    if runs == Runs::Source {
        // SAFETY: the caller's promise.
        return unsafe { emulator.launch(request) };
    }
    if runs == Runs::Ptx {
        // SAFETY: the caller's promise.
        unsafe { ptx::launch(emulator, request, entry) }?;
    } else {
        // SAFETY: the caller's promise.
        unsafe { launch_both(emulator, request, entry) }?;
    }
    EXECUTED.lock().unwrap_or_else(PoisonError::into_inner).insert(request.kernel.name);
    Ok(())
}

/// Executes the source, then from the same memory the PTX.
///
/// # Safety
/// As for [`launch`].
unsafe fn launch_both(emulator: &Emulator, request: &Request<'_>, entry: &Entry) -> Result<(), LaunchError> {
    let written: Vec<Written> =
        request.kernel.parameters.iter().zip(request.arguments).filter_map(Written::new).collect();
    let before: Vec<Vec<u8>> = written.iter().map(Written::copy).collect();
    // SAFETY: the caller's promise.
    unsafe { emulator.launch(request) }?;
    let after: Vec<Vec<u8>> = written.iter().map(Written::copy).collect();
    written.iter().zip(&before).for_each(|(buffer, bytes)| buffer.fill(bytes));
    // SAFETY: the caller's promise.
    unsafe { ptx::launch(emulator, request, entry) }?;
    for (buffer, expected) in written.iter().zip(&after) {
        let bytes = buffer.copy();
        if let Some(place) = (0..bytes.len()).find(|&place| bytes[place] != expected[place]) {
            let differing = bytes.iter().zip(expected).filter(|(own, other)| own != other).count();
            let message = format!(
                "its PTX gives other bits than its source: {differing} of the {} bytes of {} differ, the first is \
                 byte {place} of element {}, {:#04x} and not {:#04x}",
                bytes.len(),
                buffer.name,
                place / buffer.element,
                bytes[place],
                expected[place],
            );
            return Err(LaunchError::Driver { kernel: request.kernel.name, message });
        }
    }
    Ok(())
}

/// A buffer that a launch may write.
#[derive(Debug)]
struct Written {
    name: &'static str,
    address: u64,
    bytes: usize,
    /// Bytes of an element.
    element: usize,
}

impl Written {
    fn new((parameter, argument): (&cpift_kernels::launch::Parameter, &Argument)) -> Option<Self> {
        match (parameter.direction, *argument) {
            (Direction::Write | Direction::Update, Argument::Buffer { address, length }) if length > 0 => {
                let element = parameter.element_bytes();
                Some(Self { name: parameter.name, address, bytes: length * element, element })
            }
            _ => None,
        }
    }

    /// What it holds.
    fn copy(&self) -> Vec<u8> {
        // SAFETY: a buffer that is valid until the launch is over, and that no launch runs on now.
        unsafe { slice::from_raw_parts(self.address as *const u8, self.bytes) }.to_vec()
    }

    /// Makes it hold `bytes`, as many as it has.
    fn fill(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.bytes);
        // SAFETY: as for `copy`; the launch may write it.
        unsafe { (self.address as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }
}
