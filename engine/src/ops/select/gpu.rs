//! Selection on a GPU: the kernels count, mark and settle ties; the host finds the k-th key in the counts.

use cpift_kernels::launch::Slice;
use cpift_kernels::select::*;

use super::Order;
use super::cpu::NotANumber;
use crate::buffer::View;
use crate::cpu::pieces::Piece;
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory};

/// Sets the bits of the `k` first coordinates (1 ≤ k ≤ number of coordinates in the pieces) in `words`;
/// returns the k-th |score|.
pub(super) fn mark(
    gpu: &GpuDevice,
    scores: View<'_, f32>,
    pieces: &[Piece],
    k: usize,
    order: Order,
    words: &mut [u64],
) -> Result<std::result::Result<Option<f32>, NotANumber>> {
    let (keys, flip) = match order {
        Order::Largest => (Keys::Magnitudes { flip: 0 }, Some(0)),
        Order::Smallest => (Keys::Magnitudes { flip: MAGNITUDE }, Some(MAGNITUDE)),
        Order::Random { seed } => (Keys::Hashes { seed }, None),
    };
    let selection = Selection::new(gpu, scores, pieces, keys)?;
    let (mut remaining, mut key) = (k as u64, 0);
    for (shift, bins) in DIGITS {
        let counts = selection.count(shift, key * bins, bins)?;
        if shift == DIGITS[0].0
            && flip.is_some_and(|flip| not_all_finite(&counts, flip))
            && let Some(nan) = selection.find_nan(pieces)?
        {
            return Ok(Err(nan));
        }
        let digit = boundary(&counts, &mut remaining);
        key = key * bins + digit;
    }
    // Equals of the k-th key go to the first pieces.
    let (mut marks, equals) = selection.mark(words.len(), key)?;
    let takes: Vec<u32> = equals
        .into_iter()
        .map(|equals| {
            let take = remaining.min(u64::from(equals));
            remaining -= take;
            take as u32
        })
        .collect();
    selection.mark_ties(&mut marks, key, &takes)?;
    collect(&marks, pieces, words)?;
    Ok(Ok(flip.map(|flip| f32::from_bits(key ^ flip))))
}

/// The digit of the k-th largest key, where `remaining` is k among the keys counted; it becomes k among
/// those with that digit.
fn boundary(counts: &[u64], remaining: &mut u64) -> u32 {
    let mut digit = counts.len() - 1;
    while digit > 0 && counts[digit] < *remaining {
        *remaining -= counts[digit];
        digit -= 1;
    }
    digit as u32
}

/// Whether there are infinities or NaN, going by the counts of the highest digit.
fn not_all_finite(counts: &[u64], flip: u32) -> bool {
    let (shift, bins) = DIGITS[0];
    (INFINITY >> shift..bins).any(|digit| counts[(digit ^ flip >> shift) as usize] > 0)
}

/// Adds the marks to the mask. Pieces ascend: only what lies between the first and the last is read.
fn collect(marks: &GpuMemory<u32>, pieces: &[Piece], words: &mut [u64]) -> Result<()> {
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(()) };
    let range = first.words().start..last.words().end;
    let mut halves = vec![0; 2 * range.len()];
    marks.all().slice(2 * range.start..2 * range.end).read(&mut halves)?;
    for (word, halves) in words[range].iter_mut().zip(halves.as_chunks::<2>().0) {
        *word |= u64::from(halves[0]) | u64::from(halves[1]) << 32;
    }
    Ok(())
}

/// What is compared.
#[derive(Clone, Copy)]
enum Keys {
    Magnitudes { flip: u32 },
    Hashes { seed: u64 },
}

/// Scores and pieces on the device.
struct Selection<'a> {
    gpu: &'a GpuDevice,
    scores: Slice<'a, f32>,
    keys: Keys,
    starts: GpuMemory<u64>,
    lengths: GpuMemory<u32>,
    pieces: u32,
}

/// Launches the kernel for the keys, which come first among its arguments; then come the pieces.
macro_rules! launch {
    ($selection:ident, $magnitudes:ident, $hashes:ident $(, $argument:expr)*) => {{
        let Selection { gpu, scores, keys, starts, lengths, .. } = $selection;
        let (starts, lengths) = (starts.all().argument(), lengths.all().argument());
        let count = scores.len() as u64;
        match *keys {
            Keys::Magnitudes { flip } => {
                $magnitudes(gpu.launcher(), *scores, count, flip, starts, lengths $(, $argument)*)
            }
            Keys::Hashes { seed } => {
                $hashes(gpu.launcher(), count, seed, starts, lengths $(, $argument)*)
            }
        }
    }};
}

impl<'a> Selection<'a> {
    fn new(gpu: &'a GpuDevice, scores: View<'a, f32>, pieces: &[Piece], keys: Keys) -> Result<Self> {
        let starts: Vec<u64> = pieces.iter().map(|piece| piece.range.start as u64).collect();
        let lengths: Vec<u32> = pieces.iter().map(|piece| piece.range.len() as u32).collect();
        Ok(Self {
            gpu,
            scores: scores.on(gpu),
            keys,
            starts: GpuMemory::from_slice(gpu, &starts)?,
            lengths: GpuMemory::from_slice(gpu, &lengths)?,
            pieces: pieces.len() as u32,
        })
    }

    /// How many keys have which digit.
    fn count(&self, shift: u32, lowest: u32, bins: u32) -> Result<Vec<u64>> {
        let mut counts = GpuMemory::<u64>::zeros(self.gpu, bins as usize)?;
        let target = counts.all_mut().argument();
        launch!(self, select_count_scores, select_count_hashes, target, self.pieces, shift, lowest, bins)?;
        let mut values = vec![0; bins as usize];
        counts.all().read(&mut values)?;
        Ok(values)
    }

    /// The mask of the keys above the threshold, and every piece's number of equals.
    fn mark(&self, words: usize, threshold: u32) -> Result<(GpuMemory<u32>, Vec<u32>)> {
        let mut marks = GpuMemory::<u32>::zeros(self.gpu, 2 * words)?;
        let mut equals = GpuMemory::<u32>::zeros(self.gpu, self.pieces as usize)?;
        let (target, counts) = (marks.all_mut().argument(), equals.all_mut().argument());
        launch!(self, select_mark_scores, select_mark_hashes, target, counts, self.pieces, threshold)?;
        let mut values = vec![0; self.pieces as usize];
        equals.all().read(&mut values)?;
        Ok((marks, values))
    }

    fn mark_ties(&self, marks: &mut GpuMemory<u32>, threshold: u32, takes: &[u32]) -> Result<()> {
        let takes = GpuMemory::from_slice(self.gpu, takes)?;
        let (takes, target) = (takes.all().argument(), marks.all_mut().argument());
        launch!(self, select_ties_scores, select_ties_hashes, takes, target, self.pieces, threshold)?;
        Ok(())
    }

    /// The slow way, only when there are scores that are not finite: infinities are allowed.
    fn find_nan(&self, pieces: &[Piece]) -> Result<Option<NotANumber>> {
        let mut found = GpuMemory::<u32>::zeros(self.gpu, pieces.len())?;
        let (starts, lengths) = (self.starts.all().argument(), self.lengths.all().argument());
        let (count, target) = (self.scores.len() as u64, found.all_mut().argument());
        select_find_nan(self.gpu.launcher(), self.scores, count, starts, lengths, target, self.pieces)?;
        let mut values = vec![0; pieces.len()];
        found.all().read(&mut values)?;
        let first = pieces.iter().zip(values).find(|(_, index)| *index != u32::MAX);
        Ok(first.map(|(piece, index)| NotANumber {
            segment: piece.segment,
            index: piece.range.start + index as usize,
        }))
    }
}
