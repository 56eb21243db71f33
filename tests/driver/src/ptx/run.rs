//! Threads that execute a program, each the body of a coroutine of the emulator, which does what they do together.

use cpift_kernels::emulator::instructions::{self as device, Kind, Point};
use cpift_kernels::emulator::{Cause, Emulator};
use cpift_kernels::launch::{LaunchError, Request};

use super::Entry;
use super::memory::{Memory, SHARED_START, SHARED_WINDOW};
use super::program::{
    Address, BLOCK, BLOCKS, CLOCK, Instruction, List, Program, ShuffleMode, Slot, Space, THREAD, THREADS,
};
use super::wgmma::Products;

/// Branches that a thread may take; more are taken for a loop without end.
const BRANCHES: u64 = 1 << 24;
/// Most bytes of an access.
const WIDEST: usize = 16;

/// Runs what a launch asks for from an entry's PTX.
///
/// # Safety
/// As for [`Launch::launch`](cpift_kernels::launch::Launch::launch); the entry is the kernel's.
///
/// # Errors
/// As for a launch of the source.
pub unsafe fn launch(emulator: &Emulator, request: &Request<'_>, entry: &Entry) -> Result<(), LaunchError> {
    let memory = Memory::new(request, entry);
    // What the body declares comes on top of what the launch asks for.
    let request = &Request { shared: request.shared + entry.program.shared, ..*request };
    // SAFETY: the caller's promise; every access of a thread is checked against the buffers.
    unsafe {
        emulator.run(request, &|| {
            let mut thread = Thread::new(&entry.program, &memory, request);
            if let Err(cause) = thread.run() {
                device::fault(cause);
            }
        })
    }
}

/// A thread in progress.
struct Thread<'a> {
    program: &'a Program,
    memory: &'a Memory,
    registers: Vec<u64>,
    /// The instruction in progress.
    at: usize,
    /// Branches that are left.
    branches: u64,
    products: Products,
    /// Bytes of the block's shared memory.
    shared: u64,
}

impl<'a> Thread<'a> {
    fn new(program: &'a Program, memory: &'a Memory, request: &Request<'_>) -> Self {
        let mut registers = program.registers.clone();
        let (grid, block) = device::grid_and_block();
        registers[usize::from(THREAD)] = device::thread().into();
        registers[usize::from(THREADS)] = request.kernel.block.into();
        registers[usize::from(CLOCK)] = 0;
        for dimension in 0..3 {
            registers[usize::from(BLOCK[dimension])] = block[dimension].into();
            registers[usize::from(BLOCKS[dimension])] = grid[dimension].into();
        }
        let (shared, products) = (request.shared.into(), Products::default());
        Self { program, memory, registers, at: 0, branches: BRANCHES, products, shared }
    }

    fn get(&self, slot: Slot) -> u64 {
        self.registers[usize::from(slot)]
    }

    fn set(&mut self, slot: Slot, value: u64) {
        self.registers[usize::from(slot)] = value;
    }

    fn word(&self, slot: Slot) -> u32 {
        self.get(slot) as u32
    }

    fn words<const COUNT: usize>(&self, slots: &[Slot]) -> [u32; COUNT] {
        std::array::from_fn(|index| self.word(slots[index]))
    }

    fn address(&self, address: Address) -> u64 {
        self.get(address.base).wrapping_add_signed(address.offset.into())
    }

    /// Where the thread is.
    fn point(&self) -> Point {
        Point::Ptx(self.program.lines[self.at])
    }

    fn wrong(&self, what: impl Into<String>) -> Cause {
        Cause::Instruction { what: what.into(), location: self.point().to_string() }
    }

    /// To the end, or to a fault.
    fn run(&mut self) -> Result<(), Cause> {
        let program = self.program;
        loop {
            match program.code[self.at] {
                Instruction::Compute { function, to, from: [a, b, c, d] } => {
                    let value = function(self.get(a), self.get(b), self.get(c), self.get(d));
                    self.set(to, value);
                }
                Instruction::Branch { to } => {
                    self.branch(to)?;
                    continue;
                }
                Instruction::BranchIf { predicate, holds, to } => {
                    if (self.get(predicate) & 1 != 0) == holds {
                        self.branch(to)?;
                        continue;
                    }
                }
                Instruction::Load { space, bytes, to, address } => self.load(space, bytes, to, address)?,
                Instruction::Store { space, bytes, from, address } => {
                    self.store(space, bytes, from, address)?;
                }
                Instruction::Return => return self.end(),
                other => self.special(other)?,
            }
            self.at += 1;
        }
    }

    fn branch(&mut self, to: u32) -> Result<(), Cause> {
        self.branches -= 1;
        if self.branches == 0 {
            return Err(self.wrong(format!("a loop without end: {BRANCHES} branches were taken")));
        }
        self.at = to as usize;
        Ok(())
    }

    fn end(&self) -> Result<(), Cause> {
        if self.products.is_over() {
            return Ok(());
        }
        Err(self.wrong("products of wgmma were not waited for before the end"))
    }

    /// What the emulator has a part in.
    fn special(&mut self, instruction: Instruction) -> Result<(), Cause> {
        let (program, point) = (self.program, self.point());
        match instruction {
            Instruction::AtomicAdd { space, bytes, to, address, value } => {
                self.add(space, bytes, to, address, value)?;
            }
            Instruction::Barrier => device::barrier(point),
            Instruction::WarpBarrier { lanes } => {
                self.all(lanes)?;
                device::warp_barrier(point);
            }
            Instruction::Shuffle { mode, to, inside, value, operand, clamp, lanes } => {
                self.all(lanes)?;
                let (name, source) =
                    other_lane(mode, device::thread() % 32, self.word(operand), self.word(clamp));
                let own = device::thread() % 32;
                let value = device::shuffle(name, point, self.word(value), source.unwrap_or(own));
                self.set(to, value.into());
                self.set(inside, source.is_some().into());
            }
            Instruction::Ballot { to, predicate, lanes } => {
                self.all(lanes)?;
                let ballot = device::ballot(point, self.get(predicate) & 1 != 0);
                self.set(to, ballot.into());
            }
            Instruction::Elect { to, elected, lanes } => {
                self.all(lanes)?;
                // Which lane is not specified. All meet.
                device::ballot(point, true);
                self.set(to, 0);
                self.set(elected, device::thread().is_multiple_of(32).into());
            }
            Instruction::Multiply { list } => {
                let slots = program.list(list);
                let (a, b) = (self.words(&slots[4..8]), self.words(&slots[8..10]));
                let sums = device::multiply(point, a, b, self.words(&slots[10..]).map(f32::from_bits));
                for (&slot, sum) in slots.iter().zip(sums) {
                    self.set(slot, sum.to_bits().into());
                }
            }
            Instruction::LoadMatrices { transposed, generic, to, address } => {
                let address = self.address(address);
                let window = if generic { SHARED_WINDOW } else { 0 };
                let Some(address) = address.checked_sub(window) else {
                    return Err(
                        self.wrong(format!("matrices at {address:#x}, which is not in shared memory"))
                    );
                };
                let row = self.read_shared(Kind::Load, address, 16)?;
                let row = std::array::from_fn(|word| {
                    u32::from_le_bytes([
                        row[4 * word],
                        row[4 * word + 1],
                        row[4 * word + 2],
                        row[4 * word + 3],
                    ])
                });
                let words = device::exchange_rows(point, row, transposed);
                for (&slot, word) in program.list(to).iter().zip(words) {
                    self.set(slot, word.into());
                }
            }
            Instruction::CopyAsync { to, from, read } => self.copy(to, from, read)?,
            Instruction::CommitCopies => device::commit_copies(),
            Instruction::WaitCopies { latest } => device::wait_copies(self.get(latest) as usize),
            Instruction::InitMbarrier { barrier, count } => {
                device::mbarrier_init(point, self.shared_byte(barrier)?, self.word(count));
            }
            Instruction::InvalidateMbarrier { barrier } => {
                device::mbarrier_inval(point, self.shared_byte(barrier)?);
            }
            Instruction::Arrive { barrier, bytes } => {
                device::mbarrier_arrive(point, self.shared_byte(barrier)?, self.word(bytes));
            }
            Instruction::AwaitPhase { to, barrier, parity } => {
                // A wait may end before the phase does. One that waited does so, and the kernel must ask again.
                let over = device::mbarrier_wait(point, self.shared_byte(barrier)?, self.word(parity));
                self.set(to, over.into());
            }
            Instruction::FenceAsync => device::fence_proxy_async(point),
            Instruction::CopyTile { to, tile, barrier } => {
                let (to, barrier) = (self.shared_byte(to)?, self.shared_byte(barrier)?);
                let slots = program.list(tile);
                let address = self.get(slots[0]);
                let Some(matrix) = self.memory.map(address) else {
                    return Err(self.wrong(format!("a tile by a tensor map at {address:#x}, where none is")));
                };
                let [column, row] = self.words(&slots[1..]);
                device::tma_copy(point, matrix, (row, column), to, barrier);
            }
            Instruction::Touch { registers } => self.products.touch(program.list(registers)),
            Instruction::GroupFence => self.products.fence(),
            Instruction::GroupMultiply { product } => {
                let begun = self.products.begin(program, &mut self.registers, product as usize);
                begun.map_err(|what| self.wrong(what))?;
            }
            Instruction::GroupCommit => self.products.commit(),
            Instruction::GroupWait { latest } => {
                let latest = self.get(latest) as usize;
                let over = self.products.wait(program, &mut self.registers, latest, point);
                over.map_err(|what| self.wrong(what))?;
            }
            Instruction::Trap => return Err(self.wrong("a trap")),
            Instruction::Compute { .. }
            | Instruction::Branch { .. }
            | Instruction::BranchIf { .. }
            | Instruction::Load { .. }
            | Instruction::Store { .. }
            | Instruction::Return => unreachable!("done where instructions are told apart"),
        }
        Ok(())
    }

    /// Fails unless all lanes of the warp are named.
    fn all(&self, lanes: Slot) -> Result<(), Cause> {
        match self.word(lanes) {
            u32::MAX => Ok(()),
            lanes => Err(self.wrong(format!("an instruction of lanes {lanes:#x}, which are not all"))),
        }
    }

    fn load(&mut self, space: Space, bytes: u8, to: List, address: Address) -> Result<(), Cause> {
        let (program, size, address) = (self.program, usize::from(bytes), self.address(address));
        let all = size * usize::from(to.length);
        let buffer = match space {
            Space::Global | Space::Constant => self.read_global(space, address, all)?,
            Space::Shared => self.read_shared(Kind::Load, address, all)?,
            Space::Parameter => {
                let bytes = self.memory.parameter(address, all);
                bytes.ok_or_else(|| self.wrong("a parameter that is not there"))?
            }
        };
        for (&slot, element) in program.list(to).iter().zip(buffer.chunks(size)) {
            let mut number = [0; 8];
            number[..size].copy_from_slice(element);
            self.set(slot, u64::from_le_bytes(number));
        }
        Ok(())
    }

    fn store(&mut self, space: Space, bytes: u8, from: List, address: Address) -> Result<(), Cause> {
        let (size, address) = (usize::from(bytes), self.address(address));
        let mut buffer = [0; WIDEST];
        for (&slot, element) in self.program.list(from).iter().zip(buffer.chunks_mut(size)) {
            element.copy_from_slice(&self.get(slot).to_le_bytes()[..size]);
        }
        self.write(space, address, &buffer[..size * usize::from(from.length)])
    }

    fn add(&mut self, space: Space, bytes: u8, to: Slot, address: Address, value: Slot) -> Result<(), Cause> {
        let (size, address) = (usize::from(bytes), self.address(address));
        let pointer = if space == Space::Shared {
            self.shared_pointer(Kind::Atomic, address, size)?
        } else {
            let place = self.memory.global(self.point(), space, true, address, size)?;
            for stores in [false, true] {
                device::note_access(stores, place.parameter, place.offset..place.offset + size);
            }
            place.pointer
        };
        let mut before = [0; 8];
        // SAFETY: so many bytes are there, as was checked.
        unsafe { pointer.copy_to_nonoverlapping(before.as_mut_ptr(), size) };
        let before = u64::from_le_bytes(before);
        let after = before.wrapping_add(self.get(value)).to_le_bytes();
        // SAFETY: as above.
        unsafe { pointer.copy_from_nonoverlapping(after.as_ptr(), size) };
        self.set(to, before);
        Ok(())
    }

    fn copy(&mut self, to: Address, from: Address, read: Slot) -> Result<(), Cause> {
        let (to, from, read) = (self.address(to), self.address(from), self.word(read) as usize);
        let bytes = match read {
            0 => [0; 16],
            16 => self.read_global(Space::Global, from, 16)?,
            _ => return Err(self.wrong(format!("a copy of 16 bytes that reads {read}"))),
        };
        self.shared_pointer(Kind::Store, to, 16)?;
        device::start_copy((to - SHARED_START) as u32, bytes);
        Ok(())
    }

    fn read_global(&self, space: Space, address: u64, bytes: usize) -> Result<[u8; WIDEST], Cause> {
        let place = self.memory.global(self.point(), space, false, address, bytes)?;
        device::note_access(false, place.parameter, place.offset..place.offset + bytes);
        let mut buffer = [0; WIDEST];
        // SAFETY: inside of a buffer that is valid while the launch runs, as was checked.
        unsafe { place.pointer.copy_to_nonoverlapping(buffer.as_mut_ptr(), bytes) };
        Ok(buffer)
    }

    fn read_shared(&self, kind: Kind, address: u64, bytes: usize) -> Result<[u8; WIDEST], Cause> {
        let pointer = self.shared_pointer(kind, address, bytes)?;
        let mut buffer = [0; WIDEST];
        // SAFETY: so many bytes are there, as was checked.
        unsafe { pointer.copy_to_nonoverlapping(buffer.as_mut_ptr(), bytes) };
        Ok(buffer)
    }

    fn write(&self, space: Space, address: u64, bytes: &[u8]) -> Result<(), Cause> {
        if space == Space::Shared {
            let Some(byte) = address.checked_sub(SHARED_START) else { return Err(self.outside(address)) };
            device::store_shared(self.point(), 0..self.shared, byte, bytes);
            return Ok(());
        }
        let place = self.memory.global(self.point(), space, true, address, bytes.len())?;
        device::note_access(true, place.parameter, place.offset..place.offset + bytes.len());
        // SAFETY: so many bytes are there, as was checked; nothing else refers to them while the launch runs.
        unsafe { place.pointer.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Bytes of the block's shared memory before an address of the shared address space.
    fn shared_byte(&self, address: Address) -> Result<u32, Cause> {
        let address = self.address(address) & 0xffff_ffff;
        let byte = address.checked_sub(SHARED_START).filter(|&byte| byte < self.shared);
        byte.map(|byte| byte as u32).ok_or_else(|| self.outside(address))
    }

    /// A checked range of shared memory.
    fn shared_pointer(&self, kind: Kind, address: u64, bytes: usize) -> Result<*mut u8, Cause> {
        let Some(byte) = address.checked_sub(SHARED_START) else { return Err(self.outside(address)) };
        Ok(device::access_shared(self.point(), kind, 0..self.shared, byte, bytes, bytes))
    }

    fn outside(&self, address: u64) -> Cause {
        let end = SHARED_START + self.shared;
        self.wrong(format!(
            "address {address:#x} of shared memory; the block's is from {SHARED_START:#x} to {end:#x}"
        ))
    }
}

/// The lane that `shfl.sync` has a value of; none where that is outside of the segment. Also what it is called.
fn other_lane(mode: ShuffleMode, lane: u32, operand: u32, clamp: u32) -> (&'static str, Option<u32>) {
    // As the PTX ISA has it in `shfl.sync`: segments are what the mask tells apart, the clamp is their last lane.
    let (distance, mask, clamp) = (operand & 31, clamp >> 8 & 31, clamp & 31);
    let last = lane & mask | clamp & !mask & 31;
    let (name, source) = match mode {
        ShuffleMode::Up => {
            return ("shuffle_up", lane.checked_sub(distance).filter(|&source| source >= last));
        }
        ShuffleMode::Down => ("shuffle_down", lane + distance),
        ShuffleMode::Xor => ("shuffle_xor", lane ^ distance),
        ShuffleMode::Index => ("shuffle_idx", lane & mask | distance & !mask),
    };
    (name, Some(source).filter(|&source| source <= last))
}
