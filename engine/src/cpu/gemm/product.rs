//! How a product is divided: chunks of the shared operand, items of the threads, blocks of depth, tiles.

use std::ops::Range;

use super::kernel::{Kernel, Place, Start, Target, words};
use super::{Matrix, Multiplication, Update};
use crate::cpu::CpuDevice;
use crate::cpu::parallel::{SharedMut, for_each_phase, part, with_scratch};
use crate::float::Float;

/// Lanes of the shared operand that a thread packs at a time: whole panels of any width.
const PACK_ITEM: usize = 96;
/// Products of fewer multiply-adds stay on one thread: waking another costs more.
const SERIAL_BELOW: usize = 1 << 16;

/// How many threads share a product of `[rows, depth]` by `[depth, columns]`.
pub fn threads(cpu: &CpuDevice, [rows, depth, columns]: [usize; 3]) -> usize {
    if rows * depth * columns < SERIAL_BELOW { 1 } else { cpu.threads() }
}

/// Runs a product with `kernel`.
pub fn run<K: Kernel, O: Float>(kernel: K, multiplication: Multiplication<'_, K::Element, O>) {
    let Multiplication { cpu, a, b, update, c } = multiplication;
    let division = Division::new::<K>([a.rows, a.columns, b.columns]);
    let product = Product { kernel, a, b: b.transposed(), update, division };
    if size_of::<O>() == size_of::<f32>() {
        // f32 results hold their sums.
        let (sums, stride) = (SharedMut::new(bytemuck::cast_slice_mut(c)), b.columns);
        product.run(cpu, &Output::<O> { result: None, sums, stride });
    } else if a.columns <= division.depth_block {
        // Every tile has its whole sum at once.
        let (result, sums) = (Some(SharedMut::new(c)), SharedMut::new(&mut []));
        product.run(cpu, &Output { result, sums, stride: 0 });
    } else {
        let [rows, columns] = division.sums;
        with_scratch(rows * columns, |sums| {
            let (result, sums) = (Some(SharedMut::new(c)), SharedMut::new(sums));
            product.run(cpu, &Output { result, sums, stride: columns });
        });
    }
}

/// What a product is divided into.
#[derive(Debug, Clone, Copy)]
struct Division {
    /// Inner indices of a panel.
    depth_block: usize,
    /// Whether the shared operand is A.
    share_a: bool,
    /// Lanes of the shared operand packed at once.
    shared_lanes: usize,
    /// Inner indices of it packed at once: whole panels.
    shared_depth: usize,
    /// Most lanes of the other operand that a thread takes at a time.
    own_lanes: usize,
    /// Rows and columns of C that one chunk of lanes reaches.
    sums: [usize; 2],
}

impl Division {
    fn new<K: Kernel>([rows, depth, columns]: [usize; 3]) -> Self {
        let (most, multiple) = K::DEPTH_BLOCK;
        let depth_block = even_part(depth, most, multiple);
        // A is shared where it is a single item: the columns of B are then what the threads divide.
        let item = K::item(depth_block);
        let share_a = rows <= item[0];
        let (most_lanes, most_words) = K::SHARED;
        let (lanes, panel) = if share_a { (rows, K::ROWS) } else { (columns, K::COLUMNS) };
        let shared_lanes = even_part(lanes, most_lanes, panel);
        let block_words = words::<K>(depth_block) * shared_lanes;
        let shared_depth = depth_block * (most_words / block_words).max(1);
        let sums = if share_a { [shared_lanes, columns] } else { [rows, shared_lanes] };
        let own_lanes = item[usize::from(share_a)];
        Self { depth_block, share_a, shared_lanes, shared_depth, own_lanes, sums }
    }
}

/// A product under way.
struct Product<'a, K: Kernel> {
    kernel: K,
    /// Its rows are those of C.
    a: Matrix<'a, K::Element>,
    /// Transposed: its rows are the columns of C.
    b: Matrix<'a, K::Element>,
    update: Update,
    division: Division,
}

/// Where the sums go.
struct Output<'a, O> {
    /// C, where it is not f32.
    result: Option<SharedMut<'a, O>>,
    /// C, where it is f32, else the sums so far of one chunk of lanes.
    sums: SharedMut<'a, f32>,
    /// From one row of the sums to the next.
    stride: usize,
}

/// A part of the shared operand, packed at once.
struct Chunk {
    lanes: Range<usize>,
    depth: Range<usize>,
}

impl<K: Kernel> Product<'_, K> {
    fn run<O: Float>(&self, cpu: &CpuDevice, output: &Output<'_, O>) {
        let Division { share_a, shared_lanes, shared_depth, depth_block, own_lanes, .. } = self.division;
        let threads = threads(cpu, [self.a.rows, self.a.columns, self.b.rows]);
        let (shared, own, panel) =
            if share_a { (self.a, self.b, K::COLUMNS) } else { (self.b, self.a, K::ROWS) };
        // As many for each thread, of nearly equal size.
        let items = own.rows.div_ceil(own_lanes).next_multiple_of(threads).min(own.rows.div_ceil(panel));
        let mut chunks = Vec::new();
        for lanes in steps(0..shared.rows, shared_lanes) {
            let depths = steps(0..shared.columns, shared_depth);
            chunks.extend(depths.map(|depth| Chunk { lanes: lanes.clone(), depth }));
        }
        let counts: Vec<usize> =
            chunks.iter().flat_map(|chunk| [chunk.lanes.len().div_ceil(PACK_ITEM), items]).collect();
        let shared_length = shared_lanes * words::<K>(shared_depth.min(shared.columns));
        let own_length = own.rows.div_ceil(panel).div_ceil(items) * panel * words::<K>(depth_block);
        with_scratch(shared_length, |packed| {
            let packed = SharedMut::new(packed);
            let work = |phase: usize, index: usize| {
                let chunk = &chunks[phase / 2];
                if phase.is_multiple_of(2) {
                    let start = chunk.lanes.start + index * PACK_ITEM;
                    let part = start..chunk.lanes.end.min(start + PACK_ITEM);
                    self.kernel.run(
                        #[inline(always)]
                        // SAFETY: no other index has these lanes, and the phases keep readers away.
                        || unsafe { self.pack_shared(chunk, part, &packed) },
                    );
                } else {
                    let part = part(own.rows, items, index, panel);
                    with_scratch(own_length, |own| {
                        self.kernel.run(
                            #[inline(always)]
                            // SAFETY: no other index has these rows or columns of C, and packing is over.
                            || unsafe { self.multiply_item(chunk, part, &packed, own, output) },
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

    /// Packs the lanes `part` of a chunk of the shared operand.
    ///
    /// # Safety
    /// Nothing else may access what is packed of these lanes meanwhile.
    #[inline(always)]
    unsafe fn pack_shared(&self, chunk: &Chunk, part: Range<usize>, packed: &SharedMut<'_, f32>) {
        for depth in steps(chunk.depth.clone(), self.division.depth_block) {
            let place = self.place(chunk, &part, &depth);
            // SAFETY: the caller's promise.
            let target = unsafe { packed.range(place) };
            if self.division.share_a {
                self.kernel.pack_rows(self.a, part.clone(), depth, target);
            } else {
                self.kernel.pack_columns(self.b, part.clone(), depth, target);
            }
        }
    }

    /// Where the panels of `part` for one block of depth are among those of the chunk: block of depth after
    /// block of depth, and in each panel after panel.
    #[inline(always)]
    fn place(&self, chunk: &Chunk, part: &Range<usize>, depth: &Range<usize>) -> Range<usize> {
        let panel = if self.division.share_a { K::ROWS } else { K::COLUMNS };
        let before = words::<K>(depth.start - chunk.depth.start);
        let length = words::<K>(depth.len());
        let start =
            before * chunk.lanes.len().next_multiple_of(panel) + (part.start - chunk.lanes.start) * length;
        start..start + part.len().next_multiple_of(panel) * length
    }

    /// The rows of C `part`, or its columns where A is shared, by a chunk of the shared operand.
    ///
    /// # Safety
    /// Nothing else may access that part of C meanwhile, and nothing write what is packed.
    #[inline(always)]
    unsafe fn multiply_item<O: Float>(
        &self,
        chunk: &Chunk,
        part: Range<usize>,
        packed: &SharedMut<'_, f32>,
        own: &mut [f32],
        output: &Output<'_, O>,
    ) {
        let share_a = self.division.share_a;
        for depth in steps(chunk.depth.clone(), self.division.depth_block) {
            let place = self.place(chunk, &chunk.lanes, &depth);
            // SAFETY: the caller's promise.
            let shared = unsafe { packed.read(place) };
            let panel = if share_a { K::COLUMNS } else { K::ROWS };
            let length = words::<K>(depth.len());
            let own = &mut own[..part.len().next_multiple_of(panel) * length];
            let (rows, columns, a, b);
            if share_a {
                self.kernel.pack_columns(self.b, part.clone(), depth.clone(), own);
                (rows, columns, a, b) = (&chunk.lanes, &part, shared, &*own);
            } else {
                self.kernel.pack_rows(self.a, part.clone(), depth.clone(), own);
                (rows, columns, a, b) = (&part, &chunk.lanes, &*own, shared);
            }
            let a_panels = a.chunks_exact(length * K::ROWS);
            let b_panels = b.chunks_exact(length * K::COLUMNS);
            for (column, b) in columns.clone().step_by(K::COLUMNS).zip(b_panels) {
                for (row, a) in rows.clone().step_by(K::ROWS).zip(a_panels.clone()) {
                    let tile_rows = row..rows.end.min(row + K::ROWS);
                    let tile_columns = column..columns.end.min(column + K::COLUMNS);
                    let target = self.target(chunk, [tile_rows, tile_columns], &depth, output);
                    // SAFETY: the tile lies in the caller's part of C.
                    unsafe { self.kernel.multiply(a, b, &target) };
                }
            }
        }
    }

    /// Where a tile of C goes, of one block of depth.
    #[inline(always)]
    fn target<'a, O: Float>(
        &self,
        chunk: &Chunk,
        [rows, columns]: [Range<usize>; 2],
        depth: &Range<usize>,
        output: &Output<'a, O>,
    ) -> Target<'a, O> {
        let stride = self.b.rows;
        let start = rows.start * stride + columns.start;
        let result = output.result.map(|memory| Place { memory, start, stride });
        // Sums beside a result are those of the chunk alone.
        let origin = match (&result, self.division.share_a) {
            (None, _) => 0,
            (Some(_), true) => chunk.lanes.start * output.stride,
            (Some(_), false) => chunk.lanes.start,
        };
        let start = rows.start * output.stride + columns.start - origin;
        Target {
            result,
            sums: Place { memory: output.sums, start, stride: output.stride },
            start: match (depth.start, self.update) {
                (0, Update::Overwrite) => Start::Zero,
                (0, Update::Accumulate) => Start::Result,
                _ => Start::Sums,
            },
            last: depth.end == self.a.columns,
            rows: rows.len(),
            columns: columns.len(),
        }
    }
}

/// `length` cut into the fewest parts of at most `most`: the size of all but the last of them, a multiple of
/// `multiple`.
pub fn even_part(length: usize, most: usize, multiple: usize) -> usize {
    length.div_ceil(length.div_ceil(most)).next_multiple_of(multiple)
}

/// The range in steps of `size`.
#[inline(always)]
fn steps(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(size).map(move |start| start..range.end.min(start + size))
}
