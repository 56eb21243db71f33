//! Operations: one folder each, `mod.rs` with the contract and the checks, `cpu.rs` with the code.
