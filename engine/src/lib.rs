//! Engine of CPI-FT: devices, flat parameters, operations, core masks.
#![warn(missing_docs)]

mod buffer;
pub mod cpu;
mod device;
mod error;
mod layout;
mod mask;
pub mod ops;

pub use buffer::{ALIGNMENT, Buffer, View, ViewMut};
pub use device::{CpuDevice, Device};
pub use error::{Error, Result};
pub use layout::{Layout, SEGMENT_ALIGNMENT, Segment, SegmentId};
pub use mask::{Mask, SignAgreement, WORD_BITS};
