use std::num::NonZeroUsize;

use super::stand_in::StandIn;
use super::tiles::Tiles;
use super::*;
use crate::cpu::parallel::with_scratch;
use crate::device::Device;

fn cpu(threads: usize) -> CpuDevice {
    match Device::cpu(NonZeroUsize::new(threads)).expect("threads") {
        Device::Cpu(cpu) => cpu,
        Device::Gpu(_) => unreachable!("asked for the CPU"),
    }
}

/// Deterministic values without structure.
struct Values(u64);

impl Values {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn numbers<T: Float>(&mut self, length: usize) -> Vec<T> {
        (0..length).map(|_| T::from_f32(self.next() as f32 / (1u32 << 30) as f32 - 1.0)).collect()
    }
}

fn transpose<T: Float>(data: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..rows * columns).map(|index| data[index % rows * columns + index / rows]).collect()
}

fn wide<T: Float>(value: T) -> f64 {
    f64::from(value.to_f32())
}

/// A product of random matrices in all layouts, and the same in f64.
struct Case<T, O> {
    rows: usize,
    depth: usize,
    columns: usize,
    /// A, Aᵀ, B, Bᵀ, each row-major.
    operands: [Vec<T>; 4],
    /// What C holds before.
    start: Vec<O>,
    product: Vec<f64>,
}

impl<T: Float, O: Float> Case<T, O> {
    fn new(rows: usize, depth: usize, columns: usize) -> Self {
        let mut values = Values((rows * 1_000_003 + depth * 1009 + columns) as u64);
        let (a, b) = (values.numbers::<T>(rows * depth), values.numbers::<T>(depth * columns));
        let element = |index: usize| {
            let (i, j) = (index / columns, index % columns);
            (0..depth).map(|p| wide(a[i * depth + p]) * wide(b[p * columns + j])).sum()
        };
        let product = (0..rows * columns).map(element).collect();
        let start = values.numbers(rows * columns);
        let operands = [transpose(&a, rows, depth), transpose(&b, depth, columns)];
        let [a_transposed, b_transposed] = operands;
        Self { rows, depth, columns, operands: [a, a_transposed, b, b_transposed], start, product }
    }

    /// Every layout of A with every layout of B.
    fn layouts(&self) -> [(Matrix<'_, T>, Matrix<'_, T>); 4] {
        let &Self { rows, depth, columns, .. } = self;
        let [a, a_transposed, b, b_transposed] = &self.operands;
        let left = [Matrix::new(a, rows, depth), Matrix::new(a_transposed, depth, rows).transposed()];
        let right = [Matrix::new(b, depth, columns), Matrix::new(b_transposed, columns, depth).transposed()];
        [(left[0], right[0]), (left[0], right[1]), (left[1], right[0]), (left[1], right[1])]
    }

    /// Runs `multiply` on every layout, in poisoned memory: all must give the same bits, near to f64's, rounded
    /// to the type of the result once. Returns them.
    fn check(&self, update: Update, multiply: impl Fn(Matrix<T>, Matrix<T>, &mut [O])) -> Vec<O> {
        let results = self.layouts().map(|(a, b)| {
            let mut c = match update {
                Update::Overwrite => vec![O::from_f32(f32::NAN); self.start.len()],
                Update::Accumulate => self.start.clone(),
            };
            with_scratch(1 << 16, |outer| {
                outer.fill(f32::NAN);
                with_scratch(1 << 16, |inner| inner.fill(f32::NAN));
            });
            multiply(a, b, &mut c);
            c
        });
        let what = format!("{} by {} by {}, {update:?}", self.rows, self.depth, self.columns);
        // Half a unit in the last place of a bf16.
        let rounding = if size_of::<O>() == 2 { 0.5f64.powi(8) } else { 0.0 };
        for (index, &actual) in results[0].iter().enumerate() {
            let before = if update == Update::Accumulate { wide(self.start[index]) } else { 0.0 };
            let expected = self.product[index] + before;
            let error = (wide(actual) - expected).abs();
            let allowed = 1e-6 * self.depth as f64 + 1e-6 + rounding * expected.abs();
            assert!(error < allowed, "{what} at {index}: {actual} for {expected}");
        }
        let [first, others @ ..] = results;
        for other in others {
            assert_eq!(bits(&first), bits(&other), "layouts differ: {what}");
        }
        first
    }
}

fn bits<T: Float>(values: &[T]) -> Vec<u32> {
    values.iter().map(|value| value.to_f32().to_bits()).collect()
}

const UPDATES: [Update; 2] = [Update::Overwrite, Update::Accumulate];

const SIZES: [(usize, usize, usize); 13] = [
    (1, 1, 1),
    (3, 5, 7),
    (70, 65, 33),
    (33, 300, 129),
    (200, 17, 64),
    // Few rows: A is the shared operand.
    (48, 40, 200),
    (49, 40, 200),
    // More than one block of depth, more than one chunk of shared lanes, both.
    (50, 1700, 20),
    (52, 9, 2500),
    (7, 2400, 40),
    (60, 1600, 1030),
    // More than one chunk of depth.
    (50, 3300, 1030),
    // More rows than are one item of tiles.
    (1030, 600, 33),
];

/// A product whose bits are the same for every number of threads.
fn check_threads<T: Float, O: Float>(
    sizes: &[(usize, usize, usize)],
    multiply: impl Fn(Multiplication<'_, T, O>) + Copy,
) {
    let devices = [1, 2, 3, 4].map(cpu);
    for &(rows, depth, columns) in sizes {
        let case = Case::<T, O>::new(rows, depth, columns);
        for update in UPDATES {
            let results = devices
                .each_ref()
                .map(|cpu| case.check(update, |a, b, c| multiply(Multiplication { cpu, a, b, update, c })));
            for other in &results[1..] {
                assert_eq!(bits(&results[0]), bits(other), "threads differ: {rows} by {depth} by {columns}");
            }
        }
    }
}

#[test]
fn f32_matches_f64_for_any_number_of_threads() {
    check_threads::<f32, f32>(&SIZES, Factor::multiply);
}

#[test]
fn widened_bf16_matches_f64_for_any_number_of_threads() {
    check_threads::<bf16, f32>(&SIZES, |multiplication| choose_floats::<_, 12>(multiplication));
    check_threads::<bf16, bf16>(&SIZES, |multiplication| choose_floats::<_, 12>(multiplication));
}

/// Around the numbers of rows that are the lanes of registers; among the layouts are those that are packed.
const FEW_ROWS: [(usize, usize, usize); 8] = [
    (1, 64, 130),
    (2, 7, 15),
    (8, 800, 97),
    (9, 1700, 33),
    (16, 1538, 64),
    (17, 40, 200),
    (32, 2400, 17),
    (33, 66, 70),
];

#[test]
fn few_rows_have_the_bits_of_blocked_products_for_any_number_of_threads() {
    check_threads::<f32, f32>(&FEW_ROWS, Factor::multiply);
    check_threads::<bf16, f32>(&FEW_ROWS, Factor::multiply);
    check_threads::<bf16, bf16>(&FEW_ROWS, Factor::multiply);
}

/// A kernel of bf16, in both types of results.
fn check_bf16(sizes: &[(usize, usize, usize)], kernel: impl Kernel<Element = bf16>) {
    check_threads::<bf16, f32>(sizes, |multiplication| multiplication.run(kernel));
    check_threads::<bf16, bf16>(sizes, |multiplication| multiplication.run(kernel));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn dot_products_match_f64_for_any_number_of_threads() {
    match crate::cpu::simd::Avx512Bf16::detect() {
        Some(instructions) => {
            check_bf16(&SIZES, pairs::Dots::<12> { instructions });
            check_bf16(&SIZES[..4], pairs::Dots::<8> { instructions });
        }
        None => eprintln!("left out: AVX-512 BF16, which this processor does not have"),
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn amx_matches_f64_for_any_number_of_threads() {
    check_amx(&SIZES);
}

/// Small enough for an emulator of a whole machine.
#[test]
#[cfg(target_arch = "x86_64")]
fn amx_matches_f64_on_few_tiles() {
    check_amx(&[(1, 1, 1), (3, 5, 7), (33, 70, 65)]);
}

#[cfg(target_arch = "x86_64")]
fn check_amx(sizes: &[(usize, usize, usize)]) {
    match (amx::Amx::detect(), Level::detect()) {
        (Ok(unit), Level::Avx512(instructions)) => check_bf16(sizes, Tiles { instructions, unit }),
        (Err(reason), _) => eprintln!("left out: AMX: {reason:?}"),
        (Ok(_), _) => unreachable!("AMX is not used without AVX-512"),
    }
}

#[test]
fn tiles_match_f64_for_any_number_of_threads() {
    let few = [(1, 1, 1), (3, 5, 7), (33, 70, 65)];
    check_bf16(&few, Tiles { instructions: Baseline, unit: StandIn });
    // Among them: the rows of more than one item, with more than one block of depth; more than one chunk of lanes.
    let sizes = [(33, 300, 129), (49, 40, 200), (7, 2400, 40), (330, 1540, 20), (35, 33, 4200)];
    match Level::detect() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(instructions) => check_bf16(&sizes, Tiles { instructions, unit: StandIn }),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(instructions) => check_bf16(&sizes, Tiles { instructions, unit: StandIn }),
        Level::Baseline => check_bf16(&sizes, Tiles { instructions: Baseline, unit: StandIn }),
    }
}

/// With one product that is rounded, and the same that is not.
#[test]
fn bf16_results_are_f32_sums_rounded_once() {
    let cpu = cpu(2);
    for (rows, depth, columns) in SIZES {
        let case = Case::<bf16, bf16>::new(rows, depth, columns);
        let (a, b) = case.layouts()[0];
        let mut rounded = case.start.clone();
        multiply(&cpu, a, b, Update::Accumulate, &mut rounded);
        let mut sums = vec![f32::NAN; rows * columns];
        multiply(&cpu, a, b, Update::Overwrite, &mut sums);
        if depth <= 768 {
            let once = sums.iter().zip(&case.start).map(|(sum, start)| bf16::from_f32(sum + start.to_f32()));
            assert_eq!(rounded, once.collect::<Vec<_>>(), "{rows} by {depth} by {columns}");
        }
        multiply(&cpu, a, b, Update::Overwrite, &mut rounded);
        let once: Vec<bf16> = sums.into_iter().map(bf16::from_f32).collect();
        assert_eq!(rounded, once, "{rows} by {depth} by {columns}");
    }
}

fn check_any_size<T: Factor, O: Float>() {
    let (one, three) = (cpu(1), cpu(3));
    let mut random = Values(41);
    for _ in 0..150 {
        let mut size = |most: u64| 1 + (random.next() % most) as usize;
        let (rows, depth, columns) = (size(120), size(90), size(150));
        let case = Case::<T, O>::new(rows, depth, columns);
        for update in UPDATES {
            let alone = case.check(update, |a, b, c| multiply(&one, a, b, update, c));
            let shared = case.check(update, |a, b, c| multiply(&three, a, b, update, c));
            assert_eq!(bits(&alone), bits(&shared), "threads differ: {rows} by {depth} by {columns}");
        }
    }
}

#[test]
fn any_size_matches_f64() {
    check_any_size::<f32, f32>();
    check_any_size::<bf16, f32>();
    check_any_size::<bf16, bf16>();
}

/// The tile of every instruction set, with the instructions of all processors: they differ only in which
/// elements of C are computed together, so the bits are the same.
fn check_tiles<T: Float, O: Float>() {
    let cpu = cpu(2);
    for rows in [1, 4, 6, 11, 12, 13, 48, 97] {
        for columns in [1, 8, 16, 31, 32, 33, 100] {
            let case = Case::<T, O>::new(rows, 19, columns);
            for update in UPDATES {
                let narrow = case.check(update, |a, b, c| {
                    Multiplication { cpu: &cpu, a, b, update, c }.run(Floats::<T, _, 4, 8>::new(Baseline));
                });
                let middle = case.check(update, |a, b, c| {
                    Multiplication { cpu: &cpu, a, b, update, c }.run(Floats::<T, _, 6, 16>::new(Baseline));
                });
                let wide = case.check(update, |a, b, c| {
                    Multiplication { cpu: &cpu, a, b, update, c }.run(Floats::<T, _, 12, 32>::new(Baseline));
                });
                assert_eq!(bits(&narrow), bits(&middle), "{rows} by {columns}");
                assert_eq!(bits(&narrow), bits(&wide), "{rows} by {columns}");
            }
        }
    }
}

#[test]
fn every_shape_of_tile_gives_the_same_bits() {
    check_tiles::<f32, f32>();
    check_tiles::<bf16, bf16>();
}

#[test]
fn nothing_to_sum_leaves_zeros_or_what_was_there() {
    let cpu = cpu(2);
    let (a, b) = (Matrix::<f32>::new(&[], 3, 0), Matrix::new(&[], 0, 2));
    let mut c = [f32::NAN; 6];
    multiply(&cpu, a, b, Update::Overwrite, &mut c);
    assert_eq!(c, [0.0; 6]);
    c.fill(5.0);
    multiply(&cpu, a, b, Update::Accumulate, &mut c);
    assert_eq!(c, [5.0; 6]);
    let a = Matrix::<f32>::new(&[], 0, 3);
    multiply(&cpu, a, Matrix::new(&[1.0; 6], 3, 2), Update::Overwrite, &mut [0.0f32; 0]);
}
