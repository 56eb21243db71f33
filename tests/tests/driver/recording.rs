//! Recorded steps give the bits that steps queued one by one give, whatever changes from step to step.

use cpift_engine::ops::adamw::{AdamW, Hyper, ImportanceKind, MomentType, StateStorage};
use cpift_engine::ops::linear::{Shape, forward};
use cpift_engine::ops::norm::Clip;
use cpift_engine::ops::subtract::subtract;
use cpift_engine::{Buffer, Device, Error, Placement, Result, bf16};
use cpift_kernels::emulator::Schedule;
use cpift_model::transformer::{ComputeType, Recompute};
use cpift_model::{Batch, Model, Scaling};
use cpift_tests::devices::gpus;
use cpift_tests::golden::Golden;
use cpift_tests::numeric::random;
use cpift_tests::stand_in;

/// Weights, moments and losses after steps of two micro-batches of changing shapes, with changing learning rates.
fn train(device: &Device, compute: ComputeType, stored: StateStorage, recorded: bool) -> [Vec<f32>; 3] {
    let golden = Golden::open("qwen3");
    let (documents, packed) = (golden.documents(), golden.packed());
    let length = golden.layout.len();
    let mut model =
        Model::new(&golden.config, device, compute, packed.tokens.len(), Recompute::Nothing, stored).unwrap();
    model.weights_mut().unwrap().copy_from(golden.weights(device).view()).unwrap();
    model.prepare().unwrap();
    let mut losses = Buffer::zeros(device, 2 * packed.tokens.len()).unwrap();
    let mut clip = Clip::new(device, length).unwrap();
    let mut optimizer = AdamW::with_storage(device, length, ImportanceKind::Net, stored).unwrap();
    let mut all_losses = Vec::new();
    // The same shapes again and again, another in between, other documents of the same tokens at the end.
    let halves = {
        let mut halves = Batch::new();
        let (first, second) = packed.tokens.split_at(20);
        for part in [first, second] {
            halves.push(part, &vec![true; part.len()]).unwrap();
        }
        halves
    };
    let steps: [[&Batch; 2]; 5] = [
        [&packed, &documents[0]],
        [&packed, &documents[0]],
        [&documents[2], &documents[2]],
        [&packed, &documents[0]],
        [&halves, &documents[0]],
    ];
    for (step, batches) in steps.into_iter().enumerate() {
        let hyper = Hyper { learning_rate: 1e-3 / (1.0 + step as f64), ..Hyper::default() };
        let mut work = || -> cpift_model::Result<()> {
            model.clear_gradients()?;
            let mut start = 0;
            for (number, batch) in batches.into_iter().enumerate() {
                let end = start + batch.tokens.len();
                let losses = losses.slice_mut(start..end);
                model.loss_and_gradients(batch, 0.02, number, losses)?;
                start = end;
            }
            clip.measure(model.gradients(), None, 0.5)?;
            model.step(&mut optimizer, Scaling { clip: Some(&clip), frozen: None }, &hyper)
        };
        if recorded { device.record(work) } else { work() }.unwrap();
        let tokens: usize = batches.iter().map(|batch| batch.tokens.len()).sum();
        all_losses.extend(losses.slice(0..tokens).to_vec().unwrap());
    }
    let [_, moments] = optimizer.moments().to_vecs().unwrap();
    let weights = model.weights().unwrap().to_vec().unwrap();
    [weights, moments, all_losses]
}

#[test]
fn recorded_steps_give_the_same_bits() {
    for device in gpus() {
        // In the device's memory and in the host's.
        let on_host = StateStorage { moments: MomentType::Bf16, placement: Placement::Host };
        for (compute, stored) in [(ComputeType::F32, MomentType::F32.into()), (ComputeType::Bf16, on_host)] {
            let [recorded, queued] = [true, false].map(|how| train(&device, compute, stored, how));
            assert_eq!(recorded, queued, "{compute:?} {stored:?}");
        }
    }
}

/// A chain of subtractions with another value each time: the graph of the second time is changed for the third.
#[test]
fn what_changes_is_replaced() {
    for device in gpus() {
        for length in [5, 5, 5, 3000, 3000, 3000] {
            let start = random(length as u64, length);
            // The target is in the host's memory, and is copied to the device's.
            let mut target = Buffer::zeros_in(&device, length, Placement::Host).unwrap();
            target.view_mut().copy_from_host(&start).unwrap();
            let mut other = Buffer::zeros(&device, length).unwrap();
            let mut copy = Buffer::zeros(&device, length).unwrap();
            for value in [1.0, 2.0, 4.0, 8.0] {
                device
                    .record(|| -> Result<()> {
                        for part in 0..3 {
                            other.view_mut().fill(value * part as f32)?;
                            subtract(&device, target.view_mut(), other.view())?;
                        }
                        // Given back while commands that fill it wait.
                        Buffer::<f32>::zeros_in(&device, length, Placement::Host)?.view_mut().fill(value)?;
                        copy.view_mut().copy_from(target.view())
                    })
                    .unwrap();
            }
            let expected: Vec<f32> = start
                .iter()
                .map(|&start| {
                    [1.0, 2.0, 4.0, 8.0].iter().fold(start, |sum, value| sum - 0.0 - value - 2.0 * value)
                })
                .collect();
            assert_eq!(target.to_vec().unwrap(), expected);
            assert_eq!(copy.to_vec().unwrap(), expected);
        }
    }
}

/// What the host writes over, reads or waits for in the middle is as if nothing was recorded.
#[test]
fn the_host_sees_what_it_would_without_recording() {
    for device in gpus() {
        let mut target = Buffer::from_slice(&device, &[10.0f32; 100]).unwrap();
        let mut other = Buffer::from_slice(&device, &[1.0f32; 100]).unwrap();
        device
            .record(|| -> Result<()> {
                subtract(&device, target.view_mut(), other.view())?;
                // The subtraction must have been with ones.
                other.view_mut().copy_from_host(&[2.0; 100])?;
                subtract(&device, target.view_mut(), other.view())?;
                assert_eq!(target.to_vec()?, [7.0; 100]);
                // Memory of one buffer for the next, while what used it is not yet run.
                for value in [1.0, 2.0] {
                    let temporary = Buffer::from_slice(&device, &[value; 100])?;
                    subtract(&device, target.view_mut(), temporary.view())?;
                }
                device.synchronize()?;
                other.view_mut().copy_from(target.view())
            })
            .unwrap();
        assert_eq!(other.to_vec().unwrap(), [4.0; 100]);
    }
}

/// What a kernel copies by tiles is in use until it has run, like every other buffer; and a list that is run again
/// reads from where its tiles are now.
#[test]
fn tiles_are_read_from_where_they_are_when_a_list_runs() {
    let device = Device::emulated_like(Schedule::Forward, (9, 0));
    let shape = Shape { rows: 256, inputs: 64, outputs: 512 };
    let weight = Buffer::<bf16>::from_slice(&device, &vec![bf16::ONE; 512 * 64]).unwrap();
    let of = |number: f32| vec![bf16::from_f32(number); 256 * 64];
    let mut y = Buffer::<bf16>::zeros(&device, 256 * 512).unwrap();
    let mut other = Buffer::<bf16>::zeros(&device, 256 * 512).unwrap();
    for round in [1.0, 2.0, 3.0] {
        // Another address each time, the last one's being taken.
        let mut x = Buffer::from_slice(&device, &of(round)).unwrap();
        let kept = Buffer::from_slice(&device, &of(0.0)).unwrap();
        device
            .record(|| -> Result<()> {
                for _ in 0..2 {
                    forward(&device, &shape, x.view(), weight.view(), None, y.view_mut())?;
                    forward(&device, &shape, x.view(), weight.view(), None, y.view_mut())?;
                }
                x.view_mut().copy_from_host(&of(-round))?;
                forward(&device, &shape, x.view(), weight.view(), None, other.view_mut())
            })
            .unwrap();
        let expected = bf16::from_f32(64.0 * round);
        assert!(y.to_vec().unwrap().iter().all(|&sum| sum == expected), "round {round}");
        assert!(other.to_vec().unwrap().iter().all(|&sum| sum == -expected), "round {round}");
        drop(kept);
    }
}

#[test]
fn an_error_forgets_what_was_recorded() {
    for device in gpus() {
        let mut target = Buffer::from_slice(&device, &[10.0f32; 100]).unwrap();
        let outcome: Result<()> = device.record(|| {
            target.view_mut().fill(3.0)?;
            Err(Error::UnknownDevice { name: "none".to_owned() })
        });
        assert!(outcome.is_err());
        assert_eq!(target.to_vec().unwrap(), [10.0; 100]);
        device.record(|| target.view_mut().fill(4.0)).unwrap();
        assert_eq!(target.to_vec().unwrap(), [4.0; 100]);
    }
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(module_path!(), &[]);
}
