//! The binary as a person runs it.
//!
//! Tests of the package `cpift-engine-cli`, since cargo tells only a binary's own package where it is.

mod bad_input;
mod basics;
mod bench_kernels;
#[cfg(unix)]
mod campaign;
mod compare;
mod cuda;
mod data;
mod documented;
mod five;
mod folders;
mod generate;
mod gpus;
mod help;
mod hub;
mod jobs;
mod measures;
mod merge;
mod pages;
mod paths;
mod precision;
mod probes;
mod ranks;
mod readme;
mod report;
mod support;
