//! What is made of the variables of programs that start several processes. With MPI: `tests/mpi`.

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

/// Each is a run by itself, as farms of jobs want it; a folder has room for one.
#[cfg(not(feature = "mpi"))]
#[test]
fn a_build_without_mpi_trains_by_itself_and_says_so() {
    let mpirun =
        [("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")];
    let torchrun = [("WORLD_SIZE", "4"), ("RANK", "0"), ("LOCAL_RANK", "0")];
    let srun = [
        ("SLURM_STEP_ID", "0"),
        ("SLURM_STEP_NUM_TASKS", "3"),
        ("SLURM_PROCID", "0"),
        ("SLURM_LOCALID", "0"),
    ];
    for (variables, expected) in [
        (&mpirun[..], "mpirun started 2 processes (OMPI_COMM_WORLD_SIZE): this build is without MPI"),
        (&torchrun, "torchrun started 4 processes (WORLD_SIZE)"),
        (&srun, "srun started 3 processes (SLURM_STEP_ID)"),
    ] {
        let (output, exists) = started_by(variables, "run");
        assert!(output.status.success() && exists, "{}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
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
