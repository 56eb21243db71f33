//! Rounding to bf16 by dither, bit for bit.

use cpift_engine::ops::round;
use cpift_engine::{Buffer, bf16};
use cpift_tests::devices::devices;
use cpift_tests::flat::{layout, spread_values};
use cpift_tests::precision::{dithered, download, poisoned};

#[test]
fn weights_round_by_dither() {
    for device in devices() {
        // Longer than what a thread takes at a time; shorter on the emulator, to which an element is work.
        let layout = layout(&[if device.name() == "emulated" { 3001 } else { 70_001 }, 33]);
        let values = spread_values(&layout, 1);
        let weights = Buffer::from_slice(&device, &values).unwrap();
        let mut target = poisoned::<bf16>(&device, layout.len());
        round::to_bf16(&device, weights.view(), target.view_mut()).unwrap();
        assert_eq!(download(&target), dithered(&values));
        let mut short = poisoned::<bf16>(&device, layout.len() - 1);
        assert!(round::to_bf16(&device, weights.view(), short.view_mut()).is_err());
    }
}
