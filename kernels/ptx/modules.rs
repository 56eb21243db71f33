// Made by `cargo ptx`: do not edit.

use super::Module;

#[rustfmt::skip]
pub(super) const MODULES: &[Module] = &[
    Module { family: "elementwise", architecture: "sm_80", ptx: include_str!("elementwise.sm_80.ptx") },
];
