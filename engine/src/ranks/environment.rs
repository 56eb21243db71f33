//! What the program that started a process says of its place among others.

/// What starts ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// This program, for the GPUs of one machine.
    Own,
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// PyTorch's `torchrun`.
    Torchrun,
    /// SLURM's `srun`.
    Slurm,
}

impl Launcher {
    /// The program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "--gpus",
            Self::OpenMpi => "mpirun",
            Self::Torchrun => "torchrun",
            Self::Slurm => "srun",
        }
    }

    /// The variable by which its processes are known.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Own => "CPIFT_RANKS",
            Self::OpenMpi => "OMPI_COMM_WORLD_SIZE",
            Self::Torchrun => "WORLD_SIZE",
            Self::Slurm => "SLURM_STEP_ID",
        }
    }
}

/// The place of a process among others that were started together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// This process, from 0.
    pub rank: usize,
    /// Number of processes, above 1.
    pub size: usize,
    /// This process among those on its machine, from 0.
    pub local_rank: usize,
    /// What started them.
    pub launcher: Launcher,
}

impl Place {
    /// This process's place; none where it was started alone.
    ///
    /// Read are the variables of this program itself (`CPIFT_RANK`, `CPIFT_RANKS`), of Open MPI (`OMPI_COMM_WORLD_RANK`, `_SIZE`, `_LOCAL_RANK`), of torchrun (`RANK`,
    /// `WORLD_SIZE`, `LOCAL_RANK`; others use these names too, so all three have to be there) and of SLURM, in this order:
    /// the first ones are also started inside of SLURM's jobs. Of SLURM it is the job step that counts, which `srun` starts:
    /// in a batch script itself, or a shell of `salloc`, `SLURM_NTASKS` says how many there may be, not that they were
    /// started.
    pub fn of_environment() -> Option<Self> {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name)?.trim().parse::<usize>().ok();
        let place = |launcher, rank: &str, size: Option<usize>, local_rank: &str| {
            let (rank, size, local_rank) = (number(rank)?, size?, number(local_rank)?);
            (rank < size).then_some(Self { rank, size, local_rank, launcher })
        };
        // Steps that are not srun's own have numbers above these: the batch script's, an interactive shell's.
        let is_step = number("SLURM_STEP_ID").is_some_and(|step| step < 1 << 31);
        let tasks = number("SLURM_STEP_NUM_TASKS").or_else(|| number("SLURM_NTASKS"));
        let of_own = number("CPIFT_RANKS");
        let (of_open_mpi, of_torchrun) = (number("OMPI_COMM_WORLD_SIZE"), number("WORLD_SIZE"));
        let places = [
            place(Launcher::Own, "CPIFT_RANK", of_own, "CPIFT_RANK"),
            place(Launcher::OpenMpi, "OMPI_COMM_WORLD_RANK", of_open_mpi, "OMPI_COMM_WORLD_LOCAL_RANK"),
            place(Launcher::Torchrun, "RANK", of_torchrun, "LOCAL_RANK"),
            place(Launcher::Slurm, "SLURM_PROCID", tasks.filter(|_| is_step), "SLURM_LOCALID"),
        ];
        places.into_iter().flatten().next().filter(|place| place.size > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Option<(usize, usize, usize, &'static str)> {
        let find = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Place::of(find).map(|place| (place.rank, place.size, place.local_rank, place.launcher.name()))
    }

    const MPIRUN: [(&str, &str); 3] =
        [("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")];
    const TORCHRUN: [(&str, &str); 3] = [("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")];
    const SRUN: [(&str, &str); 5] = [
        ("SLURM_STEP_ID", "0"),
        ("SLURM_STEP_NUM_TASKS", "2"),
        ("SLURM_NTASKS", "6"),
        ("SLURM_PROCID", "1"),
        ("SLURM_LOCALID", "0"),
    ];

    #[test]
    fn the_innermost_launcher_says_the_place() {
        assert_eq!(place(&MPIRUN), Some((3, 4, 1, "mpirun")));
        assert_eq!(place(&TORCHRUN), Some((5, 8, 1, "torchrun")));
        assert_eq!(place(&SRUN), Some((1, 2, 0, "srun")));
        assert_eq!(place(&[&SRUN[..], &MPIRUN].concat()), Some((3, 4, 1, "mpirun")));
        assert_eq!(place(&[&SRUN[..], &TORCHRUN].concat()), Some((5, 8, 1, "torchrun")));
        // What srun does not say of the step it says of the job.
        assert_eq!(place(&[&SRUN[..1], &SRUN[2..]].concat()), Some((1, 6, 0, "srun")));
    }

    #[test]
    fn ranks_of_this_program_are_known_before_others() {
        let own = [("CPIFT_RANK", "1"), ("CPIFT_RANKS", "2")];
        assert_eq!(place(&[&TORCHRUN[..], &own].concat()), Some((1, 2, 1, "--gpus")));
        assert_eq!(place(&own[..1]), None);
    }

    #[test]
    fn a_process_by_itself_has_no_place() {
        assert_eq!(place(&[]), None);
        // One task; a batch script without srun, as SLURM starts it on the first node; a shell of salloc.
        let one =
            [("SLURM_STEP_ID", "0"), ("SLURM_NTASKS", "1"), ("SLURM_PROCID", "0"), ("SLURM_LOCALID", "0")];
        assert_eq!(place(&one), None);
        let batch = [("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0"), ("SLURM_LOCALID", "0")];
        assert_eq!(place(&batch), None);
        assert_eq!(place(&[&batch[..], &[("SLURM_STEP_ID", "4294967290")]].concat()), None);
        // Names that others use too.
        assert_eq!(place(&[("RANK", "2"), ("WORLD_SIZE", "4")]), None);
        assert_eq!(place(&[("RANK", "captain"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "0")]), None);
        assert_eq!(place(&[("RANK", "4"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "0")]), None);
    }
}
