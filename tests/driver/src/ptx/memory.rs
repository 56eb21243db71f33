//! Memory as PTX addresses it: global memory by the addresses that were passed, the block's shared memory and the
//! kernel's parameters in windows of their own.

use cpift_kernels::emulator::Cause;
use cpift_kernels::emulator::instructions::Point;
use cpift_kernels::launch::{Argument, Direction, Parameter, Request};
use cpift_kernels::tensor_map::TensorMapLayout;

use super::Entry;
use super::program::Space;

/// Where dynamic shared memory begins in the shared address space. Not at zero: a kernel that leaves its base
/// out is wrong. A multiple of what tiles want.
pub const SHARED_START: u64 = 1024;
/// Generic addresses of shared memory are by this more. Nothing of the host's is there, nor at the next.
pub const SHARED_WINDOW: u64 = 1 << 61;
/// Generic addresses of parameters are by this more than those in their own address space.
pub const PARAMETER_WINDOW: u64 = 1 << 62;
/// Where the parameters begin in their own address space, which 32 bits are enough for. Not at zero, as shared memory.
pub const PARAMETERS: u64 = 4096;

/// What a launch may access besides shared memory.
#[derive(Debug)]
pub struct Memory {
    regions: Vec<Region>,
    parameters: Vec<u8>,
    /// Tensor maps by the bytes of parameters before them: argument and matrix.
    maps: Vec<(usize, (usize, TensorMapLayout))>,
}

/// A buffer that was passed.
#[derive(Debug)]
struct Region {
    start: u64,
    end: u64,
    /// Its place among the parameters.
    parameter: usize,
    described: &'static Parameter,
}

impl Region {
    fn is_written(&self) -> bool {
        self.described.direction != Direction::Read
    }
}

/// A range of a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// For the host.
    pub pointer: *mut u8,
    /// The buffer's place among the parameters.
    pub parameter: usize,
    /// Bytes of the buffer before it.
    pub offset: usize,
}

impl Memory {
    /// What a launch of this entry was passed.
    pub fn new(request: &Request<'_>, entry: &Entry) -> Self {
        let bytes = entry.parameters.last().map_or(0, |last| last.offset + last.bytes);
        let mut memory = Self { regions: Vec::new(), parameters: vec![0xff; bytes], maps: Vec::new() };
        let described = request.kernel.parameters.iter().zip(&entry.parameters);
        for (place, ((described, declared), argument)) in described.zip(request.arguments).enumerate() {
            let mut write = |bytes: &[u8]| {
                memory.parameters[declared.offset..][..bytes.len()].copy_from_slice(bytes);
            };
            match *argument {
                Argument::Buffer { address, length } => {
                    write(&address.to_le_bytes());
                    let end = address + (length * described.element_bytes()) as u64;
                    memory.regions.push(Region { start: address, end, parameter: place, described });
                }
                Argument::TensorMap(matrix) => memory.maps.push((declared.offset, (place, matrix))),
                Argument::U32(number) => write(&number.to_le_bytes()),
                Argument::U64(number) => write(&number.to_le_bytes()),
                Argument::F32(number) => write(&number.to_le_bytes()),
                Argument::F64(number) => write(&number.to_le_bytes()),
            }
        }
        memory
    }

    /// A checked range of global memory.
    pub fn global(
        &self,
        point: Point,
        space: Space,
        stores: bool,
        address: u64,
        bytes: usize,
    ) -> Result<Place, Cause> {
        let access = if stores { "a store to" } else { "a load from" };
        let fault = |what: String| {
            let what = format!("{access} {bytes} bytes at {address:#x}, {what}");
            Err(Cause::Instruction { what, location: point.to_string() })
        };
        if !address.is_multiple_of(bytes as u64) {
            return fault("which is not aligned to them".to_owned());
        }
        let holds = |region: &&Region| region.start <= address && address + bytes as u64 <= region.end;
        let mut found = self.regions.iter().filter(holds);
        // A buffer that was passed twice may be written as one and read as the other.
        let region = if stores { found.find(|region| region.is_written()) } else { found.next() };
        let Some(region) = region else {
            let Some(region) = self.regions.iter().find(holds) else {
                return fault(self.describe(address));
            };
            return fault(format!("in {}, which the kernel only reads", region.described.name));
        };
        let written = || self.regions.iter().filter(holds).find(|region| region.is_written());
        if space == Space::Constant
            && let Some(region) = written()
        {
            return fault(format!("as of constants, in {}, which the kernel writes", region.described.name));
        }
        let offset = (address - region.start) as usize;
        Ok(Place { pointer: address as *mut u8, parameter: region.parameter, offset })
    }

    /// Where an address outside of all buffers lies.
    fn describe(&self, address: u64) -> String {
        let distance = |region: &&Region| region.start.abs_diff(address).min(region.end.abs_diff(address));
        match self.regions.iter().filter(|region| region.end > region.start).min_by_key(distance) {
            None => "and no buffer was passed".to_owned(),
            Some(Region { start, end, described, .. }) => {
                format!("outside of all buffers; the nearest is {} at {start:#x} to {end:#x}", described.name)
            }
        }
    }

    /// Bytes of the parameters, at most 16.
    pub fn parameter(&self, address: u64, bytes: usize) -> Option<[u8; 16]> {
        let address = address.checked_sub(PARAMETER_WINDOW).unwrap_or(address);
        let offset = usize::try_from(address.checked_sub(PARAMETERS)?).ok()?;
        let mut buffer = [0; 16];
        buffer[..bytes].copy_from_slice(self.parameters.get(offset..offset.checked_add(bytes)?)?);
        Some(buffer)
    }

    /// The matrix whose tensor map is at a generic address.
    pub fn map(&self, address: u64) -> Option<(usize, TensorMapLayout)> {
        let offset = usize::try_from(address.checked_sub(PARAMETER_WINDOW + PARAMETERS)?).ok()?;
        self.maps.iter().find(|&&(place, _)| place == offset).map(|&(_, matrix)| matrix)
    }
}
