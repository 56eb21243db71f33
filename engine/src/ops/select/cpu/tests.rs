//! Selection against sorting.

use super::super::CHUNK;
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
fn scores_of_any_order_are_selected_like_by_sorting() {
    let (layout, pieces) = place();
    let rising: Vec<f32> = (0..layout.len()).map(|index| 1e-4 + index as f32 * 1e-6).collect();
    let falling: Vec<f32> = rising.iter().rev().copied().collect();
    let few: Vec<f32> = values(&layout, 4).iter().map(|value| (value * 3.0).round()).collect();
    let equal = vec![-0.25; layout.len()];
    let scattered = values(&layout, 1);
    for (scores, what) in
        [(scattered, "scattered"), (rising, "rising"), (falling, "falling"), (few, "few"), (equal, "equal")]
    {
        assert_selects_like_sorting(&scores, &pieces, what);
    }
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
