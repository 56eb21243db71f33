//! Sets of parameters as one bit each: cores (docs/algorithm.md, stage 1b), unions of frozen cores.

use std::ops::Range;

use cpift_kernels::launch::Slice;

use crate::error::{Error, Result, check, check_length};
use crate::gpu::{DeviceCopy, GpuDevice};
use crate::layout::Layout;

/// Elements per word of a mask. A segment starts on a word boundary, since
/// [`crate::SEGMENT_ALIGNMENT`] is a multiple of it.
pub const WORD_BITS: usize = 64;

/// A set of elements of a flat allocation: element `j` is bit `j % 64` of word `j / 64`.
///
/// Padding between segments is never in a mask made by this crate. Masks live in host memory: they
/// are 1/32 of the weights. A GPU gets a copy when it first needs one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    words: Vec<u64>,
    length: usize,
    copy: DeviceCopy<u32>,
}

impl Mask {
    /// The empty set over `length` elements.
    pub fn zeros(length: usize) -> Self {
        Self { words: vec![0; length.div_ceil(WORD_BITS)], length, copy: DeviceCopy::default() }
    }

    /// A mask from its words.
    ///
    /// # Errors
    /// When the number of words is not that of `length` elements, or a bit beyond `length` is set.
    pub fn from_words(length: usize, words: Vec<u64>) -> Result<Self> {
        check_length("mask", "words", words.len(), length.div_ceil(WORD_BITS))?;
        let used = length % WORD_BITS;
        let beyond = if used == 0 { 0 } else { words.last().map_or(0, |word| word >> used) };
        check("mask", beyond == 0, || format!("bits beyond the {length} elements are set"))?;
        Ok(Self { words, length, copy: DeviceCopy::default() })
    }

    /// A mask from the bytes [`Mask::to_bytes`] gives.
    ///
    /// # Errors
    /// As [`Mask::from_words`], with the number of bytes.
    pub fn from_bytes(length: usize, bytes: &[u8]) -> Result<Self> {
        check_length("mask", "bytes", bytes.len(), length.div_ceil(WORD_BITS) * size_of::<u64>())?;
        let (words, _) = bytes.as_chunks::<8>();
        Self::from_words(length, words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    /// The words, least significant byte first: bit `j % 8` of byte `j / 8` is element `j`.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Number of elements the mask is over, in the set or not.
    pub fn len(&self) -> usize {
        self.length
    }

    /// True when the mask is over no elements at all. For the empty set see [`Mask::count`].
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The words, ascending.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The words, for the operations that build masks.
    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        self.copy.forget();
        &mut self.words
    }

    /// The words on a GPU, each as two of 32 bits, the lower one first.
    pub(crate) fn on(&self, gpu: &GpuDevice) -> Result<Slice<'_, u32>> {
        let halves = || self.words.iter().flat_map(|&word| [word as u32, (word >> 32) as u32]).collect();
        self.copy.get(gpu, halves).map(|copy| copy.argument())
    }

    /// Whether element `index` is in the set. Panics when it lies outside.
    pub fn get(&self, index: usize) -> bool {
        assert!(index < self.length, "element {index} of a mask over {}", self.length);
        self.words[index / WORD_BITS] >> (index % WORD_BITS) & 1 == 1
    }

    /// Puts element `index` into the set or takes it out. Panics when it lies outside.
    pub fn set(&mut self, index: usize, member: bool) {
        assert!(index < self.length, "element {index} of a mask over {}", self.length);
        let bit = 1 << (index % WORD_BITS);
        let word = &mut self.words_mut()[index / WORD_BITS];
        *word = if member { *word | bit } else { *word & !bit };
    }

    /// Puts a range of elements into the set, for example a segment's. Panics when it lies outside.
    pub fn insert_range(&mut self, range: Range<usize>) {
        assert!(range.end <= self.length, "range {range:?} of a mask over {}", self.length);
        for (index, bits) in word_ranges(range) {
            self.words_mut()[index] |= bits;
        }
    }

    /// Number of elements in the set.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Number of elements of `range` in the set. Panics when the range lies outside.
    pub fn count_range(&self, range: Range<usize>) -> usize {
        assert!(range.end <= self.length, "range {range:?} of a mask over {}", self.length);
        word_ranges(range).map(|(index, bits)| (self.words[index] & bits).count_ones() as usize).sum()
    }

    /// Number of elements of every segment in the set, in the layout's order.
    ///
    /// # Errors
    /// When the mask is not over the layout's elements.
    pub fn segment_counts(&self, layout: &Layout) -> Result<Vec<usize>> {
        check_length("segment_counts", "mask", self.length, layout.len())?;
        Ok(layout.segments().iter().map(|segment| self.count_range(segment.range())).collect())
    }

    /// Indices in the set, ascending.
    pub fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        self.words
            .iter()
            .enumerate()
            .flat_map(|(index, &word)| set_bits(word).map(move |bit| index * WORD_BITS + bit as usize))
    }

    /// The part of the mask over a range of its elements, which starts at a multiple of [`WORD_BITS`]. Panics when the
    /// range lies outside or starts elsewhere.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.end <= self.length, "range {range:?} of a mask over {}", self.length);
        assert!(range.start.is_multiple_of(WORD_BITS), "range {range:?} starts inside a word");
        let length = range.len();
        let mut words = self.words[range.start / WORD_BITS..][..length.div_ceil(WORD_BITS)].to_vec();
        let used = length % WORD_BITS;
        if let Some(last) = words.last_mut().filter(|_| used > 0) {
            *last &= u64::MAX >> (WORD_BITS - used);
        }
        Self { words, length, copy: DeviceCopy::default() }
    }

    /// Puts the elements of another mask into this one.
    ///
    /// # Errors
    /// When the masks differ in length.
    pub fn union_with(&mut self, other: &Self) -> Result<()> {
        self.combine_with(other, |own, other| own | other)
    }

    /// Takes out all elements that are not in another mask.
    ///
    /// # Errors
    /// When the masks differ in length.
    pub fn intersect_with(&mut self, other: &Self) -> Result<()> {
        self.combine_with(other, |own, other| own & other)
    }

    /// Takes out the elements of another mask.
    ///
    /// # Errors
    /// When the masks differ in length.
    pub fn difference_with(&mut self, other: &Self) -> Result<()> {
        self.combine_with(other, |own, other| own & !other)
    }

    /// Puts in the elements that are in both of two masks.
    ///
    /// # Errors
    /// When the masks differ in length.
    pub fn insert_shared(&mut self, first: &Self, second: &Self) -> Result<()> {
        self.check_same_length(first)?;
        self.check_same_length(second)?;
        let shared = first.words.iter().zip(&second.words).map(|(first, second)| first & second);
        self.words_mut().iter_mut().zip(shared).for_each(|(word, shared)| *word |= shared);
        Ok(())
    }

    fn combine_with(&mut self, other: &Self, operation: impl Fn(u64, u64) -> u64) -> Result<()> {
        self.check_same_length(other)?;
        self.words_mut().iter_mut().zip(&other.words).for_each(|(own, &other)| *own = operation(*own, other));
        Ok(())
    }

    /// Elements in both.
    ///
    /// # Errors
    /// When the masks differ in length.
    pub fn and(&self, other: &Self) -> Result<Self> {
        self.combine(other, |left, right| left & right)
    }

    /// Elements in either.
    ///
    /// # Errors
    /// When the masks differ in length.
    pub fn or(&self, other: &Self) -> Result<Self> {
        self.combine(other, |left, right| left | right)
    }

    /// Elements in this mask and not in `other`.
    ///
    /// # Errors
    /// When the masks differ in length.
    pub fn and_not(&self, other: &Self) -> Result<Self> {
        self.combine(other, |left, right| left & !right)
    }

    fn combine(&self, other: &Self, operation: impl Fn(u64, u64) -> u64) -> Result<Self> {
        self.check_same_length(other)?;
        let words = self.words.iter().zip(&other.words);
        Self::from_words(self.length, words.map(|(&left, &right)| operation(left, right)).collect())
    }

    /// Number of elements in both.
    ///
    /// # Errors
    /// When the masks differ in length.
    pub fn intersection_count(&self, other: &Self) -> Result<usize> {
        self.check_same_length(other)?;
        let words = self.words.iter().zip(&other.words);
        Ok(words.map(|(left, right)| (left & right).count_ones() as usize).sum())
    }

    /// Similarity of two cores (docs/algorithm.md, stage 2): |A∩B| / |A∪B|, and 0 when both are empty.
    ///
    /// # Errors
    /// When the masks differ in length.
    pub fn jaccard(&self, other: &Self) -> Result<f64> {
        let shared = self.intersection_count(other)?;
        let either = self.count() + other.count() - shared;
        Ok(if either == 0 { 0.0 } else { shared as f64 / either as f64 })
    }

    fn check_same_length(&self, other: &Self) -> Result<()> {
        let (expected, actual) = (self.length, other.length);
        if expected == actual {
            Ok(())
        } else {
            Err(Error::Length { op: "mask", name: "other", expected, actual })
        }
    }
}

/// The positions of the bits set in `word`, ascending.
pub(crate) fn set_bits(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (bit < u64::BITS).then_some(bit)
    })
}

/// The words that `range` touches, each with the bits of it that lie inside.
fn word_ranges(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
    let words = if range.is_empty() { 0..0 } else { range.start / WORD_BITS..range.end.div_ceil(WORD_BITS) };
    words.map(move |index| {
        let first = range.start.saturating_sub(index * WORD_BITS);
        let beyond = (range.end - index * WORD_BITS).min(WORD_BITS);
        (index, (u64::MAX << first) & (u64::MAX >> (WORD_BITS - beyond)))
    })
}
