//! Engine of CPI-FT: devices, flat parameters, operations, core masks, SLERP.
//!
//! It knows no model and no file: a program brings its own loop and its own gradients, and takes
//! what it needs.
//!
//! - [`Layout`] places all tensors of a model in one flat allocation; a [`Buffer`] holds weights, gradients
//!   or importance in that layout, a [`Mask`] one bit per element of it.
//! - [`ops::adamw::AdamW`] steps all weights in one pass over memory, and in the same pass accumulates each
//!   weight's importance and leaves frozen ones alone, to the bit.
//! - [`ops::select`] finds the core of a task, exactly k weights, in O(D); [`Mask`] compares cores.
//! - [`ops::slerp`], [`ops::transplant`] and [`ops::merge`] merge models in place.
//! - The other [`ops`] are a transformer's, forward and backward.
//!
//! Operations take a [`Device`] first and [`View`]s of buffers, check every length, and give the
//! same bits for the same inputs and number of threads.
//!
//! # Devices
//!
//! A [`Device`] is the CPU, a GPU through CUDA's driver, or the emulator of one (for tests: it runs the GPU
//! kernels' source and checks every access). A program is the same for all of them. What it has to know of
//! a GPU: operations are queued and run in order, and reading memory back ([`Buffer::to_vec`],
//! [`View::copy_to_host`]) waits for them, so read little and late. Buffers belong to the device they were
//! made on. Building needs no CUDA; the driver is looked for when a GPU is asked for, and an error says what
//! is missing.
//!
//! The operations of a transformer compute in f32 or in [`bf16`] ([`Real`]): activations, their
//! gradients and the weights that products read. Sums and gradients of weights are f32, as are master weights, which
//! [`ops::split`] keeps in the same 4 bytes with the rounded weights among them. [`Device::record`] runs
//! a whole training step as one launch.
//!
//! # Embedding the optimizer and the masks
//!
//! This runs on any device; the documentation's tests run it on the CPU and on the emulator.
//!
//! ```
//! use cpift_engine::ops::adamw::{AdamW, Gradient, Hyper, ImportanceKind};
//! use cpift_engine::ops::{norm, select, slerp, transplant};
//! use cpift_engine::{Buffer, Device, Layout};
//!
//! # fn main() -> cpift_engine::Result<()> {
//! # for name in ["cpu", "emulated"] {
//! // "cpu", "cuda:0", or "auto": a GPU where there is one.
//! let device = Device::from_name(name, None)?;
//! let layout = Layout::new([("weight", vec![10, 100]), ("bias", vec![10])])?;
//! let mut weights = Buffer::zeros(&device, layout.len())?;
//! let mut gradients = Buffer::zeros(&device, layout.len())?;
//!
//! // Train, accumulating importance. Here the gradient is made up; clip it to norm 1.
//! let mut optimizer = AdamW::new(&device, layout.len(), ImportanceKind::Net)?;
//! for _ in 0..10 {
//!     let range = layout.segments()[0].range();
//!     let values: Vec<f32> = (0..range.len()).map(|index| (index as f32 * 0.1).sin()).collect();
//!     gradients.slice_mut(range).copy_from_host(&values)?;
//!     let norm = norm::squared_norm(&device, gradients.view(), None)?.sqrt();
//!     let scale = norm::clip_factor(norm, 1.0);
//!     let gradient = Gradient { values: gradients.view().into(), scale, clip: None, frozen: None };
//!     optimizer.step(weights.view_mut(), gradient, &Hyper::default())?;
//! }
//!
//! // The core: 1 % of the weights, those that moved furthest.
//! let options = select::Options { fraction: 0.01, ..select::Options::default() };
//! let core = select::select(&device, &layout, optimizer.importance().in_f32()?, &options, |_| true)?.mask;
//! assert_eq!(core.count(), 10);
//!
//! // Train on without moving the core: not by momentum and not by decay.
//! let before = weights.to_vec()?;
//! let gradient = Gradient { values: gradients.view().into(), scale: 1.0, clip: None, frozen: Some(&core) };
//! optimizer.step(weights.view_mut(), gradient, &Hyper::default())?;
//! let after = weights.to_vec()?;
//! assert!(core.indices().all(|index| before[index].to_bits() == after[index].to_bits()));
//!
//! // Merge with another model: SLERP outside the core, the core bit for bit.
//! let mut merged = Buffer::from_slice(&device, &vec![0.5; layout.len()])?;
//! let options = slerp::Options { skip: Some(&core), ..slerp::Options::default() };
//! let report = slerp::slerp(&device, &layout, merged.view_mut(), weights.view(), &options)?;
//! println!("angle of `{}`: {:.2}", layout.segment(report[0].segment).name, report[0].angle);
//! transplant::transplant(&device, merged.view_mut(), weights.view(), &core)?;
//! # }
//! # Ok(())
//! # }
//! ```
//!
//! `examples/embed.rs` is the same as a program that trains two tasks: `cargo run --release -p cpift-engine --example embed`.
#![warn(missing_docs)]

mod buffer;
pub mod cpu;
pub mod cublas;
mod device;
mod error;
mod float;
mod gpu;
mod indices;
mod layout;
mod mask;
mod number;
pub mod ops;
pub mod random;
pub mod ranks;

pub use buffer::{Buffer, Placement, View, ViewMut};
pub use device::{CpuDevice, Device};
pub use error::{Error, Result};
pub use float::Float;
pub use gpu::{GpuDevice, LaunchLog, LaunchRecord};
pub use half::bf16;
pub use indices::{IndexView, Indices};
pub use layout::{ALIGNMENT, Layout, SEGMENT_ALIGNMENT, Segment, SegmentId};
pub use mask::{Mask, WORD_BITS};
pub use ops::Real;
pub use ranks::Ranks;
