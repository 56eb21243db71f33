//! The kernels' tests, executed from source and PTX, and tests of that execution itself.

#[path = "../../../kernels/tests/common/mod.rs"]
mod common;
#[path = "../../../kernels/tests/ops/mod.rs"]
mod ops;

mod coverage;
mod instructions;
mod mutations;
mod other_compilers;
mod paths;
mod text;
mod warpgroups;
