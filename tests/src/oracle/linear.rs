//! Linear layer.

/// y\[n,o\] = Σ_i x\[n,i\]·weight\[o,i\] + bias\[o\].
pub fn forward(inputs: usize, x: &[f64], weight: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
    let mut y = Vec::new();
    for x in x.chunks_exact(inputs) {
        for (output, weight) in weight.chunks_exact(inputs).enumerate() {
            let bias = bias.map_or(0.0, |bias| bias[output]);
            y.push(bias + x.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>());
        }
    }
    y
}
