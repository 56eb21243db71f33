//! Launches: what a driver and a device would refuse, and what they would not notice.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, LazyLock};

use cpift_kernels::launch::{Argument, Direction, Kernel, SHARED_MEMORY_DEFAULT};
use cpift_kernels::tensor_map::TensorMapLayout;
use cudarc::driver::sys::CUresult;

use crate::memory::Place;
use crate::ptx::{Entry, Parameter};
use crate::settings::Failure;
use crate::state::{Outcome, SETTINGS, State, known, violation};
use crate::stream::{Instead, Work};

/// Registers of a multiprocessor, which a block's threads share.
const REGISTERS: u32 = 1 << 16;
/// Threads of a warp; registers are given to warps, 256 at a time.
const WARP: u32 = 32;

/// The bytes of an argument, zeros behind them: a number, an address, or a tensor map.
pub type Value = [u64; 16];

/// A kernel of a loaded module.
#[derive(Debug, Clone)]
pub struct Function {
    /// Whose it is.
    pub context: usize,
    /// Its module.
    pub module: usize,
    pub kernel: &'static Kernel,
    pub entry: Arc<Entry>,
    /// Bytes of dynamic shared memory that it may have.
    pub shared_allowed: u32,
}

/// A launch as it is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry {
    pub function: usize,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
}

/// Kernels by name.
static KERNELS: LazyLock<HashMap<&'static str, &'static Kernel>> = LazyLock::new(|| {
    let kernels = cpift_kernels::families().iter().flat_map(|(_, kernels)| kernels.iter());
    kernels.map(|kernel| (kernel.name, kernel)).collect()
});

/// Registers of a thread, as NVIDIA's assembler gave them to each kernel: the most for any architecture.
static REGISTERS_OF: LazyLock<HashMap<String, u32>> = LazyLock::new(|| {
    let manifest: serde_json::Value =
        serde_json::from_str(cpift_kernels::modules::MANIFEST).unwrap_or_default();
    let mut registers = HashMap::new();
    for module in manifest["modules"].as_object().into_iter().flat_map(|modules| modules.values()) {
        for (name, kernel) in module["kernels"].as_object().into_iter().flatten() {
            let counts = kernel["assembled"].as_object().into_iter().flat_map(|all| all.values());
            let most = counts.filter_map(|assembled| assembled["registers"].as_u64()).max();
            registers.insert(name.clone(), most.unwrap_or(0) as u32);
        }
    }
    registers
});

impl Function {
    /// The kernel of an entry.
    pub fn new(context: usize, module: usize, name: &str, entry: &Arc<Entry>) -> Outcome<Self> {
        let Some(&kernel) = KERNELS.get(name) else {
            let message = format!("`{name}` is in the PTX, but there is no such kernel to run in its place");
            return Err(violation(CUresult::CUDA_ERROR_NOT_FOUND, &message));
        };
        same_parameters(kernel, entry)
            .map_err(|message| violation(CUresult::CUDA_ERROR_INVALID_IMAGE, &message))?;
        let shared_allowed = SHARED_MEMORY_DEFAULT;
        Ok(Self { context, module, kernel, entry: entry.clone(), shared_allowed })
    }

    /// Lets it have dynamic shared memory of this size.
    pub fn allow_shared(&mut self, bytes: i32) -> Outcome {
        let most = SETTINGS.shared_memory();
        match u32::try_from(bytes) {
            Ok(bytes) if bytes <= most => self.shared_allowed = bytes,
            _ => {
                let name = self.kernel.name;
                let message = format!("{name} is to be allowed {bytes} bytes of shared memory, over {most}");
                return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, &message));
            }
        }
        Ok(())
    }
}

/// Whether an entry's parameters are what the kernel's host side passes.
pub fn same_parameters(kernel: &Kernel, entry: &Entry) -> Result<(), String> {
    let name = kernel.name;
    let (host, ptx) = (kernel.parameters.len(), entry.parameters.len());
    if host != ptx {
        return Err(format!("{name} has {ptx} parameters in the PTX, {host} are passed"));
    }
    for (parameter, declared) in kernel.parameters.iter().zip(&entry.parameters) {
        let (tiles, scalar) =
            (parameter.direction == Direction::TensorMap, parameter.direction == Direction::Scalar);
        let buffer = !tiles && !scalar;
        let bytes = match parameter.direction {
            Direction::TensorMap => size_of::<Value>(),
            Direction::Scalar => parameter.element_bytes(),
            _ => 8,
        };
        let float = scalar && parameter.element.starts_with('f');
        if declared.bytes != bytes || declared.pointer != buffer || declared.float != float {
            let parameter = parameter.name;
            return Err(format!("{name}: {parameter} is {declared:?} in the PTX, {bytes} bytes are passed"));
        }
    }
    Ok(())
}

/// Checks a launch, and reads its arguments from where `pointers` point to, one for each of the PTX's parameters.
///
/// # Safety
/// There are as many pointers as the PTX has parameters, to as many bytes as the parameters have. The driver
/// itself cannot check that either.
pub unsafe fn read_arguments(function: &Function, pointers: *const *mut c_void) -> Outcome<Vec<Value>> {
    let name = function.kernel.name;
    let wrong =
        |message: String| violation(CUresult::CUDA_ERROR_INVALID_VALUE, &format!("{name}: {message}"));
    let parameters = &function.entry.parameters;
    if pointers.is_null() && !parameters.is_empty() {
        return Err(wrong("no arguments are passed".to_owned()));
    }
    let mut values = Vec::with_capacity(parameters.len());
    for (index, &Parameter { bytes, .. }) in parameters.iter().enumerate() {
        // SAFETY: as many pointers as parameters, by the caller's promise.
        let pointer = unsafe { *pointers.add(index) };
        if pointer.is_null() || !(pointer as usize).is_multiple_of(bytes.min(64)) {
            return Err(wrong(format!("the pointer to argument {index} is {pointer:?}")));
        }
        let mut value: Value = [0; 16];
        assert!(bytes <= size_of::<Value>(), "parameters were compared with the kernel's");
        // SAFETY: as many bytes as the parameter has, by the caller's promise; they fit.
        unsafe { value.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(pointer.cast(), bytes) };
        values.push(value);
    }
    Ok(values)
}

/// Checks what of a launch does not depend on memory.
pub fn check_geometry(function: &Function, geometry: &Geometry) -> Outcome {
    let Geometry { grid, block, shared, .. } = *geometry;
    let name = function.kernel.name;
    let refuse = |code, message: String| Err(violation(code, &format!("{name}: {message}")));
    let threads: u64 = block.iter().map(|&threads| u64::from(threads)).product();
    let [x, y, z] = grid;
    if x == 0 || y == 0 || z == 0 || x > 0x7fff_ffff || y > 0xffff || z > 0xffff {
        return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("a grid of {grid:?} blocks"));
    }
    if threads == 0 || threads > 1024 || block[2] > 64 {
        return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, format!("a block of {block:?} threads"));
    }
    if function.entry.threads.is_some_and(|required| required != block) {
        let message = format!("a block of {block:?} threads, the PTX requires {:?}", function.entry.threads);
        return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, message);
    }
    if shared > function.shared_allowed {
        let message = format!("{shared} bytes of shared memory, it is allowed {}", function.shared_allowed);
        return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, message);
    }
    let registers = REGISTERS_OF.get(name).copied().unwrap_or(0);
    let of_block = (registers * WARP).next_multiple_of(256) * (threads as u32).div_ceil(WARP);
    if of_block > REGISTERS {
        let message = format!("a block needs {of_block} registers, there are {REGISTERS}");
        return refuse(CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, message);
    }
    Ok(())
}

impl State {
    /// A launch as work: its addresses are looked up, and their memory held.
    pub fn prepare(&self, geometry: &Geometry, values: &[Value]) -> Outcome<Work> {
        let function = known(&self.functions, geometry.function, "function")?;
        self.own(function.context, "function")?;
        check_geometry(function, geometry)?;
        let kernel = function.kernel;
        let (mut arguments, mut buffers) = (Vec::with_capacity(values.len()), Vec::new());
        for (parameter, map) in kernel.parameters.iter().zip(values) {
            let value = map[0];
            arguments.push(match (parameter.direction, parameter.element) {
                (Direction::Scalar, "u32") => Argument::U32(value as u32),
                (Direction::Scalar, "u64") => Argument::U64(value),
                (Direction::Scalar, "f32") => Argument::F32(f32::from_bits(value as u32)),
                (Direction::Scalar, "f64") => Argument::F64(f64::from_bits(value)),
                (Direction::Scalar, other) => {
                    let message = format!("{}: `{other}` is no type of number here", kernel.name);
                    return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, &message));
                }
                (Direction::TensorMap, _) => {
                    let what = format!("{}: {}", kernel.name, parameter.name);
                    let matrix = read_tiles(map);
                    let bytes = (matrix.rows * matrix.row_bytes()) as usize;
                    let place = self.memory.place(matrix.address, bytes, function.context, &what)?;
                    let length = place.rest() / matrix.element_bytes.max(1) as usize;
                    let address = place.host() as u64;
                    buffers.push((place, parameter));
                    Argument::TensorMap(TensorMapLayout { address, length, ..matrix })
                }
                // Right where the kernel does not use it, which the emulator finds out.
                (_, _) if value == 0 => Argument::Buffer { address: 0, length: 0 },
                _ => {
                    let what = format!("{}: {}", kernel.name, parameter.name);
                    let place = self.memory.place(value, 0, function.context, &what)?;
                    let length = place.rest() / parameter.element_bytes();
                    let address = place.host() as u64;
                    // A driver is not told how long it is. The first element is sure.
                    let bytes = parameter.element_bytes().min(place.rest());
                    buffers.push((Place { bytes, ..place }, parameter));
                    Argument::Buffer { address, length }
                }
            });
        }
        let named = |names: &dyn Fn(&Failure) -> Option<&String>| {
            SETTINGS.failures.iter().filter_map(names).any(|name| kernel.name.starts_with(name.as_str()))
        };
        let fails = named(&|failure| if let Failure::Launch(name) = failure { Some(name) } else { None });
        let skipped = named(&|failure| if let Failure::Skip(name) = failure { Some(name) } else { None });
        let instead = if fails { Some(Instead::Fail) } else { skipped.then_some(Instead::Nothing) };
        let Geometry { grid, shared, .. } = *geometry;
        let entry = function.entry.clone();
        Ok(Work::Launch { kernel, entry, grid, shared, arguments, buffers, instead })
    }
}

/// A matrix as the bytes of a tensor map.
pub fn write_tiles(matrix: &TensorMapLayout) -> Value {
    let mut map = [0; 16];
    let TensorMapLayout { address, element_bytes, rows, columns, box_rows, .. } = *matrix;
    map[..5].copy_from_slice(&[address, element_bytes.into(), rows, columns, box_rows.into()]);
    map
}

/// The matrix of a tensor map.
fn read_tiles(map: &Value) -> TensorMapLayout {
    let [address, element_bytes, rows, columns, box_rows, ..] = *map;
    let (element_bytes, box_rows) = (element_bytes as u32, box_rows as u32);
    TensorMapLayout { address, length: 0, element_bytes, rows, columns, box_rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_all_kernels_have_registers() {
        for kernel in KERNELS.values() {
            let registers = REGISTERS_OF[kernel.name];
            assert!((1..=255).contains(&registers), "{}: {registers}", kernel.name);
            let entry = Arc::new(Entry { threads: Some([kernel.block, 1, 1]), ..Entry::default() });
            let function = Function { context: 1, module: 1, kernel, entry, shared_allowed: 0 };
            let geometry = Geometry { function: 0, grid: [1; 3], block: [kernel.block, 1, 1], shared: 0 };
            assert_eq!(check_geometry(&function, &geometry), Ok(()));
            for wrong in [
                Geometry { block: [kernel.block + 32, 1, 1], ..geometry.clone() },
                Geometry { grid: [1, 65_536, 1], ..geometry.clone() },
                Geometry { grid: [0, 1, 1], ..geometry.clone() },
                Geometry { shared: 1, ..geometry.clone() },
            ] {
                assert!(check_geometry(&function, &wrong).is_err(), "{wrong:?}");
            }
        }
    }

    #[test]
    fn sizes_of_all_elements_are_known() {
        for kernel in KERNELS.values() {
            for parameter in kernel.parameters {
                let known = ["u8", "u16", "u32", "u64", "i32", "f32", "f64", "bf16"];
                assert!(known.contains(&parameter.element), "{}: {}", kernel.name, parameter.element);
            }
        }
    }
}
