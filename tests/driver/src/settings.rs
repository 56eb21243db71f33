//! What a test asks of the driver, by environment variables.

use std::str::FromStr;

use cpift_kernels::emulator::Schedule;

use crate::execute::Runs;

/// All variables start with this.
pub const PREFIX: &str = "CPIFT_STAND_IN_";

/// The machine that is acted, and what goes wrong on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `VERSION`: of the driver, as it numbers itself.
    pub version: i32,
    /// `DEVICES`: how many there are.
    pub devices: i32,
    /// `CAPABILITY`: compute capability, as `8.0`.
    pub capability: (u32, u32),
    /// `MEMORY`: bytes of a device.
    pub memory: u64,
    /// `MULTIPROCESSORS`: of a device.
    pub multiprocessors: u32,
    /// `SCHEDULE`: the emulator's, `forward`, `reverse` or a seed.
    pub schedule: Schedule,
    /// `RUNS`: what launches execute, `source`, `ptx`, or `both`, whose results are then compared.
    pub runs: Runs,
    /// `EAGER=1`: asynchronous work is done at once, instead of as late as possible.
    pub eager: bool,
    /// `FAIL`: things that go wrong, separated by commas.
    pub failures: Vec<Failure>,
    /// `LOG`: a file to which violations, leaks and counts are added, a line each.
    pub log: Option<String>,
}

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// `init`: the driver does not start.
    Init,
    /// `jit:KERNEL`: PTX with a kernel whose name starts so is not taken.
    Jit(String),
    /// `launch:KERNEL`: kernels whose names start so fail when they run.
    Launch(String),
    /// `skip:KERNEL`: kernels whose names start so do nothing.
    Skip(String),
    /// `graph`: graphs cannot be made ready.
    Graph,
    /// `update`: changes of graphs are taken and forgotten.
    Update,
}

impl Settings {
    /// As the environment says; what it does not is an A100 with little memory and a driver of CUDA 12.8.
    pub fn from_environment() -> Self {
        let text = |name: &str| std::env::var(format!("{PREFIX}{name}")).ok();
        Self::from(text)
    }

    /// As `text` gives the variables.
    pub fn from(text: impl Fn(&str) -> Option<String>) -> Self {
        let capability = text("CAPABILITY").and_then(|text| {
            let (major, minor) = text.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        let schedule = match text("SCHEDULE").as_deref() {
            None | Some("forward") => Schedule::Forward,
            Some("reverse") => Schedule::Reverse,
            Some(seed) => Schedule::Shuffled(seed.parse().unwrap_or(17)),
        };
        Self {
            version: parsed(text("VERSION"), 12_080),
            devices: parsed(text("DEVICES"), 1),
            capability: capability.unwrap_or((8, 0)),
            memory: parsed(text("MEMORY"), 4 << 30),
            multiprocessors: parsed(text("MULTIPROCESSORS"), 108),
            schedule,
            runs: parsed(text("RUNS"), Runs::Source),
            eager: text("EAGER").is_some_and(|value| value == "1"),
            failures: text("FAIL").unwrap_or_default().split(',').filter_map(Failure::parse).collect(),
            log: text("LOG"),
        }
    }

    /// Most bytes of shared memory a block can be allowed, by compute capability as CUDA's programming guide
    /// has it.
    pub fn shared_memory(&self) -> u32 {
        let kibibytes = match self.capability {
            (8, 0 | 7) => 163,
            (8, _) | (12, _) => 99,
            (9.., _) => 227,
            (7, 5) => 64,
            _ => 96,
        };
        kibibytes << 10
    }
}

impl Failure {
    fn parse(text: &str) -> Option<Self> {
        Some(match text.split_once(':') {
            None if text == "init" => Self::Init,
            None if text == "graph" => Self::Graph,
            None if text == "update" => Self::Update,
            Some(("jit", name)) => Self::Jit(name.to_owned()),
            Some(("launch", name)) => Self::Launch(name.to_owned()),
            Some(("skip", name)) => Self::Skip(name.to_owned()),
            _ => return None,
        })
    }
}

fn parsed<T: FromStr>(text: Option<String>, otherwise: T) -> T {
    text.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_has_a_default() {
        let settings = Settings::from(|_| None);
        assert_eq!((settings.version, settings.devices, settings.capability), (12_080, 1, (8, 0)));
        assert_eq!(settings.shared_memory(), 163 << 10);
    }

    #[test]
    fn variables_are_read() {
        let settings = Settings::from(|name| {
            let value = match name {
                "CAPABILITY" => "9.0",
                "FAIL" => "jit:gemm,update,nonsense",
                "SCHEDULE" => "5",
                "RUNS" => "both",
                _ => return None,
            };
            Some(value.to_owned())
        });
        assert_eq!(settings.shared_memory(), 227 << 10);
        assert_eq!(settings.failures, [Failure::Jit("gemm".to_owned()), Failure::Update]);
        assert_eq!((settings.schedule, settings.runs), (Schedule::Shuffled(5), Runs::Both));
    }
}
