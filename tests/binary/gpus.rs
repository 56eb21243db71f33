//! `train` on several GPUs, each with a process of its own: on the stand-in for CUDA's driver and NCCL, which is neither.

use std::fs;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cpift_engine::Device;
use cpift_model::progress::Silent;
use cpift_model::recipe::Source;
use cpift_tests::jobs::{Options, SmallJob};
use cpift_tests::ranks::run_on;
use cpift_tests::stand_in::StandIn;
use serde_json::{Value, json};

use crate::support::{JobFiles, engine, stderr};

/// Within which all ranks have to have ended.
const LIMIT: Duration = Duration::from_secs(30);

/// A job of few steps on one layer, with a micro-batch for each of so many ranks.
fn job(ranks: usize, changes: &[(&str, Value)]) -> JobFiles {
    let dealt =
        ["train", "probe", "integrate"].map(|section| (format!("{section}.accumulate"), json!(ranks)));
    let short = [
        ("model.max_length", json!(24)),
        ("probe.steps", json!(2)),
        ("probe.batch_size", json!(1)),
        ("integrate.steps", json!(2)),
        ("integrate.batch_size", json!(1)),
    ];
    let dealt = dealt.iter().map(|(key, value)| (key.as_str(), value.clone()));
    let all: Vec<(&str, Value)> = short.into_iter().chain(dealt).chain(changes.iter().cloned()).collect();
    JobFiles::of(SmallJob::with_model(&[("num_hidden_layers", 1)]).brief(), &all)
}

fn joint(ranks: usize) -> JobFiles {
    let settings =
        [("train.steps", json!(2)), ("train.batch_size", json!(1)), ("model.precision", json!("bf16"))];
    job(ranks, &[&[("method", json!("joint"))][..], &settings].concat())
}

fn train(stand_in: &StandIn, files: &JobFiles, out: &str, more: &[&str]) -> Command {
    let mut command = engine(&[]);
    command.args(files.train(out, more));
    stand_in.install(&mut command);
    command
}

fn succeeded(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

/// Trains as threads of this process do that exchange by way of the host, and expects the same bits.
fn compare_with_threads(files: JobFiles, run: &str, ranks: usize, models: &[&str]) {
    let open = || Device::from_name("emulated", None).unwrap();
    let recipe =
        Source::read(&files.job.path("recipe.toml"), &[]).and_then(|source| source.recipe(&[])).unwrap();
    let job = files.job.on(open());
    let (report, others) = run_on(&open, &job, (&recipe, "threads"), ranks, &Options::default(), &mut Silent);
    report.unwrap();
    others.into_iter().for_each(|other| other.unwrap());
    for model in models {
        let [found, expected] =
            [run, "threads"].map(|run| job.bytes(&format!("{run}/{model}/model.safetensors")));
        assert!(found == expected, "{model}: the bits differ");
    }
}

#[test]
fn two_gpus_train_through_all_stages() {
    // In f32, of which all that is sent is what is kept.
    let files = job(2, &[("model.precision", json!("f32")), ("checkpoint.every", json!(1))]);
    let stand_in = StandIn::with_nccl(2, &[]);
    let output = succeeded(train(&stand_in, &files, "gpus", &["--gpus", "2"]));
    assert_eq!(stand_in.violations(), [""; 0]);
    // Rank 0 alone speaks.
    assert_eq!(stderr(&output).matches("Overlap of the cores").count(), 1, "{}", stderr(&output));
    // Of each step: gradients, their norm, weights and losses, on both ranks alike.
    let collectives = stand_in.collectives();
    let of_rank = |rank: &str| -> Vec<&str> {
        collectives.iter().filter_map(|line| line.strip_prefix(rank)?.strip_prefix(": ")).collect()
    };
    assert!(of_rank("0") == of_rank("1"), "{collectives:?}");
    let steps = 3 * 2 + 2;
    // A bucket of each layer's gradients is one range or two, and all of them are everything.
    let counts = |kind: &str| -> Vec<usize> {
        let of_kind = of_rank("0").into_iter().filter_map(|line| line.strip_prefix(kind));
        of_kind.map(|rest| rest.split(' ').next().unwrap().parse().unwrap()).collect()
    };
    let reduced = counts("Reduce F32 ");
    assert!(reduced.len() > 2 * steps && reduced.len().is_multiple_of(steps), "{reduced:?}");
    let whole: usize = reduced[..reduced.len() / steps].iter().sum();
    assert_eq!(reduced.iter().sum::<usize>(), steps * whole, "{reduced:?}");
    assert!(counts("Broadcast Byte ").contains(&(4 * whole)), "the weights: {collectives:?}");
    let norms = of_rank("0").iter().filter(|line| **line == "AllReduce F64 1 0").count();
    assert_eq!(norms, steps, "{collectives:?}");

    // Ended after fusion, and gone on with.
    let line = |run: &str| files.job.bytes(&format!("{run}/final/model.safetensors"));
    succeeded(train(&stand_in, &files, "parts", &["--gpus", "2", "--until", "fuse"]));
    succeeded(train(&stand_in, &files, "parts", &["--gpus", "2", "--resume"]));
    assert!(line("parts") == line("gpus"), "the bits differ");
    assert_eq!(stand_in.violations(), [""; 0]);
    compare_with_threads(files, "gpus", 2, &["probe/code", "fused", "final"]);
}

#[test]
fn four_gpus_train_in_bf16() {
    let files = joint(4);
    let stand_in = StandIn::with_nccl(4, &[]);
    succeeded(train(&stand_in, &files, "gpus", &["--gpus", "4"]));
    assert_eq!(stand_in.violations(), [""; 0]);
    compare_with_threads(files, "gpus", 4, &["final"]);
}

#[test]
fn what_is_missing_is_one_line() {
    let files = joint(2);
    let refused = |stand_in: &StandIn, more: &[&str]| {
        let output = train(stand_in, &files, "refused", more).output().unwrap();
        let message = stderr(&output).to_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(!files.job.path("refused").exists());
        message
    };
    let message = refused(&StandIn::with(&[("DEVICES", "2")]), &["--gpus", "2"]);
    assert!(message.contains("NCCL: its library was not found: libnccl.so.2"), "{message}");
    let message = refused(&StandIn::with_nccl(2, &[]), &["--gpus", "3"]);
    assert!(message.contains("`--gpus`: is 3, and this machine has 2"), "{message}");
    let message = refused(&StandIn::with_nccl(2, &[]), &["--gpus", "2", "--device", "cpu"]);
    assert!(message.contains("the device is cpu"), "{message}");
    // Of the recipe, by rank 0 alone.
    let message = refused(&StandIn::with_nccl(2, &[]), &["--gpus", "2", "--set", "train.accumulate=3"]);
    assert!(message.contains("use 2 or 4"), "{message}");
}

/// Started by hand, as a launcher does.
fn start(stand_in: &StandIn, files: &JobFiles, [rank, size]: [usize; 2], port: u16, more: &[&str]) -> Child {
    let mut command = train(stand_in, files, "run", more);
    command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string());
    command.env("WORLD_SIZE", size.to_string());
    command.env("MASTER_ADDR", "localhost").env("MASTER_PORT", port.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn ranks_that_disagree_end_all() {
    let files = joint(2);
    let stand_in = StandIn::with_nccl(2, &[]);
    let port = free_port();
    let first = start(&stand_in, &files, [0, 2], port, &[]);
    let second = start(&stand_in, &files, [1, 2], port, &["--set", "seed=7"]);
    let [first, second] = [first, second].map(|child| child.wait_with_output().unwrap());
    assert!(stderr(&first).contains("`rank 1`: has another recipe than rank 0"), "{}", stderr(&first));
    assert_eq!((first.status.code(), second.status.code()), (Some(2), Some(2)));
    assert_eq!(stderr(&second), "");
    assert!(!files.job.path("run").exists());
}

/// A device waits for ranks without end, so they watch each other.
#[test]
fn a_rank_that_is_killed_ends_all_and_the_run_goes_on() {
    let settings =
        [("train.steps", json!(6)), ("train.batch_size", json!(1)), ("checkpoint.every", json!(1))];
    let files = job(2, &[&[("method", json!("joint"))][..], &settings].concat());
    let stand_in = StandIn::with_nccl(2, &[]);
    let port = free_port();
    let mut first = start(&stand_in, &files, [0, 2], port, &[]);
    let mut second = start(&stand_in, &files, [1, 2], port, &[]);
    let begun = Instant::now();
    while !files.job.path("run/checkpoint").exists() {
        assert!(begun.elapsed() < 10 * LIMIT && first.try_wait().unwrap().is_none(), "it does not begin");
        sleep(Duration::from_millis(50));
    }
    second.kill().unwrap();
    let killed = Instant::now();
    while first.try_wait().unwrap().is_none() {
        assert!(killed.elapsed() < LIMIT, "it goes on alone");
        sleep(Duration::from_millis(50));
    }
    let output = first.wait_with_output().unwrap();
    second.wait().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(stderr(&output).matches("rank 1 has ended").count(), 1, "{}", stderr(&output));
    succeeded(train(&stand_in, &files, "run", &["--gpus", "2", "--resume"]));
    succeeded(train(&stand_in, &files, "whole", &["--gpus", "2"]));
    let [found, whole] =
        ["run", "whole"].map(|run| files.job.bytes(&format!("{run}/final/model.safetensors")));
    assert!(found == whole, "the bits differ");
}

/// Of three, so that one that fails is not the first to be looked at, nor connected with all.
#[test]
fn a_rank_that_fails_ends_all_with_its_code() {
    let files = joint(3);
    let stand_in = StandIn::with_nccl(3, &[("FAIL", "launch:adamw")]);
    let output = train(&stand_in, &files, "run", &["--gpus", "3"]).output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("CUDA_ERROR_LAUNCH_FAILED") && !message.contains("has ended"), "{message}");
    // Data that rank 0 alone reads.
    fs::write(files.job.path("code.train.jsonl"), "{").unwrap();
    let output = train(&stand_in, &files, "other", &["--gpus", "3"]).output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.lines().count() == 1 && message.contains("rank 0: ") && message.contains("code.train"),
        "{message}"
    );
}

/// Each trains probes of its own, and all the rest together.
#[test]
fn probes_are_shared_by_tasks() {
    let files = job(2, &[("model.precision", json!("f32"))]);
    let stand_in = StandIn::with_nccl(2, &[]);
    succeeded(train(&stand_in, &files, "tasks", &["--gpus", "2", "--parallel", "tasks"]));
    assert_eq!(stand_in.violations(), [""; 0]);
    let steps = stand_in.collectives().iter().filter(|line| line.contains("AllReduce F64 1 ")).count();
    assert_eq!(steps, 2 * 2, "of two ranks in the integration");
    // One after the other, by one process.
    succeeded(train(&stand_in, &files, "alone", &["--device", "cuda:0", "--until", "fuse"]));
    for model in ["probe/code", "fused"] {
        let [found, alone] =
            ["tasks", "alone"].map(|run| files.job.bytes(&format!("{run}/{model}/model.safetensors")));
        assert!(found == alone, "{model}: the bits differ");
    }
}
