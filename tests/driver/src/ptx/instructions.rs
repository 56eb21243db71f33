//! What instruction a statement is. One that is not known here is an error, never passed over.

use cpift_ptx::body::{Operand, Statement};

use super::arithmetic::{Function, HIGH_16, HIGH_32, JOIN_16, JOIN_32, LOW_16, LOW_32, computation};
use super::decode::Decoder;
use super::memory::{PARAMETER_WINDOW, SHARED_WINDOW};
use super::program::{GroupProduct, Instruction, ShuffleMode, Slot, Space};

impl<'a> Decoder<'a> {
    /// Adds what a statement says.
    pub fn instruction(&mut self, statement: &Statement<'a>) -> Result<(), String> {
        let Statement { guard, name, operands, .. } = statement;
        if let ("bra" | "bra.uni", [Operand::Plain(label)]) = (*name, &operands[..]) {
            let branch = match *guard {
                None => Instruction::Branch { to: 0 },
                Some((predicate, holds)) => {
                    Instruction::BranchIf { predicate: self.register(predicate)?, holds, to: 0 }
                }
            };
            self.push_branch(branch, label);
            return Ok(());
        }
        self.guarded(*guard, |decoder| {
            if let Some(computation) = computation(name)
                && operands.len() == computation.operands + 1
                && !operands.iter().any(|operand| matches!(operand, Operand::List(_)))
            {
                return decoder.compute(computation.function, &operands[0], &operands[1..]);
            }
            let instruction = if let Some(product) = name.strip_prefix("wgmma.mma_async.sync.aligned.") {
                return decoder.group_product(product, operands);
            } else if name.starts_with("ld.") || name.starts_with("st.") {
                decoder.access(name, operands)?
            } else if name.starts_with("mov.") {
                return decoder.parts(name, operands);
            } else {
                decoder.other(name, operands)?
            };
            decoder.push(instruction);
            Ok(())
        })
    }

    fn compute(&mut self, function: Function, to: &Operand<'_>, from: &[Operand<'_>]) -> Result<(), String> {
        let mut slots = [0; 4];
        for (slot, operand) in slots.iter_mut().zip(from) {
            *slot = self.plain(operand)?;
        }
        let to = self.target(to)?;
        self.push(Instruction::Compute { function, to, from: slots });
        Ok(())
    }

    /// `mov` from or to the parts of a register.
    fn parts(&mut self, name: &str, operands: &[Operand<'_>]) -> Result<(), String> {
        let ([low, high], join) = match name {
            "mov.b32" => ([LOW_16, HIGH_16], JOIN_16),
            "mov.b64" => ([LOW_32, HIGH_32], JOIN_32),
            _ => return Err(unknown(name, operands)),
        };
        match operands {
            [Operand::List(parts), whole @ Operand::Plain(_)] if parts.len() == 2 => {
                for (part, function) in parts.iter().zip([low, high]) {
                    self.compute(function, &Operand::Plain(part), std::slice::from_ref(whole))?;
                }
                Ok(())
            }
            [whole @ Operand::Plain(_), Operand::List(parts)] if parts.len() == 2 => {
                self.compute(join, whole, &[Operand::Plain(parts[0]), Operand::Plain(parts[1])])
            }
            _ => Err(unknown(name, operands)),
        }
    }

    /// `ld.global.nc.v4.b32` and the like.
    fn access(&mut self, name: &str, operands: &[Operand<'_>]) -> Result<Instruction, String> {
        let mut words = name.split('.').peekable();
        let loads = words.next() == Some("ld");
        let mut space = match words.next() {
            Some("global") => Space::Global,
            Some("shared") => Space::Shared,
            Some("param") if loads => Space::Parameter,
            _ => return Err(unknown(name, operands)),
        };
        if loads && space == Space::Global && words.next_if_eq(&"nc").is_some() {
            space = Space::Constant;
        }
        let length = match words.next_if(|word| word.starts_with('v')) {
            None => 1,
            Some("v2") => 2,
            Some("v4") => 4,
            Some(_) => return Err(unknown(name, operands)),
        };
        let bytes: u8 = match words.next() {
            Some("b8" | "u8") => 1,
            Some("b16" | "u16") => 2,
            Some("b32" | "u32" | "f32") => 4,
            Some("b64" | "u64" | "f64") => 8,
            _ => return Err(unknown(name, operands)),
        };
        if words.next().is_some() || usize::from(bytes) * length > 16 {
            return Err(unknown(name, operands));
        }
        match operands {
            [to, address] if loads => {
                if space == Space::Parameter {
                    self.inside_parameter(address, usize::from(bytes) * length)?;
                }
                let (to, address) = (self.list(to, length)?, self.address(address)?);
                Ok(Instruction::Load { space, bytes, to, address })
            }
            [address, from] if !loads => {
                let (from, address) = (self.list(from, length)?, self.address(address)?);
                Ok(Instruction::Store { space, bytes, from, address })
            }
            _ => Err(unknown(name, operands)),
        }
    }

    /// `wgmma.mma_async` with any number of columns, A in shared memory or in registers.
    fn group_product(&mut self, name: &str, operands: &[Operand<'_>]) -> Result<(), String> {
        let columns = name
            .strip_prefix("m64n")
            .and_then(|rest| rest.strip_suffix("k16.f32.bf16.bf16"))
            .and_then(|columns| columns.parse().ok())
            .filter(|&columns: &u32| columns.is_multiple_of(8) && (8..=256).contains(&columns))
            .ok_or_else(|| unknown(name, operands))?;
        let [sums, a, b, accumulate, scales @ .., last] = operands else {
            return Err(unknown(name, operands));
        };
        // Scales of A and B, then for each that is in shared memory whether it lies across k.
        let (a, transposed_a, scales) = match (a, scales) {
            (Operand::List(_), scales) if scales.len() == 2 => (self.list(a, 4)?, 0, scales),
            (Operand::Plain(_), [scales @ .., across]) if scales.len() == 2 => {
                (self.list(a, 1)?, self.fixed(across, &[0, 1], "transposition")?, scales)
            }
            _ => return Err(unknown(name, operands)),
        };
        for scale in scales {
            self.fixed(scale, &[1], "a scale")?;
        }
        let product = GroupProduct {
            columns,
            sums: self.list(sums, columns as usize / 2)?,
            a,
            a_along_k: transposed_a == 0,
            b: self.plain(b)?,
            b_along_k: self.fixed(last, &[0, 1], "transposition")? == 0,
            accumulate: self.plain(accumulate)?,
        };
        self.push_product(product);
        Ok(())
    }

    /// Whatever has a name of its own.
    fn other(&mut self, name: &str, operands: &[Operand<'_>]) -> Result<Instruction, String> {
        Ok(match (name, operands) {
            ("ret" | "exit", []) => Instruction::Return,
            ("trap" | "brkpt", []) => Instruction::Trap,
            ("cvta.to.global.u64" | "cvta.global.u64", [to, from]) => self.sum(to, from, 0)?,
            ("cvta.param.u64", [to, from]) => self.sum(to, from, PARAMETER_WINDOW)?,
            ("cvta.shared.u64", [to, from]) => self.sum(to, from, SHARED_WINDOW)?,
            ("bar.sync", [barrier]) => {
                self.fixed(barrier, &[0], "a barrier")?;
                Instruction::Barrier
            }
            ("bar.warp.sync", [lanes]) => {
                let lanes = self.lanes(lanes)?;
                Instruction::WarpBarrier { lanes }
            }
            (
                "shfl.sync.bfly.b32" | "shfl.sync.down.b32" | "shfl.sync.up.b32" | "shfl.sync.idx.b32",
                [to, value, operand, clamp, lanes],
            ) => {
                let mode = match name {
                    "shfl.sync.bfly.b32" => ShuffleMode::Xor,
                    "shfl.sync.down.b32" => ShuffleMode::Down,
                    "shfl.sync.up.b32" => ShuffleMode::Up,
                    _ => ShuffleMode::Index,
                };
                let (to, inside) = self.pair(to)?;
                let (value, operand) = (self.plain(value)?, self.plain(operand)?);
                let (clamp, lanes) = (self.plain(clamp)?, self.lanes(lanes)?);
                Instruction::Shuffle { mode, to, inside, value, operand, clamp, lanes }
            }
            ("vote.sync.ballot.b32", [to, predicate, lanes]) => {
                let (to, predicate) = (self.target(to)?, self.plain(predicate)?);
                Instruction::Ballot { to, predicate, lanes: self.lanes(lanes)? }
            }
            ("elect.sync", [to, lanes]) => {
                let (to, elected) = self.pair(to)?;
                Instruction::Elect { to, elected, lanes: self.lanes(lanes)? }
            }
            ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", [d, a, b, c]) => {
                Instruction::Multiply { list: self.lists([(d, 4), (a, 4), (b, 2), (c, 4)])? }
            }
            (
                "ldmatrix.sync.aligned.m8n8.x4.b16"
                | "ldmatrix.sync.aligned.m8n8.x4.trans.b16"
                | "ldmatrix.sync.aligned.m8n8.x4.shared.b16"
                | "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16",
                [to, address],
            ) => {
                let (to, address) = (self.list(to, 4)?, self.address(address)?);
                let (transposed, generic) = (name.contains(".trans."), !name.contains(".shared."));
                Instruction::LoadMatrices { transposed, generic, to, address }
            }
            ("atom.shared.add.u32" | "atom.global.add.u32" | "atom.global.add.u64", [to, address, value]) => {
                Instruction::AtomicAdd {
                    space: if name.contains("shared") { Space::Shared } else { Space::Global },
                    bytes: if name.ends_with("64") { 8 } else { 4 },
                    to: self.target(to)?,
                    address: self.address(address)?,
                    value: self.plain(value)?,
                }
            }
            ("cp.async.cg.shared.global", [to, from, size, read @ ..]) if read.len() <= 1 => {
                self.fixed(size, &[16], "a size")?;
                // All of it, unless that is given.
                let read = self.plain(read.first().unwrap_or(size))?;
                let (to, from) = (self.address(to)?, self.address(from)?);
                Instruction::CopyAsync { to, from, read }
            }
            ("cp.async.commit_group", []) => Instruction::CommitCopies,
            ("cp.async.wait_group", [latest]) => Instruction::WaitCopies { latest: self.plain(latest)? },
            ("mbarrier.init.shared::cta.b64", [barrier, count]) => {
                Instruction::InitMbarrier { barrier: self.address(barrier)?, count: self.plain(count)? }
            }
            ("mbarrier.inval.shared::cta.b64", [barrier]) => {
                Instruction::InvalidateMbarrier { barrier: self.address(barrier)? }
            }
            ("mbarrier.arrive.shared::cta.b64", [Operand::Plain("_"), barrier]) => {
                Instruction::Arrive { barrier: self.address(barrier)?, bytes: self.constant(0) }
            }
            ("mbarrier.arrive.expect_tx.shared::cta.b64", [Operand::Plain("_"), barrier, bytes]) => {
                Instruction::Arrive { barrier: self.address(barrier)?, bytes: self.plain(bytes)? }
            }
            ("mbarrier.try_wait.parity.shared::cta.b64", [over, barrier, parity]) => {
                let (to, barrier, parity) = (self.target(over)?, self.address(barrier)?, self.plain(parity)?);
                Instruction::AwaitPhase { to, barrier, parity }
            }
            // The emulator does not tell them apart.
            ("fence.proxy.async.shared::cta" | "fence.mbarrier_init.release.cluster", []) => {
                Instruction::FenceAsync
            }
            (
                "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                | "cp.async.bulk.tensor.2d.shared::cta.global.mbarrier::complete_tx::bytes",
                [to, Operand::Tile(map, coordinates), barrier],
            ) if coordinates.len() == 2 => {
                let tile = self.list_of(&[&[*map], &coordinates[..]].concat())?;
                Instruction::CopyTile { to: self.address(to)?, tile, barrier: self.address(barrier)? }
            }
            // Here every thread has the registers it needs; that lanes meet is checked.
            ("setmaxnreg.inc.sync.aligned.u32" | "setmaxnreg.dec.sync.aligned.u32", [_]) => {
                Instruction::WarpBarrier { lanes: self.constant(u64::MAX) }
            }
            ("wgmma.fence.sync.aligned", []) => Instruction::GroupFence,
            ("wgmma.commit_group.sync.aligned", []) => Instruction::GroupCommit,
            ("wgmma.wait_group.sync.aligned", [latest]) => {
                Instruction::GroupWait { latest: self.plain(latest)? }
            }
            _ => return Err(unknown(name, operands)),
        })
    }

    /// A value and a constant added.
    fn sum(&mut self, to: &Operand<'_>, from: &Operand<'_>, constant: u64) -> Result<Instruction, String> {
        let from: [Slot; 4] = [self.plain(from)?, self.constant(constant), 0, 0];
        Ok(Instruction::Compute { function: |a, b, _, _| a.wrapping_add(b), to: self.target(to)?, from })
    }
}

fn unknown(name: &str, operands: &[Operand<'_>]) -> String {
    format!("the instruction `{name}` with {} operands is not known here", operands.len())
}
