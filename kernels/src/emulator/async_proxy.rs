//! The asynchronous proxy: copies of tiles by TMA and products by `wgmma`, which run beside the threads.
//!
//! Both are done as late as can be, when no thread can go on without, one by one in the order of the schedule: first
//! products, each warp's part by itself, then copies. So a thread that does not wait for a copy finds it under way,
//! and a tile that is given back too early is overwritten before it is read.

use std::ops::Range;

use super::mbarrier::Arrived;
use super::rules::{Mutation, Rules};
use super::shared::{GRANULE, SharedMemory};
use super::tensor_cores::{COLUMNS, K_STEP, ROWS, TileA, TileB, TileSums, multiply_tile};
use super::thread::{SharedOperand, WgmmaA, WgmmaOperation};
use super::traffic::{Access, Counter};
use crate::fault::Cause;
use crate::tensor_map::{SWIZZLE_BYTES, TensorMapLayout};
use crate::values::{Bf16, halves};

/// Threads of a warpgroup: four warps.
pub const WARPGROUP: usize = 128;
/// Lines that are swizzled together, where they are the last dimension.
const ATOM_LINES: u32 = SWIZZLE_BYTES / 2;
/// Bytes after which the swizzle repeats.
const PATTERN: u32 = 8 * SWIZZLE_BYTES;

/// A copy of a tile under way.
#[derive(Debug)]
pub struct TmaCopy {
    /// The thread that began it.
    pub thread: u32,
    /// The matrix.
    pub matrix: TensorMapLayout,
    /// The kernel's parameter that it is.
    pub parameter: usize,
    /// Of the tile's first element.
    pub row: u32,
    /// Of the tile's first element.
    pub column: u32,
    /// Where it goes in shared memory.
    pub byte: u32,
    /// Where its bytes arrive.
    pub barrier: u32,
}

/// Where 16-byte chunks are moved to within 128 bytes; both TMA and the tensor cores do it.
fn swizzled(byte: u32) -> u32 {
    byte ^ (byte >> 7 & 7) << 4
}

/// A warp's 16 rows of a left operand that its lanes hold in registers, by rows of 16 along k.
fn rows_of(lanes: impl Iterator<Item = WgmmaA>, rules: Rules) -> Vec<f32> {
    let mut values = vec![0.0; ROWS * K_STEP];
    for (lane, a) in lanes.enumerate() {
        // Lanes do the same instruction.
        let WgmmaA::Registers(words) = a else { continue };
        let order = rules.order(Mutation::RegistersExchanged);
        for (index, word) in order.into_iter().zip(words) {
            let (row, k_offset) = (lane / 4 + 8 * (index % 2), 2 * (lane % 4) + 8 * (index / 2));
            let place = row * K_STEP + k_offset;
            values[place..place + 2].copy_from_slice(&halves(word));
        }
    }
    values
}

impl SharedMemory {
    /// A copy of a tile begins: the memory there is in use until it is done.
    pub fn start_tma_copy(&mut self, copy: TmaCopy, location: &dyn Fn() -> String) -> Result<(), Cause> {
        let (byte, bytes) = (copy.byte, copy.matrix.box_bytes());
        if byte + bytes > self.bytes() {
            let array = (u64::from(byte), u64::from(byte + bytes));
            let (total, access) = (self.bytes(), "copy of a tile to");
            let location = location();
            return Err(Cause::SharedOutOfBounds { access, byte: byte.into(), array, total, location });
        }
        if !byte.is_multiple_of(SWIZZLE_BYTES) {
            return Err(Cause::Misplaced { byte, grain: SWIZZLE_BYTES, location: location() });
        }
        let now = self.now(copy.thread);
        let fences = std::mem::take(&mut self.fences);
        let known = self.mbarriers.expect_copy(copy.barrier, &now, &fences, location);
        self.fences = fences;
        known?;
        let first = byte as usize / GRANULE;
        for index in first..first + bytes as usize / GRANULE {
            let granule = &mut self.granules[index];
            let byte = (index * GRANULE) as u32;
            if let Err((other, earlier)) = granule.accesses_are_over(&now) {
                let (access, location) = ("copy of a tile to", location());
                return Err(Cause::Race { access, byte, other, earlier, location });
            }
            granule.copied_by = Some(copy.thread);
        }
        self.tma_copies.push(copy);
        Ok(())
    }

    /// Does the copy at `index` of those under way; `counter` is told what it reads.
    pub fn finish_tma_copy(&mut self, index: usize, mut counter: Option<&mut Counter>) {
        let TmaCopy { matrix, parameter, row, column, byte, barrier, .. } = self.tma_copies.remove(index);
        let size = matrix.element_bytes as usize;
        let from_start = self.rules.has(Mutation::TilesSwizzledFromStart);
        for line in 0..matrix.box_rows {
            if let Some(counter) = &mut counter {
                let inside = matrix.part_of_row(u64::from(row + line), column.into());
                counter.access(Access::Load, parameter, inside);
            }
            for place in (0..SWIZZLE_BYTES).step_by(size) {
                let to = if from_start {
                    byte + swizzled(line * SWIZZLE_BYTES + place)
                } else {
                    swizzled(byte + line * SWIZZLE_BYTES + place)
                } as usize;
                let (row, column) = (u64::from(row + line), u64::from(column + place / size as u32));
                let mut element = [0u8; 8];
                if row < matrix.rows && column < matrix.columns {
                    let from = (matrix.address as usize + (row * matrix.columns + column) as usize * size)
                        as *const u8;
                    // SAFETY: inside the matrix, whose buffer was checked at launch and is valid while that runs.
                    unsafe { from.copy_to_nonoverlapping(element.as_mut_ptr(), size) };
                }
                // SAFETY: inside the memory, as checked when the copy began: the swizzle moves bytes within
                // 128 bytes, and the tile begins and ends at a multiple of 128.
                unsafe { self.pointer().add(to).copy_from_nonoverlapping(element.as_ptr(), size) };
            }
        }
        let arrived = self.mbarriers.complete(barrier, matrix.box_bytes());
        let first = byte as usize / GRANULE;
        for granule in &mut self.granules[first..first + matrix.box_bytes() as usize / GRANULE] {
            granule.arrive(arrived);
        }
    }

    /// Checks and does a warp's part of its warpgroup's products, of 16 rows: that of each lane's operation. Gives the
    /// multiplications and additions it took.
    ///
    /// # Safety
    /// The lanes are suspended, and what their operations point to is theirs until they go on: instructions, and
    /// half as many f32 as an instruction has columns at its sums.
    pub unsafe fn multiply(&mut self, warp: u32, lanes: &[WgmmaOperation]) -> Result<u64, Cause> {
        let location = || lanes[0].point.to_string();
        // SAFETY: by the caller's promise.
        let lists: Vec<_> = lanes.iter().map(|lane| unsafe { &*lane.instructions }).collect();
        for (index, instruction) in lists[0].iter().enumerate() {
            let first = ROWS as u32 * (warp % 4);
            let a = match instruction.a {
                WgmmaA::Shared(a) => self.operand(a, first..first + ROWS as u32, warp, &location)?,
                WgmmaA::Registers(_) => rows_of(lists.iter().map(|list| list[index].a), self.rules),
            };
            // Lines that are the last dimension are swizzled by 64 (PTX ISA, wgmma: Shared Memory Matrix Layout): no layout
            // ends within the second such part. Fewer than one are read by others' compilers, too.
            let columns = instruction.columns;
            if !instruction.b.k_major && columns > ATOM_LINES && !columns.is_multiple_of(ATOM_LINES) {
                return Err(Cause::Columns { columns, location: location() });
            }
            let b = self.operand(instruction.b, 0..columns, warp, &location)?;
            let parts = self.rules.order(Mutation::SumsExchanged);
            let accumulate = instruction.accumulate != self.rules.has(Mutation::AccumulationInverted);
            let a: TileA = std::array::from_fn(|row| std::array::from_fn(|k| a[row * K_STEP + k]));
            for tile in 0..columns as usize / COLUMNS {
                let line = |k, column| b[(tile * COLUMNS + column) * K_STEP + k];
                let b: TileB = std::array::from_fn(|k| std::array::from_fn(|column| line(k, column)));
                let mut sums = TileSums::default();
                // Row, column, and the lane's own sum.
                let places = || {
                    (0..lists.len()).flat_map(|lane| {
                        parts.into_iter().enumerate().map(move |(place, part)| {
                            (lane / 4 + 8 * (part / 2), 2 * (lane % 4) + part % 2, lane, 4 * tile + place)
                        })
                    })
                };
                for (row, column, lane, place) in places().filter(|_| accumulate) {
                    // SAFETY: by the caller's promise.
                    sums[row][column] = unsafe { *lists[lane][index].sums.add(place) };
                }
                multiply_tile(&a, &b, &mut sums);
                for (row, column, lane, place) in places() {
                    // SAFETY: by the caller's promise.
                    unsafe { *lists[lane][index].sums.add(place) = sums[row][column] };
                }
            }
        }
        let columns: u64 = lists[0].iter().map(|instruction| u64::from(instruction.columns)).sum();
        Ok(2 * (ROWS * K_STEP) as u64 * columns)
    }

    /// An operand by lines of 16 along k, as its matrix descriptor says where they are.
    fn operand(
        &mut self,
        description: SharedOperand,
        lines: Range<u32>,
        warp: u32,
        location: &dyn Fn() -> String,
    ) -> Result<Vec<f32>, Cause> {
        let mut values = Vec::with_capacity(lines.len() * K_STEP);
        let mut known = None;
        let SharedOperand { bits, k_major } = description;
        let field = |from: u32| ((bits >> from & 0x3fff) << 4) as u32;
        let (start, mut leading, mut stride) = (field(0), field(16), field(32));
        // With a base offset of zero, eight rows that are swizzled together begin at a multiple of 1024 (PTX ISA,
        // matrix descriptors of `wgmma`). Steps along k begin within their first row.
        let patterns = [
            start & !(SWIZZLE_BYTES - 1),
            stride,
            if !k_major && lines.end > ATOM_LINES { leading } else { 0 },
        ];
        let aligned = patterns.into_iter().all(|offset| offset.is_multiple_of(PATTERN));
        if bits >> 62 != 1 || bits >> 49 & 7 != 0 || !aligned {
            return Err(Cause::Descriptor { descriptor: bits, location: location() });
        }
        let mutation = self.rules.mutation;
        if mutation == Some(Mutation::StridesExchanged) && !k_major {
            (leading, stride) = (stride, leading);
        }
        for line in lines {
            for k_offset in 0..K_STEP as u32 {
                let byte = if k_major {
                    line / 8 * stride + line % 8 * SWIZZLE_BYTES + 2 * k_offset
                } else {
                    line / ATOM_LINES * leading
                        + line % ATOM_LINES * 2
                        + k_offset / 8 * stride
                        + k_offset % 8 * SWIZZLE_BYTES
                };
                let at = match mutation {
                    Some(Mutation::OperandsNotSwizzled) => start + byte,
                    Some(Mutation::OperandsSwizzledFromStart) => start + swizzled(byte),
                    _ => swizzled(start + byte),
                };
                let bits = self.read_for_warp(at, warp, &mut known, location)?;
                values.push(Bf16(bits).to_f32());
            }
        }
        Ok(values)
    }

    /// Two bytes, read by the tensor cores for a warp.
    fn read_for_warp(
        &mut self,
        byte: u32,
        warp: u32,
        known: &mut Option<Arrived>,
        location: &dyn Fn() -> String,
    ) -> Result<u16, Cause> {
        const ACCESS: &str = "product of a tile at";
        let Some(&granule) = self.granules.get(byte as usize / GRANULE).filter(|_| byte + 2 <= self.bytes())
        else {
            let (total, access, location) = (self.bytes(), ACCESS, location());
            let array = (0, u64::from(total));
            return Err(Cause::SharedOutOfBounds { access, byte: byte.into(), array, total, location });
        };
        if let Some(other) = granule.copied_by {
            let earlier = "is still copying to";
            return Err(Cause::Race { access: ACCESS, byte, other, earlier, location: location() });
        }
        if let Some(arrived) = granule.arrived {
            if *known != Some(arrived) {
                let threads = 32 * warp..32 * (warp + 1);
                if let Some(thread) =
                    threads.into_iter().find(|&thread| !self.mbarriers.knows(thread, arrived))
                {
                    return Err(Cause::Unawaited {
                        access: ACCESS,
                        byte,
                        thread,
                        barrier: arrived.barrier,
                        location: location(),
                    });
                }
                *known = Some(arrived);
            }
        } else {
            self.read_written(byte, 32 * warp, ACCESS, location)?;
        }
        // SAFETY: inside the memory, checked above.
        Ok(unsafe { self.pointer().add(byte as usize).cast::<u16>().read_unaligned() })
    }

    /// Notes a read for a warp of what a thread wrote.
    fn read_written(
        &mut self,
        byte: u32,
        thread: u32,
        access: &'static str,
        location: &dyn Fn() -> String,
    ) -> Result<(), Cause> {
        let now = self.now(thread);
        let granule = &mut self.granules[byte as usize / GRANULE];
        let write = granule.write;
        if write.is_never() {
            return Err(Cause::Uninitialised { byte, location: location() });
        }
        if !write.is_before(&now) {
            let (other, earlier) = (write.thread, "wrote");
            return Err(Cause::Race { access, byte, other, earlier, location: location() });
        }
        if self.fences[write.thread as usize] <= write.fences {
            return Err(Cause::Unfenced { access, byte, other: write.thread, location: location() });
        }
        granule.note_read(now);
        Ok(())
    }
}
