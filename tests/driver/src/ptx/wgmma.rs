//! Products by warpgroups that a thread has begun and not waited for (`wgmma`).
//!
//! The emulator does them when the thread waits: they may be as late. Until then the registers of sums hold NaN, so
//! that who reads them early gets no number.

use std::collections::VecDeque;

use cpift_kernels::emulator::instructions::{
    Point, SharedOperand, WgmmaA, WgmmaInstruction, warpgroup_multiply,
};

use super::memory::SHARED_START;
use super::program::{GroupProduct, List, POISON, Program, Slot};

/// Products under way.
#[derive(Debug, Default)]
pub struct Products {
    /// Those of no group yet.
    open: Vec<Issued>,
    /// Groups, the oldest first.
    groups: VecDeque<Vec<Issued>>,
    /// Sums in the making.
    sums: Vec<Sums>,
    /// Whether there was a `wgmma.fence`.
    fenced: bool,
    /// By register, a bit each: those that the thread has accessed since the last one.
    touched: Vec<u64>,
    /// Products that have begun since then, by their places.
    begun: Vec<usize>,
}

/// A product that has begun.
#[derive(Debug)]
struct Issued {
    product: GroupProduct,
    a: WgmmaA,
    b: u64,
    accumulate: bool,
}

/// Sums that products under way add to.
#[derive(Debug)]
struct Sums {
    registers: List,
    values: Vec<f32>,
}

/// A description by the emulator's addresses, where shared memory begins at zero.
fn description(bits: u64, k_major: bool) -> Result<SharedOperand, String> {
    let chunks = SHARED_START >> 4;
    if bits & 0x3fff < chunks {
        return Err(format!("an operand described as {bits:#018x} begins before the block's shared memory"));
    }
    Ok(SharedOperand { bits: bits - chunks, k_major })
}

impl Products {
    /// `wgmma.fence`.
    pub fn fence(&mut self) {
        self.fenced = true;
        self.touched.fill(0);
        self.begun.clear();
    }

    /// The thread accesses registers of products.
    pub fn touch(&mut self, registers: &[Slot]) {
        for &slot in registers {
            let (word, bit) = (usize::from(slot) / 64, slot % 64);
            if self.touched.len() <= word {
                self.touched.resize(word + 1, 0);
            }
            self.touched[word] |= 1 << bit;
        }
    }

    /// Fails where a fence is missing. It must stand before the first `wgmma`, and between an access to a register and a
    /// `wgmma` that has it as a sum or in its left operand, unless both are of `wgmma` of one shape, and sums
    /// (PTX ISA, `wgmma.fence`). So none is wanted behind a wait alone.
    fn check_fences(&self, program: &Program, number: usize) -> Result<(), String> {
        if !self.fenced {
            return Err("a wgmma with no wgmma.fence before".to_owned());
        }
        let product = program.products[number];
        let fragments = program.list(product.a);
        let fragments = if fragments.len() > 1 { fragments } else { &[] };
        let touched = |slot: &&Slot| {
            self.touched.get(usize::from(**slot) / 64).is_some_and(|word| word >> (**slot % 64) & 1 != 0)
        };
        if program.list(product.sums).iter().chain(fragments).any(|slot| touched(&slot)) {
            return Err("a wgmma on registers that were accessed with no wgmma.fence behind".to_owned());
        }
        let clashes = &program.clashes[number];
        if !clashes.is_empty() && self.begun.iter().any(|other| clashes.contains(other)) {
            return Err("a wgmma on some registers of another's with no wgmma.fence in between".to_owned());
        }
        Ok(())
    }

    /// `wgmma.mma_async`.
    pub fn begin(&mut self, program: &Program, registers: &mut [u64], number: usize) -> Result<(), String> {
        self.check_fences(program, number)?;
        self.begun.push(number);
        let product = program.products[number];
        let at = |slot: Slot| registers[usize::from(slot)];
        let a = match program.list(product.a) {
            &[a] => WgmmaA::Shared(description(at(a), product.a_along_k)?),
            a => WgmmaA::Registers(std::array::from_fn(|index| at(a[index]) as u32)),
        };
        let b = at(product.b);
        let accumulate = at(product.accumulate) & 1 != 0;
        description(b, product.b_along_k)?;
        let slots = program.list(product.sums);
        if !self.sums.iter().any(|sums| program.list(sums.registers) == slots) {
            let values = slots.iter().map(|&slot| f32::from_bits(at(slot) as u32)).collect();
            self.sums.push(Sums { registers: product.sums, values });
            slots.iter().for_each(|&slot| registers[usize::from(slot)] = POISON & 0xffff_ffff);
        }
        self.open.push(Issued { product, a, b, accumulate });
        Ok(())
    }

    /// `wgmma.commit_group`.
    pub fn commit(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.open));
    }

    /// `wgmma.wait_group`: until all but the `latest` last groups are done.
    pub fn wait(
        &mut self,
        program: &Program,
        registers: &mut [u64],
        latest: usize,
        point: Point,
    ) -> Result<(), String> {
        let finished = self.groups.len().saturating_sub(latest);
        let issued: Vec<Issued> = self.groups.drain(..finished).flatten().collect();
        if issued.is_empty() {
            return Ok(());
        }
        let mut instructions = Vec::with_capacity(issued.len());
        for Issued { product, a, b, accumulate } in issued {
            if let WgmmaA::Registers(words) = a {
                let slots = program.list(product.a);
                if (0..4).any(|index| registers[usize::from(slots[index])] as u32 != words[index]) {
                    return Err("registers of A were changed before the product was waited for".to_owned());
                }
            }
            let slots = program.list(product.sums);
            let sums = self.sums.iter_mut().find(|sums| program.list(sums.registers) == slots);
            let sums = sums.ok_or("a product without sums")?.values.as_mut_ptr();
            let b = description(b, product.b_along_k)?;
            instructions.push(WgmmaInstruction { a, b, columns: product.columns, accumulate, sums });
        }
        // SAFETY: half as many sums as columns, by how products are decoded; nothing touches them meanwhile.
        unsafe { warpgroup_multiply(point, &instructions) };
        let under_way: Vec<&[Slot]> = self
            .groups
            .iter()
            .flatten()
            .chain(&self.open)
            .map(|issued| program.list(issued.product.sums))
            .collect();
        self.sums.retain(|sums| {
            let slots = program.list(sums.registers);
            let needed = under_way.contains(&slots);
            if !needed {
                for (&slot, value) in slots.iter().zip(&sums.values) {
                    registers[usize::from(slot)] = u64::from(value.to_bits());
                }
            }
            needed
        });
        Ok(())
    }

    /// Whether all were waited for.
    pub fn is_over(&self) -> bool {
        self.sums.is_empty()
    }
}
