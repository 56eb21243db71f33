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
use crate::stages::models::{Buffers, TaskModels};
use crate::stages::pieces::pieces_of;

/// Parameters that are merged at once: a file is opened for each piece.
pub const PIECE: usize = 1 << 23;

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

    /// Whether signs are elected.
    pub fn elects(&self) -> bool {
        self.join == Join::Elected
    }

    /// Bytes on the device, and of masks on the host, that [`merge`] takes beside the buffers it is given.
    pub fn bytes(&self, parameters: usize, tasks: usize) -> (usize, usize) {
        let mask = parameters / 8;
        let chosen = if self.keep == Keep::All { 0 } else { mask };
        let piece = parameters.min(PIECE);
        match self.join {
            // And what both say of a piece.
            Join::Elected => (piece * size_of::<f32>(), chosen * tasks + mask + piece / 4),
            Join::Sum | Join::Mean => (0, chosen + piece / 8),
        }
    }
}

/// Merges `tasks` models into `buffers.backbone`; `buffers.base` holds the base model already. Models are read
/// one at a time; where signs are elected a second time, in pieces.
///
/// # Errors
/// When a model cannot be read, an update is not a number, or memory runs out.
pub fn merge(
    device: &Device,
    layout: &Layout,
    merge: &Merge,
    (tasks, seed): (usize, u64),
    models: &mut dyn TaskModels,
    buffers: Buffers<'_>,
) -> Result<()> {
    merge_in_pieces(device, layout, merge, (tasks, seed, PIECE), models, buffers)
}

/// [`merge()`] of so many parameters at once, a multiple of [`WORD_BITS`].
fn merge_in_pieces(
    device: &Device,
    layout: &Layout,
    merge: &Merge,
    (tasks, seed, piece): (usize, u64, usize),
    models: &mut dyn TaskModels,
    buffers: Buffers<'_>,
) -> Result<()> {
    let Buffers { backbone: mut sum, mut operand, base } = buffers;
    let factor = match merge.keep {
        Keep::Random(share) => 1.0 / share,
        Keep::All | Keep::Largest(_) => 1.0,
    };
    let mut kept = Vec::with_capacity(tasks);
    sum.fill(0.0)?;
    for task in 0..tasks {
        models.read_weights(task, operand.reborrow())?;
        let mask = kept_of(device, layout, merge.keep, (task, seed), operand.reborrow(), base.as_view())?;
        if matches!(merge.keep, Keep::Largest(_)) {
            // It held the update meanwhile.
            models.read_weights(task, operand.reborrow())?;
        }
        for range in pieces_of(layout.len(), piece) {
            let part = mask.as_ref().map(|mask| mask.slice(range.clone()));
            let terms = Terms { scale: factor, kept: part.as_ref(), signs: None };
            let (model, base) = (operand.as_view().slice(range.clone()), base.as_view().slice(range.clone()));
            add_update(device, sum.reborrow().slice(range), None, model, base, &terms)?;
        }
        if merge.join == Join::Elected {
            kept.push(mask);
        }
    }
    let scale = match merge.join {
        Join::Mean => merge.scale / tasks.max(1) as f64,
        Join::Sum | Join::Elected => merge.scale,
    };
    if merge.join != Join::Elected {
        for range in pieces_of(layout.len(), piece) {
            let base = base.as_view().slice(range.clone());
            finish(device, sum.reborrow().slice(range), None, base, scale)?;
        }
        return Ok(());
    }
    let signs = elected_signs(device, layout, sum.as_view())?;
    // A piece of every model after the other: counts of all coordinates would be one more buffer of the layout's length.
    let mut counts = Buffer::zeros(device, layout.len().min(piece))?;
    for range in pieces_of(layout.len(), piece) {
        let (mut sum, mut counts) =
            (sum.reborrow().slice(range.clone()), counts.view_mut().slice(0..range.len()));
        let mut model = operand.reborrow().slice(range.clone());
        let base = base.as_view().slice(range.clone());
        let signs = signs.slice(range.clone());
        sum.fill(0.0)?;
        counts.fill(0.0)?;
        for (task, mask) in kept.iter().enumerate() {
            models.read_range(task, range.clone(), model.reborrow())?;
            let part = mask.as_ref().map(|mask| mask.slice(range.clone()));
            let terms = Terms { scale: factor, kept: part.as_ref(), signs: Some(&signs) };
            add_update(device, sum.reborrow(), Some(counts.reborrow()), model.as_view(), base, &terms)?;
        }
        finish(device, sum, Some(counts.as_view()), base, scale)?;
    }
    Ok(())
}

/// The coordinates of a task's update that take part; none for all. `model` may be overwritten.
fn kept_of(
    device: &Device,
    layout: &Layout,
    keep: Keep,
    (task, seed): (usize, u64),
    mut model: ViewMut<'_, f32>,
    base: View<'_, f32>,
) -> Result<Option<Mask>> {
    match keep {
        Keep::All => Ok(None),
        Keep::Random(share) => {
            let seed = order::stream(seed, "dare", task, 0).next_u64();
            Ok(Some(random_mask(layout, share, seed)?))
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

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use cpift_engine::WORD_BITS;

    use super::*;
    use crate::recipe::FuseSettings;

    /// The base and two models.
    struct Models([Vec<f32>; 3]);

    impl TaskModels for Models {
        fn read_base(&mut self, mut weights: ViewMut<'_, f32>) -> Result<()> {
            Ok(weights.copy_from_host(&self.0[0])?)
        }

        fn read_weights(&mut self, task: usize, weights: ViewMut<'_, f32>) -> Result<()> {
            self.read_range(task, 0..self.0[0].len(), weights)
        }

        fn read_range(
            &mut self,
            task: usize,
            range: Range<usize>,
            mut weights: ViewMut<'_, f32>,
        ) -> Result<()> {
            Ok(weights.copy_from_host(&self.0[1 + task][range])?)
        }

        fn read_importance(&mut self, _: usize, _: ViewMut<'_, f32>, _: View<'_, f32>) -> Result<()> {
            unreachable!("no merge goes by importance")
        }
    }

    /// However many parameters are merged at once: the same bits.
    #[test]
    fn pieces_change_nothing() {
        let device = Device::cpu(None).unwrap();
        let layout = Layout::new([("a", vec![70]), ("b", vec![300]), ("c", vec![3])]).unwrap();
        let values =
            |seed: u64| (0..layout.len() as u64).map(move |index| ((seed + index) as f32 * 0.7).sin());
        let mut models = Models([1, 2, 5].map(|seed| values(seed).collect()));
        for backbone in [Backbone::Average, Backbone::Ties, Backbone::Dare, Backbone::DareTies] {
            let kind = Merge::of(&FuseSettings { backbone, ..FuseSettings::default() }).unwrap();
            let mut merged = |piece: usize| {
                let buffer = || Buffer::from_slice(&device, &vec![f32::NAN; layout.len()]).unwrap();
                let (mut sum, mut operand, mut base) = (buffer(), buffer(), buffer());
                models.read_base(base.view_mut()).unwrap();
                let buffers =
                    Buffers { backbone: sum.view_mut(), operand: operand.view_mut(), base: base.view_mut() };
                merge_in_pieces(&device, &layout, &kind, (2, 3, piece), &mut models, buffers).unwrap();
                sum.to_vec().unwrap()
            };
            let whole = merged(PIECE);
            assert!(whole.iter().all(|value| value.is_finite()), "{backbone:?}");
            for piece in [WORD_BITS, 3 * WORD_BITS] {
                assert_eq!(merged(piece), whole, "{backbone:?} in pieces of {piece}");
            }
        }
    }
}
