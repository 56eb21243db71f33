//! Cross-entropy of the LM head's logits.

/// The loss of every row, 0 where the target is `None`: hidden `[N, width]`, head `[V, width]`; with a soft cap that of
/// the logits cap·tanh(logit / cap).
pub fn forward(
    width: usize,
    softcap: Option<f64>,
    hidden: &[f64],
    head: &[f64],
    targets: &[Option<usize>],
) -> Vec<f64> {
    let row_loss = |(hidden, target): (&[f64], &Option<usize>)| {
        let Some(target) = *target else { return 0.0 };
        let logit = |head: &[f64]| {
            let logit = hidden.iter().zip(head).map(|(x, w)| x * w).sum::<f64>();
            softcap.map_or(logit, |cap| cap * (logit / cap).tanh())
        };
        let logits: Vec<f64> = head.chunks_exact(width).map(logit).collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest + logits.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln() - logits[target]
    };
    hidden.chunks_exact(width).zip(targets).map(row_loss).collect()
}
