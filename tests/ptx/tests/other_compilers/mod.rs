//! PTX that other compilers wrote (`tests/ptx/other_compilers/`), executed: what it computes must be what sums in f64 give, and
//! each mutation that the emulator could have must be noticed by it.

mod attention;
mod generic;
mod open;
mod optimizer;
mod products;

use cpift_kernels::launch::{Argument, Direction, Kernel, Parameter, Request, TensorCores};
use cpift_kernels::simt::{Element, Real};
use cpift_stand_in::Module;
use cpift_stand_in::execute::{self, Runs};
use source::emulator::{Emulator, Mutation, Rules, Schedule};

use crate::common::{Buffer, widen};

/// How PTX of others is executed: Triton's has no proxy fence behind `mbarrier.init`.
const RULES: Rules = Rules { mutation: None, mbarriers_unfenced: true };

/// A text of PTX beside this project.
macro_rules! ptx_of {
    ($name:literal) => {
        include_str!(concat!("../../other_compilers/", $name, ".ptx"))
    };
}
use ptx_of;

/// A launch.
#[derive(Debug, Clone, Copy)]
struct Launch {
    /// A kernel of the text.
    kernel: &'static str,
    grid: [u32; 3],
    block: u32,
    /// Bytes of dynamic shared memory.
    shared: u32,
}

/// An argument, with what the kernel does with it.
type Given = (Direction, &'static str, Argument);

/// A buffer that is written, or read and written.
fn updated<T: Element>(buffer: &mut Buffer<T>) -> Given {
    let slice = buffer.as_mut_slice();
    let argument = Argument::Buffer { address: slice.as_ptr() as u64, length: slice.len() };
    (Direction::Update, T::NAME, argument)
}

/// A buffer that is read.
fn read<T: Element>(buffer: &Buffer<T>) -> Given {
    (Direction::Read, T::NAME, buffer.read().argument())
}

/// A matrix by its tensor map.
fn tiles<T: Element>(buffer: &Buffer<T>, [rows, columns]: [usize; 2], box_rows: u32) -> Given {
    (Direction::TensorMap, T::NAME, buffer.read().tensor_map(rows as u64, columns as u64, box_rows))
}

/// A matrix as Triton passes it: its tensor map, rows and columns, and the distances between them.
fn described<T: Element>(buffer: &Buffer<T>, shape: [usize; 2], box_rows: u32) -> Vec<Given> {
    let [rows, columns] = shape;
    vec![tiles(buffer, shape, box_rows), word(rows), word(columns), long(columns), long(1)]
}

fn word(number: usize) -> Given {
    (Direction::Scalar, "u32", Argument::U32(number as u32))
}

fn long(number: usize) -> Given {
    (Direction::Scalar, "u64", Argument::U64(number as u64))
}

fn float(number: f32) -> Given {
    (Direction::Scalar, "f32", Argument::F32(number))
}

/// Executes a kernel of a text.
fn launch(
    text: &str,
    Launch { kernel: name, grid, block, shared }: Launch,
    given: &[Given],
    rules: Rules,
    schedule: Schedule,
) -> Result<(), String> {
    let module = Module::parse(text).unwrap_or_else(|message| panic!("{name}: {message}"));
    let entry = &module.entries[name];
    let passed: Vec<usize> = given.iter().map(|(_, element, argument)| bytes(element, argument)).collect();
    let declared: Vec<usize> = entry.parameters.iter().map(|parameter| parameter.bytes).collect();
    assert_eq!(passed, declared, "{name}: bytes of its parameters");
    let parameters = given.iter().map(|&(direction, element, _)| Parameter {
        name: "an argument",
        direction,
        element,
        align: 16,
    });
    let kernel = Kernel {
        name,
        family: "other_compilers",
        architecture: "sm_80",
        block,
        min_blocks: 1,
        tensor_cores: TensorCores::Unused,
        shared: None,
        parameters: parameters.collect::<Vec<_>>().leak(),
        emulate: None,
    };
    let arguments: Vec<Argument> = given.iter().map(|&(_, _, argument)| argument).collect();
    let request = Request { kernel: Box::leak(Box::new(kernel)), grid, shared, arguments: &arguments };
    let emulator = Emulator::new(schedule).like((9, 0), 132).by(rules);
    // SAFETY: every access is checked against the buffers, which outlive the launch.
    unsafe { execute::launch(Runs::Ptx, &emulator, &request, entry) }.map_err(|error| error.to_string())
}

/// Bytes of a parameter for an argument.
fn bytes(element: &str, argument: &Argument) -> usize {
    match (element, argument) {
        (_, Argument::TensorMap(_)) => 128,
        (_, Argument::Buffer { .. }) | ("u64", _) => 8,
        _ => 4,
    }
}

/// Fails unless every number is within `tolerance` times the largest of what is expected.
fn compare<E: Real>(what: &str, actual: &[E], expected: &[f64], tolerance: f64) -> Result<(), String> {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f64, |largest, value| largest.max(value.abs()));
    let far = |(actual, expected): (f64, &f64)| {
        let near = (actual - expected).abs() <= tolerance * largest;
        (!near).then_some((actual, *expected))
    };
    match widen(actual)
        .into_iter()
        .zip(expected)
        .enumerate()
        .find_map(|(place, pair)| Some((place, far(pair)?)))
    {
        None => Ok(()),
        Some((place, (actual, expected))) => {
            Err(format!("{what}[{place}] is {actual}, not {expected}, where the largest is {largest}"))
        }
    }
}

/// Runs something by the rules for others' PTX, in an order of threads and in another.
#[track_caller]
fn must_be_right(run: impl Fn(Rules, Schedule) -> Result<(), String>) {
    for schedule in [Schedule::Forward, Schedule::Shuffled(5)] {
        run(RULES, schedule).unwrap_or_else(|what| panic!("{schedule:?}: {what}"));
    }
}

/// What notices a mutation, and how: by a fault or by wrong numbers.
#[test]
fn mutations_of_the_emulator_are_noticed() {
    type Run = fn(Rules, Schedule) -> Result<(), String>;
    let noticed: [(Mutation, Run, &str); 18] = [
        (Mutation::StridesExchanged, products::tma_tn, "the product["),
        (Mutation::OperandsNotSwizzled, products::tma_nn, "the product["),
        (Mutation::OperandsSwizzledFromStart, products::tma_nn, "product of a tile"),
        (Mutation::RegistersExchanged, attention::run, "the output["),
        (Mutation::ParityInverted, products::ring_nt, "never written"),
        (Mutation::TilesSwizzledFromStart, open::row_tiles, "the rows["),
        (Mutation::BytesNotAwaited, products::ring_nt, "still copying"),
        (Mutation::SumsExchanged, products::ring_nt, "the product["),
        (Mutation::AccumulationInverted, products::ring_nt, "the product["),
        (Mutation::ShufflesOffByOne, generic::reductions, "sums["),
        (Mutation::MatricesExchanged, generic::product, "the product["),
        (Mutation::MatrixRowsExchanged, products::matmul, "the product["),
        (Mutation::MatricesNotTransposed, generic::product, "the product["),
        (Mutation::FragmentsOfAExchanged, generic::product, "the product["),
        (Mutation::FragmentsOfBExchanged, products::matmul, "the product["),
        (Mutation::FragmentsOfSumsExchanged, products::matmul, "the product["),
        (Mutation::CopiesNotAwaited, generic::product, "still copying"),
        (Mutation::LatestCopiesAwaited, generic::product, "still copying"),
    ];
    assert_eq!(noticed.map(|(mutation, _, _)| mutation), Mutation::ALL);
    let others = noticed.into_iter().filter_map(|(mutation, run, words)| {
        let rules = Rules { mutation: Some(mutation), ..RULES };
        let found = run(rules, Schedule::Forward).err().unwrap_or_else(|| "nothing".to_owned());
        (!found.contains(words)).then(|| format!("{mutation:?}: {found}"))
    });
    let others: Vec<String> = others.collect();
    assert!(others.is_empty(), "{others:#?}");
}

/// Kernels of this project must make mbarriers known to TMA by a fence, whatever others' do.
#[test]
fn mbarriers_without_a_fence_are_refused_by_default() {
    let found = products::tma_nn(Rules::default(), Schedule::Forward).expect_err("refused");
    assert!(found.contains("initialised without fence_mbarrier_init"), "{found}");
}
