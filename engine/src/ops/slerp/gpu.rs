//! GPU: the sums of pieces of tensors, then of tensors, are read back for the plan; a second pass applies it.

use cpift_kernels::slerp::*;

use super::{Options, SegmentReport, Sums, plans};
use crate::buffer::{View, ViewMut};
use crate::cpu::pieces::pieces;
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory};
use crate::layout::Layout;

pub(super) fn slerp(
    gpu: &GpuDevice,
    layout: &Layout,
    backbone: ViewMut<'_, f32>,
    other: View<'_, f32>,
    options: &Options<'_>,
) -> Result<Vec<SegmentReport>> {
    let pieces = Pieces::new(gpu, layout)?;
    let sums = segment_sums(gpu, layout, &pieces, backbone.as_view(), other, options)?;
    let (reports, factors): (Vec<_>, Vec<_>) = plans(layout, &sums, options)?.into_iter().unzip();
    let factors: Vec<f64> = factors.iter().flat_map(|factors| [factors.backbone, factors.other]).collect();
    let factors = GpuMemory::from_slice(gpu, &factors)?;

    let base = options.base.map(|base| base.on(gpu));
    let skip = options.skip.map(|mask| mask.on(gpu)).transpose()?;
    let (count, segments) = (layout.len() as u64, layout.segments().len() as u32);
    macro_rules! launch {
        ($kernel:ident $(, $buffer:expr)*) => {
            $kernel(
                gpu.launcher(),
                backbone.on(gpu),
                other.on(gpu),
                $($buffer,)*
                pieces.starts.all().argument(),
                pieces.lengths.all().argument(),
                pieces.segments.all().argument(),
                factors.all().argument(),
                count,
                pieces.count,
                segments,
            )
        };
    }
    match (base, skip) {
        (None, None) => launch!(slerp_apply),
        (None, Some(skip)) => launch!(slerp_apply_skip, skip),
        (Some(base), None) => launch!(slerp_apply_delta, base),
        (Some(base), Some(skip)) => launch!(slerp_apply_delta_skip, base, skip),
    }?;
    Ok(reports)
}

/// Every tensor's sums, on the host.
fn segment_sums(
    gpu: &GpuDevice,
    layout: &Layout,
    pieces: &Pieces,
    backbone: View<'_, f32>,
    other: View<'_, f32>,
    options: &Options<'_>,
) -> Result<Vec<Sums>> {
    let segments = layout.segments().len();
    let mut piece_sums = GpuMemory::<f64>::zeros(gpu, 4 * pieces.count as usize)?;
    let mut segment_sums = GpuMemory::<f64>::zeros(gpu, 4 * segments)?;
    let base = options.base.map(|base| base.on(gpu));
    let skip = options.skip.map(|mask| mask.on(gpu)).transpose()?;
    macro_rules! launch {
        ($kernel:ident $(, $buffer:expr)*) => {
            $kernel(
                gpu.launcher(),
                backbone.on(gpu),
                other.on(gpu),
                $($buffer,)*
                pieces.starts.all().argument(),
                pieces.lengths.all().argument(),
                piece_sums.all_mut().argument(),
                layout.len() as u64,
                pieces.count,
            )
        };
    }
    match (base, skip) {
        (None, None) => launch!(slerp_sums),
        (None, Some(skip)) => launch!(slerp_sums_skip, skip),
        (Some(base), None) => launch!(slerp_sums_delta, base),
        (Some(base), Some(skip)) => launch!(slerp_sums_delta_skip, base, skip),
    }?;
    slerp_segment_sums(
        gpu.launcher(),
        piece_sums.all().argument(),
        pieces.first.all().argument(),
        segment_sums.all_mut().argument(),
        pieces.count,
        segments as u32,
    )?;
    let mut values = vec![0.0; 4 * segments];
    segment_sums.all().read(&mut values)?;
    let (values, _) = values.as_chunks();
    let sums =
        |&[backbone, other, product, difference]: &[f64; 4]| Sums { backbone, other, product, difference };
    Ok(values.iter().map(sums).collect())
}

/// The layout's pieces on the device, as the kernels take them.
struct Pieces {
    count: u32,
    starts: GpuMemory<u64>,
    lengths: GpuMemory<u32>,
    segments: GpuMemory<u32>,
    /// The first piece of each tensor, and the number of all.
    first: GpuMemory<u32>,
}

impl Pieces {
    fn new(gpu: &GpuDevice, layout: &Layout) -> Result<Self> {
        let pieces = pieces(layout, PIECE);
        let starts: Vec<u64> = pieces.iter().map(|piece| piece.range.start as u64).collect();
        let lengths: Vec<u32> = pieces.iter().map(|piece| piece.range.len() as u32).collect();
        let segments: Vec<u32> = pieces.iter().map(|piece| piece.segment as u32).collect();
        let count = |segment: usize| pieces.partition_point(|piece| piece.segment < segment) as u32;
        let first: Vec<u32> = (0..=layout.segments().len()).map(count).collect();
        Ok(Self {
            count: pieces.len() as u32,
            starts: GpuMemory::from_slice(gpu, &starts)?,
            lengths: GpuMemory::from_slice(gpu, &lengths)?,
            segments: GpuMemory::from_slice(gpu, &segments)?,
            first: GpuMemory::from_slice(gpu, &first)?,
        })
    }
}
