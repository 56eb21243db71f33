//! The optimizer on ranges of the parameters is the optimizer on all of them, bit for bit.

use cpift_engine::ops::adamw::{AdamW, Gradient, Hyper, ImportanceKind, Weights};
use cpift_engine::ops::split::{self, Planes};
use cpift_engine::ranks::ranges;
use cpift_engine::{Buffer, Device, Mask};
use cpift_kernels::emulator::Schedule;
use cpift_tests::flat::{layout, random_mask, spread_values};
use cpift_tests::ranks::fresh_seed;

/// Weights after two steps on each of so many ranges, moments and importance behind each other.
fn steps(
    device: &Device,
    sizes: &[usize],
    seed: u64,
    parts: usize,
    kind: ImportanceKind,
    frozen: Option<&Mask>,
    is_split: bool,
) -> Vec<Vec<f32>> {
    let layout = layout(sizes);
    let mut weights = Buffer::from_slice(device, &spread_values(&layout, seed)).unwrap();
    let mut scratch = Buffer::zeros(device, layout.len()).unwrap();
    if is_split {
        split::split_in_place(device, weights.view_mut(), scratch.view_mut()).unwrap();
    }
    let mut found = vec![Vec::new(); 3];
    for range in ranges(layout.len(), parts) {
        let mut optimizer =
            AdamW::of_range(device, range.clone(), kind, cpift_engine::ops::adamw::MomentType::F32).unwrap();
        let frozen = frozen.map(|mask| mask.slice(range.clone()));
        for step in 0..2 {
            let gradients = spread_values(&layout, seed.wrapping_add(1 + step));
            let gradients = Buffer::from_slice(device, &gradients[range.clone()]).unwrap();
            let values = gradients.view().into();
            let gradient = Gradient { values, scale: 0.5, clip: None, frozen: frozen.as_ref() };
            let written: Weights<'_> = match is_split {
                true => Planes::of(weights.view_mut()).slice(range.clone()).into(),
                false => weights.slice_mut(range.clone()).into(),
            };
            optimizer.step(written, gradient, &Hyper::default()).unwrap();
        }
        let [first, second] = optimizer.moments().to_vecs().unwrap();
        let importance = optimizer.importance().to_vec().unwrap();
        found.iter_mut().zip([first, second, importance]).for_each(|(all, part)| all.extend(part));
    }
    if is_split {
        // The rounded plane too: it is what products read.
        let rounded = split::rounded(weights.view()).to_vec().unwrap();
        found.push(rounded.into_iter().map(cpift_engine::bf16::to_f32).collect());
        split::join_in_place(device, weights.view_mut(), scratch.view_mut()).unwrap();
    }
    found.push(weights.to_vec().unwrap());
    found
}

#[test]
fn ranges_have_the_bits_of_the_whole() {
    // Above what a thread takes at a time, with a ragged end.
    compare(&Device::cpu(std::num::NonZeroUsize::new(2)).unwrap(), &[70_000, 130, 64, 66_001], &[2, 3, 7]);
    compare(&Device::emulated(Schedule::Forward), &[700, 130, 64, 661], &[3]);
}

fn compare(device: &Device, sizes: &[usize], parts: &[usize]) {
    let seed = fresh_seed();
    let mask = random_mask(&layout(sizes), seed, 0.3);
    for kind in [ImportanceKind::None, ImportanceKind::Net, ImportanceKind::Fisher] {
        for frozen in [None, Some(&mask)] {
            for is_split in [false, true] {
                let whole = steps(device, sizes, seed, 1, kind, frozen, is_split);
                for &parts in parts {
                    let found = steps(device, sizes, seed, parts, kind, frozen, is_split);
                    let bits = |all: &[Vec<f32>]| -> Vec<Vec<u32>> {
                        all.iter()
                            .map(|values| values.iter().map(|value| value.to_bits()).collect())
                            .collect()
                    };
                    assert!(
                        bits(&found) == bits(&whole),
                        "seed {seed}: {parts} ranges on {}, {kind:?}, frozen {}, split {is_split}",
                        device.name(),
                        frozen.is_some()
                    );
                }
            }
        }
    }
}
