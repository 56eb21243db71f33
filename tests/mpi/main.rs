//! Several processes by Open MPI's `mpirun`: with the feature `mpi`, on a machine that has it.
//!
//! A program of its own, so that with the feature nothing else of the tests is compiled again.

#[allow(dead_code, reason = "what other tests of the binary need")]
#[path = "../binary/support.rs"]
mod support;

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cpift_engine::ranks::Place;
use cpift_engine::{Buffer, Device};
use cpift_mpi::Mpi;
use cpift_tests::numeric::random;
use cpift_tests::ranks::fresh_seed;
use serde_json::{Value, json};

use support::{JobFiles, engine, stderr};

/// Within which all ranks have to have ended.
const LIMIT: Duration = Duration::from_secs(30);

/// `mpirun` as tests need it: as root, with more processes than cores.
fn mpirun() -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe"]).stdin(Stdio::null());
    // What the binary has by `engine`.
    command.env("NO_COLOR", "1").env("HF_HUB_OFFLINE", "1").env_remove("XDG_CACHE_HOME");
    // Shared memory between processes of one user needs rights that containers withhold.
    command.env("OMPI_MCA_btl_vader_single_copy_mechanism", "none");
    command
}

/// Three probes and an integration, of micro-batches that 1, 2 and 3 ranks can have.
fn job() -> JobFiles {
    let mut changes: Vec<(&str, Value)> = Vec::new();
    for key in ["train.accumulate", "probe.accumulate", "integrate.accumulate"] {
        changes.push((key, json!(6)));
    }
    for key in ["train.batch_size", "probe.batch_size", "integrate.batch_size"] {
        changes.push((key, json!(2)));
    }
    changes.extend([
        ("probe.steps", json!(15)),
        ("integrate.steps", json!(15)),
        ("checkpoint.every", json!(4)),
    ]);
    JobFiles::new(&changes)
}

fn train(files: &JobFiles, out: &str, ranks: usize, more: &[&str]) -> Command {
    let mut command = mpirun();
    command.args(["-n", &ranks.to_string(), env!("CARGO_BIN_EXE_cpift-engine")]).args(files.train(out, more));
    command
}

fn succeeded(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

fn losses(files: &JobFiles, run: &str) -> Vec<f64> {
    let text = String::from_utf8(files.job.bytes(&format!("{run}/metrics.jsonl"))).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap()).collect()
}

fn model(files: &JobFiles, run: &str) -> Vec<u8> {
    files.job.bytes(&format!("{run}/final/model.safetensors"))
}

#[test]
fn one_two_and_three_processes_train_the_same() {
    let files = job();
    succeeded(train(&files, "1", 1, &[]));
    let one = losses(&files, "1");
    for ranks in [2, 3] {
        let out = ranks.to_string();
        let output = succeeded(train(&files, &out, ranks, &[]));
        let found = losses(&files, &out);
        let near = |(one, found): (&f64, &f64)| (one - found).abs() < 1e-4 * one.max(1.0);
        assert!(one.len() == found.len() && one.iter().zip(&found).all(near), "{one:?} {found:?}");
        // Rank 0 alone speaks.
        assert_eq!(stderr(&output).matches("Overlap of the cores").count(), 1, "{}", stderr(&output));
        assert!(stderr(&output).contains(&format!("{ranks} ranks · ")), "{}", stderr(&output));
    }
    succeeded(train(&files, "again", 2, &[]));
    assert!(model(&files, "2") == model(&files, "again"), "the same ranks have the same bits");
}

/// The processes that a process started.
fn children(parent: u32) -> Vec<u32> {
    let output = Command::new("ps").args(["-o", "pid=", "--ppid", &parent.to_string()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        sleep(Duration::from_millis(5));
    }
}

fn ends(child: &mut Child) -> std::process::ExitStatus {
    let mut status = None;
    wait_until("the end of mpirun", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// Lines of metrics that are there.
fn steps(files: &JobFiles, run: &str) -> usize {
    fs::read_to_string(files.job.path(run).join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

#[test]
fn a_killed_rank_ends_all_and_the_run_goes_on_to_the_same_bits() {
    let files = job();
    succeeded(train(&files, "whole", 2, &[]));
    for rank in 0..2 {
        let out = format!("killed {rank}");
        let mut command = train(&files, &out, 2, &[]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("steps", || steps(&files, &out) > 6);
        let of_rank = children(child.id())[rank];
        assert!(Command::new("kill").args(["-9", &of_rank.to_string()]).status().unwrap().success());
        assert!(!ends(&mut child).success());
        succeeded(train(&files, &out, 2, &["--resume"]));
        assert!(model(&files, &out) == model(&files, "whole"), "rank {rank}");
    }
}

#[test]
fn a_signal_stops_all_and_the_run_goes_on() {
    let files = job();
    succeeded(train(&files, "whole", 2, &[]));
    for signal in ["-INT", "-TERM"] {
        let out = format!("stopped{signal}");
        let mut command = train(&files, &out, 2, &[]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("steps", || steps(&files, &out) > 6);
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        assert!(!ends(&mut child).success());
        succeeded(train(&files, &out, 2, &["--resume"]));
        assert!(model(&files, &out) == model(&files, "whole"), "{signal}");
    }
}

/// Lines of errors, without those of mpirun.
fn errors(output: &Output) -> Vec<String> {
    stderr(output).lines().filter(|line| line.starts_with("error: ")).map(str::to_owned).collect()
}

#[test]
fn what_ranks_do_not_agree_on_ends_them_before_the_first_step() {
    let files = job();
    let program = env!("CARGO_BIN_EXE_cpift-engine");
    let of_rank = |more: &[&str]| {
        [vec!["-n".to_owned(), "1".to_owned(), program.to_owned()], files.train("run", more)].concat()
    };
    for (more, expected) in [
        (&["--set", "seed=3"][..], "error: rank 0: `rank 1`: has another recipe than rank 0"),
        (&["--set", "sed=3"], "error: rank 1: "),
    ] {
        let output = mpirun().args(of_rank(&[])).arg(":").args(of_rank(more)).output().unwrap();
        let errors = errors(&output);
        assert!(errors.len() == 1 && errors[0].starts_with(expected), "{}", stderr(&output));
        assert!(output.status.code() == Some(2) && !files.job.path("run").exists(), "{}", stderr(&output));
    }
    // The same for all is said once.
    let output = train(&files, "run", 3, &["--set", "sed=3"]).output().unwrap();
    assert!(errors(&output).len() == 1 && output.status.code() == Some(2), "{}", stderr(&output));
    let output = train(&files, "run", 4, &[]).output().unwrap();
    let errors = errors(&output);
    assert!(errors.len() == 1 && errors[0].contains("use 4 or 8"), "{}", stderr(&output));
    assert!(output.status.code() == Some(2) && !files.job.path("run").exists());
}

/// Processes that MPI knows nothing of.
#[test]
fn other_launchers_are_told_what_to_use() {
    let files = job();
    let torchrun = [("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")];
    let output = engine(&[]).args(files.train("run", &[])).envs(torchrun).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("torchrun started 2 processes, and MPI knows of 1"),
        "{}",
        stderr(&output)
    );
}

/// A rank of the test below: the same operations as of threads, with inputs that MPI takes in several parts.
#[test]
#[ignore = "a rank: the test below starts it by mpirun"]
fn rank_of_collectives() {
    let place = Place::of_environment().expect("started by mpirun");
    let seed: u64 = std::env::var("SEED").unwrap().parse().unwrap();
    let (mpi, ranks) = Mpi::start(&place).unwrap();
    let device = Device::cpu(std::num::NonZeroUsize::new(1)).unwrap();
    for length in [0, 1, 65, 100_003, 5_000_001] {
        let of_rank = |rank: usize| random(seed.wrapping_add(rank as u64), length);
        let mut expected = of_rank(0);
        for rank in 1..ranks.size() {
            expected.iter_mut().zip(of_rank(rank)).for_each(|(sum, value)| *sum += value);
        }
        let mut values = Buffer::from_slice(&device, &of_rank(ranks.rank())).unwrap();
        ranks.reduce_scatter(values.view_mut(), &ranks.ranges(length)).unwrap();
        ranks.all_gather(values.view_mut(), &ranks.ranges(length)).unwrap();
        assert!(values.to_vec().unwrap() == expected, "seed {seed}: {length}");
        let mut own = of_rank(ranks.rank());
        ranks.broadcast_slice(&mut own).unwrap();
        assert!(own == of_rank(0));
    }
    let mut counts = [ranks.rank() as u64, 1];
    ranks.count(&mut counts).unwrap();
    let size = ranks.size() as u64;
    assert_eq!(counts, [size * (size - 1) / 2, size]);
    ranks.barrier().unwrap();
    mpi.finish();
}

#[test]
fn collectives_are_sums_one_after_the_other() {
    let seed = fresh_seed();
    for ranks in ["2", "3"] {
        let mut command = mpirun();
        command.args(["-n", ranks]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "rank_of_collectives", "--ignored"]).env("SEED", seed.to_string());
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "seed {seed}: {}{}",
            stderr(&output),
            String::from_utf8_lossy(&output.stdout)
        );
    }
}

/// Each trains probes of its own, with the bits of one process; then all train together.
#[test]
fn probes_are_shared_by_tasks() {
    let files = job();
    succeeded(train(&files, "tasks", 2, &["--parallel", "tasks"]));
    succeeded(train(&files, "alone", 1, &["--until", "fuse"]));
    for model in ["probe/code", "probe/logic", "fused"] {
        let [found, alone] =
            ["tasks", "alone"].map(|run| files.job.bytes(&format!("{run}/{model}/model.safetensors")));
        assert!(found == alone, "{model}: the bits differ");
    }
    assert!(files.job.path("tasks/final").exists());
}
