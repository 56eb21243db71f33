//! The optimizer's state over steps, for training loops.

use std::ops::Range;

use bytemuck::Pod;
use half::bf16;

use super::{
    Gradient, Hyper, Importance, ImportanceKind, MomentType, Parameters, State, StateStorage, Weights,
};
use crate::buffer::{Buffer, View, ViewMut};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::layout::SEGMENT_ALIGNMENT;

/// AdamW with its moments, its importance accumulator and its count of steps.
///
/// All state can be read and written, so that a checkpoint of it continues to the same bits:
/// [`AdamW::steps`], [`AdamW::moments`], [`AdamW::importance`] and their setters.
#[derive(Debug)]
pub struct AdamW {
    device: Device,
    steps: u64,
    /// Index of the first parameter in the whole.
    first: usize,
    /// Number of parameters.
    length: usize,
    memory: Memory,
    importance_kind: ImportanceKind,
}

/// Memory of the state. Importance has one value per parameter, or none for [`ImportanceKind::None`].
#[derive(Debug)]
enum Memory {
    F32 {
        moments: [Buffer<f32>; 2],
        importance: Buffer<f32>,
    },
    /// Both moments lie in one buffer, which lends the memory of as many f32.
    Bf16 {
        moments: Buffer<f32>,
        importance: Buffer<bf16>,
    },
}

/// First and second moments, to write.
#[derive(Debug)]
pub enum Moments<'a> {
    /// In f32.
    F32(ViewMut<'a, f32>, ViewMut<'a, f32>),
    /// In bf16.
    Bf16(ViewMut<'a, bf16>, ViewMut<'a, bf16>),
}

/// First and second moments, to read.
#[derive(Debug, Clone, Copy)]
pub enum MomentsView<'a> {
    /// In f32.
    F32(View<'a, f32>, View<'a, f32>),
    /// In bf16.
    Bf16(View<'a, bf16>, View<'a, bf16>),
}

impl MomentsView<'_> {
    /// First and second moments on the host, in f32.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn to_vecs(self) -> Result<[Vec<f32>; 2]> {
        Ok(match self {
            Self::F32(first, second) => [first.to_vec()?, second.to_vec()?],
            Self::Bf16(first, second) => [widened(first)?, widened(second)?],
        })
    }
}

fn widened(view: View<'_, bf16>) -> Result<Vec<f32>> {
    Ok(view.to_vec()?.into_iter().map(bf16::to_f32).collect())
}

/// A number for each parameter, moments or importance, to write.
#[derive(Debug)]
pub enum StateMut<'a> {
    /// In f32.
    F32(ViewMut<'a, f32>),
    /// In bf16.
    Bf16(ViewMut<'a, bf16>),
}

/// A number for each parameter, moments or importance, to read.
#[derive(Debug, Clone, Copy)]
pub enum StateView<'a> {
    /// In f32.
    F32(View<'a, f32>),
    /// In bf16.
    Bf16(View<'a, bf16>),
}

impl<'a> StateView<'a> {
    /// The values, where they are in f32.
    ///
    /// # Errors
    /// When they are in bf16.
    pub fn in_f32(self) -> Result<View<'a, f32>> {
        match self {
            Self::F32(values) => Ok(values),
            Self::Bf16(_) => Err(Error::Argument { op: "adamw", reason: "importance is in bf16".to_owned() }),
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// On the host, in f32.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn to_vec(self) -> Result<Vec<f32>> {
        match self {
            Self::F32(values) => values.to_vec(),
            Self::Bf16(values) => widened(values),
        }
    }
}

impl AdamW {
    /// Zero moments and importance, in f32, for `length` parameters (the layout's length, padding included).
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(device: &Device, length: usize, importance: ImportanceKind) -> Result<Self> {
        Self::with_storage(device, length, importance, MomentType::F32)
    }

    /// The same, stored as `storage` says.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn with_storage(
        device: &Device,
        length: usize,
        importance: ImportanceKind,
        storage: impl Into<StateStorage>,
    ) -> Result<Self> {
        Self::of_range(device, 0..length, importance, storage)
    }

    /// The same for a range of all parameters, which are counted as those of the layout are.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn of_range(
        device: &Device,
        range: Range<usize>,
        importance: ImportanceKind,
        storage: impl Into<StateStorage>,
    ) -> Result<Self> {
        let StateStorage { moments, placement } = storage.into();
        let (first, length) = (range.start, range.len());
        let zeros = |length| Buffer::zeros_in(device, length, placement);
        let sums = if importance == ImportanceKind::None { 0 } else { length };
        let memory = match moments {
            MomentType::F32 => {
                Memory::F32 { moments: [zeros(length)?, zeros(length)?], importance: zeros(sums)? }
            }
            // Each moment a whole number of what a kernel's access is aligned to.
            MomentType::Bf16 => Memory::Bf16 {
                moments: zeros(length.next_multiple_of(SEGMENT_ALIGNMENT))?,
                importance: Buffer::zeros_in(device, sums, placement)?,
            },
        };
        Ok(Self { device: device.clone(), steps: 0, first, length, memory, importance_kind: importance })
    }

    /// One step over `weights`; counts it. See [`super::step`].
    ///
    /// # Errors
    /// Lengths that differ from the state's, or hyper-parameters outside their range. The state and
    /// the weights are then as before.
    pub fn step<'a>(
        &mut self,
        weights: impl Into<Weights<'a>>,
        gradient: Gradient<'_>,
        hyper: &Hyper,
    ) -> Result<()> {
        let kind = self.importance_kind;
        let state = match &mut self.memory {
            Memory::F32 { moments: [first, second], importance } => {
                State::F32(first.view_mut(), second.view_mut(), of_kind(kind, importance))
            }
            Memory::Bf16 { moments, importance } => {
                let (first, second) = halves(moments, self.length);
                State::Bf16(first, second, of_kind(kind, importance))
            }
        };
        let parameters = Parameters { first: self.first, weights: weights.into(), state };
        super::step(&self.device, parameters, gradient, hyper, self.steps + 1)?;
        self.steps += 1;
        Ok(())
    }

    /// Forgets moments and steps, keeps importance: a new optimizer for the next part of a job.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn restart(&mut self) -> Result<()> {
        self.steps = 0;
        match &mut self.memory {
            Memory::F32 { moments: [first, second], .. } => {
                first.view_mut().fill(0.0)?;
                second.view_mut().fill(0.0)
            }
            Memory::Bf16 { moments, .. } => moments.view_mut().fill(0.0),
        }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets the number of steps taken, when a checkpoint is read.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// First and second moments.
    pub fn moments(&self) -> MomentsView<'_> {
        match &self.memory {
            Memory::F32 { moments: [first, second], .. } => MomentsView::F32(first.view(), second.view()),
            Memory::Bf16 { moments, .. } => {
                let all = moments.view().cast();
                let second = all.len() / 2;
                MomentsView::Bf16(all.slice(0..self.length), all.slice(second..second + self.length))
            }
        }
    }

    /// First and second moments, when a checkpoint is read.
    pub fn moments_mut(&mut self) -> Moments<'_> {
        match &mut self.memory {
            Memory::F32 { moments: [first, second], .. } => Moments::F32(first.view_mut(), second.view_mut()),
            Memory::Bf16 { moments, .. } => {
                let (first, second) = halves(moments, self.length);
                Moments::Bf16(first, second)
            }
        }
    }

    /// Number type that the state is stored in.
    pub fn moment_type(&self) -> MomentType {
        match self.memory {
            Memory::F32 { .. } => MomentType::F32,
            Memory::Bf16 { .. } => MomentType::Bf16,
        }
    }

    /// The moments' memory as one f32 for each parameter, for other uses until the next
    /// [`AdamW::restart`], which overwrites it.
    pub fn lend_moments(&mut self) -> ViewMut<'_, f32> {
        let memory = match &mut self.memory {
            Memory::F32 { moments: [memory, _], .. } | Memory::Bf16 { moments: memory, .. } => memory,
        };
        memory.slice_mut(0..self.length)
    }

    /// What [`AdamW::importance`] accumulates.
    pub fn importance_kind(&self) -> ImportanceKind {
        self.importance_kind
    }

    /// Importance accumulated so far: signed for [`ImportanceKind::Net`] (selection goes by the
    /// absolute value), and empty for [`ImportanceKind::None`].
    pub fn importance(&self) -> StateView<'_> {
        match &self.memory {
            Memory::F32 { importance, .. } => StateView::F32(importance.view()),
            Memory::Bf16 { importance, .. } => StateView::Bf16(importance.view()),
        }
    }

    /// Importance, when a checkpoint is read.
    pub fn importance_mut(&mut self) -> StateMut<'_> {
        match &mut self.memory {
            Memory::F32 { importance, .. } => StateMut::F32(importance.view_mut()),
            Memory::Bf16 { importance, .. } => StateMut::Bf16(importance.view_mut()),
        }
    }

    /// Forgets the importance accumulated so far.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn clear_importance(&mut self) -> Result<()> {
        match self.importance_mut() {
            StateMut::F32(mut values) => values.fill(0.0),
            StateMut::Bf16(mut values) => values.fill(bf16::ZERO),
        }
    }

    /// Bytes of state.
    pub fn bytes(&self) -> usize {
        match &self.memory {
            Memory::F32 { moments: [first, second], importance } => {
                first.bytes() + second.bytes() + importance.bytes()
            }
            Memory::Bf16 { moments, importance } => moments.bytes() + importance.bytes(),
        }
    }
}

/// Both moments of `length` parameters.
fn halves(moments: &mut Buffer<f32>, length: usize) -> (ViewMut<'_, bf16>, ViewMut<'_, bf16>) {
    let all = moments.view_mut().cast();
    let middle = all.len() / 2;
    let (first, second) = all.split_at(middle);
    (first.slice(0..length), second.slice(0..length))
}

/// The accumulator of this kind.
fn of_kind<S: Pod>(kind: ImportanceKind, sums: &mut Buffer<S>) -> Importance<'_, S> {
    match kind {
        ImportanceKind::None => Importance::None,
        ImportanceKind::Net => Importance::Net(sums.view_mut()),
        ImportanceKind::Path => Importance::Path(sums.view_mut()),
        ImportanceKind::Fisher => Importance::Fisher(sums.view_mut()),
    }
}
