//! [`Ranks`](cpift_engine::Ranks) that are processes of CPUs, by MPI: with the feature `mpi`, which needs an MPI that is
//! installed. A build without it has the same interface, and says so where one wants to start.

#[cfg_attr(not(feature = "mpi"), path = "without.rs")]
mod processes;

pub use processes::Mpi;
