//! Kernels on the emulator, against f64 oracles; the emulator itself.

mod common;

mod emulator;
mod hopper;
mod ops;
mod tensor;
