//! Launching kernels: what is passed, what is checked before, and who runs it.

mod slice;

use std::fmt;

#[cfg(feature = "emulator")]
use crate::fault::Fault;
use crate::tensor_map::{TensorMapError, TensorMapLayout};
pub use slice::{Slice, SliceMut};

/// Most bytes of shared memory a block gets without asking the driver for more.
pub const SHARED_MEMORY_DEFAULT: u32 = 48 * 1024;

/// Multiprocessors of an A100: what work is cut into blocks for where there is no device.
pub const MULTIPROCESSORS: u32 = 108;

/// What is known of a kernel without running it. Made by [`kernel!`](crate::kernel).
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// Name of the PTX entry.
    pub name: &'static str,
    /// The module it is in.
    pub family: &'static str,
    /// What it is compiled for, as in PTX: "sm_80" for that and newer, "sm_90a" for compute capability 9.0 alone.
    pub architecture: &'static str,
    /// Threads of a block.
    pub block: u32,
    /// Blocks of it that must fit on a multiprocessor at once, as far as registers go: what the assembler
    /// takes as the limit of a thread's registers. 1 leaves it to the assembler.
    pub min_blocks: u32,
    /// Whether it must have tensor instructions.
    pub tensor_cores: TensorCores,
    /// Bytes of dynamic shared memory, where it is a constant and `tensor_cores` is given.
    pub shared: Option<u64>,
    /// In the order they are passed.
    pub parameters: &'static [Parameter],
    /// Runs the body as the emulator's current thread; none in builds without the emulator.
    pub emulate: Option<fn(&[Argument])>,
}

#[cfg(feature = "emulator")]
impl Kernel {
    /// Runs the body as the emulator's current thread.
    pub(crate) fn run_body(&self, arguments: &[Argument]) {
        self.emulate.expect("builds with the emulator have it of all kernels")(arguments);
    }
}

/// What a kernel must do on tensor cores: `cargo ptx` refuses one that does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorCores {
    /// Nothing.
    Unused,
    /// It has tensor instructions.
    Used,
    /// It has, and in the innermost loop with them nothing else touches the sums.
    KeepsAccumulators,
}

/// A parameter of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the source.
    pub name: &'static str,
    /// What the kernel does with it.
    pub direction: Direction,
    /// Name of the element type, see [`Element::NAME`].
    pub element: &'static str,
    /// Alignment in bytes that a buffer's start must have.
    pub align: usize,
}

impl Parameter {
    /// Bytes of an element of a buffer; the most that an element has where the name is another's.
    pub fn element_bytes(&self) -> usize {
        match self.element {
            "u8" => 1,
            "u16" | "bf16" => 2,
            "f32" | "u32" | "i32" => 4,
            _ => 8,
        }
    }
}

/// What a kernel does with a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A buffer that is only read.
    Read,
    /// A buffer whose content before does not matter.
    Write,
    /// A buffer that is read and written.
    Update,
    /// A matrix of which TMA reads tiles.
    TensorMap,
    /// A number.
    Scalar,
}

/// A value for a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    /// Device memory.
    Buffer {
        /// Of the first element.
        address: u64,
        /// In elements.
        length: usize,
    },
    /// Device memory to copy tiles from.
    TensorMap(TensorMapLayout),
    /// A number.
    U32(u32),
    /// A number.
    U64(u64),
    /// A number.
    F32(f32),
    /// A number.
    F64(f64),
}

/// Blocks in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid(pub u64, pub u64, pub u64);

impl Grid {
    /// Most blocks in each direction.
    pub const LIMIT: Self = Self(0x7fff_ffff, 65_535, 65_535);
}

impl From<u64> for Grid {
    fn from(x: u64) -> Self {
        Self(x, 1, 1)
    }
}

impl From<(u64, u64)> for Grid {
    fn from((x, y): (u64, u64)) -> Self {
        Self(x, y, 1)
    }
}

impl From<(u64, u64, u64)> for Grid {
    fn from((x, y, z): (u64, u64, u64)) -> Self {
        Self(x, y, z)
    }
}

/// A launch whose contract was checked.
#[derive(Debug)]
pub struct Request<'a> {
    /// What runs.
    pub kernel: &'static Kernel,
    /// Blocks in x, y and z; none is zero.
    pub grid: [u32; 3],
    /// Bytes of dynamic shared memory of each block.
    pub shared: u32,
    /// One per parameter.
    pub arguments: &'a [Argument],
}

/// Runs kernels: a CUDA stream or the emulator.
pub trait Launch: fmt::Debug + Send + Sync {
    /// Starts the kernel; it runs after all that was launched before.
    ///
    /// # Safety
    /// The arguments have the kinds and element types of the kernel's parameters, and its contract holds:
    /// [`check`] has passed and buffers stay valid until the kernel has run.
    unsafe fn launch(&self, request: &Request<'_>) -> Result<(), LaunchError>;

    /// Multiprocessors of the device, by which work is cut into blocks. Launchers that pass requests on must pass
    /// this on too, and what follows: they decide which kernels are asked for.
    fn multiprocessors(&self) -> u32;

    /// Compute capability of the device, by which kernels are chosen; of an A100 where there is no device.
    fn compute_capability(&self) -> (u32, u32);

    /// Whether the kernels that go by the name `group`, which are for this compute capability alone, have passed their
    /// self-test on the device. Asked right before they are chosen, so that a device can run it then.
    fn passes_self_test(&self, group: &'static str) -> bool {
        let _ = group;
        true
    }
}

/// Why a kernel was not run, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// A buffer does not hold what the kernel will access.
    #[error("kernel {kernel}: {argument} has {given} elements, needs {needed}")]
    Short {
        /// The kernel.
        kernel: &'static str,
        /// The parameter.
        argument: &'static str,
        /// Elements it has.
        given: usize,
        /// Elements the kernel accesses.
        needed: u64,
    },
    /// A buffer starts where the kernel's accesses cannot.
    #[error("kernel {kernel}: {argument} is at {address:#x}, needs an address that is a multiple of {align}")]
    Misaligned {
        /// The kernel.
        kernel: &'static str,
        /// The parameter.
        argument: &'static str,
        /// Where it is.
        address: u64,
        /// What its address must be a multiple of.
        align: usize,
    },
    /// A buffer with elements at address zero.
    #[error("kernel {kernel}: {argument} is null")]
    Null {
        /// The kernel.
        kernel: &'static str,
        /// The parameter.
        argument: &'static str,
    },
    /// A matrix that TMA cannot take tiles of.
    #[error("kernel {kernel}: {argument} has {reason}")]
    TensorMap {
        /// The kernel.
        kernel: &'static str,
        /// The parameter.
        argument: &'static str,
        /// Why not.
        reason: TensorMapError,
    },
    /// A kernel for another architecture than the device's.
    #[error("kernel {kernel} is for {architecture} alone, the device has compute capability {}.{}", .device.0, .device.1)]
    Architecture {
        /// The kernel.
        kernel: &'static str,
        /// What it is compiled for.
        architecture: &'static str,
        /// What the device has.
        device: (u32, u32),
    },
    /// A condition of the kernel's contract does not hold.
    #[error("kernel {kernel} requires {requirement}; its numbers are {numbers}")]
    Requirement {
        /// The kernel.
        kernel: &'static str,
        /// The condition, as it stands in the source.
        requirement: &'static str,
        /// All scalar arguments.
        numbers: String,
    },
    /// More blocks than a device can count.
    #[error("kernel {kernel}: a grid of {}×{}×{} blocks is over the limit of {}×{}×{}",
        .grid.0, .grid.1, .grid.2, Grid::LIMIT.0, Grid::LIMIT.1, Grid::LIMIT.2)]
    Grid {
        /// The kernel.
        kernel: &'static str,
        /// What was asked for.
        grid: Grid,
    },
    /// More shared memory than the device has.
    #[error("kernel {kernel}: needs {bytes} bytes of shared memory, the device has {limit}")]
    SharedMemory {
        /// The kernel.
        kernel: &'static str,
        /// What was asked for.
        bytes: u64,
        /// The device's limit.
        limit: u32,
    },
    /// The emulator found the kernel at fault.
    #[cfg(feature = "emulator")]
    #[error(transparent)]
    Fault(#[from] Box<Fault>),
    /// The driver refused or failed.
    #[error("kernel {kernel}: {message}")]
    Driver {
        /// The kernel.
        kernel: &'static str,
        /// What the driver said.
        message: String,
    },
}

/// Checks a buffer against its parameter; `needed` is what the kernel accesses, in elements.
pub fn check(
    kernel: &'static str,
    parameter: &Parameter,
    argument: Argument,
    needed: u64,
) -> Result<(), LaunchError> {
    let (argument, address, given) = match argument {
        Argument::Buffer { address, length } => (parameter.name, address, length),
        Argument::TensorMap(matrix) => {
            matrix.check().map_err(|reason| LaunchError::TensorMap {
                kernel,
                argument: parameter.name,
                reason,
            })?;
            (parameter.name, matrix.address, matrix.length)
        }
        _ => return Ok(()),
    };
    if (given as u64) < needed {
        return Err(LaunchError::Short { kernel, argument, given, needed });
    }
    if needed > 0 && address == 0 {
        return Err(LaunchError::Null { kernel, argument });
    }
    if !address.is_multiple_of(parameter.align as u64) {
        return Err(LaunchError::Misaligned { kernel, argument, address, align: parameter.align });
    }
    Ok(())
}

/// Checks grid and shared memory; `None` when there is nothing to run.
pub fn check_geometry(
    kernel: &'static str,
    grid: Grid,
    shared: u64,
) -> Result<Option<([u32; 3], u32)>, LaunchError> {
    let limit = Grid::LIMIT;
    if grid.0 > limit.0 || grid.1 > limit.1 || grid.2 > limit.2 {
        return Err(LaunchError::Grid { kernel, grid });
    }
    let shared = u32::try_from(shared).map_err(|_| LaunchError::SharedMemory {
        kernel,
        bytes: shared,
        limit: u32::MAX,
    })?;
    let dimensions = [grid.0 as u32, grid.1 as u32, grid.2 as u32];
    Ok((!dimensions.contains(&0)).then_some((dimensions, shared)))
}

/// A number that can be a kernel's argument.
pub trait Scalar: Sized {
    /// Takes the argument at `index`, and steps on. Panics when it is of another kind, which a launch
    /// through [`kernel!`](crate::kernel) rules out.
    fn bind(arguments: &[Argument], index: &mut usize) -> Self;
}

macro_rules! scalars {
    ($($type:ident = $kind:ident),*) => {$(
        impl From<$type> for Argument {
            fn from(value: $type) -> Self {
                Self::$kind(value)
            }
        }

        impl Scalar for $type {
            fn bind(arguments: &[Argument], index: &mut usize) -> Self {
                *index += 1;
                match arguments[*index - 1] {
                    Argument::$kind(value) => value,
                    other => panic!("argument {index} is {other:?}, not a {}", stringify!($type)),
                }
            }
        }
    )*};
}
scalars!(u32 = U32, u64 = U64, f32 = F32, f64 = F64);

/// The scalar arguments with their names, for messages.
pub fn describe_numbers(kernel: &Kernel, arguments: &[Argument]) -> String {
    let number = |(parameter, argument): (&Parameter, &Argument)| match argument {
        Argument::Buffer { .. } | Argument::TensorMap(_) => None,
        Argument::U32(value) => Some(format!("{} = {value}", parameter.name)),
        Argument::U64(value) => Some(format!("{} = {value}", parameter.name)),
        Argument::F32(value) => Some(format!("{} = {value}", parameter.name)),
        Argument::F64(value) => Some(format!("{} = {value}", parameter.name)),
    };
    kernel.parameters.iter().zip(arguments).filter_map(number).collect::<Vec<_>>().join(", ")
}

/// The family of a kernel in module `path`: the crate's module it is in, as `b` of `a::b::c`; in a crate
/// without modules, the crate.
pub const fn family_of(path: &'static str) -> &'static str {
    let module = match find_colon(path) {
        Some(colon) => path.split_at(colon + 2).1,
        None => path,
    };
    match find_colon(module) {
        Some(colon) => module.split_at(colon).0,
        None => module,
    }
}

/// Where the first colon is.
const fn find_colon(path: &str) -> Option<usize> {
    let bytes = path.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        if bytes[index] == b':' {
            return Some(index);
        }
        index += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_a_module_of_the_crate() {
        assert_eq!(family_of("kernels::slerp"), "slerp");
        assert_eq!(family_of("kernels::rms_norm::backward::wide"), "rms_norm");
        assert_eq!(family_of("example"), "example");
    }
}
