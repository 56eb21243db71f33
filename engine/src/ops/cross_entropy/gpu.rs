//! Cross-entropy on a GPU. The host knows which rows have a target, so that nothing waits for the device.

use cpift_kernels::cross_entropy as kernels;
use cpift_kernels::dispatch::gemm::GemmElement;
use cpift_kernels::embedding::embedding;

use super::{Gradients, Inputs, Shape, Workspace};
use crate::buffer::ViewMut;
use crate::error::Result;
use crate::gpu::{GpuDevice, narrow, products};
use crate::number::Number;

/// Losses and, where asked for with a factor, gradients.
pub fn run<T: Number>(
    gpu: &GpuDevice,
    op: &'static str,
    shape: &Shape,
    inputs: &Inputs<'_, T>,
    workspace: &mut Workspace<T>,
    mut losses: ViewMut<'_, f32>,
    mut gradients: Option<(f32, Gradients<'_, T>)>,
) -> Result<()> {
    let launcher = gpu.launcher();
    let (width, batch) = (narrow(op, "hidden", shape.hidden)?, narrow(op, "rows", shape.rows)?);
    let chunk_rows = workspace.chunk_rows;
    let softcap = shape.softcap.unwrap_or(0.0);
    losses.fill(0.0)?;
    if let Some((_, gradients)) = &mut gradients {
        gradients.d_hidden.fill(T::default())?;
    }
    let Workspace { rows, logits, d_logits, hidden, d_hidden, .. } = workspace;
    for start in (0..rows.view().len()).step_by(chunk_rows) {
        let rows = rows.view();
        let rows = rows.slice(start..(start + chunk_rows).min(rows.len())).device();
        let (rows, count) = (rows.on(gpu), rows.len() as u64);
        let (targets, head) = (inputs.targets.device().on(gpu), inputs.head.on(gpu));
        let [n, c, v] = [shape.rows, shape.hidden, shape.vocabulary].map(|size| size as u64);

        // The rows are to their hidden states what tokens are to a table.
        embedding(launcher, inputs.hidden.on(gpu), rows, hidden.view_mut().on(gpu), count, batch, width)?;
        let gathered = hidden.view().on(gpu);
        T::Kernel::gemm_nt_unrounded(launcher, gathered, head, logits.view_mut().on(gpu), [count, v, c])?;
        let (logits, losses) = (logits.view().on(gpu), losses.reborrow().on(gpu));
        let Some((scale, gradients)) = &mut gradients else {
            kernels::cross_entropy_losses(launcher, logits, rows, targets, losses, count, v, n, softcap)?;
            continue;
        };
        let all = d_logits.view_mut().on(gpu);
        kernels::cross_entropy_losses_and_gradients(
            launcher, logits, all, rows, targets, losses, count, v, n, *scale, softcap,
        )?;
        let d_logits = d_logits.view().on(gpu);
        products::multiply::<T::Kernel>(
            gpu,
            [d_logits, head],
            d_hidden.view_mut().on(gpu),
            [count, c, v],
            false,
        )?;
        let d_head = gradients.d_head.reborrow().on(gpu);
        products::add_transposed::<T::Kernel>(gpu, [d_logits, gathered], d_head, [v, c, count])?;
        let d_all = gradients.d_hidden.reborrow().on(gpu);
        kernels::cross_entropy_scatter_rows(launcher, d_hidden.view().on(gpu), rows, d_all, count, c, n)?;
    }
    Ok(())
}
