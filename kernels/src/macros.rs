//! [`kernel!`]: a kernel's one definition.

/// Defines a kernel: its PTX entry on a GPU; on hosts its launcher, its description `NAME::KERNEL`, what the emulator
/// runs, and its place in [`families`](crate::families), by which PTX modules are made and tests know all kernels.
///
/// ```text
/// kernel! {
///     /// y = factor·x. What it computes, who reaches each barrier, traffic.
///     pub fn scale {
///         block: 256,                      // threads
///         grid: count.div_ceil(1024),      // blocks: x, (x, y) or (x, y, z)
///         shared: 0,                       // bytes
///         min_blocks: 2,                   // optional: blocks that registers must leave room for, see
///                                          // `launch::Kernel`
///         tensor_cores: Used,              // optional: what it does on tensor cores, see `launch::TensorCores`;
///                                          // `shared` is a constant then
///         architecture: "sm_90a",          // optional: what it is compiled for, if not for sm_80 and newer
///     } (
///         x: read f32 [count] align 16,    // read, write or update; the elements it accesses
///         y: write f32 [count] align 16,
///         count: scalar u64,
///         factor: scalar f32,
///     ) requires { count < 1 << 40 } {
///         …
///     }
/// }
/// ```
///
/// A kernel for f32 and one for bf16 are made of one definition by `pub fn scale<E> = scale_f32, scale_bf16; { block: …`.
/// In all of it `E` is the element type; the entries have the two names, and the launcher `scale` takes either type.
///
/// A matrix of which TMA copies tiles is `a: tensor_map Bf16 [m * k] align 16 of [m, k] by 128 at 0`: rows and
/// columns, rows of a tile, and the position among the parameters. It is a slice for callers of the launcher, and in the
/// body a [`TensorMap`](crate::simt::TensorMap).
///
/// In the body, buffers are [`Global`](crate::simt::Global) or [`GlobalMut`](crate::simt::GlobalMut). In
/// grid, shared, lengths and requirements all integers are u64, whatever the type of the parameter. The
/// launcher checks lengths, alignment and requirements before anything runs.
#[macro_export]
macro_rules! kernel {
    // For f32 and for bf16.
    (
        $(#[$meta:meta])*
        pub fn $name:ident<$E:ident> = $f32:ident, $bf16:ident;
        $options:tt $parameters:tt $(requires $requirements:tt)? $body:block
    ) => {
        $crate::kernel! { @described $f32 }
        $crate::kernel! { @described $bf16 }
        const _: () = {
            type $E = f32;
            $crate::kernel! {
                @compiled $(#[$meta])* pub fn $f32 $options $parameters $(requires $requirements)? $body
            }
        };
        const _: () = {
            type $E = $crate::simt::Bf16;
            $crate::kernel! {
                @compiled $(#[$meta])* pub fn $bf16 $options $parameters $(requires $requirements)? $body
            }
        };
        $crate::kernel! {
            @launched [$E::choose(&$f32::KERNEL, &$bf16::KERNEL)] [$E: $crate::simt::Real]
            $(#[$meta])* pub fn $name $options $parameters $(requires $requirements)?
        }
    };
    // For one element type.
    (
        $(#[$meta:meta])*
        pub fn $name:ident $options:tt $parameters:tt $(requires $requirements:tt)? $body:block
    ) => {
        $crate::kernel! { @described $name }
        $crate::kernel! {
            @compiled $(#[$meta])* pub fn $name $options $parameters $(requires $requirements)? $body
        }
        $crate::kernel! {
            @launched [&$name::KERNEL] [] $(#[$meta])* pub fn $name $options $parameters $(requires $requirements)?
        }
    };
    // The type that has the kernel's description.
    (@described $name:ident) => {
        /// Description of the kernel of this name.
        #[cfg(not(target_arch = "nvptx64"))]
        #[allow(non_camel_case_types)]
        #[derive(Debug)]
        pub enum $name {}
    };
    // The PTX entry; on hosts its description, what the emulator runs, and the registration.
    (
        @compiled
        $(#[$meta:meta])*
        pub fn $name:ident { block: $block:expr, grid: $grid:expr, shared: $shared:expr
            $(, min_blocks: $min_blocks:expr)? $(, tensor_cores: $tensor_cores:ident)?
            $(, architecture: $architecture:literal)?
            $(,)? } (
            $($parameter:ident : $direction:ident $element:ident $([$length:expr])? $(align $align:literal)?
                $(of [$rows:expr, $columns:expr] by $box_rows:literal at $position:literal)?),*
            $(,)?
        ) $(requires $requirements:tt)? $body:block
    ) => {
        // For its own architecture alone.
        #[cfg(all(
            target_arch = "nvptx64",
            not(all(target_feature = "sm_90a", not(any($(target_feature = $architecture)?))))
        ))]
        $(#[$meta])*
        ///
        /// # Safety
        /// The contract above, which the launcher on hosts checks.
        #[unsafe(no_mangle)]
        #[allow(unused_unsafe)] // Scalars need none.
        pub unsafe extern "ptx-kernel" fn $name($($parameter: $crate::kernel_raw!($direction $element)),*) {
            // SAFETY: the contract covers every access of the body; the emulator checks them one by one.
            $(let $parameter = unsafe {
                $crate::kernel_wrap!($direction $element, $parameter $(, $name $position)?)
            };)*
            $(let _ = $parameter;)*
            $body
        }

        #[cfg(not(target_arch = "nvptx64"))]
        $crate::inventory::submit! {
            $crate::Registered { module: module_path!(), kernel: $name::KERNEL }
        }

        #[cfg(not(target_arch = "nvptx64"))]
        impl $name {
            /// What is known of the kernel without running it.
            pub const KERNEL: $crate::launch::Kernel = $crate::launch::Kernel {
                name: stringify!($name),
                family: $crate::launch::family_of(module_path!()),
                architecture: [$($architecture,)? "sm_80"][0],
                block: {
                    assert!($block % $crate::simt::WARP == 0 && $block > 0 && $block <= 1024);
                    $block
                },
                min_blocks: [$($min_blocks,)? 1][0],
                tensor_cores: [$($crate::launch::TensorCores::$tensor_cores,)? $crate::launch::TensorCores::Unused][0],
                // A kernel for tensor cores has the same shared memory in every launch.
                shared: [$($crate::kernel_constant!($tensor_cores $shared),)? None][0],
                parameters: &[$($crate::launch::Parameter {
                    name: stringify!($parameter),
                    direction: $crate::kernel_direction!($direction),
                    element: <$element as $crate::simt::Element>::NAME,
                    align: $crate::kernel_align!($element $($align)?),
                }),*],
                emulate: $crate::kernel_emulate!([$($direction $element $parameter),*] $body),
            };
        }
    };
    // The launcher, which checks the contract.
    (
        @launched [$kernel:expr] [$($generics:tt)*]
        $(#[$meta:meta])*
        pub fn $name:ident { block: $block:expr, grid: $grid:expr, shared: $shared:expr $(, $option:ident: $value:expr)* $(,)? } (
            $($parameter:ident : $direction:ident $element:ident $([$length:expr])? $(align $align:literal)?
                $(of [$rows:expr, $columns:expr] by $box_rows:literal at $position:literal)?),*
            $(,)?
        ) $(requires { $($requirement:expr),* $(,)? })?
    ) => {
        #[cfg(not(target_arch = "nvptx64"))]
        $(#[$meta])*
        ///
        /// # Errors
        /// Before anything runs: a buffer too short or misaligned, a requirement that does not hold. After:
        /// what the launcher reports.
        #[allow(clippy::too_many_arguments)]
        pub fn $name<$($generics)*>(
            launcher: &dyn $crate::launch::Launch,
            $($parameter: $crate::kernel_host!($direction $element)),*
        ) -> Result<(), $crate::launch::LaunchError> {
            use $crate::launch::{Grid, Request, check, check_geometry};
            let kernel: &'static $crate::launch::Kernel = $kernel;
            let arguments = [$(
                $crate::kernel_argument!($direction $parameter $(, $rows, $columns, $box_rows)?)
            ),*];
            let geometry = {
                $($crate::kernel_widen!($direction $element $parameter);)*
                $($(
                    let holds: bool = $requirement;
                    if !holds {
                        return Err($crate::launch::LaunchError::Requirement {
                            kernel: kernel.name,
                            requirement: stringify!($requirement),
                            numbers: $crate::launch::describe_numbers(kernel, &arguments),
                        });
                    }
                )*)?
                let needed = [$($crate::kernel_needed!($($length)?)),*];
                for ((parameter, &argument), needed) in kernel.parameters.iter().zip(&arguments).zip(needed) {
                    check(kernel.name, parameter, argument, needed)?;
                }
                check_geometry(kernel.name, Grid::from($grid), $shared)?
            };
            if let Some((grid, shared)) = geometry {
                let request = Request { kernel, grid, shared, arguments: &arguments };
                // SAFETY: the arguments come from parameters of the right types and were checked.
                unsafe { launcher.launch(&request)? };
            }
            Ok(())
        }
    };
}

/// `unroll!(index in COUNT { … })`: the body for every index below a constant of at most 16, written out.
///
/// For loops over arrays in registers, which only constant indices keep there: LLVM leaves loops with a long
/// body, or with warp operations in it, as they are.
macro_rules! unroll {
    ($index:ident in $count:ident $body:block) => {
        const { assert!($count <= 16) };
        unroll!($index $count $body 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    };
    ($index:ident $count:ident $body:block $($value:literal)*) => {
        // A constant condition: what is not run is not compiled either. The lint does not know it.
        $(#[allow(unconditional_panic)]
        if const { $value < $count } {
            let $index: usize = $value;
            $body
        })*
    };
}

/// `None`, or the handle of a buffer that not all variants of a kernel have.
macro_rules! option {
    () => {
        None
    };
    ($handle:ident) => {
        Some($handle)
    };
}

/// A constant, if there is a reason to have it.
#[doc(hidden)]
#[macro_export]
macro_rules! kernel_constant {
    ($reason:ident $value:expr) => {
        Some($value)
    };
}

/// Type of a parameter of the PTX entry.
#[doc(hidden)]
#[macro_export]
macro_rules! kernel_raw {
    (read $element:ident) => { *const $element };
    (write $element:ident) => { *mut $element };
    (update $element:ident) => { *mut $element };
    (tensor_map $element:ident) => { $crate::simt::TensorMapParameter };
    (scalar $element:ident) => { $element };
}

/// What the body sees of a parameter of the PTX entry.
#[doc(hidden)]
#[macro_export]
macro_rules! kernel_wrap {
    (read $element:ident, $value:ident) => {
        $crate::simt::Global::<$element>::from_raw($value)
    };
    (write $element:ident, $value:ident) => {
        $crate::simt::GlobalMut::<$element>::from_raw($value)
    };
    (update $element:ident, $value:ident) => {
        $crate::simt::GlobalMut::<$element>::from_raw($value)
    };
    (tensor_map $element:ident, $value:ident, $kernel:ident $position:literal) => {
        $crate::tensor_map_parameter!($element, $value, $kernel, $position)
    };
    (scalar $element:ident, $value:ident) => {
        $value
    };
}

/// Type of a parameter of the launcher.
#[doc(hidden)]
#[macro_export]
macro_rules! kernel_host {
    (read $element:ident) => { $crate::launch::Slice<'_, $element> };
    (write $element:ident) => { $crate::launch::SliceMut<'_, $element> };
    (update $element:ident) => { $crate::launch::SliceMut<'_, $element> };
    (tensor_map $element:ident) => { $crate::launch::Slice<'_, $element> };
    (scalar $element:ident) => { $element };
}

/// A parameter of the launcher as an argument.
#[doc(hidden)]
#[macro_export]
macro_rules! kernel_argument {
    (scalar $value:ident) => {
        $crate::launch::Argument::from($value)
    };
    (tensor_map $value:ident, $rows:expr, $columns:expr, $box_rows:expr) => {
        $value.tensor_map($rows, $columns, $box_rows)
    };
    ($direction:ident $value:ident) => {
        $value.argument()
    };
}

/// Makes integers u64 for the contract's expressions.
#[doc(hidden)]
#[macro_export]
macro_rules! kernel_widen {
    (scalar u32 $value:ident) => {
        let $value = u64::from($value);
        let _ = $value;
    };
    ($direction:ident $element:ident $value:ident) => {
        let _ = &$value;
    };
}

/// Elements of a parameter that the kernel accesses.
#[doc(hidden)]
#[macro_export]
macro_rules! kernel_needed {
    () => {
        0u64
    };
    ($length:expr) => {
        $length
    };
}

/// A parameter's direction.
#[doc(hidden)]
#[macro_export]
macro_rules! kernel_direction {
    (read) => {
        $crate::launch::Direction::Read
    };
    (write) => {
        $crate::launch::Direction::Write
    };
    (update) => {
        $crate::launch::Direction::Update
    };
    (tensor_map) => {
        $crate::launch::Direction::TensorMap
    };
    (scalar) => {
        $crate::launch::Direction::Scalar
    };
}

/// Alignment a parameter needs: its element's, unless more is asked for.
#[doc(hidden)]
#[macro_export]
macro_rules! kernel_align {
    ($element:ident) => {
        align_of::<$element>()
    };
    ($element:ident $align:literal) => {
        $align
    };
}

/// What the emulator runs of a kernel. A macro, since the feature is this crate's and kernels may be another's.
#[cfg(feature = "emulator")]
#[doc(hidden)]
#[macro_export]
macro_rules! kernel_emulate {
    ([$($direction:ident $element:ident $parameter:ident),*] $body:block) => {{
        fn emulate(arguments: &[$crate::launch::Argument]) {
            let mut index = 0;
            $(let $parameter = $crate::kernel_bind!($direction $element, arguments, index);)*
            $(let _ = $parameter;)*
            let _ = index;
            $body
        }
        Some(emulate)
    }};
}

/// What the emulator would run: the body is not compiled.
#[cfg(not(feature = "emulator"))]
#[doc(hidden)]
#[macro_export]
macro_rules! kernel_emulate {
    ($parameters:tt $body:block) => {
        None
    };
}

/// What the body sees of an argument when emulated.
#[doc(hidden)]
#[macro_export]
macro_rules! kernel_bind {
    (read $element:ident, $arguments:ident, $index:ident) => {
        $crate::simt::Global::<$element>::bind($arguments, &mut $index)
    };
    (tensor_map $element:ident, $arguments:ident, $index:ident) => {
        $crate::simt::TensorMap::<$element>::bind($arguments, &mut $index)
    };
    (scalar $element:ident, $arguments:ident, $index:ident) => {
        <$element as $crate::launch::Scalar>::bind($arguments, &mut $index)
    };
    ($direction:ident $element:ident, $arguments:ident, $index:ident) => {
        $crate::simt::GlobalMut::<$element>::bind($arguments, &mut $index)
    };
}
