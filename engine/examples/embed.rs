//! Two tasks in one linear model with its own training loop: the optimizer measures what a task
//! needs, a mask protects that core while the other task is trained, SLERP merges. Takes the name of a device.

use cpift_engine::ops::adamw::{AdamW, Gradient, Hyper, ImportanceKind};
use cpift_engine::ops::{select, slerp, transplant};
use cpift_engine::{Buffer, Device, Layout, Mask, Result};

type Flat = Buffer<f32>;
const INPUTS: usize = 1000;

/// The model's loss: a task wants 10 large weights, small ones elsewhere, hardly minding the other's 10.
fn loss(task: usize, weights: &[f32], gradient: &mut [f32]) -> f32 {
    let mut total = 0.0;
    for input in 0..INPUTS {
        let (own, others) = (input % 100 == 50 * task, input % 100 == 50 * (1 - task));
        let wanted = if own { 2.0 } else { 0.1 * ((input + task) as f32).sin() };
        gradient[input] = (weights[input] - wanted) * if others { 0.01 } else { 1.0 };
        total += gradient[input] * (weights[input] - wanted);
    }
    total
}

/// Trains on one task, leaving frozen weights alone; the optimizer then knows their importance.
fn train(device: &Device, task: usize, weights: &mut Flat, frozen: Option<&Mask>) -> Result<AdamW> {
    let hyper = Hyper { learning_rate: 0.03, ..Hyper::default() };
    let mut optimizer = AdamW::new(device, weights.len(), ImportanceKind::Net)?;
    let mut gradients = vec![0.0; weights.len()];
    for _ in 0..200 {
        loss(task, &weights.to_vec()?, &mut gradients);
        let gradients = Flat::from_slice(device, &gradients)?;
        let gradient = Gradient { values: gradients.view().into(), scale: 1.0, clip: None, frozen };
        optimizer.step(weights.view_mut(), gradient, &hyper)?;
    }
    Ok(optimizer)
}

fn main() -> Result<()> {
    let device = Device::from_name(&std::env::args().nth(1).unwrap_or_else(|| "auto".to_owned()), None)?;
    let layout = Layout::new([("linear.weight", vec![1, INPUTS])])?;
    let report = |when: &str, weights: &Flat| -> Result<()> {
        let weights = weights.to_vec()?;
        let [first, second] = [0, 1].map(|task| loss(task, &weights, &mut [0.0; INPUTS]));
        println!("{when:52} loss of task 0 {first:6.2}, of task 1 {second:6.2}");
        Ok(())
    };
    let (mut first, mut second) = (Flat::zeros(&device, layout.len())?, Flat::zeros(&device, layout.len())?);
    let optimizer = train(&device, 0, &mut first, None)?;
    train(&device, 1, &mut second, None)?;
    let one_percent = select::Options::default();
    let core =
        select::select(&device, &layout, optimizer.importance().in_f32()?, &one_percent, |_| true)?.mask;
    let options = slerp::Options { skip: Some(&core), ..slerp::Options::default() };
    let angle = slerp::slerp(&device, &layout, second.view_mut(), first.view(), &options)?[0].angle;
    transplant::transplant(&device, second.view_mut(), first.view(), &core)?;
    report(&format!("merged over an angle of {angle:.2}, {} core weights kept", core.count()), &second)?;
    let mut unprotected = Buffer::from_slice(&device, &second.to_vec()?)?;
    train(&device, 1, &mut unprotected, None)?;
    report("then trained on task 1", &unprotected)?;
    train(&device, 1, &mut second, Some(&core))?;
    report("then trained on task 1, core of 0 frozen", &second)?;
    Ok(())
}
