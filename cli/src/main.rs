//! The binary: see the library beside it.

use std::process::ExitCode;

/// Tokenization allocates many small strings, on all threads at once.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cpift_engine_cli::main()
}
