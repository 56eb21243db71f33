//! Random orders that depend on nothing but their names: no state is kept, so resuming needs none.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The random stream of (seed, purpose, index, epoch): ChaCha8 keyed with the BLAKE3 hash of
/// `"cpift-engine order 1"`, the seed, the length of the purpose, the purpose, the index and the epoch,
/// numbers as 8 bytes little-endian.
pub(crate) fn stream(seed: u64, purpose: &str, index: usize, epoch: u64) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"cpift-engine order 1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&(purpose.len() as u64).to_le_bytes());
    hasher.update(purpose.as_bytes());
    hasher.update(&(index as u64).to_le_bytes());
    hasher.update(&epoch.to_le_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// Shuffles in place (Fisher-Yates from the end), every order equally likely.
pub(crate) fn shuffle<T>(items: &mut [T], random: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(last as u64 + 1, random) as usize);
    }
}

/// The numbers 0..count in the order of a random stream.
pub(crate) fn permutation(count: usize, random: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    shuffle(&mut order, random);
    order
}

/// A number below `bound`, all equally likely: multiply and shift, drawn again in the few cases that
/// would favour some numbers.
fn below(bound: u64, random: &mut ChaCha8Rng) -> u64 {
    let unfair = bound.wrapping_neg() % bound;
    loop {
        let product = u128::from(random.next_u64()) * u128::from(bound);
        if product as u64 >= unfair {
            return (product >> 64) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_permutations_and_differ_by_name() {
        let order = |seed, purpose, index, epoch| permutation(100, &mut stream(seed, purpose, index, epoch));
        let first = order(1, "a", 0, 0);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_eq!(first, order(1, "a", 0, 0));
        for other in [order(2, "a", 0, 0), order(1, "b", 0, 0), order(1, "a", 1, 0), order(1, "a", 0, 1)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn every_position_is_equally_likely() {
        let mut random = stream(9, "fair", 0, 0);
        let mut counts = [[0_u32; 5]; 5];
        for _ in 0..20_000 {
            for (place, item) in permutation(5, &mut random).into_iter().enumerate() {
                counts[item][place] += 1;
            }
        }
        // 4,000 expected each; five standard deviations are 283.
        assert!(counts.iter().flatten().all(|&count| count.abs_diff(4_000) < 283), "{counts:?}");
    }
}
