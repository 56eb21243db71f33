//! Products by warpgroups in other forms than the kernels have: any number of columns, A in registers, several
//! groups under way, sums that begin anew.

use crate::text::execute;
use cpift_kernels::simt::{Bf16, Real};

/// Columns of the sums.
const COLUMNS: usize = 96;
/// Levels of k of an instruction.
const K: usize = 16;

/// Number `index` of a sequence, a bf16 between -1 and 1.
fn element(index: usize) -> f32 {
    let bits = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    Bf16::from_f32(bits as f32 / (1 << 23) as f32 - 1.0).to_f32()
}

fn a(row: usize, k: usize) -> f32 {
    element(row * K + k)
}

fn b(column: usize, k: usize) -> f32 {
    element(5_000 + column * K + k)
}

fn pair(low: f32, high: f32) -> u32 {
    u32::from(Bf16::from_f32(low).0) | u32::from(Bf16::from_f32(high).0) << 16
}

/// What shared memory holds: columns of B in rows of 128 bytes, of which an instruction takes 32, swizzled.
fn tile() -> Vec<u32> {
    let mut words = vec![0; COLUMNS * 32];
    for column in 0..COLUMNS {
        for k in (0..K).step_by(2) {
            let byte = column * 128 + 2 * k;
            let byte = byte ^ (byte >> 7 & 7) << 4;
            words[byte / 4] = pair(b(column, k), b(column, k + 1));
        }
    }
    words
}

/// Every thread's four registers of A.
fn registers() -> Vec<u32> {
    let mut words = Vec::new();
    for thread in 0..128 {
        let (warp, group, first) = (thread / 32, thread % 32 / 4, thread % 4 * 2);
        for (row, k) in [(0, 0), (8, 0), (0, 8), (8, 8)] {
            let (row, k) = (16 * warp + group + row, first + k);
            words.push(pair(a(row, k), a(row, k + 1)));
        }
    }
    words
}

/// Puts B in shared memory and A in %r4 to %r7; then `products`, whose sums are %r20 to %r67, which begin at 2. B is
/// described by %rd4.
fn multiply(products: &str) -> Result<Vec<f32>, String> {
    let sums = COLUMNS / 2;
    let mut body = "mul.wide.u32 %rd3, %r1, 16; add.s64 %rd3, %rd3, %rd1; \
                    ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd3]; shl.b32 %r3, %r1, 4; add.s32 %r3, %r3, %r2;\n"
        .to_owned();
    for step in 0..COLUMNS * 128 / (128 * 16) {
        let byte = 2048 * step;
        body += &format!(
            "ld.global.v4.b32 {{%r8, %r9, %r10, %r11}}, [%rd3+{}]; \
             st.shared.v4.b32 [%r3+{byte}], {{%r8, %r9, %r10, %r11}};\n",
            2048 + byte
        );
    }
    for register in 20..20 + sums {
        body += &format!("mov.b32 %r{register}, 0f40000000;\n");
    }
    let list = (20..20 + sums).map(|register| format!("%r{register}")).collect::<Vec<_>>().join(", ");
    body += "bfe.u32 %r8, %r2, 4, 14; cvt.u64.u32 %rd4, %r8; or.b64 %rd4, %rd4, 4611686293305360384;\n\
             fence.proxy.async.shared::cta; bar.sync 0;\n";
    body += &products.replace("SUMS", &format!("{{{list}}}"));
    body += &format!("mul.wide.u32 %rd3, %r1, {}; add.s64 %rd3, %rd3, %rd2;\n", 4 * sums);
    for (place, register) in (20..20 + sums).enumerate() {
        body += &format!("st.global.b32 [%rd3+{}], %r{register};\n", 4 * place);
    }
    let input = [registers(), tile()].concat();
    let output = execute(&body, &input)?;
    let mut matrix = vec![0.0; 64 * COLUMNS];
    for thread in 0..128 {
        let (warp, group, first) = (thread / 32, thread % 32 / 4, thread % 4 * 2);
        for place in 0..sums {
            let row = 16 * warp + group + 8 * (place / 2 % 2);
            let column = 8 * (place / 4) + first + place % 2;
            matrix[row * COLUMNS + column] = f32::from_bits(output[thread * sums + place]);
        }
    }
    Ok(matrix)
}

/// The product added `times` times to `start`.
fn expected(start: f32, times: usize) -> Vec<f32> {
    let mut matrix = Vec::new();
    for row in 0..64 {
        for column in 0..COLUMNS {
            let terms = (0..times * K).map(|k| (a(row, k % K), b(column, k % K)));
            matrix.push(terms.fold(start, |sum, (a, b)| a.mul_add(b, sum)));
        }
    }
    matrix
}

const BY_REGISTERS: &str =
    "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 SUMS, {%r4, %r5, %r6, %r7}, %rd4, p, 1, 1, 0;\n";

#[test]
fn a_in_registers() {
    let one = |predicate: &str, wait: &str| {
        let product = BY_REGISTERS.replace(" p,", &format!(" {predicate},"));
        multiply(&format!("wgmma.fence.sync.aligned;\n{product}wgmma.commit_group.sync.aligned;\n{wait}"))
    };
    let wait = "wgmma.wait_group.sync.aligned 0;\n";
    assert!(one("1", wait).unwrap() == expected(2.0, 1));
    assert!(one("0", wait).unwrap() == expected(0.0, 1));
    let changed = one("1", &format!("add.s32 %r5, %r5, 1;\n{wait}")).unwrap_err();
    assert!(changed.contains("registers of A were changed before the product was waited for"), "{changed}");
    let early = one("1", &format!("add.rn.f32 %r20, %r20, 0f00000000;\n{wait}")).unwrap();
    assert!(early == expected(2.0, 1), "what is written too early is overwritten");
    let unawaited = one("1", "").unwrap_err();
    assert!(unawaited.contains("were not waited for before the end"), "{unawaited}");
}

/// Two products on the same sums in groups of their own, a predicate in a register, an arrival in between.
#[test]
fn several_groups_under_way() {
    let products = "{ .reg .pred p; .reg .b32 bar; setp.eq.b32 p, %r1, %r1; add.s32 bar, %r2, 32768;\n\
        setp.eq.b32 %p2, %r1, 0; @%p2 mbarrier.init.shared::cta.b64 [bar], 1; bar.sync 0;\n\
        wgmma.fence.sync.aligned;\n"
        .to_owned()
        + BY_REGISTERS
        + "wgmma.commit_group.sync.aligned;\n"
        + BY_REGISTERS
        + "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 1;\n\
           @%p2 mbarrier.arrive.shared::cta.b64 _, [bar];\n\
           { .reg .pred over; mbarrier.try_wait.parity.shared::cta.b64 over, [bar], 0; }\n\
           wgmma.wait_group.sync.aligned 0; }\n";
    assert!(multiply(&products).unwrap() == expected(2.0, 2));
}

const FENCE: &str = "wgmma.fence.sync.aligned;\n";
const COMMIT: &str = "wgmma.commit_group.sync.aligned;\n";
const AWAIT: &str = "wgmma.wait_group.sync.aligned 0;\n";

/// Sums of one shape are in order by themselves; whatever else comes in between wants a fence.
#[test]
fn registers_want_a_fence_where_something_comes_in_between() {
    let by_registers = BY_REGISTERS.replace(" p,", " 1,");
    let one = format!("{by_registers}{COMMIT}{AWAIT}");
    assert!(multiply(&format!("{FENCE}{one}{one}")).unwrap() == expected(2.0, 2), "nothing in between");
    assert!(multiply(&format!("{FENCE}{one}{FENCE}{one}")).unwrap() == expected(2.0, 2));
    let narrow = by_registers
        .replace("n96", "n16")
        .replace("SUMS", "{%r20, %r21, %r22, %r23, %r24, %r25, %r26, %r27}");
    let accessed = "accessed with no wgmma.fence behind";
    for (between, what) in [
        ("mov.b32 %r8, %r20;\n", accessed),
        ("add.rn.f32 %r67, %r67, 0f00000000;\n", accessed),
        ("mov.b32 %r4, %r4;\n", accessed),
        ("setp.lt.s32 %p2, %r1, 64; @%p2 bra $L_1; mov.b32 %r8, %r30; $L_1:\n", accessed),
        (&format!("{narrow}{COMMIT}{AWAIT}"), "some registers of another's"),
    ] {
        let found = multiply(&format!("{FENCE}{one}{between}{one}")).unwrap_err();
        assert!(found.contains(what), "{between}: {found}");
        assert!(
            multiply(&format!("{FENCE}{one}{FENCE}{between}{FENCE}{one}")).is_ok(),
            "{between} with a fence"
        );
    }
    // The same in a loop: what comes behind in the text comes before.
    let again = format!(
        "mov.b32 %r8, 0;\n{FENCE}$L_2: {one} BETWEEN add.s32 %r8, %r8, 1; setp.lt.s32 %p2, %r8, 2; @%p2 bra $L_2;\n"
    );
    assert!(multiply(&again.replace("BETWEEN", "")).unwrap() == expected(2.0, 2));
    let found = multiply(&again.replace("BETWEEN", "mov.b32 %r9, %r20;")).unwrap_err();
    assert!(found.contains(accessed), "{found}");
}

/// The swizzle repeats after 1024 bytes: descriptions with a base offset of zero must begin there.
#[test]
fn operands_begin_where_the_swizzle_does() {
    let by_registers = BY_REGISTERS.replace(" p,", " 1,");
    let at = |change: &str| multiply(&format!("{change}\n{FENCE}{by_registers}{COMMIT}{AWAIT}"));
    // In 16 bytes: the next step along k, of zeros, and the next eight lines.
    assert!(at("add.s64 %rd4, %rd4, 2;").unwrap().iter().all(|&sum| sum == 2.0));
    assert!(at("add.s64 %rd4, %rd4, 64;").unwrap_err().contains("never written"), "behind the last columns");
    for rows in 1..8 {
        let found = at(&format!("add.s64 %rd4, %rd4, {};", 8 * rows)).unwrap_err();
        assert!(found.contains("is no multiple of 1024"), "{found}");
    }
    // A stride of seven lines.
    let found = at("sub.s64 %rd4, %rd4, 34359738368;").unwrap_err();
    assert!(found.contains("is no multiple of 1024"), "{found}");
}
