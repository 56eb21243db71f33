//! Products of large matrices.
//!
//! As in BLIS: a micro-kernel makes a tile of C in registers from a panel of rows of A and one of columns
//! of B, both packed in the order it reads them. The threads pack one operand together, a chunk of it that
//! stays in the shared cache; of the other each packs the part it multiplies next into its own cache.
//!
//! Measured on two Zen 3 cores whose peak is 100 GFLOP/s each, f32, shapes of transformer layers: 79 to 92
//! GFLOP/s a core with 1024 tokens, 67 to 73 where C is a gradient of 512 by 512 or fewer, against 63 to 85
//! of the crate `matrixmultiply` in turns with it. Prefetching C or the next panel is worth nothing.

mod kernel;
mod pack;

use std::ops::Range;

use self::kernel::{Target, edge_tile, tile};
use self::pack::pack;
use super::CpuDevice;
use super::parallel::{SharedMut, for_each_phase, part, with_scratch};
use super::simd::{Baseline, Instructions, Level};

/// Most inner indices summed in registers before C is updated.
const DEPTH_BLOCK: usize = 768;
/// Most lanes of the shared operand packed at once.
const SHARED_LANES: usize = 1024;
/// Most elements of the shared operand packed at once, where one block of its depth has fewer.
const SHARED_ELEMENTS: usize = 1 << 20;
/// Most rows of C that a thread takes at a time, where B is shared: they stay in its own cache.
const ITEM_ROWS: usize = 48;
/// Most columns of C that a thread takes at a time, where A is shared.
const ITEM_COLUMNS: usize = 32;
/// Lanes of the shared operand that a thread packs at a time: whole panels of any width.
const PACK_ITEM: usize = 96;
/// Products of fewer multiply-adds stay on one thread: waking another costs more.
const SERIAL_BELOW: usize = 1 << 16;

/// A matrix to read: rows and columns at any stride in a slice.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix. Panics unless `data` holds exactly its elements.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "matrix of {rows} by {columns}");
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// What happens to the elements C has before the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// C ← A·B; what C held is not read.
    Overwrite,
    /// C ← C + A·B.
    Accumulate,
}

/// C ← A·B or C + A·B, with C row-major `[a.rows, b.columns]`. Panics when the sizes disagree.
///
/// Every element of C is summed by one thread in an order that depends on the inner dimension alone:
/// the result has the same bits for every number of threads.
pub fn multiply(cpu: &CpuDevice, a: Matrix, b: Matrix, update: Update, c: &mut [f32]) {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    assert_eq!(c.len(), a.rows * b.columns, "C");
    if a.columns == 0 && update == Update::Overwrite {
        c.fill(0.0);
    }
    if c.is_empty() || a.columns == 0 {
        return;
    }
    // Tiles that fill the vector registers: 24 of 32, 12 of 16, and 8 of 16 (or 32) half as wide.
    match Level::detect() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(avx512) => Product::<12, 32>::new(a, b, update, c).run(cpu, avx512),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(avx2) => Product::<6, 16>::new(a, b, update, c).run(cpu, avx2),
        Level::Baseline => Product::<4, 8>::new(a, b, update, c).run(cpu, Baseline),
    }
}

/// A product under way, in tiles of `R` rows and `C` columns.
struct Product<'a, const R: usize, const C: usize> {
    /// Its rows are those of C.
    a: Matrix<'a>,
    /// Transposed: its rows are the columns of C.
    b: Matrix<'a>,
    update: Update,
    c: SharedMut<'a, f32>,
    /// Inner indices of a panel.
    depth_block: usize,
    /// Whether the shared operand is A.
    share_a: bool,
    /// Lanes of the shared operand packed at once.
    shared_lanes: usize,
    /// Inner indices of it packed at once: whole panels.
    shared_depth: usize,
}

impl<'a, const R: usize, const C: usize> Product<'a, R, C> {
    fn new(a: Matrix<'a>, b: Matrix<'a>, update: Update, c: &'a mut [f32]) -> Self {
        let depth = a.columns;
        let depth_block = even_part(depth, DEPTH_BLOCK, 8);
        // A is shared where it is a single item: the columns of B are then what the threads divide.
        let share_a = a.rows <= ITEM_ROWS;
        let (lanes, panel) = if share_a { (a.rows, R) } else { (b.columns, C) };
        let shared_lanes = even_part(lanes, SHARED_LANES, panel);
        let shared_depth = depth_block * (SHARED_ELEMENTS / (depth_block * shared_lanes)).max(1);
        let c = SharedMut::new(c);
        Self { a, b: b.transposed(), update, c, depth_block, share_a, shared_lanes, shared_depth }
    }

    fn run(&self, cpu: &CpuDevice, instructions: impl Instructions) {
        let multiply_adds = self.a.rows * self.a.columns * self.b.rows;
        let threads = if multiply_adds < SERIAL_BELOW { 1 } else { cpu.threads() };
        let (shared, own, own_item, panel) =
            if self.share_a { (self.a, self.b, ITEM_COLUMNS, C) } else { (self.b, self.a, ITEM_ROWS, R) };
        // As many for each thread, of nearly equal size.
        let items = own.rows.div_ceil(own_item).next_multiple_of(threads).min(own.rows.div_ceil(panel));
        let mut chunks = Vec::new();
        for lanes in steps(0..shared.rows, self.shared_lanes) {
            chunks.extend(steps(0..shared.columns, self.shared_depth).map(|depth| (lanes.clone(), depth)));
        }
        let counts: Vec<usize> =
            chunks.iter().flat_map(|(lanes, _)| [lanes.len().div_ceil(PACK_ITEM), items]).collect();
        let shared_length = self.shared_lanes * self.shared_depth.min(shared.columns);
        let own_length = own.rows.div_ceil(panel).div_ceil(items) * panel * self.depth_block;
        with_scratch(shared_length, |packed| {
            let packed = SharedMut::new(packed);
            let work = |phase: usize, index: usize| {
                let (lanes, depth) = &chunks[phase / 2];
                if phase.is_multiple_of(2) {
                    let start = lanes.start + index * PACK_ITEM;
                    let part = start..lanes.end.min(start + PACK_ITEM);
                    // SAFETY: no other index has these lanes, and the phases keep readers away.
                    instructions.run(
                        #[inline(always)]
                        || unsafe { self.pack_shared(instructions, lanes, part, depth, &packed) },
                    );
                } else {
                    let part = part(own.rows, items, index, panel);
                    with_scratch(own_length, |own| {
                        // SAFETY: no other index has these rows or columns of C, and packing is over.
                        instructions.run(
                            #[inline(always)]
                            || unsafe { self.multiply_item(instructions, lanes, part, depth, &packed, own) },
                        );
                    });
                }
            };
            if threads == 1 {
                let phases = counts.iter().enumerate();
                phases.for_each(|(phase, &count)| (0..count).for_each(|index| work(phase, index)));
            } else {
                cpu.run(|| for_each_phase(&counts, work));
            }
        });
    }

    /// Packs the lanes `part` of the chunk `lanes` of the shared operand.
    ///
    /// # Safety
    /// Nothing else may access what is packed of these lanes meanwhile.
    #[inline(always)]
    unsafe fn pack_shared(
        &self,
        instructions: impl Instructions,
        lanes: &Range<usize>,
        part: Range<usize>,
        depth: &Range<usize>,
        packed: &SharedMut<'_, f32>,
    ) {
        for depth_block in steps(depth.clone(), self.depth_block) {
            let place = self.place(lanes, &part, depth, &depth_block);
            // SAFETY: the caller's promise.
            let target = unsafe { packed.range(place) };
            if self.share_a {
                pack::<R>(instructions, self.a, part.clone(), depth_block, target.as_chunks_mut().0);
            } else {
                pack::<C>(instructions, self.b, part.clone(), depth_block, target.as_chunks_mut().0);
            }
        }
    }

    /// Where the panels of `part` for one block of depth are among those of the chunk `lanes` by `depth`:
    /// block of depth after block of depth, and in each panel after panel.
    #[inline(always)]
    fn place(
        &self,
        lanes: &Range<usize>,
        part: &Range<usize>,
        depth: &Range<usize>,
        depth_block: &Range<usize>,
    ) -> Range<usize> {
        let panel = if self.share_a { R } else { C };
        let start = (depth_block.start - depth.start) * lanes.len().next_multiple_of(panel)
            + (part.start - lanes.start) * depth_block.len();
        start..start + part.len().next_multiple_of(panel) * depth_block.len()
    }

    /// The rows of C `part`, or its columns where A is shared, by the chunk `lanes` of the shared operand.
    ///
    /// # Safety
    /// Nothing else may access that part of C meanwhile, and nothing write what is packed.
    #[inline(always)]
    unsafe fn multiply_item(
        &self,
        instructions: impl Instructions,
        lanes: &Range<usize>,
        part: Range<usize>,
        depth: &Range<usize>,
        packed: &SharedMut<'_, f32>,
        own: &mut [f32],
    ) {
        for depth_block in steps(depth.clone(), self.depth_block) {
            let place = self.place(lanes, lanes, depth, &depth_block);
            // SAFETY: the caller's promise.
            let shared = unsafe { packed.read(place) };
            let panel = if self.share_a { C } else { R };
            let own = &mut own[..part.len().next_multiple_of(panel) * depth_block.len()];
            let (rows, columns, a, b);
            if self.share_a {
                pack::<C>(instructions, self.b, part.clone(), depth_block.clone(), own.as_chunks_mut().0);
                (rows, columns, a, b) = (lanes, &part, shared, &*own);
            } else {
                pack::<R>(instructions, self.a, part.clone(), depth_block.clone(), own.as_chunks_mut().0);
                (rows, columns, a, b) = (&part, lanes, &*own, shared);
            }
            let add = self.update == Update::Accumulate || depth_block.start > 0;
            let a_panels = a.as_chunks::<R>().0.chunks_exact(depth_block.len());
            let b_panels = b.as_chunks::<C>().0.chunks_exact(depth_block.len());
            for (column, b) in columns.clone().step_by(C).zip(b_panels) {
                for (row, a) in rows.clone().step_by(R).zip(a_panels.clone()) {
                    let stride = self.b.rows;
                    let (rows, columns) = (R.min(rows.end - row), C.min(columns.end - column));
                    let target = Target { start: row * stride + column, stride, rows, columns, add };
                    // Either is a function of its own, so that the registers are all the micro-kernel's.
                    if rows == R && columns == C {
                        instructions.call(
                            #[inline(always)]
                            // SAFETY: the tile lies in the caller's part of C.
                            || unsafe { tile(instructions, a, b, &self.c, target) },
                        );
                    } else {
                        instructions.call(
                            #[inline(always)]
                            // SAFETY: as above.
                            || unsafe { edge_tile(instructions, a, b, &self.c, target) },
                        );
                    }
                }
            }
        }
    }
}

/// `length` cut into the fewest parts of at most `most`: the size of all but the last of them, a multiple of
/// `multiple`.
fn even_part(length: usize, most: usize, multiple: usize) -> usize {
    length.div_ceil(length.div_ceil(most)).next_multiple_of(multiple)
}

/// The range in steps of `size`.
#[inline(always)]
fn steps(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(size).map(move |start| start..range.end.min(start + size))
}

#[cfg(test)]
mod tests;
