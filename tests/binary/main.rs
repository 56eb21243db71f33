//! The binary as a person runs it.
//!
//! Tests of the package `cpift-engine-cli`, since cargo tells only a binary's own package where it is.

mod bad_input;
mod basics;
mod bench_kernels;
mod compare;
mod cuda;
mod folders;
mod jobs;
mod report;
mod support;
