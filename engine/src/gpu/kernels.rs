//! What kernels call the engine's element types.

use bytemuck::Pod;
use cpift_kernels::simt::{Bf16, Element};

/// An element type of buffers that kernels are passed.
pub trait OnGpu: Pod {
    /// The same bits, as kernels name the type.
    type Kernel: Element;
}

macro_rules! on_gpu {
    ($($type:ty = $kernel:ty),*) => {
        $(impl OnGpu for $type { type Kernel = $kernel; })*
        // Views of one are passed as slices of the other.
        $(const _: () = assert!(size_of::<$type>() == size_of::<$kernel>());)*
    };
}
on_gpu!(f32 = f32, f64 = f64, u16 = u16, u32 = u32, u64 = u64, half::bf16 = Bf16);
