//! What memory gives to several streams at once: a ceiling for the operations, which read and write several.
//!
//! A core waits for each line of memory, and asks for more lines ahead within a page of a stream it has recognised.
//! So one stream alone leaves memory idle at every page, and four, the parts of a buffer, keep it busy. Lines that
//! are changed are written back while others are waited for: a read and a write of the same line take hardly longer
//! than the read.

use rayon::prelude::*;

use crate::buffer::{View, ViewMut};
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;

/// Streams that are read at once.
pub const STREAMS: usize = 4;
/// Elements of a stream that are gone through before the next stream's: a line of memory.
const LINE: usize = 16;
/// Elements of which a length should be a multiple.
pub const UNIT: usize = STREAMS * LINE;
/// Elements of a stream that a thread goes through at once.
const CHUNK: usize = 1 << 16;

/// Sums the elements with all threads, [`STREAMS`] parts of them at once: 4 bytes an element. What of the length is no
/// multiple of [`UNIT`] is left out. Panics for memory of a GPU.
pub fn read(cpu: &CpuDevice, values: View<'_, f32>) -> f32 {
    let length = values.len() / UNIT * LINE;
    let [a, b, c, d] = std::array::from_fn(|stream| &values.host()[stream * length..][..length]);
    cpu.run(|| {
        let pairs = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
        let chunks = pairs.zip(c.par_chunks(CHUNK).zip(d.par_chunks(CHUNK)));
        let sums: Vec<f32> = chunks.map(|((a, b), (c, d))| vectorize!(|| sum([a, b, c, d]))).collect();
        sums.iter().sum()
    })
}

/// Changes the sign of every element with all threads, [`STREAMS`] parts of them at once: 8 bytes an element, read
/// and written. What of the length is no multiple of [`UNIT`] is left out. Panics for memory of a GPU.
pub fn update(cpu: &CpuDevice, values: ViewMut<'_, f32>) {
    let length = values.len() / UNIT * LINE;
    let (a, rest) = values.host().split_at_mut(length);
    let (b, rest) = rest.split_at_mut(length);
    let (c, rest) = rest.split_at_mut(length);
    let d = &mut rest[..length];
    cpu.run(|| {
        let pairs = a.par_chunks_mut(CHUNK).zip(b.par_chunks_mut(CHUNK));
        let chunks = pairs.zip(c.par_chunks_mut(CHUNK).zip(d.par_chunks_mut(CHUNK)));
        chunks.for_each(|((a, b), (c, d))| vectorize!(|| negate([a, b, c, d])));
    });
}

#[inline(always)]
fn sum(streams: [&[f32]; STREAMS]) -> f32 {
    let mut sums = [[0.0f32; LINE]; STREAMS];
    let [a, b, c, d] = streams.map(|stream| stream.as_chunks::<LINE>().0);
    for ((a, b), (c, d)) in a.iter().zip(b).zip(c.iter().zip(d)) {
        for (sums, line) in sums.iter_mut().zip([a, b, c, d]) {
            sums.iter_mut().zip(line).for_each(|(sum, value)| *sum += value);
        }
    }
    sums.as_flattened().iter().sum()
}

#[inline(always)]
fn negate(streams: [&mut [f32]; STREAMS]) {
    let [a, b, c, d] = streams.map(|stream| stream.as_chunks_mut::<LINE>().0);
    for ((a, b), (c, d)) in a.iter_mut().zip(b).zip(c.iter_mut().zip(d)) {
        for line in [a, b, c, d] {
            line.iter_mut().for_each(|value| *value = -*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Buffer, Device};

    #[test]
    fn all_elements_are_read_and_changed() {
        let device = Device::cpu(None).unwrap();
        let Device::Cpu(cpu) = &device else { panic!("a CPU") };
        for length in [0, 3, 64, 140, 8 * CHUNK + 1] {
            let mut buffer = Buffer::from_slice(&device, &vec![1.0; length]).unwrap();
            let whole = length / UNIT * UNIT;
            assert_eq!(read(cpu, buffer.view()), whole as f32);
            update(cpu, buffer.view_mut());
            assert!(buffer.to_vec().unwrap()[..whole].iter().all(|&value| value == -1.0), "{length}");
        }
    }
}
