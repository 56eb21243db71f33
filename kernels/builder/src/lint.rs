//! What a kernel's PTX must be and must not have, and what is counted in it.

use std::collections::BTreeMap;

use cpift_kernels::launch::{Direction, Kernel, TensorCores};
use cpift_ptx::text::{Item, Statement};

/// How often each kind of instruction stands in a kernel: memory accesses by state space and bits moved
/// (`ld.global.128`), barriers, exchanges, tensor instructions, slow arithmetic.
pub type Counts = BTreeMap<String, u32>;

/// Name under which barriers of the block are counted.
pub const BARRIERS: &str = "barrier";

/// Counts the instructions of a kernel.
pub fn count(entry: &Item) -> Counts {
    let mut counts = Counts::new();
    // Those that cannot be read are a finding of `check`.
    for statement in entry.statements().unwrap_or_default() {
        if let Some(name) = category(statement.opcode) {
            *counts.entry(name).or_default() += 1;
        }
    }
    counts
}

/// All that is wrong with a kernel, one line each.
pub fn check(kernel: &Kernel, entry: &Item) -> Vec<String> {
    let statements = match entry.statements() {
        Ok(statements) => statements,
        Err(error) => return vec![format!("kernel {}: {error}", kernel.name)],
    };
    let mut findings: Vec<String> = statements
        .into_iter()
        .filter_map(|statement| Some((statement, forbidden(statement)?)))
        .map(|(Statement { line, text, .. }, why)| {
            format!("kernel {}, line {line}: {why}: {text}", kernel.name)
        })
        .collect();
    findings.extend(check_parameters(kernel, entry));
    let counts = count(entry);
    findings.extend(check_vectors(kernel, &counts));
    findings.extend(check_tensor(kernel, &counts));
    findings
}

/// A kernel whose contract says so has tensor instructions.
fn check_tensor(kernel: &Kernel, counts: &Counts) -> Option<String> {
    let missing = kernel.tensor_cores != TensorCores::Unused
        && !counts.contains_key("mma")
        && !counts.contains_key("wgmma");
    missing.then(|| {
        format!("kernel {}: there are no tensor instructions, which its contract promises", kernel.name)
    })
}

/// Why a statement may not stand in a kernel.
fn forbidden(statement: Statement<'_>) -> Option<&'static str> {
    let Statement { opcode, text, .. } = statement;
    let mut parts = opcode.split('.');
    let instruction = parts.next().unwrap_or_default();
    let memory = matches!(instruction, "ld" | "ldu" | "st" | "atom" | "red");
    let mut words = text.split(|character: char| character.is_whitespace());
    if text.contains("__local_depot") || words.any(|word| word == ".local") || opcode.contains(".local") {
        Some("local memory (an array indexed at run time, or an address taken)")
    } else if instruction == "call" {
        Some("a call (a function that was not inlined)")
    } else if memory && state_space(opcode).is_none() {
        Some("a generic access (the compiler lost the address space of a pointer)")
    } else {
        None
    }
}

/// Whether the entry takes what the registry says.
fn check_parameters(kernel: &Kernel, entry: &Item) -> Option<String> {
    let expected: Vec<&str> = kernel
        .parameters
        .iter()
        .map(|parameter| match parameter.direction {
            Direction::Scalar => parameter.element,
            // A tensor map, by value.
            Direction::TensorMap => "b8",
            Direction::Read | Direction::Write | Direction::Update => "u64",
        })
        .collect();
    let found = entry.parameters();
    (expected != found).then(|| {
        format!(
            "kernel {}: its parameters are {expected:?} by the registry, {found:?} in the PTX",
            kernel.name
        )
    })
}

/// A parameter that must be aligned to 16 bytes is there to be moved by 16 bytes.
fn check_vectors(kernel: &Kernel, counts: &Counts) -> Vec<String> {
    let wide = |direction: &[Direction]| {
        let wide = |parameter: &&cpift_kernels::launch::Parameter| {
            parameter.align >= 16 && direction.contains(&parameter.direction)
        };
        kernel.parameters.iter().find(wide)
    };
    let checks = [
        ("ld.global.128", wide(&[Direction::Read])),
        ("st.global.128", wide(&[Direction::Write, Direction::Update])),
    ];
    let asynchronous = counts.contains_key("cp.async");
    checks
        .into_iter()
        .filter_map(|(access, parameter)| Some((access, parameter?)))
        .filter(|(access, _)| !counts.contains_key(*access) && !asynchronous)
        .map(|(access, parameter)| {
            let (name, parameter) = (kernel.name, parameter.name);
            format!("kernel {name}: {parameter} is aligned for 16-byte accesses, but there is no {access}")
        })
        .collect()
}

/// Under what an instruction is counted.
fn category(opcode: &str) -> Option<String> {
    let instruction = opcode.split('.').next().unwrap_or_default();
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| opcode.starts_with(prefix));
    match instruction {
        "ld" | "ldu" | "st" => match state_space(opcode)? {
            "param" => None,
            space => Some(format!("{instruction}.{space}.{}", bits(opcode)?)),
        },
        "atom" | "red" => Some(format!("{instruction}.{}", state_space(opcode).unwrap_or("generic"))),
        "bar" | "barrier" if !starts(&["bar.warp", "barrier.cluster"]) => Some(BARRIERS.to_owned()),
        "bar" => Some("bar.warp".to_owned()),
        "shfl" | "vote" | "redux" | "ldmatrix" | "mma" => Some(instruction.to_owned()),
        "wgmma" if starts(&["wgmma.mma_async"]) => Some("wgmma".to_owned()),
        "cp" if starts(&["cp.async.bulk"]) => Some("cp.async.bulk".to_owned()),
        "cp" if starts(&["cp.async.ca", "cp.async.cg"]) => Some("cp.async".to_owned()),
        "div" | "sqrt" | "rcp" if starts(&["div.rn", "sqrt.rn", "rcp.rn"]) => {
            Some(format!("{instruction}.rn"))
        }
        _ if opcode.split('.').any(|part| part == "f64") => Some("f64".to_owned()),
        _ => None,
    }
}

/// The state space of a memory access; none when it is generic.
fn state_space(opcode: &str) -> Option<&str> {
    const SPACES: [&str; 5] = ["global", "shared", "param", "const", "local"];
    let mut parts = opcode.split('.').map(|part| part.split("::").next().unwrap_or_default());
    parts.find(|part| SPACES.contains(part))
}

/// Bits that one thread moves by a load or store.
fn bits(opcode: &str) -> Option<u32> {
    let mut lanes = 1;
    let mut width = None;
    for part in opcode.split('.') {
        match part {
            "v2" => lanes = 2,
            "v4" => lanes = 4,
            "v8" => lanes = 8,
            _ => {
                let digits = part.strip_prefix(['b', 'u', 's', 'f']);
                width = digits.and_then(|digits| digits.parse::<u32>().ok()).or(width);
            }
        }
    }
    Some(lanes * width?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_kernel::KERNEL;
    use crate::samples::SAMPLE;
    use cpift_ptx::text::Assembly;

    /// Findings for the sample with one instruction put before its barrier.
    fn findings_with(instruction: &str) -> Vec<String> {
        findings_in(&SAMPLE.replace("\tbar.sync", &format!("\t{instruction}\n\tbar.sync")))
    }

    fn findings_in(text: &str) -> Vec<String> {
        check(&KERNEL, Assembly::parse(text).unwrap().items.last().unwrap())
    }

    #[test]
    fn the_sample_is_clean_and_counted() {
        assert_eq!(findings_with("add.f32 %r1, %r2, %r3;"), [""; 0]);
        let counts = count(Assembly::parse(SAMPLE).unwrap().items.last().unwrap());
        let expected = [("barrier", 1), ("ld.global.128", 1), ("ld.shared.32", 1), ("st.global.128", 1)];
        assert_eq!(counts.iter().map(|(name, count)| (name.as_str(), *count)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn each_forbidden_statement_is_found_with_kernel_line_and_text() {
        for (statement, why) in [
            (".local .align 16 .b8 __local_depot0[64];", "local memory"),
            ("st.local.v2.b32 [%rd2], {%r1, %r2};", "local memory"),
            ("mov.b64 %SPL, __local_depot0;", "local memory"),
            ("call.uni (retval0), helper, (param0);", "a call"),
            ("ld.f32 %r1, [%rd1];", "a generic access"),
            ("@%p1 st.v4.b32 [%rd1], {%r1, %r2, %r3, %r4};", "a generic access"),
            ("atom.add.u32 %r1, [%rd1], 1;", "a generic access"),
            ("red.relaxed.gpu.add.u64 [%rd1], %rd2;", "a generic access"),
        ] {
            let findings = findings_with(statement);
            assert_eq!(findings.len(), 1, "{statement}: {findings:?}");
            let line = SAMPLE.lines().position(|line| line.contains("bar.sync")).unwrap() + 1;
            assert!(findings[0].starts_with(&format!("kernel scale, line {line}: {why}")), "{findings:?}");
            let text = statement.trim_start_matches("@%p1 ").trim_end_matches(';');
            assert!(findings[0].ends_with(text), "{findings:?}");
        }
    }

    #[test]
    fn accesses_with_a_state_space_pass() {
        for statement in [
            "ld.relaxed.gpu.global.b32 %r1, [%rd1];",
            "ld.shared::cta.b32 %r1, [%r2];",
            "ld.global.nc.v2.b64 {%rd1, %rd2}, [%rd3];",
            "red.global.add.u32 [%rd1], 1;",
            "mov.b32 %r1, local_name;",
        ] {
            assert_eq!(findings_with(statement), [""; 0], "{statement}");
        }
    }

    #[test]
    fn aligned_parameters_demand_vector_accesses() {
        let scalar =
            SAMPLE.replace("st.global.v4.b32 \t[%rd1], {%r1, %r2, %r3, %r4}", "st.global.b32 \t[%rd1], %r1");
        let findings = findings_in(&scalar);
        assert!(findings.len() == 1 && findings[0].contains("no st.global.128"), "{findings:?}");
    }

    #[test]
    fn parameters_are_compared_with_the_registry() {
        let findings = findings_in(&SAMPLE.replace(".param .f32", ".param .u32"));
        assert!(
            findings.len() == 1 && findings[0].contains(r#"["u64", "u64", "u32"] in the PTX"#),
            "{findings:?}"
        );
    }

    #[test]
    fn instructions_are_counted_under_their_category() {
        for (opcode, expected) in [
            ("ld.global.nc.v2.b64", Some("ld.global.128")),
            ("st.shared.b16", Some("st.shared.16")),
            ("ld.param.b64", None),
            ("bar.warp.sync", Some("bar.warp")),
            ("barrier.cta.sync.aligned.all", Some("barrier")),
            ("bar.sync", Some("barrier")),
            ("atom.shared.add.u32", Some("atom.shared")),
            ("div.rn.f32", Some("div.rn")),
            ("div.s32", None),
            ("fma.rn.f64", Some("f64")),
            ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", Some("mma")),
            ("cp.async.cg.shared.global", Some("cp.async")),
            ("cp.async.commit_group", None),
        ] {
            assert_eq!(category(opcode).as_deref(), expected, "{opcode}");
        }
    }

    #[test]
    fn tensor_instructions_that_the_contract_promises_must_be_there() {
        let kernel = Kernel { tensor_cores: TensorCores::Used, ..KERNEL };
        let findings = |text: &str| check(&kernel, Assembly::parse(text).unwrap().items.last().unwrap());
        let missing = "kernel scale: there are no tensor instructions, which its contract promises";
        assert_eq!(findings(SAMPLE), [missing]);
        let product =
            "\tmma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r1}, {%r2}, {%r3}, {%r1};\n\tbar.sync";
        assert_eq!(findings(&SAMPLE.replace("\tbar.sync", product)), [""; 0]);
    }
}
