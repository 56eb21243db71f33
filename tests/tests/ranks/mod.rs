//! Training by several ranks, as threads of one process. By MPI: tests/mpi.

mod checkpoints;
mod collectives;
mod jobs;
mod optimizer;
mod sockets;
