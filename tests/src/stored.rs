//! Weights and gradients as the optimizer has them: in f32; split, or in bf16.

use cpift_engine::ops::adamw::{MomentType, Weights};
use cpift_engine::ops::gradients::GradientsView;
use cpift_engine::ops::split::{Planes, join, split};
use cpift_engine::{Buffer, Device, bf16};

use crate::precision::{dithered, download, poisoned};

/// Weights in the memory that the optimizer has them in.
pub enum StoredWeights {
    /// In f32.
    F32(Buffer<f32>),
    /// Rounded weights and the lower halves of their bits.
    Split(Buffer<bf16>, Buffer<u16>),
}

impl StoredWeights {
    /// These, split or not.
    pub fn new(device: &Device, values: &[f32], is_split: bool) -> Self {
        let weights = Buffer::from_slice(device, values).unwrap();
        if !is_split {
            return Self::F32(weights);
        }
        let (mut rounded, mut lower) = (
            poisoned::<bf16>(device, values.len()),
            Buffer::from_slice(device, &vec![0x7fff; values.len()]).unwrap(),
        );
        let planes = Planes { rounded: rounded.view_mut(), lower: lower.view_mut() };
        split(device, weights.view(), 0, planes).unwrap();
        Self::Split(rounded, lower)
    }

    /// For the optimizer.
    pub fn write(&mut self) -> Weights<'_> {
        match self {
            Self::F32(weights) => weights.view_mut().into(),
            Self::Split(rounded, lower) => {
                Planes { rounded: rounded.view_mut(), lower: lower.view_mut() }.into()
            }
        }
    }

    /// The weights. Panics unless those that are split are rounded by dither, as both planes tell.
    pub fn to_vec(&mut self, device: &Device) -> Vec<f32> {
        match self {
            Self::F32(weights) => weights.to_vec().unwrap(),
            Self::Split(rounded, lower) => {
                let mut joined = poisoned::<f32>(device, rounded.len());
                let planes = Planes { rounded: rounded.view_mut(), lower: lower.view_mut() };
                join(device, &planes, 0, joined.view_mut()).unwrap();
                let weights = joined.to_vec().unwrap();
                assert_eq!(download(rounded), dithered(&weights));
                weights
            }
        }
    }
}

/// Gradients in the memory that the optimizer reads them from.
pub enum StoredGradients {
    /// In f32.
    F32(Buffer<f32>),
    /// Rounded to nearest.
    Bf16(Buffer<bf16>),
}

impl StoredGradients {
    /// These, stored as `moments` are.
    pub fn new(device: &Device, values: &[f32], moments: MomentType) -> Self {
        match moments {
            MomentType::F32 => Self::F32(Buffer::from_slice(device, values).unwrap()),
            MomentType::Bf16 => {
                let rounded: Vec<bf16> = values.iter().copied().map(bf16::from_f32).collect();
                Self::Bf16(Buffer::from_slice(device, &rounded).unwrap())
            }
        }
    }

    /// For the optimizer.
    pub fn view(&self) -> GradientsView<'_> {
        match self {
            Self::F32(values) => values.view().into(),
            Self::Bf16(values) => values.view().into(),
        }
    }
}
