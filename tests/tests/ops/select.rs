//! Core selection against sorting everything.

use cpift_engine::ops::select::{Options, Order, Scope, Selection, select, top_k};
use cpift_engine::{Buffer, Device, Error, Layout};
use cpift_tests::devices::devices;
use cpift_tests::flat::{brute_force_top_k, layout, spread_values};
use cpift_tests::stand_in;
use proptest::prelude::*;

fn device() -> Device {
    Device::cpu(None).unwrap()
}

fn run(layout: &Layout, scores: &[f32], options: &Options<'_>, eligible: &[bool]) -> Selection {
    run_on(&device(), layout, scores, options, eligible)
}

fn run_on(
    device: &Device,
    layout: &Layout,
    scores: &[f32],
    options: &Options<'_>,
    eligible: &[bool],
) -> Selection {
    let scores = Buffer::from_slice(device, scores).unwrap();
    let eligible = |name: &str| eligible[layout.find(name).unwrap().0];
    select(device, layout, scores.view(), options, |segment| eligible(&segment.name)).unwrap()
}

/// Lengths, eligible segments, and scores of which many are equal; NaN in all padding, which must not matter.
fn problem() -> impl Strategy<Value = (Layout, Vec<bool>, Vec<f32>)> {
    let segments = proptest::collection::vec((0..400_usize, any::<bool>()), 1..6);
    (segments, any::<u64>(), 1..40_i32).prop_map(|(segments, seed, distinct)| {
        let layout = layout(&segments.iter().map(|segment| segment.0).collect::<Vec<_>>());
        let spread = spread_values(&layout, seed);
        let mut scores = vec![f32::NAN; layout.len()];
        for index in layout.segments().iter().flat_map(|segment| segment.range()) {
            // Up to 20 distinct values tie often; above that all differ.
            scores[index] = if distinct <= 20 {
                (spread[index] * distinct as f32).round() / distinct as f32
            } else {
                spread[index]
            };
        }
        (layout, segments.iter().map(|segment| segment.1).collect(), scores)
    })
}

proptest! {
    #[test]
    fn global_selection_is_the_head_of_the_sorted_scores(
        (layout, eligible, scores) in problem(),
        fraction in 0.0..=1.0_f64,
        smallest in any::<bool>(),
    ) {
        let order = if smallest { Order::Smallest } else { Order::Largest };
        let options = Options { fraction, scope: Scope::Global, order };
        let Selection { mask, thresholds } = run(&layout, &scores, &options, &eligible);
        let segments = layout.segments().iter().zip(&eligible);
        let available: usize = segments.filter(|(_, eligible)| **eligible).map(|(segment, _)| segment.length).sum();
        let k = (fraction * available as f64).floor() as usize;
        let key = |index: usize| if smallest { -scores[index].abs() } else { scores[index].abs() };
        let expected = brute_force_top_k(&layout, k, |segment| eligible[segment], key);
        prop_assert_eq!(mask.indices().collect::<Vec<_>>(), expected.clone());
        let last = expected.iter().map(|&index| key(index)).min_by(f32::total_cmp).map(f32::abs);
        for (segment, threshold) in thresholds.into_iter().enumerate() {
            if eligible[segment] && layout.segments()[segment].length > 0 {
                prop_assert_eq!(threshold, last);
            }
        }
    }

    #[test]
    fn scopes_select_each_by_itself((layout, eligible, scores) in problem(), fraction in 0.0..=1.0_f64) {
        let segments = layout.segments().len();
        let groups: Vec<usize> = (0..segments).map(|segment| 7 - segment % 2).collect();
        let scopes = [(Scope::Tensor, (0..segments).collect()), (Scope::Groups(&groups), groups.clone())];
        for (scope, scope_of) in scopes {
            let options = Options { fraction, scope, order: Order::Largest };
            let mask = run(&layout, &scores, &options, &eligible).mask;
            let mut expected = Vec::new();
            for scope in 0..8 {
                let member = |segment: usize| eligible[segment] && scope_of[segment] == scope;
                let available = (0..segments).filter(|&segment| member(segment));
                let available: usize = available.map(|segment| layout.segments()[segment].length).sum();
                let k = (fraction * available as f64).floor() as usize;
                expected.extend(brute_force_top_k(&layout, k, member, |index| scores[index].abs()));
            }
            expected.sort_unstable();
            prop_assert_eq!(mask.indices().collect::<Vec<_>>(), expected);
        }
    }
}

#[test]
fn large_selections_cross_chunks_and_threads() {
    let layout = layout(&[300_001, 77, 150_000]);
    let scores = spread_values(&layout, 5);
    for fraction in [0.000_01, 0.01, 0.5, 0.999] {
        let mask = run(&layout, &scores, &Options { fraction, ..Options::default() }, &[true; 3]).mask;
        let k = (fraction * layout.parameters() as f64).floor() as usize;
        let expected = brute_force_top_k(&layout, k, |_| true, |index| scores[index].abs());
        assert_eq!(mask.indices().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_sample_that_misleads_does_not_show() {
    // Of so many scores every 256th mask word is sampled first. Here those say nothing about the rest:
    // only they are large, or only they are small.
    let layout = layout(&[(1 << 20) + 777]);
    let spread = spread_values(&layout, 5);
    for factor in [1.0, 1000.0, 0.001] {
        let scale = |index: usize| if (index / 64).is_multiple_of(256) { factor } else { 1.0 };
        let scores: Vec<f32> = (0..layout.len()).map(|index| spread[index] * scale(index)).collect();
        for fraction in [0.001, 0.1] {
            let mask = run(&layout, &scores, &Options { fraction, ..Options::default() }, &[true]).mask;
            let k = (fraction * layout.parameters() as f64).floor() as usize;
            let expected = brute_force_top_k(&layout, k, |_| true, |index| scores[index].abs());
            assert_eq!(mask.indices().collect::<Vec<_>>(), expected);
        }
    }
}

#[test]
fn equal_scores_select_the_lowest_indices() {
    let layout = layout(&[200_000, 130]);
    let scores = vec![0.25; layout.len()];
    let scores = Buffer::from_slice(&device(), &scores).unwrap();
    let (mask, threshold) =
        top_k(&device(), &layout, scores.view(), 70_001, Order::Largest, |_| true).unwrap();
    assert_eq!(mask.indices().collect::<Vec<_>>(), (0..70_001).collect::<Vec<_>>());
    assert_eq!(threshold, Some(0.25));
}

#[test]
fn random_selection_is_exact_seeded_and_spread() {
    let layout = layout(&[50_000, 50_000]);
    let scores = vec![0.0; layout.len()];
    let select = |seed| {
        let options = Options { fraction: 0.1, scope: Scope::Global, order: Order::Random { seed } };
        run(&layout, &scores, &options, &[true; 2]).mask
    };
    let (first, second) = (select(1), select(2));
    assert_eq!(first, select(1));
    assert_eq!((first.count(), second.count()), (10_000, 10_000));
    // Chance gives 0.1 / (2 − 0.1) = 0.0526, with a deviation of about 0.0015.
    assert!((first.jaccard(&second).unwrap() - 0.0526).abs() < 0.008);
    let counts = first.segment_counts(&layout).unwrap();
    assert!(counts[0].abs_diff(5_000) < 300, "{counts:?}");
}

#[test]
fn a_nan_is_named_and_infinity_is_a_score() {
    let layout = layout(&[100, 70]);
    let mut scores = spread_values(&layout, 9);
    let second = layout.segments()[1].offset;
    scores[second + 5] = f32::NEG_INFINITY;
    let finite = scores.clone();
    scores[second + 6] = f32::NAN;
    for device in devices() {
        let buffer = Buffer::from_slice(&device, &finite).unwrap();
        let (mask, threshold) = top_k(&device, &layout, buffer.view(), 1, Order::Largest, |_| true).unwrap();
        assert!(mask.get(second + 5) && threshold == Some(f32::INFINITY));
        let buffer = Buffer::from_slice(&device, &scores).unwrap();
        for order in [Order::Largest, Order::Smallest] {
            let error = top_k(&device, &layout, buffer.view(), 1, order, |_| true).unwrap_err();
            assert_eq!(error.to_string(), "select: the score of `t1`, element 6, is NaN");
            // Where the tensor is excluded its scores are not looked at.
            assert!(top_k(&device, &layout, buffer.view(), 1, order, |segment| segment.name == "t0").is_ok());
        }
    }
}

#[test]
fn every_device_selects_the_same() {
    // Pieces of one element, of ragged words, and two of one tensor; a tensor that is left out.
    let layout = layout(&[1, 300, 77, 0, 66_000, 500]);
    let eligible = [true, true, true, true, true, false];
    let spread = spread_values(&layout, 3);
    let tied: Vec<f32> = spread.iter().map(|score| (8.0 * score).round() / 8.0).collect();
    let groups = [4, 2, 4, 2, 7, 4];
    for (scores, order) in [
        (&spread, Order::Largest),
        (&tied, Order::Largest),
        (&tied, Order::Smallest),
        (&tied, Order::Random { seed: 3 }),
    ] {
        for scope in [Scope::Global, Scope::Tensor, Scope::Groups(&groups)] {
            for fraction in [0.003, 0.4] {
                let options = Options { fraction, scope, order };
                let expected = run(&layout, scores, &options, &eligible);
                for device in devices() {
                    let selection = run_on(&device, &layout, scores, &options, &eligible);
                    assert!(selection == expected, "{order:?}, {scope:?}, {fraction} on {device:?}");
                }
            }
        }
    }
}

#[test]
fn impossible_requests_are_errors() {
    let layout = layout(&[10]);
    let scores = Buffer::from_slice(&device(), &[1.0; 64]).unwrap();
    assert!(matches!(
        top_k(&device(), &layout, scores.view(), 11, Order::Largest, |_| true),
        Err(Error::Argument { .. })
    ));
    for fraction in [-0.1, 1.1, f64::NAN] {
        let options = Options { fraction, ..Options::default() };
        assert!(select(&device(), &layout, scores.view(), &options, |_| true).is_err());
    }
    assert!(select(&device(), &layout, scores.slice(0..10), &Options::default(), |_| true).is_err());
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(module_path!(), &["a_nan", "every_device"]);
}
