//! Where a body accesses registers that `wgmma` has a part in: between such an access and the next `wgmma` of the same
//! registers there must be a `wgmma.fence`.
//!
//! Nothing is looked at while instructions run. Before the first access of a run of instructions that no branch and no
//! `wgmma` interrupts, one instruction names the registers of all of the run.

use std::collections::BTreeSet;

use super::program::{GroupProduct, Instruction, List, Program, Slot};

/// Puts [`Instruction::Touch`] where registers of products are accessed, and notes which products share registers.
pub fn mark(program: &mut Program) {
    if program.products.is_empty() {
        return;
    }
    let registers = |product: &GroupProduct| -> BTreeSet<Slot> {
        let a = program.list(product.a);
        let fragments = if a.len() > 1 { a } else { &[] };
        program.list(product.sums).iter().chain(fragments).copied().collect()
    };
    let of_products: Vec<BTreeSet<Slot>> = program.products.iter().map(registers).collect();
    program.clashes = (0..of_products.len())
        .map(|own| (0..own).filter(|&other| program.clash(own, other, &of_products)).collect())
        .collect();
    for own in 0..of_products.len() {
        for other in program.clashes[own].clone() {
            program.clashes[other].push(own);
        }
    }
    let watched: BTreeSet<Slot> = of_products.into_iter().flatten().collect();
    let targets: BTreeSet<usize> = program.code.iter().filter_map(target).collect();

    let (code, lines) = (std::mem::take(&mut program.code), std::mem::take(&mut program.lines));
    let mut places = Vec::with_capacity(code.len());
    // Where the run in progress has its first access, and what it accesses.
    let mut run: Option<(usize, BTreeSet<Slot>)> = None;
    for ((place, instruction), line) in code.into_iter().enumerate().zip(lines) {
        if targets.contains(&place) {
            program.close(&mut run);
        }
        places.push(program.code.len());
        let mut touched = BTreeSet::new();
        instruction.for_each_slot(program, |slot| {
            if watched.contains(&slot) {
                touched.insert(slot);
            }
        });
        if !touched.is_empty() {
            let (_, all) = run.get_or_insert_with(|| {
                program.code.push(Instruction::Touch { registers: List { start: 0, length: 0 } });
                program.lines.push(line);
                (program.code.len() - 1, BTreeSet::new())
            });
            all.extend(touched);
        }
        program.code.push(instruction);
        program.lines.push(line);
        if instruction.ends_run() {
            program.close(&mut run);
        }
    }
    program.close(&mut run);
    for instruction in &mut program.code {
        if let Instruction::Branch { to } | Instruction::BranchIf { to, .. } = instruction {
            *to = places[*to as usize] as u32;
        }
    }
}

/// Where a branch goes.
fn target(instruction: &Instruction) -> Option<usize> {
    match *instruction {
        Instruction::Branch { to } | Instruction::BranchIf { to, .. } => Some(to as usize),
        _ => None,
    }
}

impl Program {
    /// Whether a product may not follow another without a fence though no instruction comes in between: they share
    /// registers, and not as sums of one shape.
    fn clash(&self, own: usize, other: usize, registers: &[BTreeSet<Slot>]) -> bool {
        let (one, two) = (&self.products[own], &self.products[other]);
        let same_sums = self.list(one.sums) == self.list(two.sums);
        let fragments = |product: &GroupProduct| match self.list(product.a) {
            [_] => BTreeSet::new(),
            a => a.iter().copied().collect::<BTreeSet<Slot>>(),
        };
        if !same_sums {
            // Both may read the same fragments.
            let shared = registers[own].intersection(&registers[other]);
            let (a, b) = (fragments(one), fragments(two));
            return shared.into_iter().any(|slot| !(a.contains(slot) && b.contains(slot)));
        }
        let sums: BTreeSet<Slot> = self.list(one.sums).iter().copied().collect();
        !sums.is_disjoint(&fragments(one)) || !sums.is_disjoint(&fragments(two))
    }

    /// Ends a run of instructions.
    fn close(&mut self, run: &mut Option<(usize, BTreeSet<Slot>)>) {
        let Some((place, slots)) = run.take() else { return };
        let registers = List { start: self.lists.len() as u32, length: slots.len() as u16 };
        self.lists.extend(slots);
        self.code[place] = Instruction::Touch { registers };
    }
}

impl Instruction {
    /// Whether what comes behind is looked at anew: accesses behind it do not come before it.
    fn ends_run(self) -> bool {
        matches!(
            self,
            Self::Branch { .. }
                | Self::BranchIf { .. }
                | Self::Return
                | Self::GroupFence
                | Self::GroupMultiply { .. }
                | Self::GroupCommit
                | Self::GroupWait { .. }
        )
    }

    /// The registers that a thread accesses by it; those of products are not among them.
    fn for_each_slot(self, program: &Program, mut see: impl FnMut(Slot)) {
        let mut list = |list: List, slots: &[Slot]| {
            program.list(list).iter().chain(slots).for_each(|&slot| see(slot));
        };
        let none = List { start: 0, length: 0 };
        match self {
            Self::Compute { to, from: [a, b, c, d], .. } => list(none, &[to, a, b, c, d]),
            Self::Load { to, address, .. } => list(to, &[address.base]),
            Self::Store { from, address, .. } => list(from, &[address.base]),
            Self::AtomicAdd { to, address, value, .. } => list(none, &[to, address.base, value]),
            Self::WarpBarrier { lanes } => list(none, &[lanes]),
            Self::Shuffle { to, inside, value, operand, clamp, lanes, .. } => {
                list(none, &[to, inside, value, operand, clamp, lanes]);
            }
            Self::Ballot { to, predicate, lanes } => list(none, &[to, predicate, lanes]),
            Self::Elect { to, elected, lanes } => list(none, &[to, elected, lanes]),
            Self::Multiply { list: operands } => list(operands, &[]),
            Self::LoadMatrices { to, address, .. } => list(to, &[address.base]),
            Self::CopyAsync { to, from, read } => list(none, &[to.base, from.base, read]),
            Self::WaitCopies { latest } => list(none, &[latest]),
            Self::InitMbarrier { barrier, count } => list(none, &[barrier.base, count]),
            Self::InvalidateMbarrier { barrier } => list(none, &[barrier.base]),
            Self::Arrive { barrier, bytes } => list(none, &[barrier.base, bytes]),
            Self::AwaitPhase { to, barrier, parity } => list(none, &[to, barrier.base, parity]),
            Self::CopyTile { to, tile, barrier } => list(tile, &[to.base, barrier.base]),
            Self::BranchIf { predicate, .. } => list(none, &[predicate]),
            Self::Branch { .. }
            | Self::Barrier
            | Self::CommitCopies
            | Self::FenceAsync
            | Self::GroupFence
            | Self::GroupMultiply { .. }
            | Self::GroupCommit
            | Self::GroupWait { .. }
            | Self::Touch { .. }
            | Self::Trap
            | Self::Return => {}
        }
    }
}
