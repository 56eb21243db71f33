//! Values that kernels load, store and exchange.

/// Plain data of 1, 2, 4 or 8 bytes that lies in device memory.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding.
pub unsafe trait Element: Copy + 'static {
    /// Name in contracts and manifests.
    const NAME: &'static str;
}

macro_rules! elements {
    ($($type:ty = $name:literal),*) => {
        // SAFETY: numbers have no padding and no forbidden bit patterns.
        $(unsafe impl Element for $type { const NAME: &'static str = $name; })*
    };
}
elements!(
    f32 = "f32",
    f64 = "f64",
    u64 = "u64",
    u32 = "u32",
    i32 = "i32",
    u16 = "u16",
    u8 = "u8",
    Bf16 = "bf16"
);

/// Sixteen bytes of elements, moved by one instruction; eight where a thread has no more of them.
///
/// # Safety
/// `repr(C)`, aligned to its own size of 16 or 8 bytes, made of `Self::Element` alone.
pub unsafe trait Vector: Copy + 'static {
    /// What it is made of.
    type Element: Element;
    /// Number of elements.
    const LENGTH: usize;
}

macro_rules! vectors {
    ($($(#[$meta:meta])* $name:ident = [$element:ty; $length:literal]),* $(,)?) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, Copy, PartialEq)]
            #[repr(C, align(16))]
            pub struct $name(pub [$element; $length]);

            // SAFETY: as declared above; 16 bytes, checked here.
            unsafe impl Vector for $name {
                type Element = $element;
                const LENGTH: usize = $length;
            }
            const _: () = assert!(size_of::<$name>() == 16);
        )*
    };
}
vectors!(
    /// Four f32.
    F32x4 = [f32; 4],
    /// Eight bf16.
    Bf16x8 = [Bf16; 8],
    /// Eight u16.
    U16x8 = [u16; 8],
);

macro_rules! half_vectors {
    ($($(#[$meta:meta])* $name:ident = [$element:ty; $length:literal]),* $(,)?) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, Copy, PartialEq)]
            #[repr(C, align(8))]
            pub struct $name(pub [$element; $length]);

            // SAFETY: as declared above; 8 bytes, checked here.
            unsafe impl Vector for $name {
                type Element = $element;
                const LENGTH: usize = $length;
            }
            const _: () = assert!(size_of::<$name>() == 8);
        )*
    };
}
half_vectors!(
    /// Four bf16, in eight bytes: what goes with four f32. In global memory only.
    Bf16x4 = [Bf16; 4],
    /// Four u16, the same.
    U16x4 = [u16; 4],
);

/// The upper half of an f32: 8 bits of exponent, 7 of fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl Bf16 {
    /// The value, exactly.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

/// The two bf16 in a word, the lower half first.
#[cfg(not(target_arch = "nvptx64"))]
pub(crate) fn halves(word: u32) -> [f32; 2] {
    [Bf16(word as u16).to_f32(), Bf16((word >> 16) as u16).to_f32()]
}
