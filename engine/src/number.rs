//! The number types of activations.

use cpift_kernels::dispatch::attention::AttentionElement;
use cpift_kernels::dispatch::gemm::GemmElement;
use half::bf16;

use crate::cpu::gemm::Factor;
use crate::gpu::OnGpu;

/// A type of activations, of their gradients and of the weights that products read: f32 or bf16, on every device, with the
/// conversions of [`Float`](crate::Float). What is computed with it is [`Real`](crate::Real).
pub trait Number: Factor + OnGpu<Kernel: AttentionElement + GemmElement> {}

impl Number for f32 {}
impl Number for bf16 {}

/// Makes a trait `OnCpu` of an operation's generic functions for the CPU, and implements it for f32 and bf16.
///
/// So they are compiled in this crate, once. A generic function is compiled in every crate that calls it, here each time
/// for all sets of vector instructions: it was most of the time that a build of the model crate took.
macro_rules! on_cpu {
    ($(#[$meta:meta])* $(fn $name:ident = $($part:ident)::+ ($($argument:ident: $type:ty),* $(,)?);)*) => {
        $(#[$meta])*
        pub trait OnCpu: $crate::number::Number {
            $(
                #[doc = concat!("`", stringify!($name), "` of this operation, on the CPU.")]
                fn $name($($argument: $type),*);
            )*
        }

        $crate::number::on_cpu! { @implemented [f32] $(fn $name = $($part)::+ ($($argument: $type),*);)* }
        $crate::number::on_cpu! { @implemented [half::bf16] $(fn $name = $($part)::+ ($($argument: $type),*);)* }
    };
    (@implemented [$number:ty] $(fn $name:ident = $($part:ident)::+ ($($argument:ident: $type:ty),*);)*) => {
        impl OnCpu for $number {
            $(
                fn $name($($argument: $type),*) {
                    $($part)::+::<Self>($($argument),*);
                }
            )*
        }
    };
}
pub(crate) use on_cpu;
