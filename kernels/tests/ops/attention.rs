//! Attention kernels against an f64 oracle.

use crate::common::attention::*;
use crate::common::*;
use cpift_kernels::attention::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::launch::LaunchError;
use cpift_kernels::simt::Bf16;

#[test]
fn small_heads_match_the_oracle_in_every_schedule() {
    check::<f32>((1, 1, 8), &[1]);
    check::<f32>((2, 1, 16), &[1, 66, 3]);
}

#[test]
fn large_heads_match_the_oracle_in_every_schedule() {
    check::<f32>((1, 1, 64), &[65]);
    check::<f32>((2, 1, 80), &[9, 2]);
}

#[test]
fn the_largest_heads_match_the_oracle() {
    let emulator = Emulator::new(SCHEDULES[2]);
    let case = Case::<f32>::new((1, 1, 256), &[17]);
    case.check(&case.run(&emulator));
}

#[test]
fn eight_heads_share_keys() {
    let case = Case::<f32>::new((16, 2, 8), &[13]);
    case.check(&case.run(&Emulator::new(SCHEDULES[0])));
}

#[test]
fn windows_match_the_oracle_in_every_schedule() {
    check_window::<f32>((2, 1, 8), &[2, 70], 1);
    check_window::<f32>((1, 1, 8), &[130], 17);
    check_window::<f32>((1, 1, 8), &[131], 64);
    check_window::<f32>((1, 1, 16), &[3, 140], 66);
    check_window::<f32>((1, 1, 8), &[66], 67);
}

#[test]
fn soft_caps_match_the_oracle_in_every_schedule() {
    check_softcap::<f32>((2, 1, 16), &[1, 66, 3], u32::MAX);
    check_softcap::<f32>((1, 1, 8), &[70], 17);
    check_softcap::<f32>((2, 1, 80), &[9, 2], u32::MAX);
    check_softcap::<f32>((1, 1, 136), &[17], u32::MAX);
}

#[test]
fn neighbours_do_not_show_in_a_documents_bits() {
    check_neighbours(&Case::<f32>::new((2, 1, 8), &[13, 70, 7]));
}

#[test]
fn large_scores_do_not_overflow() {
    let mut case = Case::<f32>::new((1, 1, 16), &[40]);
    case.sizes.scale = 100.0;
    let results = case.run(&Emulator::new(SCHEDULES[0]));
    // Scores of some hundreds are rounded to 2^-16 of 1, and so are their probabilities.
    assert_close("output", results.output.as_slice(), &oracle(&case).output, 1e-4);
}

#[test]
fn heads_that_no_kernel_is_for_are_refused() {
    for (head_dim, kernel) in [(264, "attention_forward_256_f32"), (12, "attention_forward_64_f32")] {
        let case = Case::<f32>::new((1, 1, head_dim), &[1]);
        let error = case.forward(&Emulator::new(SCHEDULES[0])).map(|_| ());
        let message = match error {
            Err(error @ LaunchError::Requirement { .. }) => error.to_string(),
            other => panic!("not refused: {other:?}"),
        };
        assert!(message.starts_with(&format!("kernel {kernel} requires fits(head_dim, ")), "{message}");
        assert!(message.contains(&format!("head_dim = {head_dim}")), "{message}");
    }
}

#[test]
fn tiles_begin_with_documents_and_the_longest_come_first() {
    let tiles = Tiles::new([0..1, 1..130, 130..194].into_iter());
    let by_queries = [[129, 1, 130, 0], [65, 1, 130, 0], [0, 0, 1, 0], [1, 1, 130, 0], [130, 130, 194, 0]];
    assert_eq!(tiles.by_queries, by_queries.concat());
    let hopper_queries = [[129, 1, 130, 0], [0, 0, 1, 0], [1, 1, 130, 0], [130, 130, 194, 0]];
    assert_eq!(tiles.by_hopper_queries, hopper_queries.concat());
    let by_keys = [[1, 1, 130, 0], [65, 1, 130, 0], [130, 130, 194, 0], [0, 0, 1, 0], [129, 1, 130, 0]];
    assert_eq!(tiles.by_keys, by_keys.concat());
    let hopper_keys = [[1, 1, 130, 0], [130, 130, 194, 0], [0, 0, 1, 0], [129, 1, 130, 0]];
    assert_eq!(tiles.by_hopper_keys, hopper_keys.concat());
    let (all, ranges) = (tiles.concat(), Tiles::ranges([1, 129, 64].into_iter()));
    let lists = [tiles.by_queries, tiles.by_keys, tiles.by_hopper_queries, tiles.by_hopper_keys];
    assert_eq!(ranges.map(|range| all[range].to_vec()), lists);
}

fn decode<E: Element>(emulator: &Emulator, case: &DecodeCase<E>) -> Buffer<E> {
    let (heads, kv_heads, head_dim) = case.heads;
    let rows = case.slots.len() as u32;
    let longest = *case.lengths.iter().max().expect("rows");
    let parts = longest.min(case.window).div_ceil(SPLIT);
    let count = rows as usize * heads as usize * parts as usize;
    let mut sums = Buffer::poisoned(count * head_dim as usize);
    let mut statistics = Buffer::poisoned(2 * count);
    let (slots, lengths) = (slice(&case.slots), slice(&case.lengths));
    attention_decode(
        emulator,
        case.q.read(),
        case.k.read(),
        case.v.read(),
        slots,
        lengths,
        sums.write(),
        statistics.write(),
        rows,
        parts,
        case.slot_count,
        case.capacity,
        heads,
        kv_heads,
        head_dim,
        case.window,
        case.scale,
        case.softcap,
    )
    .expect("decode runs");
    let mut output = Buffer::poisoned(case.q.as_slice().len());
    attention_combine(
        emulator,
        sums.read(),
        statistics.read(),
        lengths,
        output.write(),
        rows,
        parts,
        heads,
        head_dim,
        case.window,
    )
    .expect("combine runs");
    output
}

/// A cache, and one new token in some of its slots.
struct DecodeCase<E: Element> {
    heads: Heads,
    scale: f32,
    window: u32,
    softcap: f32,
    slot_count: u32,
    capacity: u32,
    slots: Vec<u32>,
    lengths: Vec<u32>,
    q: Buffer<E>,
    k: Buffer<E>,
    v: Buffer<E>,
}

impl<E: Element> DecodeCase<E> {
    /// What lies behind a sequence's length is NaN, and must not matter.
    fn new(heads: Heads, capacity: u32, rows: &[(u32, u32)]) -> Self {
        let slot_count = 3;
        let width = (heads.1 * heads.2) as usize;
        let (slots, lengths): (Vec<u32>, Vec<u32>) = rows.iter().copied().unzip();
        let mut caches = [2, 3].map(|seed| random::<E>(seed, (slot_count * capacity) as usize * width));
        for cache in &mut caches {
            for (&slot, &length) in slots.iter().zip(&lengths) {
                let (first, end) = (slot * capacity + length, (slot + 1) * capacity);
                cache.as_mut_slice()[first as usize * width..end as usize * width]
                    .fill(E::from_f32(f32::NAN));
            }
        }
        let [k, v] = caches;
        let q = random(1, rows.len() * (heads.0 * heads.2) as usize);
        Self {
            heads,
            scale: 0.5,
            window: u32::MAX,
            softcap: 0.0,
            slot_count,
            capacity,
            slots,
            lengths,
            q,
            k,
            v,
        }
    }

    fn oracle(&self) -> Vec<f64> {
        let (heads, kv_heads, width) = self.heads;
        let width = width as usize;
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|x| widen(x.as_slice()));
        let mut output = vec![0.0; q.len()];
        for (index, output) in output.chunks_exact_mut(width).enumerate() {
            let (row, head) = (index / heads as usize, index % heads as usize);
            let kv_head = head / (heads / kv_heads) as usize;
            let key = |s: u32| {
                let token = (self.slots[row] * self.capacity + s) as usize;
                let row = token * kv_heads as usize + kv_head;
                row * width..(row + 1) * width
            };
            let query = &q[index * width..(index + 1) * width];
            let seen = self.lengths[row].saturating_sub(self.window)..self.lengths[row];
            let score = |s| f64::from(self.scale) * capped(dot(query, &k[key(s)]), self.softcap).0;
            let scores: Vec<f64> = seen.clone().map(score).collect();
            for (s, probability) in seen.zip(softmax(&scores).0) {
                add(output, probability, &v[key(s)]);
            }
        }
        output
    }
}

fn check_decode<E: Element>(heads: Heads, capacity: u32, rows: &[(u32, u32)], window: u32) {
    check_decode_case(&DecodeCase::<E> { window, ..DecodeCase::new(heads, capacity, rows) });
}

fn check_decode_case<E: Element>(case: &DecodeCase<E>) {
    let [output, others @ ..] = SCHEDULES.map(|schedule| decode(&Emulator::new(schedule), case));
    let what =
        format!("decode of {:?} {:?} window {} cap {}", case.heads, case.lengths, case.window, case.softcap);
    assert_close(&what, output.as_slice(), &case.oracle(), E::TOLERANCE);
    for other in others {
        assert_eq!(to_bits(other.as_slice()), to_bits(output.as_slice()), "{what}");
    }
}

#[test]
fn decode_matches_the_oracle_in_every_schedule() {
    check_decode::<f32>((1, 1, 8), 70, &[(2, 70), (0, 1), (1, 33)], u32::MAX);
    check_decode::<f32>((2, 1, 80), 300, &[(1, 300), (2, 2)], u32::MAX);
    check_decode::<f32>((4, 4, 64), 40, &[(0, 40)], u32::MAX);
    check_decode::<f32>((8, 1, 128), 40, &[(1, 37)], u32::MAX);
    check_decode::<f32>((1, 1, 256), 30, &[(1, 19)], u32::MAX);
    check_decode::<Bf16>((8, 1, 128), 70, &[(2, 65)], u32::MAX);
    check_decode::<Bf16>((20, 2, 16), 20, &[(2, 17), (0, 5)], u32::MAX);
    check_decode::<Bf16>((2, 2, 80), 600, &[(0, 512), (1, 257), (2, 12)], u32::MAX);
    check_decode::<f32>((2, 1, 16), 600, &[(0, 600), (1, 300), (2, 12)], 280);
    check_decode::<f32>((2, 1, 8), 30, &[(0, 30), (1, 1)], 1);
    check_decode::<Bf16>((2, 1, 8), 300, &[(0, 299), (1, 257)], 256);
}

#[test]
fn decode_with_a_soft_cap_matches_the_oracle() {
    let rows = [(2, 70), (0, 1), (1, 33)];
    check_decode_case(&DecodeCase::<f32> { softcap: 1.5, ..DecodeCase::new((2, 1, 16), 70, &rows) });
    check_decode_case(&DecodeCase::<Bf16> {
        softcap: 2.5,
        window: 40,
        ..DecodeCase::new((4, 2, 64), 70, &rows)
    });
}
