//! CPU: chunk by chunk, only the words of the mask that have bits.

use rayon::prelude::*;

use crate::mask::{WORD_BITS, set_bits};

/// Elements one thread takes at a time; a multiple of [`WORD_BITS`].
const CHUNK: usize = 1 << 18;

pub(super) fn transplant(backbone: &mut [f32], source: &[f32], words: &[u64]) {
    let chunks = backbone.par_chunks_mut(CHUNK).zip(source.par_chunks(CHUNK));
    chunks.zip(words.par_chunks(CHUNK / WORD_BITS)).for_each(|((backbone, source), words)| {
        let blocks = backbone.chunks_mut(WORD_BITS).zip(source.chunks(WORD_BITS));
        for ((backbone, source), &word) in blocks.zip(words) {
            if word == u64::MAX {
                backbone.copy_from_slice(source);
                continue;
            }
            for bit in set_bits(word) {
                backbone[bit as usize] = source[bit as usize];
            }
        }
    });
}
