//! Operations in f64, written as their formulas read: what the engine's are compared with.

pub mod attention;
pub mod cross_entropy;
pub mod gated_delta_rule;
pub mod linear;
