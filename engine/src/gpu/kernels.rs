//! What kernels call the engine's element types, and which kernel of an operation is for which number type.

// A kernel's type is the list of its arguments.
#![allow(clippy::type_complexity)]

use bytemuck::Pod;
use cpift_kernels::attention::*;
use cpift_kernels::cross_entropy::*;
use cpift_kernels::embedding::*;
use cpift_kernels::gated_mlp::*;
use cpift_kernels::gemm::*;
use cpift_kernels::launch::{Launch, LaunchError, Slice, SliceMut};
use cpift_kernels::rms_norm::*;
use cpift_kernels::rope::{rope_bf16, rope_f32};
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
on_gpu!(f32 = f32, f64 = f64, u32 = u32, u64 = u64, half::bf16 = Bf16);

/// How launches end.
type Launched = Result<(), LaunchError>;
/// Kernels for short, middle and long rows.
type BySize<Launch> = [Launch; 3];

/// A table: what an operation launches, its arguments, the kernel for f32 and the one for bf16.
macro_rules! kernels {
    ($($name:ident: $type:ty = $f32:expr, $bf16:expr;)*) => {
        /// The kernels for one number type, by operation; those over tiles of attention are
        /// [`AttentionElement`]'s.
        pub trait Kernels: AttentionElement {
            $(
                #[doc = concat!("`", stringify!($f32), "` and its like.")]
                const $name: $type;
            )*
        }

        impl Kernels for f32 {
            $(const $name: $type = $f32;)*
        }

        impl Kernels for Bf16 {
            $(const $name: $type = $bf16;)*
        }
    };
}

kernels! {
    EMBEDDING: fn(
        &dyn Launch, Slice<'_, Self>, Slice<'_, u32>, SliceMut<'_, Self>, u64, u32, u32,
    ) -> Launched = embedding_f32, embedding_bf16;
    EMBEDDING_BACKWARD: fn(
        &dyn Launch, Slice<'_, Self>, Slice<'_, u32>, Slice<'_, u32>, Slice<'_, u32>, SliceMut<'_, f32>,
        u64, u32, u32, u32,
    ) -> Launched = embedding_backward_f32, embedding_backward_bf16;
    SCATTER_ROWS: fn(
        &dyn Launch, Slice<'_, Self>, Slice<'_, u32>, SliceMut<'_, Self>, u64, u64, u64,
    ) -> Launched = cross_entropy_scatter_rows_f32, cross_entropy_scatter_rows_bf16;

    RMS_NORM: BySize<fn(
        &dyn Launch, Slice<'_, Self>, Slice<'_, Self>, SliceMut<'_, Self>, SliceMut<'_, f32>, u64, u32, f32,
    ) -> Launched> = [rms_norm_short_f32, rms_norm_middle_f32, rms_norm_long_f32],
        [rms_norm_short_bf16, rms_norm_middle_bf16, rms_norm_long_bf16];
    RMS_NORM_RESIDUAL: BySize<fn(
        &dyn Launch, Slice<'_, Self>, Slice<'_, Self>, Slice<'_, Self>, SliceMut<'_, Self>,
        SliceMut<'_, Self>, SliceMut<'_, f32>, u64, u32, f32,
    ) -> Launched> = [rms_norm_residual_short_f32, rms_norm_residual_middle_f32, rms_norm_residual_long_f32],
        [rms_norm_residual_short_bf16, rms_norm_residual_middle_bf16, rms_norm_residual_long_bf16];
    RMS_NORM_BACKWARD: BySize<fn(
        &dyn Launch, Slice<'_, Self>, Slice<'_, Self>, Slice<'_, f32>, Slice<'_, Self>, SliceMut<'_, Self>,
        SliceMut<'_, f32>, u64, u32, u32,
    ) -> Launched> = [rms_norm_backward_short_f32, rms_norm_backward_middle_f32, rms_norm_backward_long_f32],
        [rms_norm_backward_short_bf16, rms_norm_backward_middle_bf16, rms_norm_backward_long_bf16];

    GEMM_NT: fn(
        &dyn Launch, Slice<'_, Self>, Slice<'_, Self>, Option<Slice<'_, Self>>, SliceMut<'_, Self>, [u64; 3],
    ) -> Launched = gemm_nt_f32, gemm_nt_bf16;
    GEMM_NT_UNROUNDED: fn(
        &dyn Launch, Slice<'_, Self>, Slice<'_, Self>, SliceMut<'_, f32>, [u64; 3],
    ) -> Launched =
        |launcher, a, b, out, sizes| gemm_nt_f32(launcher, a, b, None, out, sizes), gemm_nt_bf16_f32;
    GEMM_SPLITS: fn(&dyn Launch, [u64; 3]) -> u32 = (|_, _| 1), gemm_splits;
    GEMM_NN_SPLIT_K: fn(
        &dyn Launch, [Slice<'_, Self>; 2], SliceMut<'_, f32>, SliceMut<'_, Self>, [u64; 3], bool,
    ) -> Launched =
        |launcher, [a, b], _, out, sizes, add| gemm_nn_f32(launcher, a, b, out, sizes, add), gemm_nn_split_k_bf16;
    GEMM_TN_SPLIT_K: fn(
        &dyn Launch, [Slice<'_, Self>; 2], SliceMut<'_, f32>, SliceMut<'_, f32>, [u64; 3],
    ) -> Launched = |launcher, [a, b], _, out, sizes| gemm_tn_f32(launcher, a, b, out, sizes), gemm_tn_split_k_bf16;
    COLUMN_SUMS: fn(
        &dyn Launch, Slice<'_, Self>, SliceMut<'_, f32>, u64, u64,
    ) -> Launched = gemm_column_sums_f32, gemm_column_sums_bf16;

    ROPE: fn(
        &dyn Launch, Slice<'_, f32>, Slice<'_, f32>, Slice<'_, u32>, SliceMut<'_, Self>,
        u32, u32, u32, u32, u32,
    ) -> Launched = rope_f32, rope_bf16;
    ATTENTION_DECODE: fn(
        &dyn Launch, Slice<'_, Self>, Slice<'_, Self>, Slice<'_, Self>, Slice<'_, u32>, Slice<'_, u32>,
        SliceMut<'_, f32>, SliceMut<'_, f32>, u32, u32, u32, u32, u32, u32, u32, u32, f32,
    ) -> Launched = attention_decode_f32, attention_decode_bf16;
    ATTENTION_COMBINE: fn(
        &dyn Launch, Slice<'_, f32>, Slice<'_, f32>, Slice<'_, u32>, SliceMut<'_, Self>,
        u32, u32, u32, u32, u32,
    ) -> Launched = attention_combine_f32, attention_combine_bf16;

    GATED_MLP: fn(
        &dyn Launch, Slice<'_, Self>, Slice<'_, Self>, SliceMut<'_, Self>, u64,
    ) -> Launched = gated_mlp_f32, gated_mlp_bf16;
    GATED_MLP_BACKWARD: fn(
        &dyn Launch, SliceMut<'_, Self>, SliceMut<'_, Self>, SliceMut<'_, Self>, u64,
    ) -> Launched = gated_mlp_backward_f32, gated_mlp_backward_bf16;

    LOSSES_AND_GRADIENTS: fn(
        &dyn Launch, Slice<'_, f32>, SliceMut<'_, Self>, Slice<'_, u32>, Slice<'_, u32>, SliceMut<'_, f32>,
        u64, u64, u64, f32,
    ) -> Launched = cross_entropy_losses_and_gradients_f32, cross_entropy_losses_and_gradients_bf16;
}
