//! What can go wrong, for a person who ran `cargo ptx`.

use std::io;
use std::path::{Path, PathBuf};

use cpift_ptx::text::SyntaxError;

/// Why nothing was written, or why the check failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The PTX is not as LLVM writes it.
    #[error("of the compiler's {0}")]
    Syntax(#[from] SyntaxError),
    /// No compiler to build with.
    #[error(
        "no rustc {release} with its library source: {found}. Install it by\n    \
         apt-get install -y --no-install-recommends rustc-web cargo-web rust-web-src    (Debian)\n    \
         rustup toolchain install {release} -c rust-src    (rustup)\nor name its folder of programs by \
         --toolchain"
    )]
    NoCompiler {
        /// The pinned version.
        release: &'static str,
        /// What there is instead.
        found: String,
    },
    /// A program could not be started, or failed.
    #[error("{program} {problem}")]
    Program {
        /// What was run.
        program: String,
        /// What it said.
        problem: String,
    },
    /// Kernels and PTX do not agree, or a kernel is not as it must be.
    #[error("{}", .0.join("\n"))]
    Findings(Vec<String>),
    /// A file could not be read or written.
    #[error("{path}: {problem}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: io::Error,
    },
    /// The manifest is not one.
    #[error("{path}: {problem}")]
    Manifest {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        problem: serde_json::Error,
    },
}

impl Error {
    /// For `map_err` after an operation on a file.
    pub fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |problem| Self::File { path: path.to_owned(), problem }
    }
}
