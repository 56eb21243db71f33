//! Masks against sets.

use std::collections::BTreeSet;

use cpift_engine::{Error, Mask, WORD_BITS};
use cpift_tests::flat::{layout, random_mask};
use proptest::prelude::*;

fn mask_of(length: usize, set: &BTreeSet<usize>) -> Mask {
    let mut mask = Mask::zeros(length);
    set.iter().for_each(|&index| mask.set(index, true));
    mask
}

fn two_sets() -> impl Strategy<Value = (usize, BTreeSet<usize>, BTreeSet<usize>)> {
    (1..300_usize).prop_flat_map(|length| {
        let set = || proptest::collection::btree_set(0..length, 0..=length);
        (Just(length), set(), set())
    })
}

proptest! {
    #[test]
    fn algebra_is_that_of_sets((length, left, right) in two_sets(), start in 0..300_usize, span in 0..300_usize) {
        let (a, b) = (mask_of(length, &left), mask_of(length, &right));
        let shared: BTreeSet<usize> = &left & &right;
        let either: BTreeSet<usize> = &left | &right;
        prop_assert_eq!(a.and(&b).unwrap(), mask_of(length, &shared));
        prop_assert_eq!(a.or(&b).unwrap(), mask_of(length, &either));
        prop_assert_eq!(a.and_not(&b).unwrap(), mask_of(length, &(&left - &right)));
        prop_assert_eq!(a.count(), left.len());
        prop_assert_eq!(a.intersection_count(&b).unwrap(), shared.len());
        let changed = |change: &dyn Fn(&mut Mask)| {
            let mut mask = a.clone();
            change(&mut mask);
            mask
        };
        prop_assert_eq!(changed(&|mask| mask.intersect_with(&b).unwrap()), mask_of(length, &shared));
        prop_assert_eq!(changed(&|mask| mask.union_with(&b).unwrap()), mask_of(length, &either));
        prop_assert_eq!(changed(&|mask| mask.difference_with(&b).unwrap()), mask_of(length, &(&left - &right)));
        let mut inserted = mask_of(length, &BTreeSet::from([0]));
        inserted.insert_shared(&a, &b).unwrap();
        prop_assert_eq!(inserted, mask_of(length, &(&shared | &BTreeSet::from([0]))));
        let part = (start.min(length) / WORD_BITS * WORD_BITS)..(start + span).min(length);
        let members = left.range(part.clone()).map(|index| index - part.start).collect();
        prop_assert_eq!(a.slice(part.clone()), mask_of(part.len(), &members));
        let jaccard = if either.is_empty() { 0.0 } else { shared.len() as f64 / either.len() as f64 };
        prop_assert_eq!(a.jaccard(&b).unwrap(), jaccard);
        prop_assert_eq!(a.indices().collect::<Vec<_>>(), left.iter().copied().collect::<Vec<_>>());

        let range = start.min(length)..(start + span).min(length);
        prop_assert_eq!(a.count_range(range.clone()), left.range(range.clone()).count());
        let mut filled = a.clone();
        filled.insert_range(range.clone());
        prop_assert_eq!(filled, mask_of(length, &(&left | &range.collect())));

        prop_assert_eq!(Mask::from_bytes(length, &a.to_bytes()).unwrap(), a.clone());
        prop_assert_eq!(Mask::from_words(length, a.words().to_vec()).unwrap(), a);
    }
}

#[test]
fn bytes_are_least_significant_bit_first() {
    let mut mask = Mask::zeros(70);
    mask.set(3, true);
    mask.set(69, true);
    assert_eq!(mask.to_bytes(), [8, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn bits_beyond_the_end_are_refused() {
    assert!(matches!(Mask::from_words(65, vec![0, 2]), Err(Error::Argument { .. })));
    assert!(matches!(Mask::from_words(65, vec![0]), Err(Error::Length { expected: 2, actual: 1, .. })));
    assert!(matches!(Mask::zeros(64).jaccard(&Mask::zeros(65)), Err(Error::Length { .. })));
}

#[test]
fn segments_are_counted_apart() {
    let layout = layout(&[130, 1, 0, 64]);
    let mask = random_mask(&layout, 3, 0.4);
    let counts: Vec<usize> = layout
        .segments()
        .iter()
        .map(|segment| segment.range().filter(|&index| mask.get(index)).count())
        .collect();
    assert_eq!(mask.segment_counts(&layout).unwrap(), counts);
    assert!(counts[0] > 0);
}
