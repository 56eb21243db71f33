//! Cases over flat parameters: the optimizer, norms, selection and fusion.

use cpift_engine::ops::adamw::{self, AdamW, Gradient, Hyper, ImportanceKind, MomentType};
use cpift_engine::ops::gradients::GradientsView;
use cpift_engine::ops::select::Order;
use cpift_engine::ops::split::{self, Planes};
use cpift_engine::ops::work::{Work, mask_bytes};
use cpift_engine::ops::{accumulate, norm, select, slerp, subtract, transplant};
use cpift_engine::{Buffer, Device, Layout, Real, Result, View, bf16};

use super::case::{Case, Run};
use super::inputs::{random, random_mask};

/// Share of the parameters that is frozen, a core, or transplanted.
const CORE: f64 = 0.01;

/// All of them, for shards of so many parameters, on a GPU or the CPU.
pub fn cases(parameters: usize, on_gpu: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, masked) in [("squared_norm", false), ("squared_norm frozen", true)] {
        let work = norm::work(parameters, size_of::<f32>(), masked);
        cases.push(Case::new(name, count(parameters), work, move |device| {
            squared_norm::<f32>(device, parameters, masked)
        }));
        let work = norm::work(parameters, size_of::<bf16>(), masked);
        cases.push(Case::new(format!("{name} bf16"), count(parameters), work, move |device| {
            squared_norm::<bf16>(device, parameters, masked)
        }));
    }
    cases.push(Case::new("accumulate", count(parameters), accumulate::work(parameters), move |device| {
        add_to_bf16(device, parameters)
    }));
    let (exact, compact) = (MomentType::F32, MomentType::Bf16);
    for (name, kind, moments, frozen, is_split) in [
        ("adamw", ImportanceKind::None, exact, false, false),
        ("adamw frozen", ImportanceKind::None, exact, true, false),
        ("adamw net", ImportanceKind::Net, exact, false, false),
        ("adamw net frozen", ImportanceKind::Net, exact, true, false),
        ("adamw path frozen", ImportanceKind::Path, exact, true, false),
        ("adamw fisher frozen", ImportanceKind::Fisher, exact, true, false),
        ("adamw split", ImportanceKind::None, exact, false, true),
        ("adamw split net frozen", ImportanceKind::Net, exact, true, true),
        ("adamw compact", ImportanceKind::None, compact, false, false),
        ("adamw compact frozen", ImportanceKind::None, compact, true, false),
        ("adamw compact fisher", ImportanceKind::Fisher, compact, false, false),
        ("adamw compact split", ImportanceKind::None, compact, false, true),
        ("adamw compact split frozen", ImportanceKind::None, compact, true, true),
    ] {
        let work = adamw::work(parameters, kind, moments, frozen);
        cases.push(Case::new(name, count(parameters), work, move |device| {
            adamw(device, parameters, kind, moments, (frozen, is_split))
        }));
    }
    cases.push(Case::new("split", count(parameters), split::work(parameters), move |device| {
        split_weights(device, parameters)
    }));
    cases.push(Case::new("join", count(parameters), split::work(parameters), move |device| {
        join_weights(device, parameters)
    }));
    for (delta, name) in [(false, "slerp weights"), (true, "slerp delta")] {
        let work = slerp::work(parameters, delta, false);
        cases.push(Case::new(name, count(parameters), work, move |device| {
            interpolate(device, parameters, delta)
        }));
    }
    for (name, fraction, order, equal) in [
        ("select", CORE, Order::Largest, false),
        ("select half", 0.5, Order::Largest, false),
        ("select smallest", CORE, Order::Smallest, false),
        ("select random", CORE, Order::Random { seed: 1 }, false),
        ("select equal", CORE, Order::Largest, true),
    ] {
        let work = select::work(parameters, order, on_gpu);
        cases.push(Case::new(name, count(parameters), work, move |device| {
            selection(device, parameters, select::Options { fraction, order, ..Default::default() }, equal)
        }));
    }
    let selected = (CORE * parameters as f64) as usize;
    let work = transplant::work(parameters, selected);
    cases.push(Case::new("transplant", count(parameters), work, move |device| {
        transplantation(device, parameters)
    }));
    cases.push(Case::new("subtract", count(parameters), subtract::work(parameters), move |device| {
        subtraction(device, parameters)
    }));
    cases
}

/// Cases on masks, which are in host memory whatever the device.
pub fn mask_cases(parameters: usize) -> Vec<Case> {
    let bytes = mask_bytes(parameters);
    // Both masks are read, by the union to write a third, by the Jaccard index once for each count in it.
    vec![
        Case::new("mask union", count(parameters), Work::new(3 * bytes, 0), move |_| {
            let (left, right) = masks(parameters);
            Ok(move || left.or(&right).map(|union| drop(std::hint::black_box(union))))
        }),
        Case::new("mask jaccard", count(parameters), Work::new(4 * bytes, 0), move |_| {
            let (left, right) = masks(parameters);
            Ok(move || left.jaccard(&right).map(|index| _ = std::hint::black_box(index)))
        }),
    ]
}

fn masks(parameters: usize) -> (cpift_engine::Mask, cpift_engine::Mask) {
    (random_mask(parameters, 1, CORE), random_mask(parameters, 2, CORE))
}

/// `20M`.
fn count(parameters: usize) -> String {
    match parameters {
        _ if parameters.is_multiple_of(1_000_000) => format!("{}M", parameters / 1_000_000),
        _ if parameters.is_multiple_of(1_000) => format!("{}k", parameters / 1_000),
        _ => parameters.to_string(),
    }
}

fn layout(parameters: usize) -> Result<Layout> {
    Layout::new([("parameters", vec![parameters])])
}

fn squared_norm<T: Real>(device: &Device, parameters: usize, masked: bool) -> Result<impl Run + use<T>>
where
    for<'a> GradientsView<'a>: From<View<'a, T>>,
{
    let device = device.clone();
    let gradient = random::<T>(&device, parameters, 1)?;
    let mask = masked.then(|| random_mask(parameters, 2, CORE));
    Ok(move || {
        norm::squared_norm(&device, gradient.view(), mask.as_ref()).map(|norm| _ = std::hint::black_box(norm))
    })
}

fn add_to_bf16(device: &Device, parameters: usize) -> Result<impl Run + use<>> {
    let device = device.clone();
    let (mut target, x) = (random::<bf16>(&device, parameters, 1)?, random::<f32>(&device, parameters, 2)?);
    Ok(move || accumulate::accumulate(&device, target.view_mut(), x.view(), 0, 0))
}

fn adamw(
    device: &Device,
    parameters: usize,
    kind: ImportanceKind,
    moments: MomentType,
    (frozen, is_split): (bool, bool),
) -> Result<impl Run + use<>> {
    let mut weights = random::<f32>(device, if is_split { 0 } else { parameters }, 1)?;
    let mut planes = split_planes(device, if is_split { parameters } else { 0 })?;
    let is_compact = moments == MomentType::Bf16;
    let gradient = random::<f32>(device, if is_compact { 0 } else { parameters }, 2)?;
    let rounded = random::<bf16>(device, if is_compact { parameters } else { 0 }, 2)?;
    let mut optimizer = AdamW::with_storage(device, parameters, kind, moments)?;
    let mask = frozen.then(|| random_mask(parameters, 3, CORE));
    Ok(move || {
        let values: GradientsView<'_> =
            if is_compact { rounded.view().into() } else { gradient.view().into() };
        let gradient = Gradient { values, scale: 0.5, clip: None, frozen: mask.as_ref() };
        if is_split {
            optimizer.step(planes_of(&mut planes), gradient, &Hyper::default())
        } else {
            optimizer.step(weights.view_mut(), gradient, &Hyper::default())
        }
    })
}

/// Random weights, split, in buffers of their own.
fn split_planes(device: &Device, parameters: usize) -> Result<(Buffer<bf16>, Buffer<u16>)> {
    let weights = random::<f32>(device, parameters, 1)?;
    let mut planes = (Buffer::zeros(device, parameters)?, Buffer::zeros(device, parameters)?);
    split::split(device, weights.view(), 0, planes_of(&mut planes))?;
    Ok(planes)
}

fn planes_of((rounded, lower): &mut (Buffer<bf16>, Buffer<u16>)) -> Planes<'_> {
    Planes { rounded: rounded.view_mut(), lower: lower.view_mut() }
}

fn split_weights(device: &Device, parameters: usize) -> Result<impl Run + use<>> {
    let device = device.clone();
    let weights = random::<f32>(&device, parameters, 1)?;
    let mut planes = split_planes(&device, parameters)?;
    Ok(move || split::split(&device, weights.view(), 0, planes_of(&mut planes)))
}

fn join_weights(device: &Device, parameters: usize) -> Result<impl Run + use<>> {
    let device = device.clone();
    let mut weights = random::<f32>(&device, parameters, 1)?;
    let mut planes = split_planes(&device, parameters)?;
    Ok(move || split::join(&device, &planes_of(&mut planes), 0, weights.view_mut()))
}

fn interpolate(device: &Device, parameters: usize, delta: bool) -> Result<impl Run + use<>> {
    let device = device.clone();
    let layout = layout(parameters)?;
    let mut backbone = random::<f32>(&device, layout.len(), 1)?;
    let other = random::<f32>(&device, layout.len(), 2)?;
    let base = random::<f32>(&device, if delta { layout.len() } else { 0 }, 3)?;
    Ok(move || {
        let base = delta.then(|| base.view());
        let options = slerp::Options { weight: 0.01, base, ..slerp::Options::default() };
        slerp::slerp(&device, &layout, backbone.view_mut(), other.view(), &options).map(drop)
    })
}

/// Among random scores, or among equal ones, where ties decide all.
fn selection(
    device: &Device,
    parameters: usize,
    options: select::Options<'static>,
    equal: bool,
) -> Result<impl Run + use<>> {
    let device = device.clone();
    let layout = layout(parameters)?;
    let mut scores = random::<f32>(&device, layout.len(), 1)?;
    if equal {
        scores.view_mut().fill(0.5)?;
    }
    Ok(move || {
        let selection = select::select(&device, &layout, scores.view(), &options, |_| true);
        selection.map(|selection| drop(std::hint::black_box(selection)))
    })
}

fn transplantation(device: &Device, parameters: usize) -> Result<impl Run + use<>> {
    let device = device.clone();
    let (mut backbone, source) =
        (random::<f32>(&device, parameters, 1)?, random::<f32>(&device, parameters, 2)?);
    let mask = random_mask(parameters, 3, CORE);
    Ok(move || transplant::transplant(&device, backbone.view_mut(), source.view(), &mask))
}

fn subtraction(device: &Device, parameters: usize) -> Result<impl Run + use<>> {
    let device = device.clone();
    let (mut target, other) =
        (random::<f32>(&device, parameters, 1)?, random::<f32>(&device, parameters, 2)?);
    Ok(move || subtract::subtract(&device, target.view_mut(), other.view()))
}
