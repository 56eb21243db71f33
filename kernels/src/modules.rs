//! The PTX of every family, embedded as `cargo ptx` wrote it.

include!("../ptx/modules.rs");

/// The PTX of `family` for a device of this compute capability: the newest it can run.
pub fn ptx(family: &str, compute_capability: (u32, u32)) -> Option<&'static str> {
    let fitting = MODULES.iter().filter(|(name, oldest, _)| *name == family && *oldest <= compute_capability);
    fitting.max_by_key(|(_, oldest, _)| *oldest).map(|(_, _, text)| *text)
}
