//! Arrays in the block's dynamic shared memory.
//!
//! rustc has no shared address space, so the memory is declared and reached by assembly. Loads are `pure`
//! and `readonly`: they may be merged and moved, but not over a barrier, which is a write to the compiler.

use core::arch::{asm, global_asm};
use core::marker::PhantomData;
use core::mem::transmute_copy;

use crate::simt::{Element, Vector};

#[cfg(not(target_feature = "sm_90a"))]
global_asm!(".extern .shared .align 16 .b8 dyn_smem[];");
// Tiles of TMA are swizzled by their address, from multiples of 1024 bytes on.
#[cfg(target_feature = "sm_90a")]
global_asm!(".extern .shared .align 1024 .b8 dyn_smem[];");

/// An array in the block's shared memory.
pub struct Shared<T: Element> {
    /// Address of the first element, in the shared address space.
    address: u32,
    elements: PhantomData<T>,
}

impl<T: Element> Clone for Shared<T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Element> Copy for Shared<T> {}

impl<T: Element> Shared<T> {
    /// `length` elements from byte `byte` of the block's dynamic shared memory on.
    #[inline(always)]
    pub fn new(byte: u32, length: u32) -> Self {
        let _ = length;
        let base: u32;
        // SAFETY: the address of a symbol declared above.
        unsafe { asm!("mov.u32 {}, dyn_smem;", out(reg32) base, options(pure, nomem, nostack)) };
        Self { address: base + byte, elements: PhantomData }
    }

    /// `length` elements from `first` on.
    #[inline(always)]
    pub fn part(self, first: u32, length: u32) -> Self {
        let _ = length;
        Self { address: self.at(first), elements: PhantomData }
    }

    /// Address of element `index`.
    #[inline(always)]
    pub(super) fn at(self, index: u32) -> u32 {
        self.address + index * size_of::<T>() as u32
    }

    /// The 16 bytes from element `index` on, which must be aligned to 16 bytes.
    #[inline(always)]
    pub fn load_vector<V: Vector<Element = T>>(self, index: u32) -> V {
        const { assert!(size_of::<V>() == 16) };
        let (a, b, c, d): (u32, u32, u32, u32);
        // SAFETY: inside the block's shared memory and aligned, by the kernel's contract.
        unsafe {
            asm!("ld.shared.v4.b32 {{{}, {}, {}, {}}}, [{}];", out(reg32) a, out(reg32) b, out(reg32) c,
                out(reg32) d, in(reg32) self.at(index), options(pure, readonly, nostack));
        }
        // SAFETY: a vector is 16 bytes of elements, and elements take every bit pattern.
        unsafe { transmute_copy(&[a, b, c, d]) }
    }

    /// Writes the 16 bytes from element `index` on, which must be aligned to 16 bytes.
    #[inline(always)]
    pub fn store_vector<V: Vector<Element = T>>(self, index: u32, value: V) {
        const { assert!(size_of::<V>() == 16) };
        // SAFETY: a vector is 16 bytes of elements, which have no padding.
        let [a, b, c, d]: [u32; 4] = unsafe { transmute_copy(&value) };
        // SAFETY: inside the block's shared memory and aligned, by the kernel's contract.
        unsafe {
            asm!("st.shared.v4.b32 [{}], {{{}, {}, {}, {}}};", in(reg32) self.at(index), in(reg32) a,
                in(reg32) b, in(reg32) c, in(reg32) d, options(nostack));
        }
    }
}

impl<T: Element> Shared<T> {
    /// Element `index`.
    #[inline(always)]
    pub fn load(self, index: u32) -> T {
        let address = self.at(index);
        // SAFETY: inside the block's shared memory, by the kernel's contract; the bytes are a T, whose size
        // selects the arm.
        unsafe {
            match size_of::<T>() {
                1 => {
                    let value: u16;
                    asm!("ld.shared.u8 {}, [{}];", out(reg16) value, in(reg32) address,
                        options(pure, readonly, nostack));
                    transmute_copy(&(value as u8))
                }
                2 => {
                    let value: u16;
                    asm!("ld.shared.b16 {}, [{}];", out(reg16) value, in(reg32) address,
                        options(pure, readonly, nostack));
                    transmute_copy(&value)
                }
                4 => {
                    let value: u32;
                    asm!("ld.shared.b32 {}, [{}];", out(reg32) value, in(reg32) address,
                        options(pure, readonly, nostack));
                    transmute_copy(&value)
                }
                _ => {
                    let value: u64;
                    asm!("ld.shared.b64 {}, [{}];", out(reg64) value, in(reg32) address,
                        options(pure, readonly, nostack));
                    transmute_copy(&value)
                }
            }
        }
    }

    /// Writes element `index`.
    #[inline(always)]
    pub fn store(self, index: u32, value: T) {
        let address = self.at(index);
        // SAFETY: inside the block's shared memory, by the kernel's contract; the size of T selects the arm.
        unsafe {
            match size_of::<T>() {
                1 => {
                    let value = u16::from(transmute_copy::<T, u8>(&value));
                    asm!("st.shared.u8 [{}], {};", in(reg32) address, in(reg16) value, options(nostack));
                }
                2 => {
                    let value = transmute_copy::<T, u16>(&value);
                    asm!("st.shared.b16 [{}], {};", in(reg32) address, in(reg16) value, options(nostack));
                }
                4 => {
                    let value = transmute_copy::<T, u32>(&value);
                    asm!("st.shared.b32 [{}], {};", in(reg32) address, in(reg32) value, options(nostack));
                }
                _ => {
                    let value = transmute_copy::<T, u64>(&value);
                    asm!("st.shared.b64 [{}], {};", in(reg32) address, in(reg64) value, options(nostack));
                }
            }
        }
    }
}

impl Shared<u32> {
    /// Adds to element `index`, in no order with other threads; gives what it was before.
    #[inline(always)]
    pub fn atomic_add(self, index: u32, value: u32) -> u32 {
        let before: u32;
        // SAFETY: inside the block's shared memory, by the kernel's contract.
        unsafe {
            asm!("atom.shared.add.u32 {}, [{}], {};", out(reg32) before, in(reg32) self.at(index),
                in(reg32) value, options(nostack));
        }
        before
    }
}
