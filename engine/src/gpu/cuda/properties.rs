//! What a device is, and whether the engine can use it.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use super::{explain, graph};
use crate::error::{Error, Result};

/// Oldest compute capability the PTX runs on.
const OLDEST: (u32, u32) = (8, 0);
/// The one compute capability that has architecture-specific kernels (sm_90a).
const HOPPER_CAPABILITY: (u32, u32) = (9, 0);
/// The environment variable that keeps them out.
const HOPPER: &str = "CPIFT_HOPPER";
/// CUDA 11.0 brought PTX 7.0, 11.1 PTX 7.1, 12.0 PTX 8.0 and so on.
const PTX_BEHIND_CUDA: u32 = 4;

/// A device as its driver describes it.
pub struct Properties {
    /// The driver's handle.
    pub device: sys::CUdevice,
    /// The maker's name.
    pub name: String,
    /// The device's compute capability, as (9, 0).
    pub hardware: (u32, u32),
    /// The compute capability whose kernels are used: the same, or an older one.
    pub compute_capability: (u32, u32),
    /// Why it is an older one.
    pub disabled_kernels: Option<String>,
    /// Bytes of memory.
    pub memory: u64,
    /// How many run blocks side by side.
    pub multiprocessors: u32,
    /// Most bytes of shared memory that a block can be allowed.
    pub shared_memory: u32,
    /// Bytes of the last cache before memory.
    pub cache: usize,
    /// Whether the driver knows graphs as they are made here.
    pub graphs: bool,
}

/// Starts the driver and counts its devices.
///
/// # Errors
/// No driver, or it does not start; said of the device of that name.
pub fn count(name: &str) -> Result<usize> {
    let unavailable = |reason: String| Error::DeviceUnavailable { name: name.to_owned(), reason };
    let failed =
        |what: &'static str| move |error: DriverError| unavailable(format!("{what}: {}", explain(error)));
    // SAFETY: only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(unavailable("no CUDA driver was found (libcuda is not installed)".to_owned()));
    }
    result::init().map_err(failed("the CUDA driver does not start"))?;
    let count = result::device::get_count().map_err(failed("devices cannot be counted"))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

impl Properties {
    /// Starts the driver and asks about device `ordinal`.
    ///
    /// # Errors
    /// No driver, no such device, or one that the kernels do not run on.
    pub fn read(ordinal: usize) -> Result<Self> {
        let name = format!("cuda:{ordinal}");
        let count = count(&name)?;
        let unavailable = |reason: String| Error::DeviceUnavailable { name: name.clone(), reason };
        let failed =
            |what: &'static str| move |error: DriverError| unavailable(format!("{what}: {}", explain(error)));
        if ordinal >= count {
            return Err(unavailable(format!("the machine has {count} CUDA device(s)")));
        }
        let device = result::device::get(ordinal as i32).map_err(failed("the device cannot be opened"))?;
        // SAFETY: `device` comes from `get`.
        let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) };
        let query = failed("the device does not say what it is");
        let number = |which| attribute(which).map(|value| value.max(0) as u32).map_err(query);
        let hardware = (
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let name = result::device::get_name(device).map_err(query)?;
        if hardware < OLDEST {
            let (major, minor) = hardware;
            return Err(unavailable(format!(
                "{name} has compute capability {major}.{minor}, needed is {}.{} (Ampere) or newer",
                OLDEST.0, OLDEST.1
            )));
        }
        let driver = driver_version().map_err(query)?;
        let wanted = std::env::var(HOPPER).unwrap_or_default();
        let disabled_kernels = hopper_kernels_disabled(hardware, driver, &wanted).map_err(&unavailable)?;
        let compute_capability = if disabled_kernels.is_some() { OLDEST } else { hardware };
        let ptx = cpift_kernels::modules::newest_version(compute_capability);
        if newest_ptx(driver) < ptx {
            let (major, minor) = ptx;
            return Err(unavailable(format!(
                "its driver is for CUDA {}, the kernels for {name} are PTX {major}.{minor}, which CUDA {} and newer know",
                cuda(driver),
                oldest_cuda(ptx)
            )));
        }
        if number(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? == 0 {
            return Err(unavailable(format!("{name} has no memory pools")));
        }
        Ok(Self {
            device,
            name,
            hardware,
            compute_capability,
            disabled_kernels,
            // SAFETY: `device` comes from `get`.
            memory: unsafe { result::device::total_mem(device) }.map_err(query)? as u64,
            multiprocessors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1),
            shared_memory: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            cache: number(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
            graphs: driver >= graph::OLDEST_DRIVER,
        })
    }
}

/// Why a device computes without the kernels that are for its compute capability alone, if it does: the driver is
/// too old for them, or the variable says so.
///
/// # Errors
/// Another value of the variable.
fn hopper_kernels_disabled(
    compute_capability: (u32, u32),
    driver: i32,
    wanted: &str,
) -> std::result::Result<Option<String>, String> {
    let hopper = compute_capability == HOPPER_CAPABILITY;
    let needed = cpift_kernels::modules::newest_version(HOPPER_CAPABILITY);
    match wanted {
        "off" if hopper => Ok(Some(format!("the kernels for Hopper (sm_90a), since {HOPPER} is off"))),
        "" | "on" | "off" if hopper && newest_ptx(driver) < needed => Ok(Some(format!(
            "the kernels for Hopper (sm_90a), which need a driver for CUDA {} or newer (this one is for {})",
            oldest_cuda(needed),
            cuda(driver)
        ))),
        "" | "on" | "off" => Ok(None),
        _ => Err(format!("the environment variable {HOPPER} is `{wanted}`: set it to `on` or `off`")),
    }
}

/// The driver's version, as it numbers itself: 12080 is 12.8.
fn driver_version() -> std::result::Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: writes the number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

/// The newest PTX version that a driver of this number knows: CUDA's, but that 12.6 brought no new one.
fn newest_ptx(driver: i32) -> (u32, u32) {
    let driver = driver.max(0) as u32;
    let (major, minor) = (driver / 1000, driver % 1000 / 10);
    let behind = u32::from(major == 12 && minor >= 6);
    (major.saturating_sub(PTX_BEHIND_CUDA), minor - behind)
}

/// A driver's number as CUDA's version, as `12.8`.
fn cuda(driver: i32) -> String {
    format!("{}.{}", driver / 1000, driver % 1000 / 10)
}

/// The first CUDA that knows a PTX version, as `12.8`.
fn oldest_cuda((major, minor): (u32, u32)) -> String {
    let behind = u32::from(major == 8 && minor >= 6);
    format!("{}.{}", major + PTX_BEHIND_CUDA, minor + behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_for_hopper_are_disabled_for_a_reason() {
        let disabled_kernels =
            |capability, driver, wanted| hopper_kernels_disabled(capability, driver, wanted).unwrap();
        for wanted in ["", "on"] {
            assert_eq!(disabled_kernels((9, 0), 12_000, wanted), None);
            assert!(
                disabled_kernels((9, 0), 11_080, wanted)
                    .unwrap()
                    .contains("CUDA 12.0 or newer (this one is for 11.8)")
            );
        }
        assert!(disabled_kernels((9, 0), 12_080, "off").unwrap().contains("CPIFT_HOPPER is off"));
        for capability in [(8, 0), (8, 9), (12, 0)] {
            assert_eq!(disabled_kernels(capability, 11_040, "off"), None);
        }
        let error = hopper_kernels_disabled((8, 0), 12_080, "no").unwrap_err();
        assert_eq!(error, "the environment variable CPIFT_HOPPER is `no`: set it to `on` or `off`");
    }

    #[test]
    fn drivers_older_than_the_ptx_are_known() {
        // From the release notes in the reference of PTX.
        let table =
            [(11_000, (7, 0)), (11_040, (7, 4)), (11_080, (7, 8)), (12_000, (8, 0)), (12_050, (8, 5))];
        let newer =
            [(12_060, (8, 5)), (12_070, (8, 6)), (12_080, (8, 7)), (12_090, (8, 8)), (13_000, (9, 0))];
        for (driver, ptx) in table.into_iter().chain(newer) {
            assert_eq!(newest_ptx(driver), ptx, "{driver}");
        }
        assert!(newest_ptx(10_020) < (7, 0));
        let texts = [(7, 0), (8, 5), (8, 7), (9, 0)].map(oldest_cuda);
        assert_eq!(texts, ["11.0", "12.5", "12.8", "13.0"]);
    }
}
