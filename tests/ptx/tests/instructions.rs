//! Instructions in small texts of PTX, against what they are documented to do.

use std::hash::{BuildHasher, RandomState};

use crate::text::{execute, module};
use cpift_kernels::simt::Bf16;

/// Inputs that differ from run to run: any bits, small numbers, and what is special among floats.
fn inputs() -> Vec<[u32; 4]> {
    let random = RandomState::new();
    let word = |thread: usize, operand: usize| {
        let bits = random.hash_one((thread, operand));
        match bits >> 32 & 7 {
            0 => (bits & 63) as u32,
            1 => [0, 1 << 31, f32::NAN.to_bits(), f32::INFINITY.to_bits(), 0x7f7f_ffff, 1][bits as usize % 6],
            2 => (bits as u32 & 0xfff) << 4 | 0x3f80_8000,
            3 => (bits as i32 as f32 / 65_536.0).to_bits(),
            _ => bits as u32,
        }
    };
    (0..128).map(|thread| std::array::from_fn(|operand| word(thread, operand))).collect()
}

/// Holds a result in %r8 and %r9 of the operands in %r4 to %r7 against what is expected of them.
#[track_caller]
fn check(instructions: &str, expected: impl Fn([u32; 4]) -> u64) {
    let body = format!(
        "mul.wide.u32 %rd3, %r1, 16; add.s64 %rd3, %rd3, %rd1; ld.global.v4.b32 {{%r4, %r5, %r6, %r7}}, [%rd3];\n\
         mov.b32 %r9, 0;\n{instructions}\n\
         mul.wide.u32 %rd3, %r1, 8; add.s64 %rd3, %rd3, %rd2; st.global.v2.b32 [%rd3], {{%r8, %r9}};"
    );
    let inputs = inputs();
    let output = execute(&body, inputs.as_flattened()).unwrap_or_else(|error| panic!("{error}"));
    for (thread, &input) in inputs.iter().enumerate() {
        let actual = u64::from(output[2 * thread]) | u64::from(output[2 * thread + 1]) << 32;
        let expected = expected(input);
        assert!(actual == expected, "{instructions} of {input:#010x?} is {actual:#x}, not {expected:#x}");
    }
}

#[test]
fn bits_are_moved() {
    check("prmt.b32 %r8, %r4, %r5, %r6;", |[a, b, selector, _]| {
        let both = u64::from(b) << 32 | u64::from(a);
        (0..4).fold(0, |result, place| {
            let byte = both >> (8 * (selector >> (4 * place) & 7)) & 0xff;
            let sign = if byte & 0x80 != 0 { 0xff } else { 0 };
            let replicated = selector >> (4 * place + 3) & 1 != 0;
            result | (if replicated { sign } else { byte }) << (8 * place)
        })
    });
    // The table is what the function makes of these three.
    let (a, b, c) = (0xf0u32, 0xcc, 0xaa);
    let table = (a & b) ^ c;
    check(&format!("lop3.b32 %r8, %r4, %r5, %r6, {table};"), |[a, b, c, _]| ((a & b) ^ c).into());
    let table = (!a | (b & c)) & 0xff;
    check(&format!("lop3.b32 %r8, %r4, %r5, %r6, {table};"), |[a, b, c, _]| (!a | (b & c)).into());
    check("shf.l.wrap.b32 %r8, %r4, %r5, %r6;", |[low, high, count, _]| {
        let count = count % 32;
        (if count == 0 { high } else { high << count | low >> (32 - count) }).into()
    });
    check("shf.r.clamp.b32 %r8, %r4, %r5, %r6;", |[low, high, count, _]| {
        let result = match count {
            0 => low,
            1..32 => low >> count | high << (32 - count),
            _ => high,
        };
        result.into()
    });
    check("shl.b32 %r8, %r4, %r5; shr.s32 %r9, %r4, %r5;", |[a, count, ..]| {
        let (left, right) = if count < 32 { (a << count, a as i32 >> count) } else { (0, a as i32 >> 31) };
        u64::from(left) | u64::from(right as u32) << 32
    });
    check(
        "mov.b32 {%rs1, %rs2}, %r4; mov.b32 %r8, {%rs2, %rs1}; mov.b64 %rd4, {%r5, %r4}; mov.b64 {_, %r9}, %rd4;",
        |[a, ..]| u64::from(a.rotate_left(16)) | u64::from(a) << 32,
    );
}

#[test]
fn fields_are_extracted_and_inserted() {
    let bit = |value: u32, place: u32| if place < 32 { value >> place & 1 } else { 0 };
    for (position, length) in [("%r6", "%r7"), ("7", "12"), ("28", "9"), ("0", "32"), ("3", "0")] {
        let number = |text: &str, register: u32| text.parse().unwrap_or(register) & 255;
        check(&format!("bfe.u32 %r8, %r4, {position}, {length};"), |[a, _, c, d]| {
            let (position, length) = (number(position, c), number(length, d));
            (0..length.min(32)).fold(0, |result, place| result | bit(a, position + place) << place).into()
        });
        check(&format!("bfi.b32 %r8, %r4, %r5, {position}, {length};"), |[a, b, c, d]| {
            let (position, length) = (number(position, c), number(length, d));
            let from = |place: u32| {
                if (position..position + length).contains(&place) {
                    bit(a, place - position)
                } else {
                    bit(b, place)
                }
            };
            (0..32).fold(0, |result, place| result | from(place) << place).into()
        });
    }
    for (position, length) in [("%r6", "%r7"), ("7", "12"), ("28", "9"), ("0", "32"), ("3", "0"), ("40", "5")]
    {
        let number = |text: &str, register: u32| text.parse().unwrap_or(register) & 255;
        check(&format!("bfe.s32 %r8, %r4, {position}, {length};"), |[a, _, c, d]| {
            let (position, length) = (number(position, c), number(length, d));
            let sign = if length == 0 { 0 } else { bit(a, (position + length - 1).min(31)) };
            let of = |place: u32| {
                if place < length && position + place < 32 { bit(a, position + place) } else { sign }
            };
            (0..32).fold(0, |result, place| result | of(place) << place).into()
        });
    }
    check("popc.b32 %r8, %r4; clz.b32 %r9, %r4;", |[a, ..]| {
        let ones = (0..32).map(|place| bit(a, place)).sum::<u32>();
        let zeros = (0..32).rev().take_while(|&place| bit(a, place) == 0).count();
        u64::from(ones) | (zeros as u64) << 32
    });
    check("brev.b32 %r8, %r4;", |[a, ..]| {
        (0..32).fold(0, |result, place| result | bit(a, place) << (31 - place)).into()
    });
}

#[test]
fn integers_are_multiplied() {
    // By halves, as on paper.
    let high = |a: u32, b: u32| {
        let (a1, a0, b1, b0) = (a >> 16, a & 0xffff, b >> 16, b & 0xffff);
        let middle = u64::from(a1 * b0) + u64::from(a0 * b1) + u64::from((a0 * b0) >> 16);
        a1 * b1 + (middle >> 16) as u32
    };
    check("mul.hi.u32 %r8, %r4, %r5;", |[a, b, ..]| high(a, b).into());
    check("mul.hi.s32 %r8, %r4, %r5;", |[a, b, ..]| {
        let sign = |value: u32, other: u32| if (value as i32) < 0 { other } else { 0 };
        high(a, b).wrapping_sub(sign(a, b)).wrapping_sub(sign(b, a)).into()
    });
    let wide = "mov.b64 %rd4, {%r6, %r7};";
    check(
        &format!("{wide} mad.wide.s32 %rd4, %r4, %r5, %rd4; mov.b64 {{%r8, %r9}}, %rd4;"),
        |[a, b, c, d]| {
            let added = i128::from(a as i32) * i128::from(b as i32) + (i128::from(d) << 32) + i128::from(c);
            added as u64
        },
    );
    check(
        &format!("{wide} mad.wide.u32 %rd4, %r4, %r5, %rd4; mov.b64 {{%r8, %r9}}, %rd4;"),
        |[a, b, c, d]| (u128::from(a) * u128::from(b) + (u128::from(d) << 32) + u128::from(c)) as u64,
    );
    check("div.u32 %r8, %r4, %r5;", |[a, b, ..]| a.checked_div(b).unwrap_or(u32::MAX).into());
}

#[test]
fn numbers_are_compared_and_rounded() {
    let [less, equal, greater] = [1, 2, 4];
    // The sides on which a comparison holds, and whether it does with a NaN.
    for (name, sides, unordered) in [
        ("eq", equal, false),
        ("ne", less | greater, false),
        ("lt", less, false),
        ("le", less | equal, false),
        ("gt", greater, false),
        ("ge", greater | equal, false),
        ("equ", equal, true),
        ("neu", less | greater, true),
        ("ltu", less, true),
        ("leu", less | equal, true),
        ("gtu", greater, true),
        ("geu", greater | equal, true),
    ] {
        check(&format!("setp.{name}.f32 %p1, %r4, %r5; selp.b32 %r8, 1, 0, %p1;"), |[a, b, ..]| {
            let (a, b) = (f32::from_bits(a), f32::from_bits(b));
            let holds = match a.partial_cmp(&b) {
                None => unordered,
                Some(order) => sides >> (order as i32 + 1) & 1 != 0,
            };
            holds.into()
        });
    }
    for (name, side) in [("min", -1.0), ("max", 1.0)] {
        check(&format!("{name}.f32 %r8, %r4, %r5;"), |bits| {
            let [a, b, ..] = bits.map(f32::from_bits);
            if a.is_nan() && b.is_nan() || a == 0.0 && b == 0.0 {
                // Which NaN or zero it is may differ.
                return execute_one(&format!("{name}.f32 %r8, {}, {};", bits[0], bits[1]));
            }
            let first = b.is_nan() || !a.is_nan() && side * a >= side * b;
            bits[usize::from(!first)].into()
        });
    }
    check("abs.f32 %r8, %r4; sqrt.approx.ftz.f32 %r8, %r8;", |[a, ..]| {
        let a = f32::from_bits(a).abs();
        if a.is_nan() {
            // Which NaN it is may differ.
            return execute_one(&format!("mov.b32 %r8, {}; sqrt.approx.ftz.f32 %r8, %r8;", a.to_bits()));
        }
        let root = if a.is_subnormal() { 0.0 } else { f64::from(a).sqrt() as f32 };
        root.to_bits().into()
    });
    check(
        "cvt.rn.bf16x2.f32 %r8, %r4, %r5; cvt.rn.bf16.f32 %rs1, %r4; mov.b32 %r9, {%rs1, 0};",
        |[a, b, ..]| {
            u64::from(nearest_bf16(a)) << 16 | u64::from(nearest_bf16(b)) | u64::from(nearest_bf16(a)) << 32
        },
    );
}

/// %r8 of thread 0.
fn execute_one(instructions: &str) -> u64 {
    let body = format!("{instructions} st.global.b32 [%rd2], %r8;");
    execute(&body, &[]).expect("runs")[0].into()
}

/// The bf16 that is nearest to an f32, by distances: the even one of two that are as near.
pub fn nearest_bf16(bits: u32) -> u16 {
    let value = f32::from_bits(bits);
    if value.is_nan() {
        return 0x7fff;
    }
    // As if the exponent had no end.
    let widened = |bits: u16| match f64::from(Bf16(bits).to_f32()) {
        finite if finite.is_finite() => finite,
        infinite => 2f64.powi(128).copysign(infinite),
    };
    let below = (bits >> 16) as u16;
    if value.is_infinite() {
        return below;
    }
    let distance = |candidate: u16| (widened(candidate) - f64::from(value)).abs();
    match distance(below).total_cmp(&distance(below + 1)) {
        std::cmp::Ordering::Less => below,
        std::cmp::Ordering::Greater => below + 1,
        std::cmp::Ordering::Equal => below + below % 2,
    }
}

#[test]
fn guards_and_lanes() {
    check(
        "mov.b32 %r8, 5; setp.lt.u32 %p1, %r4, %r5; @%p1 mov.b32 %r8, 6; @!%p1 add.s32 %r9, %r8, 1;",
        |[a, b, ..]| {
            if a < b { 6 } else { 5 | 6 << 32 }
        },
    );
    let lanes = |operation: &str, of: fn(u32) -> u32| {
        let body = format!(
            "mov.b32 %r5, -1; shfl.sync.{operation}, %r5; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd3, %rd2; \
                            st.global.b32 [%rd3], %r8;"
        );
        let output = execute(&body, &[]).unwrap();
        let expected: Vec<u32> = (0..128).map(|thread| thread & !31 | of(thread % 32)).collect();
        assert_eq!(output[..128], expected, "{operation}");
    };
    lanes("bfly.b32 %r8, %r1, 5, 31", |lane| lane ^ 5);
    lanes("down.b32 %r8, %r1, 3, 31", |lane| if lane + 3 < 32 { lane + 3 } else { lane });
    lanes("up.b32 %r8, %r1, 3, 0", |lane| lane.checked_sub(3).unwrap_or(lane));
    lanes("idx.b32 %r8, %r1, 7, 31", |_| 7);
    // Segments of eight lanes: the mask in bits 8 to 12 tells them apart.
    let segments = 24 << 8;
    lanes(&format!("down.b32 %r8|%p1, %r1, 3, {}", segments | 31), |lane| {
        if lane % 8 < 5 { lane + 3 } else { lane }
    });
    lanes(&format!("up.b32 %r8|%p1, %r1, 3, {segments}"), |lane| if lane % 8 < 3 { lane } else { lane - 3 });
    lanes(&format!("idx.b32 %r8|%p1, %r1, 11, {}", segments | 31), |lane| lane & 24 | 3);
    lanes(&format!("bfly.b32 %r8|%p1, %r1, 9, {}", segments | 31), |lane| {
        if lane & 8 == 0 { lane } else { lane ^ 9 }
    });
    let body = "shfl.sync.down.b32 %r4|%p1, %r1, 3, 31, -1; selp.b32 %r4, 1, 0, %p1; mul.wide.u32 %rd3, %r1, 4; \
                add.s64 %rd3, %rd3, %rd2; st.global.b32 [%rd3], %r4;";
    let expected: Vec<u32> = (0..128).map(|thread| u32::from(thread % 32 < 29)).collect();
    assert_eq!(execute(body, &[]).unwrap()[..128], expected, "whether the lane is inside");
    let body = "elect.sync %r4|%p1, -1; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd3, %rd2; \
                @%p1 st.global.b32 [%rd3], 1;";
    let elected = execute(body, &[]).unwrap();
    assert!(elected[..128].chunks(32).all(|warp| warp.iter().sum::<u32>() == 1), "one of each warp");
    let body = "and.b32 %r4, %r1, 5; setp.eq.b32 %p1, %r4, 4; vote.sync.ballot.b32 %r8, %p1, -1; st.global.b32 [%rd2], %r8;";
    let expected = (0..32).filter(|lane| lane & 5 == 4).fold(0, |bits, lane| bits | 1 << lane);
    assert_eq!(execute(body, &[]).unwrap()[0], expected);
}

#[test]
fn what_is_not_known_is_no_module() {
    for (instruction, what) in [
        ("ld.local.b32 %r4, [%rd1];", "line 14: the instruction `ld.local.b32`"),
        ("add.s32 %r4, %r5;", "the instruction `add.s32` with 2 operands"),
        ("add.s32 %r4, %r5, %r200;", "`%r200` was not declared"),
        ("bar.sync 1;", "as a barrier is not known"),
        ("shfl.sync.bfly.b32 %r4, %r5, 1, 31, 15;", "as lanes is not known"),
        ("{ again: bar.sync 0; } bra again;", "no label `again`"),
        ("again: again: bar.sync 0;", "a second label `again`"),
        ("bra $L_9;", "no label `$L_9`"),
        ("ld.param.b64 %rd3, [probe_param_0+4];", "are not in a parameter"),
        (
            "wgmma.mma_async.sync.aligned.m64n12k16.f32.bf16.bf16 {%r1}, %rd1, %rd2, 1, 1, 1, 0, 0;",
            "m64n12k16",
        ),
        ("{ .reg .b32 own; } mov.b32 own, 1;", "`own` was not declared"),
    ] {
        let error = module(instruction).map(|_| ()).unwrap_err();
        assert!(error.contains(what), "{instruction}: {error}");
    }
}

#[test]
fn what_cannot_be_done_is_named() {
    for (body, what) in [
        ("ld.global.b32 %r4, [%rd1+65536];", "a load from 4 bytes at"),
        ("ld.global.b32 %r4, [%rd2+-4];", "the nearest is output at"),
        (
            "ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd1+4];",
            "which is not aligned to them, at line 14 of the PTX",
        ),
        ("st.global.b32 [%rd1], %r1;", "in input, which the kernel only reads"),
        ("ld.global.nc.b32 %r4, [%rd2];", "as of constants, in output, which the kernel writes"),
        ("ld.shared.b32 %r4, [%r2+65536];", "load from byte 65536 of shared memory, outside"),
        ("ld.shared.b32 %r4, [%r2];", "which was never written"),
        ("ld.shared.b32 %r4, [0];", "address 0x0 of shared memory; the block's is from 0x400"),
        ("$L_1: bra $L_1;", "a loop without end"),
        ("setp.lt.u32 %p1, %r1, 40; @%p1 bra $L_1; bar.sync 0; $L_1: bar.sync 0;", "divergence"),
        ("setp.lt.u32 %p1, %r1, 4; @%p1 bra $L_1; bar.warp.sync -1; $L_1: bar.sync 0;", "divergence"),
        ("trap;", "a trap"),
        ("setp.eq.b32 %p1, %r1, 9; @%p1 brkpt;", "thread 9 (warp 0, lane 9): a trap"),
        ("mov.b32 %r4, 7; shfl.sync.idx.b32 %r5, %r1, 0, 31, %r4;", "lanes 0x7, which are not all"),
        ("mov.b32 %r4, 7; elect.sync %r5|%p1, %r4;", "lanes 0x7, which are not all"),
        (
            "setp.eq.b32 %p1, %r1, 0; @%p1 mbarrier.init.shared::cta.b64 [%r2], 1; bar.sync 0; \
             @%p1 mbarrier.inval.shared::cta.b64 [%r2]; bar.sync 0; \
             @%p1 mbarrier.arrive.shared::cta.b64 _, [%r2];",
            "was invalidated",
        ),
        (
            "setp.eq.b32 %p1, %r1, 0; @%p1 mbarrier.init.shared::cta.b64 [%r2], 2; bar.sync 0; \
             @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 16; \
             @%p1 mbarrier.inval.shared::cta.b64 [%r2];",
            "is invalidated while 16 bytes are missing",
        ),
        (
            "setp.eq.b32 %p1, %r1, 0; @%p1 mbarrier.init.shared::cta.b64 [%r2], 1; \
             @%p1 mbarrier.inval.shared::cta.b64 [%r2]; @%p1 mbarrier.init.shared::cta.b64 [%r2], 1; bar.sync 0; \
             @%p1 mbarrier.init.shared::cta.b64 [%r2], 1;",
            "is initialised once more, and was not invalidated before, at line 14 of the PTX",
        ),
        // Equal values may be stored without order, but to the same bytes, and where nobody reads.
        ("st.shared.b32 [%r2], %r1;", "which thread"),
        (
            "setp.eq.b32 %p1, %r1, 0; mov.b32 %r4, 0; mov.b16 %rs1, 0; @%p1 st.shared.b32 [%r2], %r4; \
             @!%p1 st.shared.b16 [%r2], %rs1;",
            "wrote with no barrier in between",
        ),
        ("st.shared.b32 [%r2], 5; ld.shared.b32 %r4, [%r2];", "with no barrier in between"),
    ] {
        let error = execute(body, &[]).unwrap_err();
        assert!(error.contains(what), "{body}: {error}");
    }
}

/// Arrays that a body declares come before what the launch asks for; labels are of the braces they are in.
#[test]
fn declarations_of_bodies() {
    let body = ".shared .align 4 .b8 first[6]; .shared .align 16 .b8 second[20];\n\
                mov.u32 %r4, first; mov.u32 %r5, second; mov.u32 %r6, dyn_smem; sub.s32 %r5, %r5, %r4; \
                st.shared.b32 [%r6+65532], 3; sub.s32 %r6, %r6, %r4; st.global.v2.b32 [%rd2], {%r5, %r6};";
    assert_eq!(execute(body, &[]).unwrap()[..2], [16, 48]);
    let body = "mov.b32 %r4, 0; { again: add.s32 %r4, %r4, 1; setp.lt.s32 %p1, %r4, 5; @%p1 bra again; } \
                { again: add.s32 %r4, %r4, 10; setp.lt.s32 %p1, %r4, 40; @%p1 bra.uni again; } \
                st.global.b32 [%rd2], %r4;";
    assert_eq!(execute(body, &[]).unwrap()[0], 45);
}

#[test]
fn small_numbers_are_flushed() {
    let flush = |value: f32| if value.is_subnormal() { 0f32.copysign(value) } else { value };
    check("fma.rn.ftz.f32 %r8, %r4, %r5, %r6;", |bits| {
        let [a, b, c, _] = bits.map(|bits| flush(f32::from_bits(bits)));
        let result = flush(a.mul_add(b, c));
        if result.is_nan() {
            // Which NaN it is may differ.
            let [a, b, c, _] = bits;
            return execute_one(&format!("fma.rn.ftz.f32 %r8, {a}, {b}, {c};"));
        }
        result.to_bits().into()
    });
    let halves = "fma.rn.ftz.f32 %r8, 0f00800000, 0f3F000000, 0f80000000;";
    assert_eq!(execute_one(halves), 0, "a result too small to be normal");
}

/// Where all lanes store one value to the same bytes, it does not matter whose is the last.
#[test]
fn equal_values_are_stored_without_order() {
    let body =
        "st.shared.v2.b32 [%r2], {5, 6}; bar.sync 0; ld.shared.b32 %r4, [%r2+4]; st.global.b32 [%rd2], %r4;";
    assert_eq!(execute(body, &[]).unwrap()[0], 6);
}
