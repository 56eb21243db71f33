//! The binary: see the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    cpift_engine_cli::main()
}
