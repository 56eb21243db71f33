//! Random inputs that are cheap to make at a hundred million elements.

use cpift_engine::{Buffer, Device, Mask, Real, Result, WORD_BITS};

/// Values that are drawn; longer inputs repeat them. A prime, so that rows of matrices differ.
const PERIOD: usize = 1_048_573;

/// `length` values near a normal distribution of mean 0 and deviation 1, the same for the same seed.
///
/// # Errors
/// When memory runs out.
pub fn random<T: Real>(device: &Device, length: usize, seed: u64) -> Result<Buffer<T>> {
    let values: Vec<T> = random_values(length.min(PERIOD), seed).into_iter().map(T::from_f32).collect();
    let mut buffer = Buffer::zeros(device, length)?;
    for start in (0..length).step_by(PERIOD) {
        let part = (length - start).min(PERIOD);
        buffer.slice_mut(start..start + part).copy_from_host(&values[..part])?;
    }
    Ok(buffer)
}

/// The same in f32 on the host, without repetition.
pub fn random_values(length: usize, seed: u64) -> Vec<f32> {
    (0..length as u64)
        .map(|index| {
            let bits = hash(seed, index);
            // The sum of four uniform variables, centred and scaled.
            let sum: u32 = (0..4).map(|part| (bits >> (16 * part)) as u16 as u32).sum();
            (sum as f32 / 65_536.0 - 2.0) * 1.732
        })
        .collect()
}

/// Every element with probability `share`.
pub fn random_mask(length: usize, seed: u64, share: f64) -> Mask {
    let limit = (share * u64::MAX as f64) as u64;
    let mut words = vec![0; length.div_ceil(WORD_BITS)];
    for index in (0..length).filter(|&index| hash(seed, index as u64) < limit) {
        words[index / WORD_BITS] |= 1 << (index % WORD_BITS);
    }
    Mask::from_words(length, words).expect("no bit lies beyond the length")
}

/// `count` token ids below `vocabulary`, no two the same as long as there are enough.
pub fn random_tokens(count: usize, vocabulary: usize) -> Vec<u32> {
    // A step without a common factor visits every id once.
    const STEP: usize = 7919;
    (0..count).map(|index| (index * STEP % vocabulary) as u32).collect()
}

/// A random number for every seed below 2³² and index below 2³².
fn hash(seed: u64, index: u64) -> u64 {
    cpift_engine::random::at(0, (seed << 32).wrapping_add(index))
}
