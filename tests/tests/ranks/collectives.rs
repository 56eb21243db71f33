//! What ranks do together, against sums one after the other.

use cpift_engine::ranks::{Traffic, ranges};
use cpift_engine::{Buffer, Device};
use cpift_tests::numeric::random;
use cpift_tests::ranks::{each, fresh_seed};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Lengths with ragged ends, some with less than a word for each rank.
fn lengths(seed: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut lengths = vec![0, 1, 64, 65, 200_001];
    lengths.extend((0..4).map(|_| rng.random_range(1..100_000)));
    lengths
}

#[test]
fn gradients_are_added_in_the_order_of_the_ranks() {
    let seed = fresh_seed();
    for size in 2..5 {
        for length in lengths(seed) {
            let of_rank = |rank: usize| random(seed.wrapping_add(rank as u64), length);
            let mut expected = of_rank(0);
            for rank in 1..size {
                expected.iter_mut().zip(of_rank(rank)).for_each(|(sum, value)| *sum += value);
            }
            let parts = each(size, |ranks| {
                let device = Device::cpu(std::num::NonZeroUsize::new(1)).unwrap();
                let mut values = Buffer::from_slice(&device, &of_rank(ranks.rank())).unwrap();
                ranks.reduce_scatter(values.view_mut(), &ranks.ranges(length)).unwrap();
                let own = ranks.own_range(length);
                assert_eq!(ranks.traffic().bytes, ((size - 1) * own.len() * 4) as u64);
                values.slice(own).to_vec().unwrap()
            });
            assert_eq!(parts.concat(), expected, "seed {seed}: {length} over {size}");
        }
    }
}

#[test]
fn every_rank_gets_the_range_of_every_other() {
    let seed = fresh_seed();
    for size in 2..5 {
        for length in lengths(seed) {
            let parts = ranges(length, size);
            let of_rank = |rank: usize| random(seed.wrapping_add(rank as u64), length);
            let expected: Vec<f32> = parts
                .iter()
                .enumerate()
                .flat_map(|(rank, part)| of_rank(rank)[part.clone()].to_vec())
                .collect();
            for gathered in each(size, |ranks| {
                let device = Device::cpu(std::num::NonZeroUsize::new(1)).unwrap();
                let mut values = Buffer::from_slice(&device, &of_rank(ranks.rank())).unwrap();
                ranks.all_gather(values.view_mut(), &parts).unwrap();
                values.to_vec().unwrap()
            }) {
                assert_eq!(gathered, expected, "seed {seed}: {length} over {size}");
            }
        }
    }
}

#[test]
fn sums_counts_and_what_rank_0_has() {
    let seed = fresh_seed();
    let of_rank = |rank: usize| random(seed.wrapping_add(rank as u64), 7).into_iter().map(f64::from);
    let mut sums: Vec<f64> = of_rank(0).collect();
    for rank in 1..4 {
        sums.iter_mut().zip(of_rank(rank)).for_each(|(sum, value)| *sum += value);
    }
    let size = 4;
    each(size, |ranks| {
        let mut own: Vec<f64> = of_rank(ranks.rank()).collect();
        ranks.sum(&mut own).unwrap();
        assert_eq!(own, sums, "seed {seed}");
        let mut counts = [u64::MAX / 4, ranks.rank() as u64, 1];
        ranks.count(&mut counts).unwrap();
        assert_eq!(counts, [u64::MAX / 4 * 4, 6, 4]);
        ranks.sum(&mut []).unwrap();
        let mut text = if ranks.rank() == 0 { *b"zero" } else { *b"none" };
        ranks.broadcast_slice(&mut text).unwrap();
        ranks.barrier().unwrap();
        assert_eq!(&text, b"zero");
        let Traffic { bytes, seconds, hidden_seconds } = ranks.traffic();
        let received = 3 * 7 * 8 + 3 * 3 * 8 + if ranks.rank() == 0 { 0 } else { 4 };
        assert!(bytes == received && seconds > 0.0 && hidden_seconds == 0.0, "{bytes}");
    });
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let device = Device::cpu(std::num::NonZeroUsize::new(1)).unwrap();
    // Ranges are looked at before anything is sent; operations when all have come.
    for (rank, message) in each(2, |ranks| {
        let mut values = Buffer::<f32>::zeros(&device, 100).unwrap();
        for wrong in [ranges(100, 1), vec![0..50, 51..100], vec![0..64, 64..128]] {
            let refused = ranks.reduce_scatter(values.view_mut(), &wrong);
            assert!(refused.is_err() && ranks.all_gather(values.view_mut(), &wrong).is_err(), "{wrong:?}");
        }
        let result = match ranks.rank() {
            0 => ranks.barrier(),
            _ => ranks.broadcast_slice(&mut [0_u8; 3]),
        };
        (ranks.rank(), result.unwrap_err().to_string())
    }) {
        assert!(
            message.contains("rank 0 came to barrier") && message.contains("rank 1"),
            "{rank}: {message}"
        );
    }
}

#[test]
fn a_rank_that_has_ended_is_named() {
    let messages = each(3, |ranks| {
        ranks.barrier().unwrap();
        match ranks.rank() {
            1 => String::new(),
            _ => ranks.sum(&mut [1.0]).unwrap_err().to_string(),
        }
    });
    assert!([0, 2].iter().all(|&rank| messages[rank] == "ranks: rank 1 has ended"), "{messages:?}");
}
