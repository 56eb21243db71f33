//! Reads PTX: for what makes it (`cargo ptx`) and for the stand-in driver, which executes it.

pub mod body;
#[cfg(test)]
mod samples;
pub mod text;
