//! The usual merges of task models, as backbones of stage 3: what fusion is compared with, and what cores can
//! be transplanted into.

use cpift_engine::ops::merge::{Terms, add_update, elected_signs, finish, random_mask};
use cpift_engine::ops::select::{self, Order, Scope};
use cpift_engine::ops::subtract::subtract;
use cpift_engine::{Buffer, Device, Layout, Mask, View, ViewMut};
use rand_chacha::rand_core::Rng;

use crate::data::order;
use crate::error::Result;
use crate::recipe::{Backbone, FuseSettings};
use crate::stages::models::{PartBuffers, PartModels};

/// What the random choices of a merge follow from.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// Of the job.
    pub seed: u64,
    /// Place of the part's first parameter in the whole model.
    pub first: usize,
}

/// How updates are merged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Merge {
    /// Which coordinates of every update take part.
    pub keep: Keep,
    /// How the updates that take part become one.
    pub join: Join,
    /// Factor of the joined update (λ).
    pub scale: f64,
}

/// Which coordinates of an update take part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    /// All.
    All,
    /// Of every tensor this share with the largest magnitude, at least one.
    Largest(f64),
    /// Each with this probability, scaled up by its inverse so that the expected update stays.
    Random(f64),
}

/// How updates become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// Their sum.
    Sum,
    /// Their sum over the number of models.
    Mean,
    /// Where signs differ, only those with the sign of the sum (zero counts as positive); then the mean
    /// of those that are left.
    Elected,
}

impl Merge {
    /// The merge that a backbone is; none for backbones of another kind.
    pub fn of(settings: &FuseSettings) -> Option<Self> {
        let FuseSettings { scale, density, .. } = *settings;
        let (keep, join, scale) = match settings.backbone {
            Backbone::Average => (Keep::All, Join::Mean, 1.0),
            Backbone::Arithmetic => (Keep::All, Join::Sum, scale),
            Backbone::Ties => (Keep::Largest(density), Join::Elected, scale),
            Backbone::Dare => (Keep::Random(density), Join::Sum, scale),
            Backbone::DareTies => (Keep::Random(density), Join::Elected, scale),
            Backbone::Mean | Backbone::Base | Backbone::Last | Backbone::Staged => return None,
        };
        Some(Self { keep, join, scale })
    }

    /// Bytes on the device, and of masks on the host, that [`merge_part`] takes for a part of so many parameters beside the
    /// buffers it is given.
    pub fn bytes(&self, parameters: usize, tasks: usize) -> (usize, usize) {
        let mask = parameters / 8;
        let chosen = if self.keep == Keep::All { 0 } else { mask };
        // While the largest are looked for, of tensors where none was found.
        let looking = if matches!(self.keep, Keep::Largest(_)) { 2 * mask } else { 0 };
        match self.join {
            Join::Elected => (parameters * size_of::<f32>(), chosen * tasks + mask + looking),
            Join::Sum | Join::Mean => (0, chosen + looking),
        }
    }
}

/// Merges a part of `tasks` models into `buffers.backbone`. `layout` is the part's. Models are read one at a time; where
/// signs are elected, a second time.
///
/// # Errors
/// When a model cannot be read, an update is not a number, or memory runs out.
pub fn merge_part(
    device: &Device,
    layout: &Layout,
    merge: &Merge,
    (tasks, draw): (usize, Draw),
    models: &mut dyn PartModels,
    buffers: PartBuffers<'_>,
) -> Result<()> {
    let PartBuffers { backbone: mut sum, mut operand, base } = buffers;
    let factor = match merge.keep {
        Keep::Random(share) => 1.0 / share,
        Keep::All | Keep::Largest(_) => 1.0,
    };
    let mut kept = Vec::with_capacity(tasks);
    sum.fill(0.0)?;
    for task in 0..tasks {
        models.read(task, operand.reborrow())?;
        let mask = kept_of(device, layout, merge.keep, (task, draw), operand.reborrow(), base)?;
        if matches!(merge.keep, Keep::Largest(_)) {
            // It held the update meanwhile.
            models.read(task, operand.reborrow())?;
        }
        let terms = Terms { scale: factor, kept: mask.as_ref(), signs: None };
        add_update(device, sum.reborrow(), None, operand.as_view(), base, &terms)?;
        if merge.join == Join::Elected {
            kept.push(mask);
        }
    }
    let scale = match merge.join {
        Join::Mean => merge.scale / tasks.max(1) as f64,
        Join::Sum | Join::Elected => merge.scale,
    };
    if merge.join != Join::Elected {
        return Ok(finish(device, sum, None, base, scale)?);
    }
    let signs = elected_signs(device, layout, sum.as_view())?;
    let mut counts = Buffer::zeros(device, layout.len())?;
    sum.fill(0.0)?;
    for (task, mask) in kept.iter().enumerate() {
        models.read(task, operand.reborrow())?;
        let terms = Terms { scale: factor, kept: mask.as_ref(), signs: Some(&signs) };
        add_update(device, sum.reborrow(), Some(counts.view_mut()), operand.as_view(), base, &terms)?;
    }
    Ok(finish(device, sum, Some(counts.view()), base, scale)?)
}

/// The coordinates of a task's update that take part; none for all. `model` may be overwritten.
fn kept_of(
    device: &Device,
    layout: &Layout,
    keep: Keep,
    (task, draw): (usize, Draw),
    mut model: ViewMut<'_, f32>,
    base: View<'_, f32>,
) -> Result<Option<Mask>> {
    match keep {
        Keep::All => Ok(None),
        Keep::Random(share) => {
            let seed = order::stream(draw.seed, "dare", task, 0).next_u64();
            Ok(Some(random_mask(layout, draw.first, share, seed)?))
        }
        Keep::Largest(share) => {
            subtract(device, model.reborrow(), base)?;
            largest(device, layout, share, model.as_view()).map(Some)
        }
    }
}

/// Of every tensor the share with the largest magnitude, at least one coordinate.
fn largest(device: &Device, layout: &Layout, share: f64, update: View<'_, f32>) -> Result<Mask> {
    let options = select::Options { fraction: share, scope: Scope::Tensor, order: Order::Largest };
    let mut mask = select::select(device, layout, update, &options, |_| true)?.mask;
    for segment in layout.segments() {
        if segment.length > 0 && mask.count_range(segment.range()) == 0 {
            let only = |other: &cpift_engine::Segment| other.offset == segment.offset && other.length > 0;
            mask = mask.or(&select::top_k(device, layout, update, 1, Order::Largest, only)?.0)?;
        }
    }
    Ok(mask)
}
