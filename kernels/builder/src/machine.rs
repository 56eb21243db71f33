//! Machine code as `cuobjdump -sass` prints it: what became of the PTX.

use std::collections::{BTreeMap, BTreeSet};

use crate::lint::Counts;

/// An instruction of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Where it lies in the kernel.
    address: u32,
    /// With its modifiers, as `LDG.E.128`.
    opcode: String,
    /// What stands behind.
    operands: String,
}

/// What PTX instructions become. A kernel that has one must have the other.
const BECOMES: &[(&str, &str)] = &[
    ("ld.global.128", "LDG.128"),
    ("st.global.128", "STG.128"),
    ("mma", "HMMA"),
    ("wgmma", "HGMMA"),
    ("ldmatrix", "LDSM"),
    ("cp.async", "LDGSTS"),
    ("cp.async.bulk", "UTMALDG"),
];

/// The kernels' instructions in what `cuobjdump -sass` prints.
pub fn parse(code: &str) -> BTreeMap<String, Vec<Instruction>> {
    let mut kernels = BTreeMap::<String, Vec<Instruction>>::new();
    let mut current = String::new();
    for line in code.lines() {
        if let Some((_, name)) = line.split_once("Function : ") {
            current = name.trim().to_owned();
            kernels.entry(current.clone()).or_default();
        } else if let (Some(instruction), Some(code)) = (Instruction::parse(line), kernels.get_mut(&current))
        {
            code.push(instruction);
        }
    }
    kernels
}

impl Instruction {
    /// Reads `/*0090*/   @P0 LDG.E.128.CONSTANT R4, … ;`; none in other lines.
    fn parse(line: &str) -> Option<Self> {
        let (address, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
        let address = u32::from_str_radix(address, 16).ok()?;
        let text = rest.split_once(';')?.0.trim();
        let text = match text.strip_prefix('@') {
            Some(guarded) => guarded.split_once(char::is_whitespace)?.1.trim_start(),
            None => text,
        };
        let (opcode, operands) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        Some(Self { address, opcode: opcode.to_owned(), operands: operands.to_owned() })
    }

    /// Without modifiers.
    fn name(&self) -> &str {
        self.opcode.split('.').next().unwrap_or_default()
    }

    /// Under what it is counted.
    fn category(&self) -> Option<String> {
        let name = self.name();
        match name {
            "LDG" | "STG" | "LDS" | "STS" if self.opcode.split('.').any(|part| part == "128") => {
                Some(format!("{name}.128"))
            }
            "HMMA" | "HGMMA" | "LDSM" | "LDGSTS" | "UTMALDG" => Some(name.to_owned()),
            _ => None,
        }
    }

    /// Numbers of the registers that its operands name.
    fn registers(&self) -> impl Iterator<Item = u32> {
        let words = self.operands.split(|character: char| !character.is_ascii_alphanumeric());
        words.filter_map(|word| word.strip_prefix('R')?.parse().ok())
    }

    /// The registers that a product of tiles adds to: four, or what the tile's width takes.
    fn sums(&self) -> Option<std::ops::Range<u32>> {
        let first = self.registers().next()?;
        match self.name() {
            "HMMA" => Some(first..first + 4),
            // HGMMA.64x256x16.F32.BF16: 64 rows of the width, over 128 threads.
            "HGMMA" => {
                let width: u32 = self.opcode.split('.').nth(1)?.split('x').nth(1)?.parse().ok()?;
                Some(first..first + width / 2)
            }
            _ => None,
        }
    }

    /// Where it jumps back to.
    fn jumps_back(&self) -> Option<u32> {
        let target = self.operands.split_whitespace().find_map(|word| word.strip_prefix("0x"))?;
        let target = u32::from_str_radix(target, 16).ok()?;
        (self.name() == "BRA" && target < self.address).then_some(target)
    }
}

/// How often each kind of instruction stands in a kernel.
pub fn count(code: &[Instruction]) -> Counts {
    let mut counts = Counts::new();
    for category in code.iter().filter_map(Instruction::category) {
        *counts.entry(category).or_default() += 1;
    }
    counts
}

/// Kinds of instructions that the PTX has and the machine code lacks.
pub fn lost(ptx: &Counts, machine: &Counts) -> Vec<String> {
    let lost =
        BECOMES.iter().filter(|(before, after)| ptx.contains_key(*before) && !machine.contains_key(*after));
    lost.map(|(before, after)| format!("has no {after} for its {before}")).collect()
}

/// Breakpoints that do not end a launch as a trap does: `brkpt` stands for `trap` because it becomes the same instruction.
pub fn other_breakpoints(code: &[Instruction]) -> Vec<String> {
    let others = code.iter().filter(|instruction| {
        instruction.name() == "BPT"
            && (instruction.opcode.as_str(), instruction.operands.trim()) != ("BPT.TRAP", "0x1")
    });
    others
        .map(|Instruction { opcode, operands, .. }| {
            format!("has {opcode} {operands} in place of BPT.TRAP 0x1")
        })
        .collect()
}

/// What else happens, in the innermost loop with products of tiles, to the registers they add to.
pub fn sums_that_move(code: &[Instruction]) -> Vec<String> {
    let loops = code.iter().filter_map(|last| {
        let first = last.jumps_back()?;
        let body = code.iter().filter(move |one| (first..=last.address).contains(&one.address));
        let body: Vec<&Instruction> = body.collect();
        body.iter().any(|instruction| instruction.sums().is_some()).then_some(body)
    });
    let Some(body) = loops.min_by_key(Vec::len) else {
        return vec!["has no loop with products of tiles".to_owned()];
    };
    let sums: BTreeSet<u32> = body.iter().filter_map(|instruction| instruction.sums()).flatten().collect();
    let moves = body.iter().filter(|instruction| {
        instruction.sums().is_none() && instruction.registers().any(|register| sums.contains(&register))
    });
    moves
        .map(|Instruction { opcode, operands, .. }| {
            format!("touches its sums in the main loop: {opcode} {operands}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "\
\t\tFunction : scale
\t.headerflags\t@\"EF_CUDA_SM80\"
        /*0000*/                   MOV R1, c[0x0][0x28] ;                          /* 0x00000a0000017a02 */
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, [R2.64] ;                /* 0x0000000402047981 */
        /*0020*/                   LDG.E R8, [R2.64] ;                             /* 0x0000000402047981 */
        /*0030*/                   STG.E.128 [R2.64], R4 ;                         /* 0x0000000402047981 */
\t\tFunction : sum
        /*0000*/                   HMMA.16816.F32.BF16 R4, R4, R6, R8 ;            /* 0x0000000402047981 */
";

    /// A loop of a product and, where it says MOVE, something else; another around it.
    const LOOP: &str = "\
\t\tFunction : product
        /*0000*/                   MOV R8, RZ ;                                    /* 0x0 */
        /*0010*/                   HMMA.16816.F32.BF16 R8, R20.reuse, R24, R8 ;    /* 0x0 */
        /*0020*/                   MOVE ;                                          /* 0x0 */
        /*0030*/               @P0 BRA 0x10 ;                                      /* 0x0 */
        /*0040*/                   STG.E [R2.64], R8 ;                             /* 0x0 */
        /*0050*/               @P1 BRA 0x0 ;                                       /* 0x0 */
        /*0060*/                   EXIT ;                                          /* 0x0 */
";

    fn counts(list: &[(&str, u32)]) -> Counts {
        list.iter().map(|&(name, n)| (name.to_owned(), n)).collect()
    }

    #[test]
    fn wide_accesses_and_tensor_products_are_counted() {
        let found = parse(CODE);
        assert_eq!(count(&found["scale"]), counts(&[("LDG.128", 1), ("STG.128", 1)]));
        assert_eq!(count(&found["sum"]), counts(&[("HMMA", 1)]));
    }

    #[test]
    fn breakpoints_are_traps() {
        let found = |breakpoint| other_breakpoints(&parse(&LOOP.replace("MOVE", breakpoint))["product"]);
        assert_eq!(found("BPT.TRAP 0x1"), [""; 0]);
        assert_eq!(found("BPT.INT 0x1"), ["has BPT.INT 0x1 in place of BPT.TRAP 0x1"]);
    }

    #[test]
    fn what_the_assembler_split_or_left_out_is_found() {
        let ptx = counts(&[("ld.global.128", 1), ("st.global.128", 1), ("mma", 4), ("barrier", 2)]);
        let findings = lost(&ptx, &counts(&[("LDG.128", 1)]));
        assert_eq!(findings, ["has no STG.128 for its st.global.128", "has no HMMA for its mma"]);
    }

    #[test]
    fn sums_that_leave_their_registers_in_the_main_loop_are_found() {
        let found = |instead: &str| sums_that_move(&parse(&LOOP.replace("MOVE", instead))["product"]);
        assert_eq!(found("LDSM.16.M88.4 R20, [R30+UR4]"), [""; 0]);
        assert_eq!(found("MOV R40, R11"), ["touches its sums in the main loop: MOV R40, R11"]);
        assert_eq!(found("STL [R1+0x10], R8").len(), 1);
        assert_eq!(sums_that_move(&parse(CODE)["scale"]), ["has no loop with products of tiles"]);
    }

    #[test]
    fn a_wide_product_adds_to_many_registers() {
        let line = "/*0010*/ HGMMA.64x256x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ; /* 0x0 */";
        assert_eq!(Instruction::parse(line).unwrap().sums(), Some(24..152));
    }
}
