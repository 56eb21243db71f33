//! What a registry says of a kernel, for unit tests.

use cpift_kernels::launch::{Direction, Kernel, Parameter, TensorCores};

const fn parameter(direction: Direction, element: &'static str, align: usize) -> Parameter {
    Parameter { name: "x", direction, element, align }
}

/// What a registry says of the kernel in [`SAMPLE`](crate::samples::SAMPLE).
pub const KERNEL: Kernel = Kernel {
    name: "scale",
    family: "sample",
    architecture: "sm_80",
    block: 256,
    min_blocks: 1,
    tensor_cores: TensorCores::Unused,
    shared: None,
    parameters: &[
        parameter(Direction::Update, "f32", 16),
        parameter(Direction::Scalar, "u64", 8),
        parameter(Direction::Scalar, "f32", 4),
    ],
    emulate: None,
};
