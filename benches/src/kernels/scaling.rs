//! Cases of what some families add to a layer: products with a number, and the soft cap of logits.

use cpift_engine::ops::{scale, softcap};
use cpift_engine::{Device, Real};

use super::case::Case;
use super::inputs::random;
use super::layers::name;
use super::shapes::ModelShape;

/// All of them, over the hidden states of `tokens` tokens and the logits of one.
pub fn cases<T: Real>(model: &ModelShape, tokens: usize) -> [Case; 4] {
    let elements = tokens * model.hidden;
    let sizes = format!("{tokens}×{}", model.hidden);
    let product = scale::forward_work(elements, size_of::<T>());
    let vocabulary = model.vocabulary;
    [
        Case::new(name("scale", model), &sizes, product, move |device: &Device| {
            let (x, mut y) = (random::<T>(device, elements, 1)?, random(device, elements, 2)?);
            let device = device.clone();
            Ok(move || scale::forward(&device, 0.5, x.view(), y.view_mut()))
        }),
        Case::new(name("scale in place", model), &sizes, product, move |device: &Device| {
            let (device, mut x) = (device.clone(), random::<T>(device, elements, 1)?);
            // By 1: values keep their size, run after run.
            Ok(move || scale::forward_in_place(&device, 1.0, x.view_mut()))
        }),
        Case::new(
            name("scale add", model),
            &sizes,
            scale::add_work(elements, size_of::<T>()),
            move |device: &Device| {
                let (residual, delta) = (random::<T>(device, elements, 1)?, random(device, elements, 2)?);
                let (device, mut sum) = (device.clone(), random(device, elements, 3)?);
                Ok(move || scale::add(&device, residual.view(), 0.25, delta.view(), sum.view_mut()))
            },
        ),
        Case::new(
            name("softcap", model),
            vocabulary.to_string(),
            softcap::work(vocabulary),
            move |device: &Device| {
                let (device, mut logits) = (device.clone(), random::<f32>(device, vocabulary, 1)?);
                Ok(move || softcap::in_place(&device, 30.0, logits.view_mut()))
            },
        ),
    ]
}
