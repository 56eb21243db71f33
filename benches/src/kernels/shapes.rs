//! Models whose layers the cases have the shapes of.

/// Sizes of a decoder-only transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelShape {
    /// Its name here: the number of parameters.
    pub name: &'static str,
    /// The model, as it is published.
    pub model: &'static str,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the gated MLP.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Token ids.
    pub vocabulary: usize,
}

/// The shapes that can be chosen, from the `config.json` of each model.
pub const SHAPES: [ModelShape; 3] = [
    ModelShape {
        name: "0.5B",
        model: "Qwen2.5-0.5B",
        hidden: 896,
        intermediate: 4864,
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        vocabulary: 151_936,
    },
    ModelShape {
        name: "1.5B",
        model: "Qwen2.5-1.5B",
        hidden: 1536,
        intermediate: 8960,
        heads: 12,
        kv_heads: 2,
        head_dim: 128,
        vocabulary: 151_936,
    },
    ModelShape {
        name: "7B",
        model: "Qwen2.5-7B",
        hidden: 3584,
        intermediate: 18_944,
        heads: 28,
        kv_heads: 4,
        head_dim: 128,
        vocabulary: 152_064,
    },
];
