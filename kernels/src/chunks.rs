//! Chunks of packed documents, for kernels that take tokens some at a time within their document.

use crate::simt::*;

/// Tokens of a chunk.
pub const CHUNK: u32 = 64;

/// Numbers that describe a chunk, and a document.
pub const ENTRY: u64 = 4;

/// A chunk: its first token, its document's first token and the one behind its last, and the document.
#[derive(Clone, Copy)]
pub(crate) struct Chunk {
    pub first: u32,
    pub start: u32,
    pub end: u32,
    pub document: u32,
}

impl Chunk {
    /// Chunk `index` of [`Chunks::chunks`].
    #[inline(always)]
    pub fn load(chunks: Global<u32>, index: u32) -> Self {
        let entry = |part| chunks.load(index as usize * ENTRY as usize + part);
        Self { first: entry(0), start: entry(1), end: entry(2), document: entry(3) }
    }

    /// Whether it is its document's first.
    #[inline(always)]
    pub fn is_first(self) -> bool {
        self.first == self.start
    }

    /// Whether it is its document's last.
    #[inline(always)]
    pub fn is_last(self) -> bool {
        self.end - self.first <= CHUNK
    }

    /// Its tokens.
    #[inline(always)]
    pub fn count(self) -> u32 {
        CHUNK.min(self.end - self.first)
    }
}

/// Lists of chunks and documents, which hosts make for the kernels.
#[cfg(not(target_arch = "nvptx64"))]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chunks {
    /// `[chunks, 4]`, in the order of their tokens: first token, its document's first token, the one behind the
    /// document's last, and the document.
    pub chunks: Vec<u32>,
    /// `[documents, 4]`: first token, the one behind the last, first chunk, and 0.
    pub documents: Vec<u32>,
}

#[cfg(not(target_arch = "nvptx64"))]
impl Chunks {
    /// Those of documents that are these ranges of tokens, none empty.
    pub fn new(documents: impl Iterator<Item = core::ops::Range<u32>>) -> Self {
        let mut lists = Self::default();
        for (document, range) in (0..).zip(documents) {
            let first_chunk = lists.chunks.len() as u32 / ENTRY as u32;
            lists.documents.extend([range.start, range.end, first_chunk, 0]);
            for first in range.clone().step_by(CHUNK as usize) {
                lists.chunks.extend([first, range.start, range.end, document]);
            }
        }
        lists
    }

    /// Number of chunks of documents of these lengths.
    pub fn count(documents: impl Iterator<Item = usize>) -> usize {
        documents.map(|tokens| tokens.div_ceil(CHUNK as usize)).sum()
    }
}

/// Whether no row before `row` has its slot: the block of that row takes all rows of the slot, in order.
#[inline(always)]
pub fn is_first_row(slots: Global<u32>, row: u32) -> bool {
    let slot = slots.load(row as usize);
    let mut earlier = 0;
    while earlier < row && slots.load(earlier as usize) != slot {
        earlier += 1;
    }
    earlier == row
}
