//! The fusion of training on models that exist: cores over all parameters, then stage 3 tensor by tensor
//! (`stages/fuse.rs`).

use std::sync::atomic::{AtomicBool, Ordering};

use cpift_engine::ops::select::share_of;
use cpift_engine::ops::select::streaming::{Threshold, mask_largest};
use cpift_engine::ops::subtract::subtract;
use cpift_engine::{Buffer, CpuDevice, Device, Layout, View, ViewMut};

use super::clock::DiskClock;
use super::kernel::{Kernel, Seen};
use super::method::How;
use super::plan::{TensorPlan, places};
use super::reader::{Blocks, EndOfReading, READERS, Reader, Request};
use super::sources::Sources;
use super::tally::{Largest, Thresholds};
use super::tile::{Scratch, Tile};
use crate::checkpoint::TensorFolder;
use crate::error::{Error, Reasoned, Result};
use crate::recipe::FuseSettings;
use crate::stages::fuse::{Core, PartFusion, Transplanted};
use crate::stages::merge::Draw;
use crate::stages::models::{PartBuffers, PartModels};

/// What a whole merge needs: the cores' thresholds, and memory for three copies of a tensor.
pub(super) struct Fusion<'a> {
    device: &'a Device,
    models: &'a [TensorFolder],
    /// Of every model.
    thresholds: Vec<Threshold>,
    /// Of the coordinates that equal each threshold, how many are still taken.
    ties: Vec<u64>,
    buffers: [Buffer<f32>; 3],
    /// Bytes that were read.
    pub read: u64,
}

/// What was made of one tensor.
pub(super) struct Fused {
    pub transplanted: Transplanted,
    pub interpolations: u64,
    pub linear: u64,
}

/// Counts magnitudes; it is never asked to combine.
struct Survey(Thresholds);

impl Kernel for Survey {
    fn look(&self, look: usize, tile: &Tile<'_>, scratch: &mut Scratch) -> Seen {
        self.0.add(look, tile, scratch);
        Seen::Nothing
    }

    fn learn(&mut self, _: usize, _: Vec<Seen>) -> Reasoned<()> {
        Ok(())
    }

    fn combine(&self, _: &Tile<'_>, _: &mut Scratch, _: &mut [f32]) {}
}

/// Whether a tensor is fused here, and the share of the parameters in a core.
pub(super) fn fraction(tensor: &TensorPlan) -> Option<f64> {
    match tensor.how {
        How::Cpift { fraction } => Some(fraction),
        _ => None,
    }
}

impl<'a> Fusion<'a> {
    /// Finds the cores' thresholds, in two readings of all models; none where nothing is fused here.
    pub fn prepare(
        (device, cpu): (&'a Device, &CpuDevice),
        tensors: &[TensorPlan],
        models: &'a [TensorFolder],
        blocks: Blocks,
        (clock, stop): (&DiskClock, &AtomicBool),
    ) -> Result<Option<Self>> {
        let fused: Vec<(usize, &TensorPlan, f64)> = tensors
            .iter()
            .enumerate()
            .filter_map(|(number, tensor)| Some((number, tensor, fraction(tensor)?)))
            .collect();
        let Some(&(_, first, fraction)) = fused.first() else { return Ok(None) };
        let parameters: usize = fused.iter().map(|(_, tensor, _)| tensor.elements()).sum();
        let wanted = share_of(fraction, parameters) as u64;
        let count = first.sources.len() - 1;
        let mut survey =
            Survey(Thresholds::new((0..count).map(|model| Largest { model, count: wanted }).collect()));
        let requests: Vec<Request> = fused
            .iter()
            .flat_map(|(number, tensor, _)| {
                let of_tensor = blocks.of_tensor(tensor, models).into_iter();
                of_tensor.map(|elements| Request { tensor: *number, elements })
            })
            .collect();
        let (mut read, mut thresholds) = (0, Vec::new());
        for look in 0..2 {
            let reader = Reader::new(requests.clone(), tensors, models, (blocks, clock));
            std::thread::scope(|scope| {
                let _ends = EndOfReading(&reader);
                (0..READERS).for_each(|_| drop(scope.spawn(|| reader.work())));
                cpu.run(|| {
                    for request in &requests {
                        if stop.load(Ordering::Relaxed) {
                            let position = "while the cores were looked for".to_owned();
                            return Err(Error::Interrupted { position });
                        }
                        let block = reader.receive()?;
                        Sources::of(&tensors[request.tensor], models)?.look(&survey, look, &block)?;
                        reader.give_back(block);
                    }
                    Ok(())
                })
            })?;
            read += reader.bytes();
            match look {
                0 => survey.0.end_first(),
                _ => thresholds = survey.0.end_second(),
            }
        }
        let nothing = Threshold { magnitude: f32::INFINITY, ties: 0, equal: 0 };
        let thresholds: Vec<Threshold> =
            thresholds.into_iter().map(|threshold| threshold.unwrap_or(nothing)).collect();
        let longest = fused.iter().map(|(_, tensor, _)| layout_of(tensor).map(|layout| layout.len()));
        let longest = longest.collect::<Result<Vec<usize>>>()?.into_iter().max().unwrap_or(0);
        let buffer = || Buffer::zeros(device, longest);
        let ties = thresholds.iter().map(|threshold| threshold.ties).collect();
        let buffers = [buffer()?, buffer()?, buffer()?];
        Ok(Some(Self { device, models, thresholds, ties, buffers, read }))
    }

    /// Counts what a tensor that is not made again has of the coordinates that equal a threshold.
    pub fn skip(&mut self, tensor: &TensorPlan) -> Result<()> {
        let layout = layout_of(tensor)?;
        self.read_base(tensor, &layout)?;
        self.cores(tensor, &layout).map(drop)
    }

    /// Fuses a tensor: what was done, and the result.
    pub fn fuse(&mut self, tensor: &TensorPlan) -> Result<(Fused, View<'_, f32>)> {
        let layout = layout_of(tensor)?;
        self.read_base(tensor, &layout)?;
        let cores = self.cores(tensor, &layout)?;
        let names: Vec<String> = tensor.sources[1..].iter().map(|(model, _)| model.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let settings = FuseSettings::default();
        let fusion = PartFusion {
            layout: &layout,
            settings: &settings,
            tasks: &names,
            cores,
            draw: Draw { seed: 0, first: 0 },
        };
        let mut models = SourceModels { device: self.device, tensor, models: self.models, read: 0 };
        let [backbone, operand, base] = &mut self.buffers;
        let buffers = PartBuffers {
            backbone: backbone.slice_mut(0..layout.len()),
            operand: operand.slice_mut(0..layout.len()),
            base: base.slice(0..layout.len()),
        };
        let (slerps, transplanted) = fusion.run(self.device, &mut models, buffers)?;
        self.read += models.read;
        let slerps = slerps.into_iter().flatten();
        let (mut interpolations, mut linear) = (0, 0);
        for slerp in slerps {
            interpolations += 1;
            linear += u64::from(slerp.fallback.is_some());
        }
        let fused = Fused { transplanted, interpolations, linear };
        Ok((fused, self.buffers[0].slice(0..tensor.elements())))
    }

    fn read_base(&mut self, tensor: &TensorPlan, layout: &Layout) -> Result<()> {
        let base = self.buffers[2].slice_mut(0..layout.len());
        self.read += read(tensor, 0, self.models, base)?;
        Ok(())
    }

    /// The part of every core in a tensor whose base is there.
    fn cores(&mut self, tensor: &TensorPlan, layout: &Layout) -> Result<Vec<Core>> {
        let [_, operand, base] = &mut self.buffers;
        let base = base.slice(0..layout.len());
        let mut cores = Vec::with_capacity(self.thresholds.len());
        for (task, (threshold, ties)) in self.thresholds.iter().zip(&mut self.ties).enumerate() {
            let mut update = operand.slice_mut(0..layout.len());
            self.read += read(tensor, task + 1, self.models, update.reborrow())?;
            subtract(self.device, update.reborrow(), base)?;
            let mask = mask_largest(self.device, layout, update.as_view(), threshold.magnitude, ties)?;
            cores.push(Core { task: task.to_string(), mask, thresholds: vec![threshold.magnitude] });
        }
        Ok(cores)
    }
}

fn layout_of(tensor: &TensorPlan) -> Result<Layout> {
    Ok(Layout::new([(tensor.name.as_str(), tensor.shape.clone())])?)
}

/// Reads a tensor of one source; padding becomes zeros. Bytes that were read.
fn read(
    tensor: &TensorPlan,
    source: usize,
    models: &[TensorFolder],
    mut target: ViewMut<'_, f32>,
) -> Result<u64> {
    let place = &places(tensor, models)[source];
    let (_, info) = place.folder.require(place.name)?;
    target.fill(0.0)?;
    place.folder.read_floats(place.name, &tensor.shape, target.slice(0..tensor.elements()))?;
    Ok((info.data_offsets.1 - info.data_offsets.0) as u64)
}

/// The models of one tensor, read as fusion asks for them.
struct SourceModels<'a> {
    device: &'a Device,
    tensor: &'a TensorPlan,
    models: &'a [TensorFolder],
    read: u64,
}

impl PartModels for SourceModels<'_> {
    fn read(&mut self, task: usize, weights: ViewMut<'_, f32>) -> Result<()> {
        self.read += read(self.tensor, task + 1, self.models, weights)?;
        Ok(())
    }

    fn read_importance(
        &mut self,
        task: usize,
        mut importance: ViewMut<'_, f32>,
        base: View<'_, f32>,
    ) -> Result<()> {
        self.read(task, importance.reborrow())?;
        Ok(subtract(self.device, importance, base)?)
    }
}
