//! The optimizer's state over steps, for training loops.

use half::bf16;

use super::{
    Gradient, Hyper, Importance, ImportanceKind, MomentType, Moments, Parameters, StateStorage, Weights,
};
use crate::buffer::{Buffer, View, ViewMut};
use crate::device::Device;
use crate::error::Result;
use crate::layout::SEGMENT_ALIGNMENT;

/// AdamW with its moments, its importance accumulator and its count of steps.
///
/// All state can be read and written, so that a checkpoint of it continues to the same bits:
/// [`AdamW::steps`], [`AdamW::moments`], [`AdamW::importance`] and their setters.
#[derive(Debug)]
pub struct AdamW {
    device: Device,
    steps: u64,
    /// Number of parameters.
    length: usize,
    moments: State,
    importance_kind: ImportanceKind,
    /// One value per parameter, or empty for [`ImportanceKind::None`].
    importance: Buffer<f32>,
}

/// Memory of the moments. In bf16 both lie in one buffer, which lends the memory of as many f32.
#[derive(Debug)]
enum State {
    F32(Buffer<f32>, Buffer<f32>),
    Bf16(Buffer<f32>),
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
        let widened = |view: View<'_, bf16>| -> Result<Vec<f32>> {
            Ok(view.to_vec()?.into_iter().map(bf16::to_f32).collect())
        };
        Ok(match self {
            Self::F32(first, second) => [first.to_vec()?, second.to_vec()?],
            Self::Bf16(first, second) => [widened(first)?, widened(second)?],
        })
    }
}

impl AdamW {
    /// Zero moments in f32 and importance for `length` parameters (the layout's length, padding included).
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(device: &Device, length: usize, importance: ImportanceKind) -> Result<Self> {
        Self::with_storage(device, length, importance, MomentType::F32)
    }

    /// The same, stored as `storage` says, importance always in f32.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn with_storage(
        device: &Device,
        length: usize,
        importance: ImportanceKind,
        storage: impl Into<StateStorage>,
    ) -> Result<Self> {
        let StateStorage { moments, placement } = storage.into();
        let zeros = |length| Buffer::zeros_in(device, length, placement);
        let moments = match moments {
            MomentType::F32 => State::F32(zeros(length)?, zeros(length)?),
            // Each a whole number of what a kernel's access is aligned to.
            MomentType::Bf16 => State::Bf16(zeros(length.next_multiple_of(SEGMENT_ALIGNMENT))?),
        };
        let importance_length = if importance == ImportanceKind::None { 0 } else { length };
        Ok(Self {
            device: device.clone(),
            steps: 0,
            length,
            moments,
            importance_kind: importance,
            importance: zeros(importance_length)?,
        })
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
        let accumulator = self.importance.view_mut();
        let parameters = Parameters {
            weights: weights.into(),
            moments: moments_mut(&mut self.moments, self.length),
            importance: match self.importance_kind {
                ImportanceKind::None => Importance::None,
                ImportanceKind::Net => Importance::Net(accumulator),
                ImportanceKind::Path => Importance::Path(accumulator),
                ImportanceKind::Fisher => Importance::Fisher(accumulator),
            },
        };
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
        match &mut self.moments {
            State::F32(first, second) => {
                first.view_mut().fill(0.0)?;
                second.view_mut().fill(0.0)
            }
            State::Bf16(both) => both.view_mut().fill(0.0),
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
        match &self.moments {
            State::F32(first, second) => MomentsView::F32(first.view(), second.view()),
            State::Bf16(both) => {
                let all = both.view().cast();
                let second = all.len() / 2;
                MomentsView::Bf16(all.slice(0..self.length), all.slice(second..second + self.length))
            }
        }
    }

    /// First and second moments, when a checkpoint is read.
    pub fn moments_mut(&mut self) -> Moments<'_> {
        moments_mut(&mut self.moments, self.length)
    }

    /// Number type that moments are stored in.
    pub fn moment_type(&self) -> MomentType {
        match self.moments {
            State::F32(..) => MomentType::F32,
            State::Bf16(_) => MomentType::Bf16,
        }
    }

    /// The moments' memory as one f32 for each parameter, for other uses until the next
    /// [`AdamW::restart`], which overwrites it.
    pub fn lend_moments(&mut self) -> ViewMut<'_, f32> {
        let memory = match &mut self.moments {
            State::F32(memory, _) | State::Bf16(memory) => memory,
        };
        memory.slice_mut(0..self.length)
    }

    /// What [`AdamW::importance`] accumulates.
    pub fn importance_kind(&self) -> ImportanceKind {
        self.importance_kind
    }

    /// Importance accumulated so far: signed for [`ImportanceKind::Net`] (selection goes by the
    /// absolute value), and empty for [`ImportanceKind::None`].
    pub fn importance(&self) -> View<'_, f32> {
        self.importance.view()
    }

    /// Importance, when a checkpoint is read.
    pub fn importance_mut(&mut self) -> ViewMut<'_, f32> {
        self.importance.view_mut()
    }

    /// Bytes of state.
    pub fn bytes(&self) -> usize {
        let moments = match &self.moments {
            State::F32(first, second) => first.bytes() + second.bytes(),
            State::Bf16(both) => both.bytes(),
        };
        moments + self.importance.bytes()
    }
}

/// The moments of `length` parameters, to write.
fn moments_mut(state: &mut State, length: usize) -> Moments<'_> {
    match state {
        State::F32(first, second) => Moments::F32(first.view_mut(), second.view_mut()),
        State::Bf16(both) => {
            let all = both.view_mut().cast();
            let middle = all.len() / 2;
            let (first, second) = all.split_at(middle);
            Moments::Bf16(first.slice(0..length), second.slice(0..length))
        }
    }
}
