//! The soft cap of logits against f64.

use crate::common::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::launch::LaunchError;
use cpift_kernels::softcap::softcap_in_place;

#[test]
fn logits_match_the_oracle() {
    // Less than a vector, less than a block, whole blocks, and what lies between; offset 1 is misaligned.
    for count in [1, 19, 1024, 4101] {
        for (offset, schedule) in [(0, SCHEDULES[0]), (1, SCHEDULES[1]), (0, SCHEDULES[2])] {
            let mut logits = random::<f32>(3, count + offset);
            // From tiny ones to those at the bound.
            logits.as_mut_slice().iter_mut().for_each(|x| *x = 200.0 * x.powi(5));
            let before = widen(&logits.as_slice()[offset..]);
            let target = slice_mut(&mut logits.as_mut_slice()[offset..]);
            softcap_in_place(&Emulator::new(schedule), target, count as u64, 30.0).unwrap();
            for (x, y) in before.into_iter().zip(&logits.as_slice()[offset..]) {
                let expected = 30.0 * (x / 30.0).tanh();
                let error = (f64::from(*y) - expected).abs();
                assert!(error <= 5e-7 * expected.abs(), "{x}: {y}, not {expected}");
            }
        }
    }
}

#[test]
fn infinite_logits_are_bounded_and_what_is_not_a_number_stays() {
    let mut logits = Buffer::from_slice(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0]);
    softcap_in_place(&Emulator::new(SCHEDULES[0]), logits.write(), 4, 30.0).unwrap();
    let [a, b, c, d] = logits.as_slice() else { panic!("four") };
    assert!((*a, *b, *d) == (30.0, -30.0, 0.0) && c.is_nan(), "{:?}", logits.as_slice());
    let result = softcap_in_place(&Emulator::new(SCHEDULES[0]), logits.write(), 4, 0.0);
    assert!(matches!(result, Err(LaunchError::Requirement { .. })), "{result:?}");
}
