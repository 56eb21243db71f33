//! Where ranks meet, as what started them says it.

use std::time::Duration;

use super::super::{Launcher, Place};
use super::Rendezvous;
use crate::error::{Error, Result};

/// How long ranks wait for each other: all of a job are started at about the same time.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ports of jobs whose launcher names none: below those that systems give out by themselves.
const PORTS: std::ops::Range<u16> = 15_000..30_000;

impl Rendezvous {
    /// Where the processes that were started together meet: rank 0's address is `MASTER_ADDR`, else the first machine of
    /// SLURM's job step, else this machine where all of Open MPI's processes are on one. The port is `MASTER_PORT`, else one
    /// that goes by the job's number. `CPIFT_RANKS_TIMEOUT` says how many seconds they wait for each other, 60 without it.
    ///
    /// # Errors
    /// An address that is missing, or a number that is none.
    pub fn of_environment(place: &Place) -> Result<Self> {
        Self::of(place, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn of(place: &Place, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let named = |names: &[&str]| {
            let values: Vec<String> = names.iter().filter_map(|name| variable(name)).collect();
            values.join(".")
        };
        let job = match place.launcher {
            Launcher::Own => named(&["CPIFT_JOB"]),
            Launcher::OpenMpi => named(&["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"]),
            Launcher::Torchrun => named(&["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"]),
            Launcher::Slurm => named(&["SLURM_JOB_ID", "SLURM_STEP_ID"]),
        };
        let host = variable("MASTER_ADDR").or_else(|| match place.launcher {
            Launcher::Slurm => variable("SLURM_STEP_NODELIST").map(|nodes| first_host(&nodes)),
            Launcher::OpenMpi => {
                let on_this_machine = variable("OMPI_COMM_WORLD_LOCAL_SIZE")?.parse() == Ok(place.size);
                on_this_machine.then(|| "127.0.0.1".to_owned())
            }
            Launcher::Own | Launcher::Torchrun => None,
        });
        let host = host.ok_or_else(|| Error::Ranks {
            reason: "MASTER_ADDR is not set: the address of rank 0's machine, for all ranks".to_owned(),
        })?;
        let port = match variable("MASTER_PORT") {
            Some(text) => text.trim().parse().map_err(|_| Error::Ranks {
                reason: format!("MASTER_PORT is `{text}`, not the number of a port"),
            })?,
            None => port_of(&job),
        };
        let patience = match variable("CPIFT_RANKS_TIMEOUT") {
            Some(text) => Duration::from_secs(text.trim().parse().map_err(|_| Error::Ranks {
                reason: format!("CPIFT_RANKS_TIMEOUT is `{text}`, not a number of seconds"),
            })?),
            None => PATIENCE,
        };
        Ok(Self { host, port, job, patience })
    }
}

/// The first machine of a list as SLURM writes it: `node[03-05,9],other` is node03.
fn first_host(nodes: &str) -> String {
    let mut host = String::new();
    let mut rest = nodes;
    loop {
        let end = rest.find([',', '[']).unwrap_or(rest.len());
        host.push_str(&rest[..end]);
        let Some(numbers) = rest[end..].strip_prefix('[') else { return host };
        host.push_str(numbers.split([',', '-', ']']).next().unwrap_or_default());
        rest = numbers.split_once(']').map_or("", |(_, behind)| behind);
    }
}

/// The port of a job, by FNV-1a over its name.
fn port_of(job: &str) -> u16 {
    let hash = job
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    PORTS.start + (hash % PORTS.len() as u64) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(launcher: Launcher, variables: &[(&str, &str)]) -> Result<Rendezvous> {
        let place = Place { rank: 0, size: 4, local_rank: 0, launcher };
        Rendezvous::of(&place, |name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn addresses_are_what_launchers_say() {
        let master = [("MASTER_ADDR", "first"), ("MASTER_PORT", "29500"), ("TORCHELASTIC_RUN_ID", "x")];
        let torchrun = of(Launcher::Torchrun, &master).unwrap();
        assert_eq!((&*torchrun.host, torchrun.port, &*torchrun.job), ("first", 29_500, "x"));

        let step = [("SLURM_STEP_NODELIST", "n[07-09]"), ("SLURM_JOB_ID", "12"), ("SLURM_STEP_ID", "0")];
        let slurm = of(Launcher::Slurm, &step).unwrap();
        assert!(slurm.host == "n07" && slurm.job == "12.0" && PORTS.contains(&slurm.port), "{slurm:?}");
        let other = [step[0], ("SLURM_JOB_ID", "13"), step[2]];
        assert_ne!(of(Launcher::Slurm, &other).unwrap().port, slurm.port);
        // What is said by hand counts more.
        let by_hand = of(Launcher::Slurm, &[&master[..], &step].concat()).unwrap();
        assert_eq!((&*by_hand.host, by_hand.port), ("first", 29_500));

        let local = of(Launcher::OpenMpi, &[("OMPI_COMM_WORLD_LOCAL_SIZE", "4")]).unwrap();
        assert_eq!(local.host, "127.0.0.1");
        let missing = |variables| of(Launcher::OpenMpi, variables).unwrap_err().to_string();
        assert!(missing(&[("OMPI_COMM_WORLD_LOCAL_SIZE", "2")]).contains("MASTER_ADDR is not set"));
        let wrong = missing(&[("MASTER_ADDR", "a"), ("MASTER_PORT", "http")]);
        assert!(wrong.contains("MASTER_PORT is `http`"), "{wrong}");
        let wrong = missing(&[("MASTER_ADDR", "a"), ("CPIFT_RANKS_TIMEOUT", "soon")]);
        assert!(wrong.contains("CPIFT_RANKS_TIMEOUT is `soon`"), "{wrong}");
        assert_eq!(torchrun.patience, PATIENCE);
    }

    #[test]
    fn the_first_machine_is_found_in_lists() {
        for (nodes, first) in [
            ("one", "one"),
            ("one,two", "one"),
            ("n[3,5-7]", "n3"),
            ("n[003-005],other", "n003"),
            ("rack1-n[1-2]-ib,x[1-2]", "rack1-n1-ib"),
            ("rack[1-2]n[3-4],x", "rack1n3"),
            ("login,n[1-2]", "login"),
        ] {
            assert_eq!(first_host(nodes), first, "{nodes}");
        }
    }
}
