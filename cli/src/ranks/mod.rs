//! `train` by several processes: joining the others, agreeing with them, ending with them.

pub mod launch;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_engine::ranks::sockets::{Rendezvous, Sockets};
use cpift_engine::ranks::{Collective, Launcher, Loss, OnLoss, Place, nccl};
use cpift_engine::{Device, Ranks};
use cpift_model::trainer::agreement;
use cpift_model::{Error, Result};
use cpift_mpi::Mpi;

use crate::display::tell;
use crate::interrupt::exit_now;
use crate::{describe, display};

/// What ranks compare beside what they read: releases may speak to each other in another way.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// This process among others that were started together to train one run.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// Which of them it is.
    pub place: Place,
    transport: Transport,
}

/// What ranks exchange by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    /// MPI, what CPUs have.
    Mpi,
    /// NCCL, what GPUs have; a GPU for each rank.
    Nccl,
}

impl Member {
    /// What the environment says of this process: none where it is alone, or where those that were started with it cannot
    /// speak to each other ([`notice`]). `device` is a name as [`Device::from_name`] takes it: ranks have a GPU each where there
    /// are some and none is named.
    pub fn of_environment(device: &str) -> Option<Self> {
        let place = Place::of_environment()?;
        let has_gpus = || Device::cuda_count().is_ok_and(|count| count > 0);
        let is_for_gpus = match device {
            "cuda" => true,
            "auto" => place.launcher == Launcher::Own || has_gpus(),
            _ => false,
        };
        match is_for_gpus {
            true => Some(Self { place, transport: Transport::Nccl }),
            false => (Mpi::IS_BUILT && !device.starts_with("cuda:"))
                .then_some(Self { place, transport: Transport::Mpi }),
        }
    }
}

/// What a person should know where others were started together with a process that trains by itself.
pub fn notice(device: &str) -> Option<String> {
    let place = Place::of_environment()?;
    let why = match device.starts_with("cuda:") {
        true => format!("--device {device} is one GPU"),
        false => "this build is without MPI".to_owned(),
    };
    let (launcher, variable) = (place.launcher.name(), place.launcher.variable());
    Some(format!(
        "{launcher} started {} processes ({variable}): {why}, and each trains by itself",
        place.size
    ))
}

/// The processes that were started together with this one.
pub struct Group {
    place: Place,
    /// By what the host sends.
    ranks: Ranks,
    link: Link,
}

/// What connects the processes.
enum Link {
    Mpi(Mpi),
    Sockets(Arc<Sockets>),
}

impl Group {
    /// Joins the other processes.
    ///
    /// # Errors
    /// What started them does not say where they meet, or is not known to MPI; others cannot be reached.
    pub fn join(member: &Member) -> Result<Self> {
        let Member { place, transport } = *member;
        display::set_rank(place.rank);
        let refused = |error: cpift_engine::Error| {
            let reason = match error {
                cpift_engine::Error::Ranks { reason } => reason,
                error => error.to_string(),
            };
            Error::setting(place.launcher.name(), reason)
        };
        match transport {
            Transport::Mpi => {
                let (mpi, ranks) = Mpi::start(&place).map_err(refused)?;
                Ok(Self { place, ranks, link: Link::Mpi(mpi) })
            }
            Transport::Nccl => {
                let rendezvous = Rendezvous::of_environment(&place).map_err(refused)?;
                let sockets = Sockets::meet(&place, &rendezvous, on_loss(place)).map_err(refused)?;
                let sockets = Arc::new(sockets);
                let collective: Arc<dyn Collective> = sockets.clone();
                Ok(Self { place, ranks: Ranks::new(collective), link: Link::Sockets(sockets) })
            }
        }
    }

    /// The device of this rank, where the ranks have a GPU each: that of its number on the machine, or the only one that it
    /// sees.
    ///
    /// # Errors
    /// There is none, or it cannot be used; NCCL cannot be.
    pub fn gpu(&self) -> Result<Option<Device>> {
        if matches!(self.link, Link::Mpi(_)) {
            return Ok(None);
        }
        nccl::version().map_err(|reason| Error::setting("--device", reason))?;
        let count = Device::cuda_count()?;
        let local = self.place.local_rank;
        if count > 1 && local >= count {
            let reason = format!("process {} of its machine has no GPU: there are {count}", local + 1);
            return Err(Error::setting("--device", reason));
        }
        Ok(Some(Device::cuda(if count == 1 { 0 } else { local })?))
    }

    /// Runs what this rank does with the others, who end too where it panics.
    pub fn guard<T>(&self, work: impl FnOnce() -> T) -> T {
        let Link::Sockets(sockets) = &self.link else { return work() };
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
            Ok(result) => result,
            // The panic has said what it is.
            Err(_) => {
                sockets.fail(1);
                exit_now(1);
            }
        }
    }

    /// Waits for all ranks.
    ///
    /// # Errors
    /// Another rank has ended.
    pub fn wait(&self) -> Result<()> {
        Ok(self.ranks.barrier()?)
    }

    /// Ranks to train by, on a device of [`Group::gpu`] where the ranks have a GPU each. All ranks have to call it.
    ///
    /// # Errors
    /// The GPUs cannot be connected.
    pub fn ranks(&self, device: &Device) -> Result<Ranks> {
        let Link::Sockets(sockets) = &self.link else { return Ok(self.ranks.clone()) };
        let collective: Arc<dyn Collective> = sockets.clone();
        let others = Arc::clone(sockets);
        // Each says what NCCL says to it, which the others may not see.
        let on_failure: OnLoss = Arc::new(move |loss| {
            if let Loss::Gone(reason) = loss {
                tell(&describe(&Error::Job(reason)));
            }
            others.fail(1);
            exit_now(1);
        });
        Ok(Ranks::with_gpus(collective, device, on_failure)?)
    }

    /// What this rank has read, if all have read the same and have the same GPUs. Else all end, and one line says why.
    ///
    /// # Errors
    /// The code that this process ends with, once that is said.
    pub fn agree<T>(
        &self,
        read: Result<(T, Option<Device>)>,
        text: impl Fn(&T) -> String,
    ) -> std::result::Result<(T, Option<Device>), ExitCode> {
        let (recipe, gpu) = match &read {
            Ok((read, gpu)) => (text(read), gpu.as_ref().map_or_else(String::new, kind)),
            Err(error) => (error.to_string(), String::new()),
        };
        let is_read = if read.is_ok() { "begun" } else { "not begun" };
        let library = match self.link {
            Link::Sockets(_) => nccl::version().unwrap_or_default(),
            Link::Mpi(_) => String::new(),
        };
        let facts = [
            ("version", VERSION),
            ("outcome of its first steps", is_read),
            ("recipe", &*recipe),
            ("kind of GPU", &*gpu),
            ("version of NCCL", &*library),
        ];
        let differing = match agreement::compare(&self.ranks, &facts) {
            Ok(differing) => differing,
            Err(error) => return Err(say(&error)),
        };
        let rank = self.ranks.rank();
        match (read, differing) {
            (Ok(read), None) => Ok(read),
            // Whoever could not begin says so; of many with the same error the first.
            (Err(error), None) if rank == 0 => Err(say(&error)),
            (Err(error), Some(differing)) if rank == differing.rank || rank == 0 => Err(say(&error)),
            (Ok(_), Some(differing)) if rank == 0 && differing.what != facts[1].0 => {
                let reason = format!("has another {} than rank 0", differing.what);
                Err(say(&Error::setting(format!("rank {}", differing.rank), reason)))
            }
            (Err(error), _) => Err(ExitCode::from(error.exit_code())),
            (Ok(_), _) => Err(ExitCode::from(2)),
        }
    }

    /// Ends with the other ranks: when they do where nothing went wrong, else at once, and with them.
    pub fn leave(self, result: Result<ExitCode>) -> Result<ExitCode> {
        let error = match &result {
            Ok(_) | Err(Error::Interrupted { .. }) => {
                match self.link {
                    Link::Mpi(mpi) => mpi.finish(),
                    // Where another is gone by now it has said why, or this one has.
                    Link::Sockets(sockets) => drop(sockets.finish()),
                }
                return result;
            }
            Err(error) => error,
        };
        let sockets = match self.link {
            Link::Mpi(mpi) => {
                say(error);
                mpi.abort(error.exit_code());
            }
            Link::Sockets(sockets) => sockets,
        };
        match error {
            // That another is gone is said once, as who watches it does.
            Error::Engine(cpift_engine::Error::Ranks { reason }) => say_loss(self.place, reason),
            error => drop(say(error)),
        }
        sockets.fail(error.exit_code());
        exit_now(error.exit_code())
    }
}

/// A device's model, without its number.
fn kind(device: &Device) -> String {
    let text = device.describe();
    text.split_once(' ').map_or(text.clone(), |(_, kind)| kind.to_owned())
}

/// Ends this process where another rank is gone.
fn on_loss(place: Place) -> OnLoss {
    Arc::new(move |loss| match loss {
        Loss::Failed(code) => exit_now(code),
        Loss::Gone(reason) => {
            say_loss(place, &reason);
            exit_now(1);
        }
    })
}

/// Says that another rank is gone, once: rank 0 says it of all others, and one of them of rank 0. Where this program has started
/// them it says itself how one has ended.
fn say_loss(place: Place, reason: &str) {
    static IS_SAID: AtomicBool = AtomicBool::new(false);
    let is_seen = place.launcher == Launcher::Own && reason.ends_with("has ended");
    if place.rank <= 1 && !is_seen && !IS_SAID.swap(true, Ordering::Relaxed) {
        tell(&describe(&Error::Job(reason.to_owned())));
    }
}

/// Says why this process ends, and gives the code to end with.
fn say(error: &Error) -> ExitCode {
    tell(&describe(error));
    ExitCode::from(error.exit_code())
}

/// Works for rank 0 until its job is over.
///
/// # Errors
/// As [`cpift_model::trainer::work`].
pub fn work(device: &Device, ranks: &Ranks) -> Result<ExitCode> {
    cpift_model::trainer::work(device, ranks)?;
    Ok(ExitCode::SUCCESS)
}
