//! Instructions that only compute: their results from their operands, as the reference of PTX has them.
//!
//! Where hardware approximates, results are those of the device API on hosts, so that kernels give the same bits
//! executed from their source and from their PTX. Not-a-numbers are the host's, not the one that hardware makes.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::LazyLock;

use cpift_kernels::simt;

/// A result from up to four operands; missing ones are zero.
pub type Function = fn(u64, u64, u64, u64) -> u64;

/// An instruction that only computes.
#[derive(Debug, Clone, Copy)]
pub struct Computation {
    /// How many operands it has besides the result.
    pub operands: usize,
    /// What it does.
    pub function: Function,
}

/// The instruction of this name, as `add.s32`.
pub fn computation(name: &str) -> Option<Computation> {
    static TABLE: LazyLock<HashMap<&str, Computation>> = LazyLock::new(|| {
        let named = |&(names, computation): &(&[&'static str], Computation)| {
            names.iter().map(move |&name| (name, computation)).collect::<Vec<_>>()
        };
        COMPUTATIONS.iter().flat_map(named).collect()
    });
    TABLE.get(name).copied()
}

/// A value as a register holds it: in its low bits, zeros above.
trait Register {
    fn from_register(bits: u64) -> Self;
    fn into_register(self) -> u64;
}

macro_rules! integers {
    ($($type:ident as $unsigned:ident),*) => {$(
        impl Register for $type {
            fn from_register(bits: u64) -> Self {
                bits as Self
            }
            fn into_register(self) -> u64 {
                u64::from(self as $unsigned)
            }
        }
    )*};
}
integers!(u16 as u16, u32 as u32, u64 as u64, i16 as u16, i32 as u32, i64 as u64);

macro_rules! floats {
    ($($type:ident of $bits:ident),*) => {$(
        impl Register for $type {
            fn from_register(bits: u64) -> Self {
                Self::from_bits(bits as $bits)
            }
            fn into_register(self) -> u64 {
                u64::from(self.to_bits())
            }
        }
    )*};
}
floats!(f32 of u32, f64 of u64);

/// A predicate.
impl Register for bool {
    fn from_register(bits: u64) -> Self {
        bits & 1 != 0
    }
    fn into_register(self) -> u64 {
        u64::from(self)
    }
}

macro_rules! computations {
    ($($($name:literal)|+ ($($operand:ident: $type:ident),*) => $result:expr;)*) => {
        &[$((
            &[$($name),+],
            Computation {
                operands: [$(stringify!($operand)),*].len(),
                function: |a, b, c, d| {
                    let mut values = [a, b, c, d].into_iter();
                    $(let $operand = <$type>::from_register(values.next().unwrap_or(0));)*
                    Register::into_register($result)
                },
            },
        )),*]
    };
}

const COMPUTATIONS: &[(&[&str], Computation)] = computations! {
    // Moves and choices.
    "mov.pred" (a: bool) => a;
    "mov.b16" | "mov.u16" (a: u16) => a;
    "mov.b32" | "mov.u32" | "mov.f32" (a: u32) => a;
    "mov.b64" | "mov.u64" | "mov.f64" (a: u64) => a;
    "selp.b16" | "selp.u16" (a: u16, b: u16, p: bool) => if p { a } else { b };
    "selp.b32" | "selp.u32" | "selp.s32" | "selp.f32" (a: u32, b: u32, p: bool) => if p { a } else { b };
    "selp.b64" | "selp.u64" | "selp.s64" | "selp.f64" (a: u64, b: u64, p: bool) => if p { a } else { b };

    // Predicates.
    "and.pred" (a: bool, b: bool) => a & b;
    "or.pred" (a: bool, b: bool) => a | b;
    "xor.pred" (a: bool, b: bool) => a ^ b;
    "not.pred" (a: bool) => !a;
    "setp.eq.b16" | "setp.eq.s16" | "setp.eq.u16" (a: u16, b: u16) => a == b;
    "setp.ne.b16" | "setp.ne.s16" | "setp.ne.u16" (a: u16, b: u16) => a != b;
    "setp.lt.u16" (a: u16, b: u16) => a < b;
    "setp.le.u16" (a: u16, b: u16) => a <= b;
    "setp.gt.u16" (a: u16, b: u16) => a > b;
    "setp.ge.u16" (a: u16, b: u16) => a >= b;
    "setp.eq.b32" | "setp.eq.s32" | "setp.eq.u32" (a: u32, b: u32) => a == b;
    "setp.ne.b32" | "setp.ne.s32" | "setp.ne.u32" (a: u32, b: u32) => a != b;
    "setp.lt.u32" (a: u32, b: u32) => a < b;
    "setp.le.u32" (a: u32, b: u32) => a <= b;
    "setp.gt.u32" (a: u32, b: u32) => a > b;
    "setp.ge.u32" (a: u32, b: u32) => a >= b;
    "setp.lt.s32" (a: i32, b: i32) => a < b;
    "setp.le.s32" (a: i32, b: i32) => a <= b;
    "setp.gt.s32" (a: i32, b: i32) => a > b;
    "setp.ge.s32" (a: i32, b: i32) => a >= b;
    "setp.eq.b64" | "setp.eq.s64" | "setp.eq.u64" (a: u64, b: u64) => a == b;
    "setp.ne.b64" | "setp.ne.s64" | "setp.ne.u64" (a: u64, b: u64) => a != b;
    "setp.lt.u64" (a: u64, b: u64) => a < b;
    "setp.le.u64" (a: u64, b: u64) => a <= b;
    "setp.gt.u64" (a: u64, b: u64) => a > b;
    "setp.ge.u64" (a: u64, b: u64) => a >= b;
    "setp.lt.s64" (a: i64, b: i64) => a < b;
    "setp.le.s64" (a: i64, b: i64) => a <= b;
    "setp.gt.s64" (a: i64, b: i64) => a > b;
    "setp.ge.s64" (a: i64, b: i64) => a >= b;
    // Ordered comparisons do not hold with a NaN; those that end in "u" do.
    "setp.eq.f32" (a: f32, b: f32) => a == b;
    "setp.ne.f32" (a: f32, b: f32) => a.partial_cmp(&b).is_some_and(Ordering::is_ne);
    "setp.lt.f32" (a: f32, b: f32) => a < b;
    "setp.le.f32" (a: f32, b: f32) => a <= b;
    "setp.gt.f32" (a: f32, b: f32) => a > b;
    "setp.ge.f32" (a: f32, b: f32) => a >= b;
    "setp.equ.f32" (a: f32, b: f32) => a == b || a.is_nan() || b.is_nan();
    "setp.neu.f32" (a: f32, b: f32) => a != b;
    "setp.ltu.f32" (a: f32, b: f32) => a < b || a.is_nan() || b.is_nan();
    "setp.leu.f32" (a: f32, b: f32) => a <= b || a.is_nan() || b.is_nan();
    "setp.gtu.f32" (a: f32, b: f32) => a > b || a.is_nan() || b.is_nan();
    "setp.geu.f32" (a: f32, b: f32) => a >= b || a.is_nan() || b.is_nan();
    "setp.num.f32" (a: f32, b: f32) => !a.is_nan() && !b.is_nan();
    "setp.nan.f32" (a: f32, b: f32) => a.is_nan() || b.is_nan();

    // Integers.
    "add.s16" | "add.u16" (a: u16, b: u16) => a.wrapping_add(b);
    "add.s32" | "add.u32" (a: u32, b: u32) => a.wrapping_add(b);
    "add.s64" | "add.u64" (a: u64, b: u64) => a.wrapping_add(b);
    "sub.s16" | "sub.u16" (a: u16, b: u16) => a.wrapping_sub(b);
    "sub.s32" | "sub.u32" (a: u32, b: u32) => a.wrapping_sub(b);
    "sub.s64" | "sub.u64" (a: u64, b: u64) => a.wrapping_sub(b);
    "mul.lo.s16" | "mul.lo.u16" (a: u16, b: u16) => a.wrapping_mul(b);
    "mul.lo.s32" | "mul.lo.u32" (a: u32, b: u32) => a.wrapping_mul(b);
    "mul.lo.s64" | "mul.lo.u64" (a: u64, b: u64) => a.wrapping_mul(b);
    "mul.hi.u32" (a: u32, b: u32) => ((u64::from(a) * u64::from(b)) >> 32) as u32;
    "mul.hi.s32" (a: i32, b: i32) => ((i64::from(a) * i64::from(b)) >> 32) as i32;
    "mul.hi.u64" (a: u64, b: u64) => ((u128::from(a) * u128::from(b)) >> 64) as u64;
    "mul.hi.s64" (a: i64, b: i64) => ((i128::from(a) * i128::from(b)) >> 64) as i64;
    "mul.wide.u16" (a: u16, b: u16) => u32::from(a) * u32::from(b);
    "mul.wide.s16" (a: i16, b: i16) => i32::from(a) * i32::from(b);
    "mul.wide.u32" (a: u32, b: u32) => u64::from(a) * u64::from(b);
    "mul.wide.s32" (a: i32, b: i32) => i64::from(a) * i64::from(b);
    "mad.lo.s32" | "mad.lo.u32" (a: u32, b: u32, c: u32) => a.wrapping_mul(b).wrapping_add(c);
    "mad.lo.s64" | "mad.lo.u64" (a: u64, b: u64, c: u64) => a.wrapping_mul(b).wrapping_add(c);
    "mad.wide.u32" (a: u32, b: u32, c: u64) => (u64::from(a) * u64::from(b)).wrapping_add(c);
    "mad.wide.s32" (a: i32, b: i32, c: i64) => (i64::from(a) * i64::from(b)).wrapping_add(c);
    // Hardware gives all ones for a division by zero.
    "div.u32" (a: u32, b: u32) => a.checked_div(b).unwrap_or(u32::MAX);
    "div.u64" (a: u64, b: u64) => a.checked_div(b).unwrap_or(u64::MAX);
    "rem.u32" (a: u32, b: u32) => a.checked_rem(b).unwrap_or(u32::MAX);
    "rem.u64" (a: u64, b: u64) => a.checked_rem(b).unwrap_or(u64::MAX);
    "min.u32" (a: u32, b: u32) => a.min(b);
    "max.u32" (a: u32, b: u32) => a.max(b);
    "min.s32" (a: i32, b: i32) => a.min(b);
    "max.s32" (a: i32, b: i32) => a.max(b);
    "min.u64" (a: u64, b: u64) => a.min(b);
    "max.u64" (a: u64, b: u64) => a.max(b);
    "min.s64" (a: i64, b: i64) => a.min(b);
    "max.s64" (a: i64, b: i64) => a.max(b);
    "neg.s32" (a: u32) => a.wrapping_neg();
    "neg.s64" (a: u64) => a.wrapping_neg();

    // Bits.
    "and.b16" (a: u16, b: u16) => a & b;
    "and.b32" (a: u32, b: u32) => a & b;
    "and.b64" (a: u64, b: u64) => a & b;
    "or.b16" (a: u16, b: u16) => a | b;
    "or.b32" (a: u32, b: u32) => a | b;
    "or.b64" (a: u64, b: u64) => a | b;
    "xor.b16" (a: u16, b: u16) => a ^ b;
    "xor.b32" (a: u32, b: u32) => a ^ b;
    "xor.b64" (a: u64, b: u64) => a ^ b;
    "not.b16" (a: u16) => !a;
    "not.b32" (a: u32) => !a;
    "not.b64" (a: u64) => !a;
    // Distances over the width shift everything out.
    "shl.b16" (a: u16, b: u32) => a.checked_shl(b).unwrap_or(0);
    "shl.b32" (a: u32, b: u32) => a.checked_shl(b).unwrap_or(0);
    "shl.b64" (a: u64, b: u32) => a.checked_shl(b).unwrap_or(0);
    "shr.u16" | "shr.b16" (a: u16, b: u32) => a.checked_shr(b).unwrap_or(0);
    "shr.u32" | "shr.b32" (a: u32, b: u32) => a.checked_shr(b).unwrap_or(0);
    "shr.u64" | "shr.b64" (a: u64, b: u32) => a.checked_shr(b).unwrap_or(0);
    "shr.s32" (a: i32, b: u32) => a >> b.min(31);
    "shr.s64" (a: i64, b: u32) => a >> b.min(63);
    "shf.l.wrap.b32" (low: u32, high: u32, c: u32) => ((wide(low, high) << (c & 31)) >> 32) as u32;
    "shf.r.wrap.b32" (low: u32, high: u32, c: u32) => (wide(low, high) >> (c & 31)) as u32;
    "shf.l.clamp.b32" (low: u32, high: u32, c: u32) => ((wide(low, high) << c.min(32)) >> 32) as u32;
    "shf.r.clamp.b32" (low: u32, high: u32, c: u32) => (wide(low, high) >> c.min(32)) as u32;
    "prmt.b32" (a: u32, b: u32, selector: u32) => swizzle(a, b, selector);
    "lop3.b32" (a: u32, b: u32, c: u32, table: u32) => look_up(a, b, c, table);
    "bfe.u32" (a: u32, position: u32, length: u32) => extract(u64::from(a), position, length) as u32;
    "bfe.s32" (a: i32, position: u32, length: u32) => extract_signed(a, position, length);
    "bfe.u64" (a: u64, position: u32, length: u32) => extract(a, position, length);
    "bfi.b32" (a: u32, b: u32, position: u32, length: u32) => insert(a, b, position, length);
    "popc.b32" (a: u32) => a.count_ones();
    "popc.b64" (a: u64) => a.count_ones();
    "clz.b32" (a: u32) => a.leading_zeros();
    "clz.b64" (a: u64) => a.leading_zeros();
    "brev.b32" (a: u32) => a.reverse_bits();
    "brev.b64" (a: u64) => a.reverse_bits();

    // Numbers with fractions.
    "add.rn.f32" | "add.f32" (a: f32, b: f32) => a + b;
    "sub.rn.f32" | "sub.f32" (a: f32, b: f32) => a - b;
    "mul.rn.f32" | "mul.f32" (a: f32, b: f32) => a * b;
    "fma.rn.f32" (a: f32, b: f32, c: f32) => simt::fma(a, b, c);
    "fma.rn.ftz.f32" (a: f32, b: f32, c: f32) => flush(simt::fma(flush(a), flush(b), flush(c)));
    // Two units in the last place from it on hardware.
    "div.full.f32" | "div.rn.f32" (a: f32, b: f32) => simt::divide(a, b);
    "rcp.rn.f32" (a: f32) => 1.0f32 / a;
    "sqrt.rn.f32" (a: f32) => simt::sqrt(a);
    // One unit in the last place from it on hardware.
    "sqrt.approx.ftz.f32" (a: f32) => simt::sqrt(flush(a));
    "neg.f32" (a: f32) => -a;
    "abs.f32" (a: f32) => simt::abs(a);
    "min.f32" (a: f32, b: f32) => simt::min(a, b);
    "max.f32" (a: f32, b: f32) => simt::max(a, b);
    "ex2.approx.ftz.f32" (a: f32) => simt::exp2_approx(a);
    "lg2.approx.ftz.f32" (a: f32) => simt::log2_approx(a);
    "rcp.approx.ftz.f32" (a: f32) => simt::reciprocal_approx(a);
    "rsqrt.approx.ftz.f32" (a: f32) => simt::rsqrt_approx(a);
    "add.rn.f64" | "add.f64" (a: f64, b: f64) => a + b;
    "sub.rn.f64" | "sub.f64" (a: f64, b: f64) => a - b;
    "mul.rn.f64" | "mul.f64" (a: f64, b: f64) => a * b;
    "fma.rn.f64" (a: f64, b: f64, c: f64) => simt::fma_f64(a, b, c);
    "div.rn.f64" (a: f64, b: f64) => a / b;
    "sqrt.rn.f64" (a: f64) => simt::sqrt_f64(a);
    "neg.f64" (a: f64) => -a;
    "abs.f64" (a: f64) => a.abs();
    "min.f64" (a: f64, b: f64) => a.min(b);
    "max.f64" (a: f64, b: f64) => a.max(b);

    // Conversions.
    "cvt.u16.u32" | "cvt.u16.u64" (a: u16) => a;
    "cvt.u32.u16" | "cvt.u64.u16" (a: u16) => a;
    "cvt.u32.u64" | "cvt.u64.u32" (a: u32) => a;
    "cvt.s64.s32" (a: i32) => i64::from(a);
    "cvt.s32.s16" (a: i16) => i32::from(a);
    "cvt.f64.f32" (a: f32) => f64::from(a);
    "cvt.rn.f32.f64" (a: f64) => a as f32;
    "cvt.rn.f32.u32" (a: u32) => a as f32;
    "cvt.rn.f32.s32" (a: i32) => a as f32;
    "cvt.rn.f32.u64" (a: u64) => a as f32;
    "cvt.rn.f64.u32" (a: u32) => f64::from(a);
    "cvt.rn.f64.u64" (a: u64) => a as f64;
    "cvt.rzi.u32.f32" (a: f32) => a as u32;
    "cvt.rzi.s32.f32" (a: f32) => a as i32;
    "cvt.rn.bf16.f32" (a: f32) => simt::round_to_bf16(a).0;
    "cvt.rn.bf16x2.f32" (high: f32, low: f32) => simt::pack_bf16(low, high);
};

/// What `mov` does with registers in braces: the parts of a wider one.
pub const LOW_16: Function = |a, _, _, _| a & 0xffff;
pub const HIGH_16: Function = |a, _, _, _| a >> 16 & 0xffff;
pub const LOW_32: Function = |a, _, _, _| a & 0xffff_ffff;
pub const HIGH_32: Function = |a, _, _, _| a >> 32;
pub const JOIN_16: Function = |low, high, _, _| low & 0xffff | (high & 0xffff) << 16;
pub const JOIN_32: Function = |low, high, _, _| low & 0xffff_ffff | high << 32;

fn wide(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Byte i of the result is the byte of both, of eight, that nibble i names; its sign eight times where the nibble's
/// upper bit is set.
fn swizzle(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = wide(a, b).to_le_bytes();
    u32::from_le_bytes(std::array::from_fn(|place| {
        let nibble = selector >> (4 * place) & 15;
        let byte = bytes[nibble as usize & 7];
        if nibble & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 }
    }))
}

/// Bit by bit: bit 4·a + 2·b + c of the table.
fn look_up(a: u32, b: u32, c: u32, table: u32) -> u32 {
    (0..8).filter(|index| table >> index & 1 != 0).fold(0, |result, index| {
        let pick = |value: u32, bit: u32| if index >> bit & 1 != 0 { value } else { !value };
        result | pick(a, 2) & pick(b, 1) & pick(c, 0)
    })
}

/// `length` bits from `position` on; both count modulo 256.
fn extract(value: u64, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 255, length & 255);
    let mask = 1u64.checked_shl(length).map_or(u64::MAX, |end| end - 1);
    value.checked_shr(position).unwrap_or(0) & mask
}

/// `length` bits from `position` on, above them the sign: the last of them, or the value's.
fn extract_signed(value: i32, position: u32, length: u32) -> i32 {
    let (position, length) = (position & 255, length & 255);
    if length == 0 {
        return 0;
    }
    let above = 32 - length.min(32 - position.min(31));
    (value >> position.min(31)) << above >> above
}

/// Zero, with the number's sign, for what is too small to be normal.
fn flush(value: f32) -> f32 {
    if value.is_subnormal() { 0f32.copysign(value) } else { value }
}

/// `b`, with the lowest `length` bits of `a` from `position` on.
fn insert(a: u32, b: u32, position: u32, length: u32) -> u32 {
    let (position, length) = (position & 255, length & 255);
    let mask = 1u32.checked_shl(length).map_or(u32::MAX, |end| end - 1).checked_shl(position).unwrap_or(0);
    a.checked_shl(position).unwrap_or(0) & mask | b & !mask
}
