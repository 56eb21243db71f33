//! The gated delta rule over packed documents, token for token.

/// Sizes: heads of keys and of values, elements of a key and of a value.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values and gates.
    pub value_heads: usize,
    /// Elements of a query or key.
    pub key_dim: usize,
    /// Elements of a value.
    pub value_dim: usize,
}

/// What the rule reads: `[N, 2·HK·DK + HV·DV]`, `[N, HV]` twice, `[HV]` twice.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// Queries, keys and values of each token.
    pub qkv: Vec<f64>,
    /// Of the decay.
    pub a: Vec<f64>,
    /// Of β.
    pub b: Vec<f64>,
    /// ln of the decay's rate.
    pub a_log: Vec<f64>,
    /// Added to `a`.
    pub dt_bias: Vec<f64>,
}

impl Inputs {
    /// All of them, in the order of the fields.
    pub fn parts_mut(&mut self) -> [&mut Vec<f64>; 5] {
        [&mut self.qkv, &mut self.a, &mut self.b, &mut self.a_log, &mut self.dt_bias]
    }
}

/// Output `[N, HV, DV]` and the last states `[documents, HV, DK, DV]`; documents start and end at `starts`.
pub fn forward(shape: &Shape, starts: &[usize], inputs: &Inputs) -> (Vec<f64>, Vec<f64>) {
    let (mut output, mut states) = (Vec::new(), Vec::new());
    for document in starts.windows(2) {
        let mut state = vec![0.0; shape.value_heads * shape.key_dim * shape.value_dim];
        for token in document[0]..document[1] {
            for (head, state) in state.chunks_mut(shape.key_dim * shape.value_dim).enumerate() {
                output.extend(step(shape, inputs, token, head, state));
            }
        }
        states.extend(state);
    }
    (output, states)
}

/// Takes a token into the state `[DK, DV]` of a value head; what its query reads.
fn step(shape: &Shape, inputs: &Inputs, token: usize, head: usize, state: &mut [f64]) -> Vec<f64> {
    let Shape { key_heads, value_heads, key_dim, value_dim } = *shape;
    let key_head = head / (value_heads / key_heads);
    let row = &inputs.qkv[token * (2 * key_heads * key_dim + value_heads * value_dim)..];
    let query = unit(&row[key_head * key_dim..][..key_dim]);
    let key = unit(&row[(key_heads + key_head) * key_dim..][..key_dim]);
    let value = &row[2 * key_heads * key_dim + head * value_dim..][..value_dim];
    let place = token * value_heads + head;
    let softplus = (1.0 + (inputs.a[place] + inputs.dt_bias[head]).exp()).ln();
    let decay = (-inputs.a_log[head].exp() * softplus).exp();
    let beta = 1.0 / (1.0 + (-inputs.b[place]).exp());
    state.iter_mut().for_each(|state| *state *= decay);
    for column in 0..value_dim {
        let predicted: f64 = (0..key_dim).map(|row| key[row] * state[row * value_dim + column]).sum();
        let write = beta * (value[column] - predicted);
        (0..key_dim).for_each(|row| state[row * value_dim + column] += key[row] * write);
    }
    let read = |column| (0..key_dim).map(|row| query[row] * state[row * value_dim + column]).sum::<f64>();
    (0..value_dim).map(|column| read(column) / (key_dim as f64).sqrt()).collect()
}

fn unit(x: &[f64]) -> Vec<f64> {
    let length = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
    x.iter().map(|x| x / length).collect()
}
