//! The PTX that `cargo ptx` made, in the program.

#[path = "../ptx/modules.rs"]
mod embedded;

/// What `cargo ptx` knows of the kernels, as JSON: by PTX file and kernel, among others the registers and shared
/// memory that the assembler gave it for each architecture.
pub const MANIFEST: &str = include_str!("../ptx/manifest.json");

/// A family's PTX for an architecture.
struct Module {
    family: &'static str,
    /// As in PTX: "sm_80", or with an "a" behind for that compute capability alone.
    architecture: &'static str,
    ptx: &'static str,
}

/// The PTX of a family for a device of this compute capability, as (9, 0): made for it alone if there is
/// such, else for the newest architecture that is not newer. None if the device is too old, or there is no
/// such family.
pub fn ptx(family: &str, compute_capability: (u32, u32)) -> Option<&'static str> {
    let of_family = embedded::MODULES.iter().filter(|module| module.family == family);
    let ranked =
        of_family.filter_map(|module| Some((rank(module.architecture, compute_capability)?, module)));
    ranked.max_by_key(|&(rank, _)| rank).map(|(_, module)| module.ptx)
}

/// The newest PTX version, as (8, 0), that a driver must know for a device of this compute capability.
pub fn newest_version(compute_capability: (u32, u32)) -> (u32, u32) {
    let modules = crate::families().iter().filter_map(|(family, _)| ptx(family, compute_capability));
    modules.filter_map(version).max().unwrap_or((0, 0))
}

/// What a module says in `.version 8.0`.
fn version(ptx: &str) -> Option<(u32, u32)> {
    let (_, rest) = ptx.split_once(".version ")?;
    let (major, minor) = rest.lines().next()?.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Whether a kernel for this architecture runs on a device.
pub fn runs_on(architecture: &str, compute_capability: (u32, u32)) -> bool {
    rank(architecture, compute_capability).is_some()
}

/// How well an architecture's PTX fits a device, greater is better: whether it is made for it alone, then
/// its number. None if it does not run there.
fn rank(architecture: &str, (major, minor): (u32, u32)) -> Option<(bool, u32)> {
    let number = architecture.strip_prefix("sm_")?;
    let device = 10 * major + minor;
    match number.strip_suffix('a') {
        Some(number) => number.parse().ok().filter(|&number| number == device).map(|number| (true, number)),
        None => number.parse().ok().filter(|&number| number <= device).map(|number| (false, number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_ptx_with_its_kernels_for_every_device_from_ampere_on() {
        for &(family, kernels) in crate::families() {
            for capability in [(8, 0), (8, 9), (9, 0), (12, 0)] {
                let ptx = ptx(family, capability);
                for kernel in kernels {
                    let found = ptx.is_some_and(|ptx| ptx.contains(&format!(".entry {}(", kernel.name)));
                    assert_eq!(found, runs_on(kernel.architecture, capability), "{}", kernel.name);
                }
            }
            assert!(ptx(family, (7, 5)).is_none());
        }
        assert!(ptx("no such family", (9, 0)).is_none());
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version("//\n.version 8.1\n.target sm_90a"), Some((8, 1)));
        assert_eq!(version("no version"), None);
        assert!(newest_version((8, 0)) >= (7, 0));
    }

    #[test]
    fn ptx_for_one_device_alone_goes_before_ptx_for_all() {
        assert!(rank("sm_90a", (9, 0)) > rank("sm_90", (9, 0)));
        assert!(rank("sm_90", (9, 0)) > rank("sm_80", (9, 0)));
        assert_eq!(rank("sm_90a", (10, 0)), None);
        assert_eq!(rank("sm_90", (8, 9)), None);
        assert_eq!(rank("other", (9, 0)), None);
    }
}
