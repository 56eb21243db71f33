//! Fuzzing without libFuzzer: random changes of the inputs in `tests/fuzz/seeds`, blind to what code they reach.
//!
//!     cargo run -p cpift-fuzzing --bin mutate -- TARGET COUNT SEED
//!
//! An input that is a finding is written beside, as `finding-TARGET-NUMBER`; the input being tried lies in
//! `trying-TARGET`, where it stays when the process dies of it.

use std::path::Path;
use std::process::ExitCode;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok());
    let (Some(name), Some(count), Some(seed)) = (words.first(), number(1), number(2)) else {
        eprintln!("usage: mutate TARGET COUNT SEED");
        return ExitCode::from(2);
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("a target").map(|entry| entry.expect("an input").path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).expect("an input")).collect();
    let mut findings = 0;
    for number in seed..seed + count {
        let mut random = ChaCha8Rng::seed_from_u64(number);
        let input = mutated(&seeds, &mut random);
        std::fs::write(format!("trying-{name}"), &input).expect("a writable folder");
        if std::panic::catch_unwind(|| cpift_fuzzing::run(name, &input)).is_err() {
            std::fs::write(format!("finding-{name}-{number}"), &input).expect("a writable folder");
            findings += 1;
        }
    }
    let _ = std::fs::remove_file(format!("trying-{name}"));
    println!("{name}: {count} inputs, {findings} findings");
    ExitCode::from(u8::from(findings > 0))
}

/// Text that means something to one of the formats.
const WORDS: [&str; 16] = [
    "null",
    "-1",
    "1e308",
    "18446744073709551615",
    "\"\"",
    "[]",
    "{}",
    "\u{202e}",
    "\u{1b}[31m",
    "\\u0000",
    "{%",
    "%}",
    "{{",
    "}}",
    "\n=== ",
    "0.0",
];

/// One of the inputs with a few random changes.
fn mutated(seeds: &[Vec<u8>], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut input = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..6) {
        let start = random.random_range(0..=input.len());
        let end = (start + random.random_range(0..20)).min(input.len());
        match random.random_range(0..6) {
            0 if start < input.len() => input[start] ^= 1 << random.random_range(0..8),
            1 => drop(input.drain(start..end)),
            2 => {
                let copy = input[start..end].to_vec();
                let at = random.random_range(0..=input.len());
                input.splice(at..at, copy);
            }
            3 => input.truncate(start),
            4 => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let from = random.random_range(0..=other.len());
                let to = (from + random.random_range(0..200)).min(other.len());
                input.splice(start..end, other[from..to].iter().copied());
            }
            _ => drop(input.splice(start..end, WORDS[random.random_range(0..WORDS.len())].bytes())),
        }
    }
    input
}
