//! Errors put into the PTX of kernels, as an `asm!`, the compiler or a file that was not rebuilt could make them:
//! each must be found.

use std::sync::Arc;

use crate::common::attention::Case;
use crate::common::{Buffer, random};
use cpift_kernels::dispatch::gemm_hopper::gemm_nt_hopper;
use cpift_kernels::emulator::Schedule;
use cpift_kernels::gemm::gemm_nt_bf16_64x64;
use cpift_kernels::launch::{Kernel, Launch, LaunchError, Request};
use cpift_kernels::rms_norm::rms_norm_short;
use cpift_kernels::simt::Bf16;
use cpift_kernels::{families, modules};
use cpift_stand_in::execute::{self, Runs};
use cpift_stand_in::{Entry, Module};
use source::emulator::Emulator;

/// Executes one kernel from its source and from PTX of ours, all others from their source.
#[derive(Debug)]
struct Mutated {
    emulator: Emulator,
    kernel: &'static str,
    entry: Arc<Entry>,
}

impl Launch for Mutated {
    unsafe fn launch(&self, request: &Request<'_>) -> Result<(), LaunchError> {
        let runs = if request.kernel.name == self.kernel { Runs::Both } else { Runs::Source };
        // SAFETY: the caller's promise; the entry has the kernel's parameters, whatever is wrong with its body.
        unsafe { execute::launch(runs, &self.emulator, request, &self.entry) }
    }

    fn multiprocessors(&self) -> u32 {
        self.emulator.multiprocessors()
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.emulator.compute_capability()
    }
}

/// A kernel's PTX by lines, without the other kernels of its module.
fn lines_of(name: &str) -> Vec<String> {
    let of_name = |kernels: &[Kernel]| kernels.iter().any(|kernel| kernel.name == name);
    let (family, _) = families().iter().find(|(_, kernels)| of_name(kernels)).expect("such a kernel");
    let text = [(8, 0), (9, 0)].into_iter().find_map(|device| modules::ptx(family, device)).expect("its PTX");
    let (head, _) = text.split_once(".visible .entry ").expect("a kernel");
    let entry = text.split(".visible .entry ").find(|entry| entry.starts_with(&format!("{name}(")));
    let text = format!("{head}.visible .entry {}", entry.expect("the kernel's"));
    text.lines().map(str::to_owned).collect()
}

/// What is found of a kernel, after a change of its lines, when `run` launches it.
fn found(
    name: &'static str,
    change: impl FnOnce(&mut Vec<String>),
    run: impl Fn(&dyn Launch) -> Result<(), LaunchError>,
) -> String {
    let mut lines = lines_of(name);
    change(&mut lines);
    let module = Module::parse(&lines.join("\n")).unwrap_or_else(|error| panic!("{name}: {error}"));
    let emulator = Emulator::new(Schedule::Forward).like((9, 0), 2);
    let mutated = Mutated { emulator, kernel: name, entry: module.entries[name].clone() };
    run(&mutated).map_or_else(|error| error.to_string(), |()| "nothing".to_owned())
}

/// A change of lines.
type Change = Box<dyn FnOnce(&mut Vec<String>)>;

/// Changes line `index` of those with `part`, or the one so many lines `below`.
fn edit(part: &'static str, index: usize, below: usize, change: impl Fn(&str) -> String + 'static) -> Change {
    Box::new(move |lines| {
        let place = (0..lines.len()).filter(|&place| lines[place].contains(part)).nth(index);
        let line = &mut lines[place.unwrap_or_else(|| panic!("line {index} with {part}")) + below];
        let changed = change(line);
        assert_ne!(*line, changed, "nothing changed");
        *line = changed;
    })
}

/// Takes line `index` of those with `part` out.
fn remove(part: &'static str, index: usize) -> Change {
    edit(part, index, 0, |_| String::new())
}

/// Writes `to` in the place of `from` in line `index` of those with it.
fn replace(from: &'static str, to: &'static str, index: usize) -> Change {
    edit(from, index, 0, move |line| line.replace(from, to))
}

/// Adds bytes to the first address in line `index` of those with `part`.
fn shift(part: &'static str, bytes: u32, index: usize) -> Change {
    edit(part, index, 0, move |line| {
        let (before, behind) = line.split_once(']').expect("an address");
        let offset = before.rsplit_once('+').and_then(|(_, offset)| offset.parse::<u32>().ok());
        let start = if offset.is_some() { before.rsplit_once('+').unwrap_or_default().0 } else { before };
        format!("{start}+{}]{behind}", offset.unwrap_or(0) + bytes)
    })
}

/// Exchanges the first two registers in braces in line `index` of those with `part`, or so many lines below.
fn swap(part: &'static str, index: usize, below: usize) -> Change {
    edit(part, index, below, |line| {
        let (before, list) = line.split_once('{').expect("a list");
        let (list, behind) = list.split_once('}').expect("its end");
        let mut registers: Vec<&str> = list.split(", ").collect();
        registers.swap(0, 1);
        format!("{before}{{{}}}{behind}", registers.join(", "))
    })
}

/// Puts `to` in the place of the last operand in line `index` of those with `part`.
fn last(part: &'static str, to: &'static str, index: usize) -> Change {
    edit(part, index, 0, move |line| format!("{}, {to};", line.rsplit_once(',').expect("operands").0))
}

/// Products on tensor cores, of several tiles with edges, with rows of whole vectors and without.
fn multiply(launcher: &dyn Launch) -> Result<(), LaunchError> {
    for [m, n, k] in [[67, 70, 296], [64, 72, 40]] {
        let (a, b, bias) = (random::<Bf16>(1, m * k), random::<Bf16>(2, n * k), random::<Bf16>(3, n));
        let mut out = Buffer::<Bf16>::poisoned(m * n);
        let [m, n, k] = [m, n, k].map(|size| size as u64);
        gemm_nt_bf16_64x64(launcher, a.read(), b.read(), bias.read(), out.write(), m, n, k, 1)?;
    }
    Ok(())
}

/// A product by Hopper's kernel, longer than its ring.
fn multiply_hopper(launcher: &dyn Launch) -> Result<(), LaunchError> {
    let (m, n, k) = (67, 72, 456);
    let (a, b) = (random::<Bf16>(1, m * k), random::<Bf16>(2, n * k));
    let mut out = Buffer::<Bf16>::poisoned(m * n);
    gemm_nt_hopper(launcher, 1, a.read(), b.read(), None, out.write(), [m, n, k].map(|size| size as u64))
}

/// Forward and backward of attention by Hopper's kernels: of heads that end within a tile of TMA, of more
/// queries and keys than a block holds, and of several tiles to a block.
fn attend(launcher: &dyn Launch) -> Result<(), LaunchError> {
    Case::<Bf16>::new((2, 1, 80), &[300, 20]).try_run(launcher).map(|_| ())
}

/// Normalised rows, several to a warp, the last warp with fewer.
fn normalise(launcher: &dyn Launch) -> Result<(), LaunchError> {
    let (rows, columns) = (37, 72);
    let (input, weight) = (random::<Bf16>(1, rows * columns), random::<Bf16>(2, columns));
    let (mut output, mut inverse) = (Buffer::<Bf16>::poisoned(rows * columns), Buffer::<f32>::poisoned(rows));
    let (input, weight, output, inverse) = (input.read(), weight.read(), output.write(), inverse.write());
    rms_norm_short(launcher, input, weight, output, inverse, rows as u64, columns as u32, 1e-5, 0.0)
}

/// Each change of a kernel must be found, in these words.
fn must_be_found(
    kernel: &'static str,
    run: fn(&dyn Launch) -> Result<(), LaunchError>,
    cases: Vec<(&str, Change, &str)>,
) {
    assert_eq!(found(kernel, |_| {}, run), "nothing", "as committed");
    for (what, change, expected) in cases {
        let found = found(kernel, change, run);
        assert!(found.contains(expected) && found.contains(kernel), "{what}: found was {found}");
    }
}

const OTHER_BITS: &str = "its PTX gives other bits than its source: ";

#[test]
fn errors_in_a_product_on_tensor_cores() {
    let mut cases = vec![
        ("rows of A exchanged", swap("mma.sync", 0, 2), OTHER_BITS),
        ("k of B exchanged", swap("mma.sync", 0, 3), OTHER_BITS),
        ("sums exchanged", swap("mma.sync", 0, 4), OTHER_BITS),
        ("results exchanged", swap("mma.sync", 0, 1), OTHER_BITS),
        ("matrices exchanged", swap("ldmatrix", 0, 0), OTHER_BITS),
        ("matrices not transposed", replace(".x4.b16", ".x4.trans.b16", 0), OTHER_BITS),
        ("matrices 16 bytes further", shift("ldmatrix", 16, 0), OTHER_BITS),
        ("matrices 4 bytes further", shift("ldmatrix", 4, 0), "which is not a multiple of 16"),
        ("a copy 16 bytes further", shift("cp.async.cg", 16, 0), "with no barrier in between"),
        ("a copy that is not waited for", replace("wait_group 4", "wait_group 5", 0), "is still copying to"),
        ("a group less", remove("cp.async.commit_group", 2), "is still copying to"),
        ("a vector 16 bytes further", shift("st.global.v4.b32", 16, 0), OTHER_BITS),
        ("a vector 4 bytes further", shift("st.global.v4.b32", 4, 0), "which is not aligned to them"),
        ("an element further", shift("st.global.b16", 2, 0), OTHER_BITS),
        ("another operand", replace("_param_0]", "_param_1]", 0), OTHER_BITS),
        ("another size", replace("_param_7]", "_param_6]", 0), OTHER_BITS),
        ("a size that is too large", replace("_param_5]", "_param_3]", 0), "outside of all buffers"),
        ("a store to an operand", replace("_param_3]", "_param_0]", 0), "which the kernel only reads"),
        ("a way to a panic", replace("@%p", "@!%p", 0), "a trap"),
    ];
    let barriers = lines_of("gemm_nt_bf16_64x64").iter().filter(|line| line.contains("bar.sync")).count();
    cases.extend((0..barriers).map(|index| ("a barrier less", remove("bar.sync", index), "shared memory")));
    must_be_found("gemm_nt_bf16_64x64", multiply, cases);
}

#[test]
fn errors_in_a_product_by_warpgroups() {
    let fences = |lines: &mut Vec<String>| lines.retain(|line| !line.trim().starts_with("fence."));
    // A wait asks in three places: at first, again with the time running, and after each look at the clock.
    let wait = |parity: &'static str, wait: usize| -> Change {
        Box::new(move |lines| {
            for question in 3 * wait..3 * wait + 3 {
                last("mbarrier.try_wait", parity, question)(lines);
            }
        })
    };
    let cases: Vec<(&str, Change, &str)> = vec![
        ("a free stage is waited for in the wrong phase", wait("0", 0), "deadlock"),
        ("a full stage is waited for in the wrong phase", wait("1", 1), "is still copying to"),
        ("coordinates exchanged", swap("cp.async.bulk.tensor", 0, 0), OTHER_BITS),
        ("a tile 1024 bytes further", shift("cp.async.bulk.tensor", 1024, 0), "is still copying to"),
        (
            "a tile by an address that is no map's",
            replace("_param_0; cvta", "_param_2; cvta", 0),
            "where none is",
        ),
        ("fewer bytes announced", replace(", 32768;", ", 16384;", 0), "is still copying to"),
        ("more bytes announced", replace(", 32768;", ", 32784;", 0), "deadlock"),
        ("fewer threads awaited", last("mbarrier.init", "4", 1), "is still copying to"),
        ("a stage that is not released", remove("mbarrier.arrive.shared", 0), "deadlock"),
        ("the barrier behind the first left out", remove("bar.sync", 0), "initialised with no barrier"),
        ("fences left out", Box::new(fences), "initialised without fence_mbarrier_init"),
        ("registers that are not fenced", remove("wgmma.fence", 0), "no wgmma.fence before"),
        (
            "products that are not waited for",
            replace("wait_group.sync.aligned 0", "wait_group.sync.aligned 1", 0),
            "is still copying to",
        ),
        ("products of no group", remove("wgmma.commit_group", 0), "not waited for before the end"),
        ("sums that begin anew", replace("1, 1, 1, 0, 0;", "0, 1, 1, 0, 0;", 1), OTHER_BITS),
        ("A read across k", replace("1, 1, 1, 0, 0;", "1, 1, 1, 1, 0;", 1), OTHER_BITS),
        ("sums exchanged", swap("m64n128k16", 0, 0), "some registers of another's"),
        (
            "chunks not swizzled",
            replace("4611686293305360384", "13835058330160136192", 0),
            "its swizzle is not of 128 bytes",
        ),
    ];
    must_be_found("gemm_nt_hopper_128x128", multiply_hopper, cases);
}

#[test]
fn errors_in_attention_by_groups() {
    let cases: Vec<(&str, Change, &str)> = vec![
        (
            "queries not moved to their next tile",
            replace("add.s64 a, a, 506", "add.s64 a, a, 2", 0),
            "is no multiple of 1024",
        ),
        ("keys moved by a smaller tile", replace("add.s64 b, b, 1018", "add.s64 b, b, 506", 1), OTHER_BITS),
        ("values not moved", replace("add.s64 b, b, 128", "add.s64 b, b, 64", 3), OTHER_BITS),
        ("scores that are added to", replace("a, b, 0, 1, 1, 0, 0;", "a, b, 1, 1, 1, 0, 0;", 1), OTHER_BITS),
        ("values read along k", replace("b, 1, 1, 1, 1;", "b, 1, 1, 1, 0;", 0), OTHER_BITS),
        ("sums exchanged", swap("m64n64k16", 0, 0), "some registers of another's"),
        ("a turn that is not passed on", remove("@tells mbarrier.arrive", 1), "deadlock"),
        ("registers that are not fenced", remove("wgmma.fence", 1), "accessed with no wgmma.fence behind"),
    ];
    must_be_found("attention_forward_80_hopper", attend, cases);
    let cases: Vec<(&str, Change, &str)> = vec![
        ("the second values not named", replace("mov.b64 b, ", "mov.b64 a, ", 3), "which was never written"),
        ("gradients exchanged", swap("m64n16k16", 5, 0), "some registers of another's"),
        ("a turn that is not passed on", remove("@tells mbarrier.arrive", 0), "deadlock"),
    ];
    must_be_found("attention_backward_keys_80_hopper", attend, cases);
}

#[test]
fn errors_in_arithmetic() {
    let cases = vec![
        ("the root left out", replace("sqrt.rn.f32", "mov.b32", 0), OTHER_BITS),
        ("another lane", replace("shfl.sync.bfly.b32", "shfl.sync.idx.b32", 1), OTHER_BITS),
        ("halves exchanged", swap("mov.b32 \t{", 0, 0), OTHER_BITS),
        ("numbers taken for integers", replace("fma.rn.f32", "mad.lo.s32", 0), OTHER_BITS),
        ("a condition the other way round", replace("@%p", "@!%p", 1), "outside of all buffers"),
    ];
    must_be_found("rms_norm_short_bf16", normalise, cases);
}
