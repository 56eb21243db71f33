//! Training by several ranks, as threads of one process. By MPI: tests/binary/mpi.rs.

mod collectives;
mod jobs;
mod optimizer;
mod sockets;
