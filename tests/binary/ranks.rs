//! What is made of the variables of programs that start several processes. With MPI: `mpi.rs`.

use std::process::Output;

use crate::support::{engine, one_step, run, stderr, stdout};

/// Runs `train` as one of the processes that a launcher started.
fn started_by(variables: &[(&str, &str)], out: &str) -> (Output, bool) {
    let files = one_step();
    let mut command = engine(&[]);
    command.args(files.train(out, &[])).envs(variables.iter().copied());
    let output = command.output().unwrap();
    (output, files.job.path(out).exists())
}

/// Several processes would fight over one run folder.
#[cfg(not(feature = "mpi"))]
#[test]
fn a_build_without_mpi_says_so_once() {
    let mpirun = |rank| {
        [("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", rank), ("OMPI_COMM_WORLD_LOCAL_RANK", rank)]
    };
    let torchrun = [("WORLD_SIZE", "4"), ("RANK", "0"), ("LOCAL_RANK", "0")];
    let srun = [
        ("SLURM_STEP_ID", "0"),
        ("SLURM_STEP_NUM_TASKS", "3"),
        ("SLURM_PROCID", "0"),
        ("SLURM_LOCALID", "0"),
    ];
    for (variables, launcher, size) in
        [(&mpirun("0")[..], "mpirun", 2), (&torchrun, "torchrun", 4), (&srun, "srun", 3)]
    {
        let (output, exists) = started_by(variables, "run");
        let expected = format!("error: rank 0: `{launcher}`: started {size} processes for one run");
        let message = stderr(&output);
        assert!(message.starts_with(&expected) && message.contains("--features mpi"), "{message}");
        assert!(output.status.code() == Some(2) && message.lines().count() == 1 && !exists, "{message}");
    }
    let (output, exists) = started_by(&mpirun("1"), "run");
    assert_eq!((output.status.code(), stderr(&output), exists), (Some(2), "", false));
}

/// In a batch script SLURM says how many tasks there may be; `srun` starts them.
#[test]
fn a_process_by_itself_inside_of_slurm_trains_as_anywhere() {
    let batch = [("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0"), ("SLURM_LOCALID", "0")];
    let one = [
        ("SLURM_STEP_ID", "0"),
        ("SLURM_STEP_NUM_TASKS", "1"),
        ("SLURM_PROCID", "0"),
        ("SLURM_LOCALID", "0"),
    ];
    for variables in [&batch[..], &one] {
        let (output, exists) = started_by(variables, "run");
        assert!(output.status.success() && exists, "{}", stderr(&output));
    }
}

#[test]
fn plan_says_what_each_rank_takes() {
    let files = one_step();
    let recipe = files.path("recipe.toml");
    let planned = |more: &[&str]| run(&[&["plan", &recipe, "--threads", "1"], more].concat());
    let output = planned(&["--ranks", "2", "--json"]);
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ranks: Vec<u64> =
        plan["plan"]["rank_bytes"].as_array().unwrap().iter().map(|bytes| bytes.as_u64().unwrap()).collect();
    let alone: serde_json::Value = serde_json::from_slice(&planned(&["--json"]).stdout).unwrap();
    let [of_first, of_one] = [&plan, &alone].map(|plan| plan["memory_bytes"].as_u64().unwrap());
    // Half of the moments is another rank's; and that has neither data nor stages.
    assert!(
        ranks[0] == of_first && of_first < of_one && ranks.len() == 2 && ranks[1] < ranks[0],
        "{ranks:?}"
    );
    assert!(alone["plan"].get("rank_bytes").is_none());
    assert!(stdout(&planned(&["--ranks", "2"])).contains("of all 2 ranks"));
    let refused = planned(&["--ranks", "3"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("`train.accumulate`") && stderr(&refused).contains("use 3 or 6"));
}
