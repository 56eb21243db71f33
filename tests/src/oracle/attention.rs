//! Causal grouped-query attention over packed documents.

/// Sizes: query heads, key/value heads, elements of a head, and the factor of the scores.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f64,
    /// Most tokens that a token sees, itself included; none: all.
    pub window: Option<usize>,
    /// What bounds the scores; none: nothing.
    pub softcap: Option<f64>,
}

impl Shape {
    /// First token that the last of the tokens `start..end` sees of them.
    pub fn first_seen(&self, start: usize, end: usize) -> usize {
        self.window.map_or(start, |window| start.max(end.saturating_sub(window)))
    }
}

/// Output `[N, H, D]` and log-sum-exp `[N, H]`; documents start and end at `starts`.
pub fn forward(shape: &Shape, starts: &[usize], q: &[f64], k: &[f64], v: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (mut output, mut log_sum_exp) = (Vec::new(), Vec::new());
    for document in starts.windows(2) {
        for token in document[0]..document[1] {
            let seen = shape.first_seen(document[0], token + 1)..token + 1;
            for head in 0..shape.heads {
                let first = (token * shape.heads + head) * shape.head_dim;
                let query = &q[first..first + shape.head_dim];
                let (row, sum) = attend(shape, query, head, k, v, seen.clone());
                output.extend(row);
                log_sum_exp.push(sum);
            }
        }
    }
    (output, log_sum_exp)
}

/// Output `[D]` and log-sum-exp of one query of `head` over the keys and values of the tokens `seen`.
pub fn attend(
    shape: &Shape,
    query: &[f64],
    head: usize,
    k: &[f64],
    v: &[f64],
    seen: std::ops::Range<usize>,
) -> (Vec<f64>, f64) {
    let kv_head = head / (shape.heads / shape.kv_heads);
    let place = |token: usize| {
        let first = (token * shape.kv_heads + kv_head) * shape.head_dim;
        first..first + shape.head_dim
    };
    let score = |token| {
        let score = shape.scale * query.iter().zip(&k[place(token)]).map(|(q, k)| q * k).sum::<f64>();
        shape.softcap.map_or(score, |cap| cap * (score / cap).tanh())
    };
    let scores: Vec<f64> = seen.clone().map(score).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum_exp = largest + scores.iter().map(|score| (score - largest).exp()).sum::<f64>().ln();
    let mut output = vec![0.0; shape.head_dim];
    for (token, score) in seen.zip(&scores) {
        let probability = (score - log_sum_exp).exp();
        for (output, v) in output.iter_mut().zip(&v[place(token)]) {
            *output += probability * v;
        }
    }
    (output, log_sum_exp)
}
