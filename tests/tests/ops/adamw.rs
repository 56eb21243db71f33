//! The optimizer against an f64 oracle and against PyTorch; frozen coordinates; the gradient's norm.

use cpift_engine::ops::adamw::{AdamW, Gradient, Hyper, ImportanceKind, MomentType, Moments, StateMut};
use cpift_engine::ops::norm::{Clip, clip_factor, squared_norm};
use cpift_engine::{Buffer, Device, Layout, Mask, bf16};
use cpift_tests::devices::devices;
use cpift_tests::flat::{AdamWOracle, layout, random_mask, spread_values};
use cpift_tests::precision::{dithered, rounded};
use cpift_tests::stand_in;
use cpift_tests::stored::{StoredGradients, StoredWeights};

const KINDS: [ImportanceKind; 4] =
    [ImportanceKind::None, ImportanceKind::Net, ImportanceKind::Path, ImportanceKind::Fisher];
const HYPER: Hyper = Hyper { learning_rate: 2e-2, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.3 };

/// Kinds of importance with types of moments.
fn kinds() -> impl Iterator<Item = (ImportanceKind, MomentType)> {
    KINDS.into_iter().flat_map(|kind| [MomentType::F32, MomentType::Bf16].map(|moments| (kind, moments)))
}

fn buffer(device: &Device, values: &[f32]) -> Buffer<f32> {
    Buffer::from_slice(device, values).unwrap()
}

/// `length`; on the emulator, to which an element is work, a fiftieth: still more than a block.
fn sized(device: &Device, length: usize) -> usize {
    if device.name() == "emulated" { length / 50 + 1 } else { length }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn ten_steps_match_the_oracle() {
    for device in devices() {
        for kind in KINDS {
            ten_steps(&device, kind);
        }
    }
}

fn ten_steps(device: &Device, kind: ImportanceKind) {
    // Longer than a chunk, ending inside a word.
    let layout = layout(&[sized(device, 130_000), 77]);
    let start = spread_values(&layout, 1);
    let mut optimizer = AdamW::new(device, layout.len(), kind).unwrap();
    let mut weights = buffer(device, &start);
    let mut oracle: Vec<AdamWOracle> = start
        .iter()
        .map(|&weight| AdamWOracle { weight: f64::from(weight), ..AdamWOracle::default() })
        .collect();
    for step in 1..=10 {
        let values = spread_values(&layout, 100 + step);
        let gradients = buffer(device, &values);
        let gradient = Gradient { values: gradients.view().into(), scale: 0.25, clip: None, frozen: None };
        optimizer.step(weights.view_mut(), gradient, &HYPER).unwrap();
        for (parameter, value) in oracle.iter_mut().zip(&values) {
            parameter.step(0.25 * f64::from(*value), &HYPER, step as i32, kind);
        }
    }
    assert_eq!(optimizer.steps(), 10);
    let importance = optimizer.importance().to_vec().unwrap();
    assert_eq!(importance.is_empty(), kind == ImportanceKind::None);
    let [moment1, moment2] = optimizer.moments().to_vecs().unwrap();
    let state = [weights.to_vec().unwrap(), moment1, moment2, importance];
    for (index, expected) in oracle.iter().enumerate() {
        let expected = [expected.weight, expected.moment1, expected.moment2, expected.importance];
        for (actual, expected) in state.iter().map(|values| values.get(index)).zip(expected) {
            let actual = f64::from(actual.copied().unwrap_or(0.0));
            // Ten roundings of f32, of weights up to 8.
            let tolerance = 1e-6 * (1.0 + expected.abs()) + 4e-7 * f64::from(start[index].abs());
            assert!((actual - expected).abs() < tolerance, "{kind:?} {index}: {actual} {expected}");
        }
    }
}

#[test]
fn net_importance_is_the_displacement() {
    let layout = layout(&[1000]);
    let start = spread_values(&layout, 1);
    for device in devices() {
        let mut optimizer = AdamW::new(&device, layout.len(), ImportanceKind::Net).unwrap();
        let mut weights = buffer(&device, &start);
        for step in 0..20 {
            let gradients = buffer(&device, &spread_values(&layout, 100 + step));
            let gradient = Gradient { values: gradients.view().into(), scale: 1.0, clip: None, frozen: None };
            optimizer.step(weights.view_mut(), gradient, &HYPER).unwrap();
        }
        let (end, importance) = (weights.to_vec().unwrap(), optimizer.importance().to_vec().unwrap());
        for index in 0..1000 {
            let displacement = end[index] - start[index];
            // Every update is exact in f32; only their sum is rounded, far below one unit of the weight.
            assert!((importance[index] - displacement).abs() <= 1e-6 * (displacement.abs() + 0.1));
        }
    }
}

#[test]
fn matches_pytorch_with_clipping() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../../golden/adamw.json")).unwrap();
    let number = |key: &str| golden[key].as_f64().unwrap();
    let list = |value: &serde_json::Value| -> Vec<f32> {
        value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
    };
    let hyper = Hyper {
        learning_rate: number("learning_rate"),
        beta1: number("beta1"),
        beta2: number("beta2"),
        epsilon: number("epsilon"),
        weight_decay: number("weight_decay"),
    };
    let steps = golden["gradients"].as_array().unwrap().len();
    assert_eq!(steps, 10);
    for device in devices() {
        let mut weights = buffer(&device, &list(&golden["start"]));
        let mut optimizer = AdamW::new(&device, weights.len(), ImportanceKind::None).unwrap();
        for step in 0..steps {
            let gradients = buffer(&device, &list(&golden["gradients"][step]));
            let norm = squared_norm(&device, gradients.view(), None).unwrap().sqrt();
            let expected_norm = golden["norms"][step].as_f64().unwrap();
            assert!((norm - expected_norm).abs() < 1e-6 * expected_norm);
            let scale = clip_factor(norm, number("maximum_norm"));
            let gradient = Gradient { values: gradients.view().into(), scale, clip: None, frozen: None };
            optimizer.step(weights.view_mut(), gradient, &hyper).unwrap();
            assert_close(&weights.to_vec().unwrap(), &list(&golden["weights"][step]));
        }
        let [moment1, moment2] = optimizer.moments().to_vecs().unwrap();
        assert_close(&moment1, &list(&golden["moment1"]));
        assert_close(&moment2, &list(&golden["moment2"]));
    }
}

#[track_caller]
fn assert_close(actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len());
    for (actual, expected) in actual.iter().zip(expected) {
        assert!((actual - expected).abs() <= 1e-6 * (0.1 + expected.abs()), "{actual} {expected}");
    }
}

/// Weights, moments and importance after three steps from random state, on weights that are split or not.
fn three_steps(
    device: &Device,
    layout: &Layout,
    (kind, moments): (ImportanceKind, MomentType),
    frozen: Option<&Mask>,
    is_split: bool,
) -> [Vec<f32>; 4] {
    let start = spread_values(layout, 1);
    let mut weights = StoredWeights::new(device, &start, is_split);
    let mut optimizer = AdamW::with_storage(device, layout.len(), kind, moments).unwrap();
    optimizer.set_steps(5);
    begin_with(&mut optimizer, &start_moments(layout, moments));
    if kind != ImportanceKind::None {
        match optimizer.importance_mut() {
            StateMut::F32(mut values) => values.copy_from_host(&spread_values(layout, 4)).unwrap(),
            StateMut::Bf16(mut values) => {
                let start: Vec<bf16> = spread_values(layout, 4).into_iter().map(bf16::from_f32).collect();
                values.copy_from_host(&start).unwrap();
            }
        }
    }
    for step in 0..3 {
        let gradients = StoredGradients::new(device, &spread_values(layout, 100 + step), moments);
        let gradient = Gradient { values: gradients.view(), scale: 0.5, clip: None, frozen };
        optimizer.step(weights.write(), gradient, &HYPER).unwrap();
    }
    assert_eq!(optimizer.steps(), 8);
    let [moment1, moment2] = optimizer.moments().to_vecs().unwrap();
    [weights.to_vec(device), moment1, moment2, optimizer.importance().to_vec().unwrap()]
}

/// Moments to begin with, as they are stored.
fn start_moments(layout: &Layout, moments: MomentType) -> [Vec<f32>; 2] {
    let squares: Vec<f32> = spread_values(layout, 3).iter().map(|value| value * value).collect();
    let start = [spread_values(layout, 2), squares];
    match moments {
        MomentType::F32 => start,
        MomentType::Bf16 => start.map(|values| rounded::<bf16>(&values)),
    }
}

fn begin_with(optimizer: &mut AdamW, start: &[Vec<f32>; 2]) {
    match optimizer.moments_mut() {
        Moments::F32(mut first, mut second) => {
            first.copy_from_host(&start[0]).unwrap();
            second.copy_from_host(&start[1]).unwrap();
        }
        Moments::Bf16(mut first, mut second) => {
            let halves =
                |values: &[f32]| -> Vec<bf16> { values.iter().map(|&value| bf16::from_f32(value)).collect() };
            first.copy_from_host(&halves(&start[0])).unwrap();
            second.copy_from_host(&halves(&start[1])).unwrap();
        }
    }
}

/// Every step on state in bf16 against f64 from what was stored before: the weights as exactly as with state in f32, moments
/// and importance one of both neighbours, and in the mean what they were rounded from.
#[test]
fn state_in_bf16_is_rounded_without_bias() {
    for device in devices() {
        let layout = layout(&[sized(&device, 130_000), 77]);
        let kind = ImportanceKind::Fisher;
        let mut optimizer = AdamW::with_storage(&device, layout.len(), kind, MomentType::Bf16).unwrap();
        assert_eq!(optimizer.bytes(), layout.len() * (2 * 2 + 2));
        let mut weights = buffer(&device, &spread_values(&layout, 1));
        for step in 1..=5 {
            let before = weights.to_vec().unwrap();
            let [moment1, moment2] = optimizer.moments().to_vecs().unwrap();
            let sums = optimizer.importance().to_vec().unwrap();
            let values = rounded::<bf16>(&spread_values(&layout, 100 + step));
            let gradients = StoredGradients::new(&device, &values, MomentType::Bf16);
            let gradient = Gradient { values: gradients.view(), scale: 0.25, clip: None, frozen: None };
            optimizer.step(weights.view_mut(), gradient, &HYPER).unwrap();
            let after = weights.to_vec().unwrap();
            let [first, second] = optimizer.moments().to_vecs().unwrap();
            let stored = [first, second, optimizer.importance().to_vec().unwrap()];
            let (mut errors, mut farther) = ([0.0; 3], [0; 3]);
            for index in 0..layout.len() {
                let mut oracle = AdamWOracle {
                    weight: f64::from(before[index]),
                    moment1: f64::from(moment1[index]),
                    moment2: f64::from(moment2[index]),
                    importance: f64::from(sums[index]),
                };
                oracle.step(0.25 * f64::from(values[index]), &HYPER, step as i32, kind);
                // Roundings of f32, of weights up to 8.
                let tolerance = 1e-6 + 2e-7 * f64::from(before[index].abs());
                assert!((f64::from(after[index]) - oracle.weight).abs() < tolerance, "{step} {index}");
                let value = 0.25 * f64::from(values[index]);
                let summed = [
                    f64::from(moment1[index].abs()) + value.abs(),
                    f64::from(moment2[index]) + value * value,
                    f64::from(sums[index]) + value * value,
                ];
                let exact = [oracle.moment1, oracle.moment2, oracle.importance];
                for (part, exact) in exact.into_iter().enumerate() {
                    let actual = f64::from(stored[part][index]);
                    // One of both neighbours, from which the roundings of f32 before may part it by a little of what
                    // is summed.
                    let unit = (exact.abs().log2().floor() - 7.0).exp2();
                    let (error, little) = ((actual - exact).abs(), 1e-6 * summed[part]);
                    assert!(exact == 0.0 || error < unit + little, "{part} {index}: {actual} {exact}");
                    farther[part] += usize::from(exact != 0.0 && error > 0.55 * unit + little);
                    // Where what is summed cancels, roundings of f32 are many times what is left.
                    let is_left = exact.abs() > 100.0 * little;
                    errors[part] += if is_left { (actual - exact) / exact.abs() } else { 0.0 };
                }
            }
            // Rounded to nearest, none would be the farther neighbour.
            assert!(farther.iter().all(|&farther| farther > layout.len() / 20), "{farther:?}");
            // Errors are at most 2^-7; five standard deviations of the mean of as many.
            let bound = 5.0 / 128.0 / 2.0 / (layout.len() as f64).sqrt();
            for error in errors.map(|error| error / layout.len() as f64) {
                assert!(error.abs() < bound, "step {step}: mean {error:e}, bound {bound:e}");
            }
        }
    }
}

/// A second moment whose updates are smaller than half its unit still comes near what it converges to.
#[test]
fn second_moments_in_bf16_do_not_stand_still() {
    let hyper = Hyper { beta2: 0.999, learning_rate: 0.0, ..HYPER };
    let device = Device::cpu(None).unwrap();
    let length = 4096;
    let mut optimizer = AdamW::with_storage(&device, length, ImportanceKind::None, MomentType::Bf16).unwrap();
    let mut weights = Buffer::zeros(&device, length).unwrap();
    let gradients = StoredGradients::new(&device, &vec![1.0; length], MomentType::Bf16);
    for _ in 0..1000 {
        let gradient = Gradient { values: gradients.view(), scale: 1.0, clip: None, frozen: None };
        optimizer.step(weights.view_mut(), gradient, &hyper).unwrap();
    }
    let [_, second] = optimizer.moments().to_vecs().unwrap();
    let mean = second.iter().map(|&value| f64::from(value)).sum::<f64>() / length as f64;
    let expected = 1.0 - 0.999_f64.powi(1000);
    // Rounded to nearest it would stop at 0.25, where 0.001 of what is left falls below half a unit, 2^-10.
    assert!((mean / expected - 1.0).abs() < 2e-3, "{mean} {expected}");
}

/// Ten updates of a twelfth of half a unit of bf16, all in one direction: rounded to nearest, most weights do not move;
/// by dither, the mean of the rounded weights moves as the weights'.
#[test]
fn rounded_weights_follow_updates_that_are_smaller_than_its_units() {
    let layout = layout(&[20_000]);
    // In 0.0625..0.125 units are 2^-11, and the start is of bf16 numbers, as a model's folder has them.
    let start: Vec<f32> =
        spread_values(&layout, 1).iter().map(|value| 0.0625 + value.abs() / 128.0).collect();
    let start = rounded::<bf16>(&start);
    let hyper = Hyper { learning_rate: 2e-5, weight_decay: 0.0, ..HYPER };
    for device in devices() {
        let mut weights = StoredWeights::new(&device, &start, true);
        let mut optimizer = AdamW::new(&device, layout.len(), ImportanceKind::None).unwrap();
        let gradients = buffer(&device, &vec![0.5; layout.len()]);
        let gradient = Gradient { values: gradients.view().into(), scale: 1.0, clip: None, frozen: None };
        for step in 1..=10 {
            optimizer.step(weights.write(), gradient, &hyper).unwrap();
            let masters = weights.to_vec(&device);
            let moved = |end: &[f32]| -> f64 {
                let differences = end.iter().zip(&start).map(|(end, start)| f64::from(end - start));
                differences.sum::<f64>() / layout.len() as f64
            };
            let (of_weights, of_rounded) = (moved(&masters), moved(&dithered(&masters)));
            // Five standard deviations of the mean of 20,000 roundings, of at most half a unit each.
            let tolerance = 5.0 * 0.5 * (-11f64).exp2() / (layout.len() as f64).sqrt();
            assert!((of_rounded - of_weights).abs() < tolerance, "{step}: {of_rounded:e} {of_weights:e}");
        }
    }
}

#[test]
fn frozen_coordinates_keep_their_bits_and_the_others_theirs() {
    for device in devices() {
        let layout = layout(&[sized(&device, 70_001), 64, 33]);
        let mask = random_mask(&layout, 11, 0.3);
        assert!(mask.words().contains(&u64::MAX) && mask.words().contains(&0));
        for (kind, moments) in kinds() {
            let [moment1, moment2] = start_moments(&layout, moments);
            let importance = match moments {
                MomentType::F32 => spread_values(&layout, 4),
                MomentType::Bf16 => rounded::<bf16>(&spread_values(&layout, 4)),
            };
            let start = [spread_values(&layout, 1), moment1, moment2, importance];
            let free = three_steps(&device, &layout, (kind, moments), None, true);
            let masked = three_steps(&device, &layout, (kind, moments), Some(&mask), true);
            for ((start, free), masked) in start.iter().zip(&free).zip(&masked) {
                for index in 0..masked.len() {
                    let expected = if mask.get(index) { start[index] } else { free[index] };
                    assert_eq!(masked[index].to_bits(), expected.to_bits(), "{kind:?} {index}");
                }
            }
            for segment in layout.segments() {
                for index in segment.range().filter(|&index| !mask.get(index)) {
                    assert_ne!(masked[0][index].to_bits(), start[0][index].to_bits(), "{kind:?} {index}");
                }
            }
        }
    }
}

#[test]
fn devices_agree_to_the_last_bit() {
    let layout = layout(&[1500, 3]);
    let mask = random_mask(&layout, 11, 0.3);
    let padding = 1500..layout.segments()[1].offset;
    for kind in kinds() {
        for (frozen, is_split) in [(None, false), (Some(&mask), false), (None, true), (Some(&mask), true)] {
            let results: Vec<_> = devices()
                .iter()
                .map(|device| {
                    // A mask belongs to one GPU device; a clone may go to another.
                    let frozen = frozen.cloned();
                    three_steps(device, &layout, kind, frozen.as_ref(), is_split).map(|values| bits(&values))
                })
                .collect();
            assert!(results.iter().all(|result| *result == results[0]), "{kind:?}");
            assert!(results[0][0][padding.clone()].iter().all(|&bits| bits == 0));
        }
    }
}

/// Lengths that are no multiple of anything, as no layout has them: what is there gets the bits it has in a longer run.
#[test]
fn ragged_ends_are_stepped_as_the_others() {
    for device in devices() {
        let length = sized(&device, 65_536) + 77;
        let longer = layout(&[length.next_multiple_of(64)]);
        let mut mask = random_mask(&longer, 11, 0.3);
        // All of the last word.
        (length / 64 * 64..length).for_each(|index| mask.set(index, true));
        let mut short_mask = Mask::zeros(length);
        (0..length).filter(|&index| mask.get(index)).for_each(|index| short_mask.set(index, true));
        for (frozen, is_split) in [(false, false), (false, true), (true, false), (true, true)] {
            let run = |length: usize, mask: &Mask| {
                let mut weights = StoredWeights::new(&device, &spread_values(&longer, 1)[..length], is_split);
                let gradients = buffer(&device, &spread_values(&longer, 2)[..length]);
                let mut optimizer = AdamW::new(&device, length, ImportanceKind::Net).unwrap();
                let frozen = frozen.then_some(mask);
                let gradient = Gradient { values: gradients.view().into(), scale: 1.0, clip: None, frozen };
                optimizer.step(weights.write(), gradient, &HYPER).unwrap();
                let [first, second] = optimizer.moments().to_vecs().unwrap();
                [weights.to_vec(&device), first, second, optimizer.importance().to_vec().unwrap()]
            };
            let (short, long) = (run(length, &short_mask), run(longer.len(), &mask));
            for (short, long) in short.iter().zip(&long) {
                assert_eq!(bits(short), bits(&long[..length]), "{frozen} {is_split}");
            }
        }
    }
}

#[test]
fn padding_stays_zero_and_threads_do_not_show() {
    let layout = layout(&[100_001, 3]);
    let run = |threads: usize| {
        let device = Device::cpu(std::num::NonZeroUsize::new(threads)).unwrap();
        let mut weights = Buffer::from_slice(&device, &spread_values(&layout, 1)).unwrap();
        let gradients = buffer(&device, &spread_values(&layout, 2));
        let mut optimizer = AdamW::new(&device, layout.len(), ImportanceKind::Net).unwrap();
        let gradient = Gradient { values: gradients.view().into(), scale: 1.0, clip: None, frozen: None };
        optimizer.step(weights.view_mut(), gradient, &HYPER).unwrap();
        assert_eq!(weights.to_vec().unwrap()[100_001..layout.segments()[1].offset], [0.0; 31]);
        let norm = squared_norm(&device, gradients.view(), None).unwrap();
        (bits(&weights.to_vec().unwrap()), norm.to_bits())
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn wrong_arguments_change_nothing() {
    let start = spread_values(&layout(&[64]), 1);
    for device in devices() {
        let mut weights = buffer(&device, &start);
        let mut optimizer = AdamW::new(&device, 64, ImportanceKind::None).unwrap();
        let gradients = buffer(&device, &start);
        let short = Mask::zeros(63);
        let gradient = Gradient { values: gradients.view().into(), scale: 1.0, clip: None, frozen: None };
        let rounded = StoredGradients::new(&device, &start, MomentType::Bf16);
        let refused = [
            (Gradient { values: rounded.view(), ..gradient }, HYPER),
            (gradient, Hyper { beta2: 1.0, ..HYPER }),
            (gradient, Hyper { epsilon: 0.0, ..HYPER }),
            (gradient, Hyper { learning_rate: f64::NAN, ..HYPER }),
            (Gradient { scale: f64::INFINITY, ..gradient }, HYPER),
            (Gradient { values: gradients.slice(0..63).into(), ..gradient }, HYPER),
            (Gradient { frozen: Some(&short), ..gradient }, HYPER),
        ];
        for (gradient, hyper) in refused {
            assert!(optimizer.step(weights.view_mut(), gradient, &hyper).is_err());
        }
        assert_eq!(weights.to_vec().unwrap(), start);
        assert_eq!(optimizer.steps(), 0);
    }
}

#[test]
fn clipping_on_the_device_is_clipping_by_the_norm() {
    let layout = layout(&[3000, 70]);
    let frozen = random_mask(&layout, 2, 0.3);
    let start = spread_values(&layout, 1);
    let stepped = |device: &Device, values: &[f32], maximum: Option<f64>| {
        let (mut weights, gradients) = (buffer(device, &start), buffer(device, values));
        let mut optimizer = AdamW::new(device, layout.len(), ImportanceKind::Fisher).unwrap();
        let mut clip = Clip::new(device, layout.len()).unwrap();
        let frozen = Some(&frozen);
        let mut gradient = Gradient { values: gradients.view().into(), scale: 1.0, clip: None, frozen };
        match maximum {
            None => {
                let norm = squared_norm(device, gradients.view(), frozen).unwrap().sqrt();
                gradient.scale = clip_factor(norm, 0.5);
            }
            Some(maximum) => {
                clip.measure(gradients.view(), frozen, maximum).unwrap();
                gradient.clip = Some(&clip);
            }
        }
        optimizer.step(weights.view_mut(), gradient, &HYPER).unwrap();
        let state = [weights.to_vec().unwrap(), optimizer.importance().to_vec().unwrap()];
        (state.map(|values| bits(&values)), clip.norm().unwrap())
    };
    for device in devices() {
        let values = spread_values(&layout, 3);
        let (by_norm, _) = stepped(&device, &values, None);
        let (on_device, norm) = stepped(&device, &values, Some(0.5));
        assert!(by_norm == on_device && norm > 0.5, "{}", device.name());
        assert!(stepped(&device, &values, Some(f64::INFINITY)).0 != on_device);

        let mut broken = values;
        broken[(0..100).find(|&index| !frozen.get(index)).unwrap()] = f32::NAN;
        let (unchanged, norm) = stepped(&device, &broken, Some(0.5));
        assert!(norm.is_nan());
        assert_eq!(unchanged[0], bits(&start));
        assert!(unchanged[1].iter().all(|&bits| bits == 0));
    }
}

#[test]
fn the_norm_leaves_frozen_coordinates_out() {
    let layout = layout(&[100_001, 70]);
    let mask = random_mask(&layout, 2, 0.3);
    let values = spread_values(&layout, 1);
    let expected = |frozen: bool| -> f64 {
        let squares = values.iter().enumerate().filter(|(index, _)| !frozen || !mask.get(*index));
        squares.map(|(_, &value)| f64::from(value) * f64::from(value)).sum()
    };
    let frozen = mask.indices().next().unwrap();
    for device in devices() {
        let mask = mask.clone();
        let norm =
            |values: &[f32], frozen| squared_norm(&device, buffer(&device, values).view(), frozen).unwrap();
        assert!((norm(&values, None) / expected(false) - 1.0).abs() < 1e-12);
        assert!((norm(&values, Some(&mask)) / expected(true) - 1.0).abs() < 1e-12);

        let mut values = values.clone();
        values[frozen] = f32::NAN;
        assert!(norm(&values, None).is_nan());
        assert!(norm(&values, Some(&mask)).is_finite());
        values[frozen] = f32::INFINITY;
        assert_eq!(norm(&values, None), f64::INFINITY);
        assert!(norm(&[f32::MAX; 1000], None).is_finite());
        // In bf16 the norm is that of what is stored.
        let stored = StoredGradients::new(&device, &values, MomentType::Bf16);
        let of_stored = squared_norm(&device, stored.view(), Some(&mask)).unwrap();
        assert_eq!(of_stored, norm(&rounded::<bf16>(&values), Some(&mask)));
        let gradients = buffer(&device, &values);
        assert!(squared_norm(&device, gradients.view(), Some(&Mask::zeros(64))).is_err());
    }
}

#[test]
fn clipping_is_that_of_pytorch() {
    assert_eq!(clip_factor(0.5, 1.0), 1.0);
    assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(
        module_path!(),
        &[
            "ten_steps",
            "moments_in_bf16",
            "net_importance",
            "matches_pytorch",
            "frozen_coordinates",
            "devices_agree",
            "wrong_arguments",
            "clipping_on_the_device",
            "the_norm",
        ],
    );
}
