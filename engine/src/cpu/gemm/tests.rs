use super::*;
use crate::device::Device;

fn cpu(threads: usize) -> CpuDevice {
    match Device::cpu(std::num::NonZeroUsize::new(threads)).expect("threads") {
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

    fn floats(&mut self, length: usize) -> Vec<f32> {
        (0..length).map(|_| self.next() as f32 / (1u32 << 30) as f32 - 1.0).collect()
    }
}

fn transpose(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|index| data[index % rows * columns + index / rows]).collect()
}

/// A product of random matrices in all layouts, and the same in f64.
struct Case {
    rows: usize,
    depth: usize,
    columns: usize,
    /// A, Aᵀ, B, Bᵀ, each row-major.
    operands: [Vec<f32>; 4],
    /// What C holds before.
    start: Vec<f32>,
    product: Vec<f64>,
}

impl Case {
    fn new(rows: usize, depth: usize, columns: usize) -> Self {
        let mut values = Values((rows * 1_000_003 + depth * 1009 + columns) as u64);
        let (a, b) = (values.floats(rows * depth), values.floats(depth * columns));
        let element = |index: usize| {
            let (i, j) = (index / columns, index % columns);
            (0..depth).map(|p| f64::from(a[i * depth + p]) * f64::from(b[p * columns + j])).sum()
        };
        let product = (0..rows * columns).map(element).collect();
        let start = values.floats(rows * columns);
        let operands = [transpose(&a, rows, depth), transpose(&b, depth, columns)];
        let [a_transposed, b_transposed] = operands;
        Self { rows, depth, columns, operands: [a, a_transposed, b, b_transposed], start, product }
    }

    /// Every layout of A with every layout of B.
    fn layouts(&self) -> [(Matrix<'_>, Matrix<'_>); 4] {
        let &Self { rows, depth, columns, .. } = self;
        let [a, a_transposed, b, b_transposed] = &self.operands;
        let left = [Matrix::new(a, rows, depth), Matrix::new(a_transposed, depth, rows).transposed()];
        let right = [Matrix::new(b, depth, columns), Matrix::new(b_transposed, columns, depth).transposed()];
        [(left[0], right[0]), (left[0], right[1]), (left[1], right[0]), (left[1], right[1])]
    }

    /// Runs `multiply` on every layout, in poisoned memory: all must give the same bits, near to f64's.
    /// Returns them.
    fn check(&self, update: Update, multiply: impl Fn(Matrix, Matrix, &mut [f32])) -> Vec<f32> {
        let results = self.layouts().map(|(a, b)| {
            let mut c = match update {
                Update::Overwrite => vec![f32::NAN; self.start.len()],
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
        for (index, &actual) in results[0].iter().enumerate() {
            let before = if update == Update::Accumulate { f64::from(self.start[index]) } else { 0.0 };
            let error = (f64::from(actual) - self.product[index] - before).abs();
            assert!(error < 1e-6 * self.depth as f64 + 1e-6, "{what} at {index}: {error}");
        }
        let [first, others @ ..] = results;
        for other in others {
            assert_eq!(bits(&first), bits(&other), "layouts differ: {what}");
        }
        first
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

const UPDATES: [Update; 2] = [Update::Overwrite, Update::Accumulate];

#[test]
fn all_layouts_match_f64_for_any_number_of_threads() {
    let devices = [1, 2, 3, 4].map(cpu);
    let sizes = [
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
    ];
    for (rows, depth, columns) in sizes {
        let case = Case::new(rows, depth, columns);
        for update in UPDATES {
            let results =
                devices.each_ref().map(|cpu| case.check(update, |a, b, c| multiply(cpu, a, b, update, c)));
            for other in &results[1..] {
                assert_eq!(bits(&results[0]), bits(other), "threads differ: {rows} by {depth} by {columns}");
            }
        }
    }
}

#[test]
fn any_size_matches_f64() {
    let (one, three) = (cpu(1), cpu(3));
    let mut random = Values(41);
    for _ in 0..150 {
        let mut size = |most: u64| 1 + (random.next() % most) as usize;
        let (rows, depth, columns) = (size(120), size(90), size(150));
        let case = Case::new(rows, depth, columns);
        for update in UPDATES {
            let alone = case.check(update, |a, b, c| multiply(&one, a, b, update, c));
            let shared = case.check(update, |a, b, c| multiply(&three, a, b, update, c));
            assert_eq!(bits(&alone), bits(&shared), "threads differ: {rows} by {depth} by {columns}");
        }
    }
}

/// The tile of every instruction set, with the instructions of all processors: they differ only in which
/// elements of C are computed together, so the bits are the same.
#[test]
fn every_shape_of_tile_gives_the_same_bits() {
    let cpu = cpu(2);
    for rows in [1, 4, 6, 11, 12, 13, 48, 97] {
        for columns in [1, 8, 16, 31, 32, 33, 100] {
            let case = Case::new(rows, 19, columns);
            for update in UPDATES {
                let narrow =
                    case.check(update, |a, b, c| Product::<4, 8>::new(a, b, update, c).run(&cpu, Baseline));
                let middle =
                    case.check(update, |a, b, c| Product::<6, 16>::new(a, b, update, c).run(&cpu, Baseline));
                let wide =
                    case.check(update, |a, b, c| Product::<12, 32>::new(a, b, update, c).run(&cpu, Baseline));
                assert_eq!(bits(&narrow), bits(&middle), "{rows} by {columns}");
                assert_eq!(bits(&narrow), bits(&wide), "{rows} by {columns}");
            }
        }
    }
}

#[test]
fn nothing_to_sum_leaves_zeros_or_what_was_there() {
    let cpu = cpu(2);
    let (a, b) = (Matrix::new(&[], 3, 0), Matrix::new(&[], 0, 2));
    let mut c = [f32::NAN; 6];
    multiply(&cpu, a, b, Update::Overwrite, &mut c);
    assert_eq!(c, [0.0; 6]);
    c.fill(5.0);
    multiply(&cpu, a, b, Update::Accumulate, &mut c);
    assert_eq!(c, [5.0; 6]);
    multiply(&cpu, Matrix::new(&[], 0, 3), Matrix::new(&[1.0; 6], 3, 2), Update::Overwrite, &mut []);
}
