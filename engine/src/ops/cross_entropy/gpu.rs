//! Cross-entropy on a GPU. The host knows which rows have a target, so that nothing waits for the device.

use cpift_kernels::cross_entropy::{losses_and_gradients_f32, losses_f32, scatter_rows_f32};
use cpift_kernels::embedding::embedding_f32;
use cpift_kernels::gemm::{gemm_nn_f32, gemm_nt_f32, gemm_tn_f32};

use super::{Gradients, Inputs, Shape, Workspace};
use crate::buffer::ViewMut;
use crate::error::Result;
use crate::gpu::{GpuDevice, narrow};

/// Losses and, where asked for with a factor, gradients.
pub fn run(
    gpu: &GpuDevice,
    op: &'static str,
    shape: &Shape,
    inputs: &Inputs<'_>,
    workspace: &mut Workspace,
    mut losses: ViewMut<'_, f32>,
    mut gradients: Option<(f32, Gradients<'_>)>,
) -> Result<()> {
    let launcher = gpu.launcher();
    let (width, batch) = (narrow(op, "hidden", shape.hidden)?, narrow(op, "rows", shape.rows)?);
    let chunk_rows = workspace.chunk_rows;
    losses.fill(0.0)?;
    if let Some((_, gradients)) = &mut gradients {
        gradients.d_hidden.fill(0.0)?;
    }
    let Workspace { rows, logits, hidden, d_hidden, .. } = workspace;
    for start in (0..rows.view().len()).step_by(chunk_rows) {
        let rows = rows.view();
        let rows = rows.slice(start..(start + chunk_rows).min(rows.len())).device();
        let (rows, count) = (rows.on(gpu), rows.len() as u64);
        let (targets, head) = (inputs.targets.device().on(gpu), inputs.head.on(gpu));
        let [n, c, v] = [shape.rows, shape.hidden, shape.vocabulary].map(|size| size as u64);

        // The rows are to their hidden states what tokens are to a table.
        embedding_f32(launcher, inputs.hidden.on(gpu), rows, hidden.view_mut().on(gpu), count, batch, width)?;
        let gathered = hidden.view().on(gpu);
        gemm_nt_f32(launcher, gathered, head, None, logits.view_mut().on(gpu), [count, v, c])?;
        let losses = losses.reborrow().on(gpu);
        let Some((scale, gradients)) = &mut gradients else {
            losses_f32(launcher, logits.view().on(gpu), rows, targets, losses, count, v, n)?;
            continue;
        };
        let all_logits = logits.view_mut().on(gpu);
        losses_and_gradients_f32(launcher, all_logits, rows, targets, losses, count, v, n, *scale)?;
        let d_logits = logits.view().on(gpu);
        gemm_nn_f32(launcher, d_logits, head, d_hidden.view_mut().on(gpu), [count, c, v], false)?;
        gemm_tn_f32(launcher, d_logits, gathered, gradients.d_head.reborrow().on(gpu), [v, c, count])?;
        let d_all = gradients.d_hidden.reborrow().on(gpu);
        scatter_rows_f32(launcher, d_hidden.view().on(gpu), rows, d_all, count, c, n)?;
    }
    Ok(())
}
