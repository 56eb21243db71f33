//! `train --gpus N`: a process for each of N GPUs of this machine.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cpift_engine::Device;
use cpift_model::{Error, Result};

use crate::display::tell;
use crate::{describe, interrupt};

/// How often the processes are looked at.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long the others have when one has ended before its time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts this program once for each GPU, and waits until all have ended. The first has the terminal; signals are passed on
/// to all.
///
/// # Errors
/// There are fewer GPUs, or a process cannot be started.
pub fn run(gpus: usize) -> Result<ExitCode> {
    let there = Device::cuda_count()?;
    if there < gpus {
        return Err(Error::setting("--gpus", format!("is {gpus}, and this machine has {there}")));
    }
    let signals = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&signals);
    interrupt::on_signal(move || {
        counted.fetch_add(1, Ordering::Relaxed);
    })?;
    let ranks = Processes::start(gpus)?;
    ranks.wait(&signals)
}

/// The processes, by rank. Those that still run when it is dropped are ended.
struct Processes {
    children: Vec<Child>,
}

impl Processes {
    fn start(gpus: usize) -> Result<Self> {
        let cannot = |what: &str, error: std::io::Error| Error::Job(format!("{what}: {error}"));
        let program = std::env::current_exe().map_err(|error| cannot("where this program is", error))?;
        let arguments = interrupt::without_option("--gpus", std::env::args_os().skip(1));
        // One that is free now; rank 0 takes the next ones where another program was faster.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let port = port.map_err(|error| cannot("no port is free", error))?.port();
        let mut processes = Self { children: Vec::new() };
        for rank in 0..gpus {
            let mut command = Command::new(&program);
            command.args(&arguments);
            command.env("CPIFT_RANK", rank.to_string()).env("CPIFT_RANKS", gpus.to_string());
            command.env("CPIFT_JOB", std::process::id().to_string());
            command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
            if rank > 0 {
                command.stdin(Stdio::null()).stdout(Stdio::null());
            }
            detach(&mut command);
            let child =
                command.spawn().map_err(|error| cannot(&format!("rank {rank} cannot be started"), error))?;
            processes.children.push(child);
        }
        Ok(processes)
    }

    /// Waits until all have ended. The code is that of the first which ended before its time, else of rank 0.
    fn wait(mut self, signals: &AtomicU32) -> Result<ExitCode> {
        let mut passed_on = 0;
        let mut statuses: Vec<Option<ExitStatus>> = vec![None; self.children.len()];
        let mut first: Option<(usize, ExitStatus)> = None;
        // When one ended that the others do not go on without.
        let mut ended: Option<Instant> = None;
        while statuses.iter().any(Option::is_none) {
            for (rank, status) in statuses.iter_mut().enumerate().filter(|(_, status)| status.is_none()) {
                let waited = self.children[rank].try_wait();
                *status = waited
                    .map_err(|error| Error::Job(format!("rank {rank} cannot be waited for: {error}")))?;
                let Some(status) = *status else { continue };
                if !status.success() {
                    first = first.or(Some((rank, status)));
                }
                if !status.success() || rank == 0 {
                    ended = ended.or(Some(Instant::now()));
                }
            }
            let signalled = signals.load(Ordering::Relaxed);
            if signalled > passed_on {
                let running = self.children.iter().zip(&statuses).filter(|(_, status)| status.is_none());
                running.for_each(|(child, _)| terminate(child));
                passed_on = signalled;
            }
            if ended.is_some_and(|since| since.elapsed() > PATIENCE) {
                break;
            }
            sleep(INTERVAL);
        }
        let Some((rank, status)) = first else { return Ok(ExitCode::SUCCESS) };
        let Some(code) = status.code() else {
            tell(&describe(&Error::Job(format!("rank {rank} was ended: {status}"))));
            return Ok(ExitCode::from(1));
        };
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.children {
            // One that has ended cannot be killed, which does not matter.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Keeps the terminal's signals from a process, which this one passes on, and ends it when this one is gone.
fn detach(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(target_os = "linux")]
    // SAFETY: between fork and exec two calls are made, which touch no memory of this process.
    unsafe {
        let parent = std::process::id();
        std::os::unix::process::CommandExt::pre_exec(command, move || {
            match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 if libc::getppid() == parent as libc::pid_t => Ok(()),
                0 => Err(std::io::ErrorKind::BrokenPipe.into()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
}

/// Has a process end in order.
fn terminate(child: &Child) {
    #[cfg(unix)]
    // SAFETY: a process of ours that was not waited for yet, so that no other has its number.
    unsafe {
        libc::kill(child.id() as libc::pid_t, libc::SIGTERM);
    }
    #[cfg(not(unix))]
    let _ = child;
}
