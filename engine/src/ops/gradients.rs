//! Gradients of all weights, flat, as they are stored: in f32, or in bf16 for half the memory.
//!
//! Operations add to gradients in f32. Where gradients are bf16, an operation adds to zeros in a buffer that is as large as
//! the largest tensor, and the sum is then [accumulated](crate::ops::accumulate): rounded once for every operation that adds
//! to a tensor in a micro-batch, each time by less than 2⁻⁷ of it and without bias. The random bits of that are those of an
//! element and a micro-batch, the same in every step.

use std::ops::Range;

use half::bf16;

use super::accumulate::accumulate;
use super::adamw::{MomentType, StateStorage};
use crate::buffer::{Buffer, View, ViewMut};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::layout::{Layout, SEGMENT_ALIGNMENT};

/// Memory of gradients.
#[derive(Debug)]
pub struct Gradients(Stored);

#[derive(Debug)]
enum Stored {
    F32(Buffer<f32>),
    Bf16 { values: Buffer<bf16>, sum: Buffer<f32> },
}

impl Gradients {
    /// Zeros over a layout, stored as moments are. `part` is the least length that [`Gradients::part`] has to have, at most
    /// the layout's. What sums are added in is in the device's memory in any case.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(
        device: &Device,
        layout: &Layout,
        storage: impl Into<StateStorage>,
        part: usize,
    ) -> Result<Self> {
        let StateStorage { moments, placement } = storage.into();
        Ok(Self(match moments {
            MomentType::F32 => Stored::F32(Buffer::zeros_in(device, layout.len(), placement)?),
            MomentType::Bf16 => Stored::Bf16 {
                values: Buffer::zeros_in(device, layout.len(), placement)?,
                sum: Buffer::zeros(device, Self::sum_length(layout, part))?,
            },
        }))
    }

    /// Bytes that [`Gradients::new`] takes: of what is stored as asked for, and of the sums.
    pub fn bytes(layout: &Layout, moments: MomentType, part: usize) -> [usize; 2] {
        match moments {
            MomentType::F32 => [layout.len() * size_of::<f32>(), 0],
            MomentType::Bf16 => {
                [layout.len() * size_of::<bf16>(), Self::sum_length(layout, part) * size_of::<f32>()]
            }
        }
    }

    /// Elements of the buffer that gradients in bf16 are added up in: those of the largest tensor, and of a vector beside
    /// it, which one operation adds to together; at least `part`.
    pub fn sum_length(layout: &Layout, part: usize) -> usize {
        let longest = |vectors_only: bool| {
            let wanted = layout.segments().iter().filter(|segment| !vectors_only || segment.shape.len() == 1);
            let longest = wanted.map(|segment| segment.length).max().unwrap_or(0);
            longest.next_multiple_of(SEGMENT_ALIGNMENT)
        };
        (longest(false) + longest(true)).max(part)
    }

    /// To read.
    pub fn view(&self) -> GradientsView<'_> {
        match &self.0 {
            Stored::F32(values) => GradientsView::F32(values.view()),
            Stored::Bf16 { values, .. } => GradientsView::Bf16(values.view()),
        }
    }

    /// To add those of a micro-batch to, which is the step's number `micro_batch`.
    pub fn of_micro_batch(&mut self, micro_batch: usize) -> GradientsMut<'_> {
        match &mut self.0 {
            Stored::F32(values) => GradientsMut::F32(values.view_mut()),
            Stored::Bf16 { values, sum } => {
                GradientsMut::Bf16 { values: values.view_mut(), sum: sum.view_mut(), micro_batch }
            }
        }
    }

    /// Makes them zero.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn clear(&mut self) -> Result<()> {
        match &mut self.0 {
            Stored::F32(values) => values.view_mut().fill(0.0),
            Stored::Bf16 { values, .. } => values.view_mut().fill(bf16::ZERO),
        }
    }

    /// Their memory as one bf16 for every gradient, for other uses between steps.
    pub fn scratch(&mut self) -> ViewMut<'_, bf16> {
        match &mut self.0 {
            Stored::F32(values) => {
                let length = values.len();
                values.view_mut().cast().slice(0..length)
            }
            Stored::Bf16 { values, .. } => values.view_mut(),
        }
    }

    /// f32 memory of so many elements, at most the `part` that it was made with, for other uses between steps.
    pub fn part(&mut self, length: usize) -> ViewMut<'_, f32> {
        match &mut self.0 {
            Stored::F32(memory) | Stored::Bf16 { sum: memory, .. } => memory.slice_mut(0..length),
        }
    }
}

/// Gradients to read.
#[derive(Debug, Clone, Copy)]
pub enum GradientsView<'a> {
    /// In f32.
    F32(View<'a, f32>),
    /// In bf16.
    Bf16(View<'a, bf16>),
}

impl<'a> GradientsView<'a> {
    /// Number of them.
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

    /// Those of a range. Panics when it lies outside.
    pub fn slice(&self, range: Range<usize>) -> GradientsView<'a> {
        match self {
            Self::F32(values) => Self::F32(values.slice(range)),
            Self::Bf16(values) => Self::Bf16(values.slice(range)),
        }
    }

    /// On the host, in f32.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        match self {
            Self::F32(values) => values.to_vec(),
            Self::Bf16(values) => Ok(values.to_vec()?.into_iter().map(bf16::to_f32).collect()),
        }
    }
}

impl<'a> From<View<'a, f32>> for GradientsView<'a> {
    fn from(values: View<'a, f32>) -> Self {
        Self::F32(values)
    }
}

impl<'a> From<View<'a, bf16>> for GradientsView<'a> {
    fn from(values: View<'a, bf16>) -> Self {
        Self::Bf16(values)
    }
}

/// Gradients to add to.
#[derive(Debug)]
pub enum GradientsMut<'a> {
    /// In f32.
    F32(ViewMut<'a, f32>),
    /// In bf16.
    Bf16 {
        /// The gradients.
        values: ViewMut<'a, bf16>,
        /// Where an operation adds to zeros.
        sum: ViewMut<'a, f32>,
        /// Its number in the step.
        micro_batch: usize,
    },
}

impl<'a> From<ViewMut<'a, f32>> for GradientsMut<'a> {
    fn from(values: ViewMut<'a, f32>) -> Self {
        Self::F32(values)
    }
}

impl<'a> GradientsMut<'a> {
    /// Takes those from `middle` on, in f32, out of these. Panics when `middle` lies outside.
    ///
    /// # Errors
    /// They are stored in bf16.
    pub fn split_off(&mut self, middle: usize) -> Result<ViewMut<'a, f32>> {
        match self {
            Self::F32(values) => Ok(values.split_off(middle)),
            Self::Bf16 { .. } => Err(Error::Argument {
                op: "reduce-scatter",
                reason: "gradients are added up over ranks in f32, and these are stored in bf16".to_owned(),
            }),
        }
    }

    /// Number of them.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16 { values, .. } => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same for a shorter time.
    pub fn reborrow(&mut self) -> GradientsMut<'_> {
        match self {
            Self::F32(values) => GradientsMut::F32(values.reborrow()),
            Self::Bf16 { values, sum, micro_batch } => GradientsMut::Bf16 {
                values: values.reborrow(),
                sum: sum.reborrow(),
                micro_batch: *micro_batch,
            },
        }
    }

    /// Has `add` add to the gradients of a range: in f32. Panics when the range lies outside.
    ///
    /// # Errors
    /// Those of `add`, or when the device has failed.
    pub fn add<E: From<Error>>(
        &mut self,
        device: &Device,
        range: Range<usize>,
        add: impl FnOnce(ViewMut<'_, f32>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        match self {
            Self::F32(values) => add(values.reborrow().slice(range)),
            Self::Bf16 { values, sum, micro_batch } => {
                let mut sum = sum.reborrow().slice(0..range.len());
                sum.fill(0.0)?;
                add(sum.reborrow())?;
                let first = range.start;
                let target = values.reborrow().slice(range);
                Ok(accumulate(device, target, sum.as_view(), first, *micro_batch)?)
            }
        }
    }

    /// [`GradientsMut::add`] for two ranges that do not overlap.
    ///
    /// # Errors
    /// As that.
    pub fn add_two<E: From<Error>>(
        &mut self,
        device: &Device,
        [first, second]: [Range<usize>; 2],
        add: impl FnOnce([ViewMut<'_, f32>; 2]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        match self {
            Self::F32(values) => {
                let middle = first.start.max(second.start);
                let (before, behind) = values.reborrow().split_at(middle);
                let behind_middle = |range: &Range<usize>| range.start - middle..range.end - middle;
                add(if first.start < second.start {
                    [before.slice(first), behind.slice(behind_middle(&second))]
                } else {
                    let first = behind.slice(behind_middle(&first));
                    [first, before.slice(second)]
                })
            }
            Self::Bf16 { values, sum, micro_batch } => {
                let middle = first.len().next_multiple_of(SEGMENT_ALIGNMENT);
                let (of_first, of_second) = sum.reborrow().split_at(middle);
                let (mut of_first, mut of_second) =
                    (of_first.slice(0..first.len()), of_second.slice(0..second.len()));
                of_first.fill(0.0)?;
                of_second.fill(0.0)?;
                add([of_first.reborrow(), of_second.reborrow()])?;
                for (range, sum) in [(first, of_first), (second, of_second)] {
                    let first = range.start;
                    let target = values.reborrow().slice(range);
                    accumulate(device, target, sum.as_view(), first, *micro_batch)?;
                }
                Ok(())
            }
        }
    }
}
