//! Selection against sorting, one pass against two.

use std::ops::Range;

use super::super::CHUNK;
use super::bracket::sampled_lanes;
use super::*;
use crate::cpu::pieces::pieces;
use crate::layout::Layout;

/// Three tensors of which the second is less than a word, over pieces as in the operation.
fn place() -> (Layout, Vec<Piece>) {
    let layout = Layout::new([("a", vec![1_200_001]), ("b", vec![5]), ("c", vec![131_072])]).unwrap();
    let pieces = pieces(&layout, CHUNK);
    (layout, pieces)
}

/// Values without structure, over all magnitudes near 1 and both signs.
fn values(layout: &Layout, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..layout.len()).map(|_| next() * next()).collect()
}

/// All indices in the order of their selection, by sorting.
fn sorted(scores: &[f32], pieces: &[Piece], order: Order) -> Vec<usize> {
    let place = |index: usize| {
        let magnitude = scores[index].abs().to_bits();
        let rank = if order == Order::Largest { !magnitude } else { magnitude };
        (rank, index)
    };
    let mut places: Vec<(u32, usize)> =
        pieces.iter().flat_map(|piece| piece.range.clone()).map(place).collect();
    places.sort_unstable();
    places.into_iter().map(|(_, index)| index).collect()
}

/// The mask words of some indices.
fn words_of(indices: &[usize], layout_length: usize) -> Vec<u64> {
    let mut words = vec![0; layout_length.div_ceil(WORD_BITS)];
    indices.iter().for_each(|index| words[index / WORD_BITS] |= 1 << (index % WORD_BITS));
    words
}

/// What the one pass gives for a bracket.
fn one_pass<K: Keys>(
    keys: K,
    pieces: &[Piece],
    k: usize,
    bracket: &Range<u32>,
    words: &mut [u64],
) -> Option<u32> {
    let mut targets = split_mut(words, pieces.iter().map(Piece::words));
    let mut work = Work { keys, pieces, targets: &mut targets, k, pieces_per_part: 2 };
    work.mark_by_bracket(bracket, || Ok(())).ok().flatten()
}

fn assert_selects_like_sorting(scores: &[f32], pieces: &[Piece], what: &str) {
    let available: usize = pieces.iter().map(|piece| piece.range.len()).sum();
    for order in [Order::Largest, Order::Smallest] {
        let sorted = sorted(scores, pieces, order);
        for k in [1, 40, available / 25, available / 2, available - 3, available] {
            let mut words = vec![0; scores.len().div_ceil(WORD_BITS)];
            let threshold = mark(scores, pieces, k, order, &mut words).ok().flatten();
            assert_eq!(threshold, Some(scores[sorted[k - 1]].abs()), "{what}, k = {k}, {order:?}");
            assert!(words == words_of(&sorted[..k], scores.len()), "{what}, k = {k}, {order:?}");
        }
    }
}

#[test]
fn one_pass_settles_scattered_scores() {
    let (layout, pieces) = place();
    let scores = values(&layout, 1);
    for (k, flip, order) in [(50_000, 0, Order::Largest), (60_000, MAGNITUDE, Order::Smallest)] {
        let keys = Magnitudes { scores: &scores, flip };
        let bracket = sample_bracket(keys, &pieces, k).expect("a narrow bracket");
        let mut words = vec![0; layout.len().div_ceil(WORD_BITS)];
        let key = one_pass(keys, &pieces, k, &bracket, &mut words).expect("the sample was right");
        let sorted = sorted(&scores, &pieces, order);
        assert_eq!(f32::from_bits(key ^ flip), scores[sorted[k - 1]].abs());
        assert!(words == words_of(&sorted[..k], scores.len()));
    }
    assert_selects_like_sorting(&scores, &pieces, "scattered");
}

#[test]
fn a_bracket_beside_the_kth_key_is_noticed() {
    let (layout, pieces) = place();
    let scores = values(&layout, 2);
    let keys = Magnitudes { scores: &scores, flip: 0 };
    let k = 50_000;
    let kth = scores[sorted(&scores, &pieces, Order::Largest)[k - 1]].abs().to_bits();
    let mut words = vec![0; layout.len().div_ceil(WORD_BITS)];
    assert_eq!(one_pass(keys, &pieces, k, &(kth..kth + 1), &mut words), Some(kth));
    assert_eq!(one_pass(keys, &pieces, k, &(kth + 1..kth + (1 << 19)), &mut words), None);
    assert_eq!(one_pass(keys, &pieces, k, &(kth - (1 << 19)..kth), &mut words), None);
    // Everything is too much, whether or not the k-th is among it.
    assert_eq!(one_pass(keys, &pieces, k, &(0..MAGNITUDE), &mut words), None);
}

#[test]
fn scores_that_deceive_the_sample_are_counted() {
    let (layout, pieces) = place();
    for (sampled_factor, what) in [(1e-3, "sample too small"), (1e3, "sample too large")] {
        let mut scores = values(&layout, 3);
        for index in pieces.iter().flat_map(sampled_lanes).flatten() {
            scores[index] *= sampled_factor;
        }
        let keys = Magnitudes { scores: &scores, flip: 0 };
        let k = 50_000;
        let bracket = sample_bracket(keys, &pieces, k).expect("a narrow bracket");
        let mut words = vec![0; layout.len().div_ceil(WORD_BITS)];
        assert_eq!(one_pass(keys, &pieces, k, &bracket, &mut words), None, "{what}");
        assert_selects_like_sorting(&scores, &pieces, what);
    }
}

#[test]
fn ordered_equal_and_few_scores_are_selected_like_any() {
    let (layout, pieces) = place();
    let rising: Vec<f32> = (0..layout.len()).map(|index| 1e-4 + index as f32 * 1e-6).collect();
    let falling: Vec<f32> = rising.iter().rev().copied().collect();
    let few: Vec<f32> = values(&layout, 4).iter().map(|value| (value * 3.0).round()).collect();
    let equal = vec![-0.25; layout.len()];
    let keys = Magnitudes { scores: &equal, flip: 0 };
    assert!(sample_bracket(keys, &pieces, 50_000).is_none(), "all in the bracket");
    for (scores, what) in [(rising, "rising"), (falling, "falling"), (few, "few"), (equal, "equal")] {
        assert_selects_like_sorting(&scores, &pieces, what);
    }
}

#[test]
fn random_order_is_the_same_in_one_pass_and_by_counting() {
    let (layout, pieces) = place();
    let (keys, k) = (Hashes { seed: 5 }, 50_000);
    let length = layout.len().div_ceil(WORD_BITS);
    let (mut words, mut counted) = (vec![0; length], vec![0; length]);
    let bracket = sample_bracket(keys, &pieces, k).expect("a narrow bracket");
    let key = one_pass(keys, &pieces, k, &bracket, &mut words).expect("the sample was right");
    let mut targets = split_mut(&mut counted, pieces.iter().map(Piece::words));
    let mut work = Work { keys, pieces: &pieces, targets: &mut targets, k, pieces_per_part: 3 };
    assert_eq!(work.mark_by_counting(|| Ok(())).ok(), Some(key));
    assert!(words == counted);
    assert_eq!(words.iter().map(|word| word.count_ones() as usize).sum::<usize>(), k);
}

#[test]
fn nan_is_found_wherever_it_lies_and_infinity_is_a_score() {
    let (layout, pieces) = place();
    for (order, index) in [(Order::Largest, 1_199_999), (Order::Smallest, 1_199_999), (Order::Smallest, 77)] {
        let mut scores = values(&layout, 6);
        scores[11] = f32::NEG_INFINITY;
        let mut words = vec![0; layout.len().div_ceil(WORD_BITS)];
        assert!(mark(&scores, &pieces, 50_000, order, &mut words).is_ok());
        assert_eq!(words[0] >> 11 & 1 == 1, order == Order::Largest);
        scores[index] = -f32::NAN;
        words.fill(0);
        let found = mark(&scores, &pieces, 50_000, order, &mut words).expect_err("NaN is an error");
        assert_eq!((found.segment, found.index), (0, index));
    }
    // Padding is not a score.
    let mut scores = values(&layout, 6);
    scores[layout.segments()[1].range().end] = f32::NAN;
    let mut words = vec![0; layout.len().div_ceil(WORD_BITS)];
    assert!(mark(&scores, &pieces, 50_000, Order::Largest, &mut words).is_ok());
}
