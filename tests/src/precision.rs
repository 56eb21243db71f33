//! Tests of operations in every number type: inputs that a type holds exactly, and how far its roundings
//! may move a result.

use cpift_engine::{Buffer, Device, Real};
use cpift_kernels::dither::dither_to_bf16;

use crate::numeric::random;

/// Makes tests of generic functions `name::<T>()`: in f32 and in bf16.
#[macro_export]
macro_rules! in_f32_and_bf16 {
    ($($name:ident),* $(,)?) => {
        mod in_f32 {
            $(#[test] fn $name() { super::$name::<f32>(); })*
        }
        mod in_bf16 {
            $(#[test] fn $name() { super::$name::<cpift_engine::bf16>(); })*
        }
    };
}

/// `length` values over -1..1 that `T` holds exactly.
pub fn random_in<T: Real>(seed: u64, length: usize) -> Vec<f32> {
    rounded::<T>(&random(seed, length))
}

/// The nearest values of `T`.
pub fn rounded<T: Real>(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&value| T::from_f32(value).to_f32()).collect()
}

/// The bf16 values that weights are rounded to in training, by their index.
pub fn dithered(values: &[f32]) -> Vec<f32> {
    values.iter().enumerate().map(|(index, &value)| dither_to_bf16(value, index).to_f32()).collect()
}

/// A buffer of `T` with these values.
pub fn upload<T: Real>(device: &Device, values: &[f32]) -> Buffer<T> {
    let values: Vec<T> = values.iter().map(|&value| T::from_f32(value)).collect();
    Buffer::from_slice(device, &values).unwrap()
}

/// A buffer for a result, without a number in it.
pub fn poisoned<T: Real>(device: &Device, length: usize) -> Buffer<T> {
    upload(device, &vec![f32::NAN; length])
}

/// The values of a buffer.
pub fn download<T: Real>(buffer: &Buffer<T>) -> Vec<f32> {
    buffer.to_vec().unwrap().into_iter().map(T::to_f32).collect()
}

/// What a result may be off by, relative to its largest element: `sums` by f32 arithmetic, and in bf16 by so
/// many roundings, of the result itself and of what it is made from. One is at most 2^-8, half the distance
/// of neighbours just above a power of two.
pub fn tolerance<T: Real>(sums: f64, roundings: f64) -> f64 {
    sums + roundings * unit_roundoff::<T>()
}

/// What a rounding to `T` may move a value by, relative to it; that to f32 is counted among the sums'.
pub fn unit_roundoff<T: Real>() -> f64 {
    if size_of::<T>() == 2 { (-8f64).exp2() } else { 0.0 }
}
