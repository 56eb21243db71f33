//! Ranks that are processes, by TCP: rank 0 is connected with each of the others.
//!
//! For what is small: commands, rows, sums of a few numbers, and what GPUs need to find each other. Everything goes through
//! rank 0. The parameters on GPUs go by NCCL beside it ([`super::nccl`]).

mod address;
mod heartbeat;
mod rendezvous;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::sum::add_in_order;
use super::{Collective, OnLoss, Place};
use crate::error::{Error, Result};
use heartbeat::Heartbeat;
pub use rendezvous::Rendezvous;

/// Elements of a sum that are under way at a time.
const CHUNK: usize = 1 << 20;

/// A rank of all that have met.
#[derive(Debug)]
pub struct Sockets {
    rank: usize,
    size: usize,
    /// Of rank 0 with ranks 1, 2, …; of another rank with rank 0.
    connections: Mutex<Vec<Connection>>,
    heartbeat: Heartbeat,
}

/// A connection with another rank.
#[derive(Debug)]
struct Connection {
    rank: usize,
    stream: TcpStream,
}

/// What goes before every message, so that ranks which do not do the same notice it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Operation {
    ReduceScatter = 1,
    AllGather,
    Broadcast,
    Barrier,
}

impl Operation {
    fn name(number: u8) -> &'static str {
        match number {
            1 => "reduce-scatter",
            2 => "all-gather",
            3 => "broadcast",
            4 => "barrier",
            _ => "something unknown",
        }
    }
}

/// Bytes of the operation and the length before a message.
const HEADER: usize = 9;

impl Sockets {
    /// Meets the other ranks of `place` where `rendezvous` says. From then on each rank watches those it is connected with:
    /// `on_loss` is called, on another thread, when one is gone.
    ///
    /// # Errors
    /// Rank 0 cannot be reached, or another rank does not come, in time; the port is in use.
    pub fn meet(place: &Place, rendezvous: &Rendezvous, on_loss: OnLoss) -> Result<Self> {
        let connected = rendezvous.meet(place)?;
        let Place { rank, size, .. } = *place;
        let connections =
            connected.messages.into_iter().map(|(rank, stream)| Connection { rank, stream }).collect();
        Ok(Self {
            rank,
            size,
            connections: Mutex::new(connections),
            heartbeat: Heartbeat::start(connected.heartbeats, on_loss)?,
        })
    }

    /// Lets the other ranks end without being missed. All ranks have to call it.
    ///
    /// # Errors
    /// Another rank has ended before.
    pub fn finish(&self) -> Result<()> {
        self.barrier()?;
        self.heartbeat.finish();
        Ok(())
    }

    /// Has the other ranks end without a word and with this exit code, since this one has said why it ends. Returns when
    /// those know that it is connected with.
    pub fn fail(&self, code: u8) {
        self.heartbeat.fail(code);
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn send(&mut self, operation: Operation, bytes: &[u8]) -> Result<()> {
        let mut header = [operation as u8; HEADER];
        header[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        let sent = self.stream.write_all(&header).and_then(|()| self.stream.write_all(bytes));
        sent.map_err(|error| self.lost(&error))
    }

    fn receive(&mut self, operation: Operation, bytes: &mut [u8]) -> Result<()> {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header).map_err(|error| self.lost(&error))?;
        let (number, length) = (header[0], u64::from_le_bytes(std::array::from_fn(|byte| header[1 + byte])));
        if (number, length) != (operation as u8, bytes.len() as u64) {
            let (own, other) = (Operation::name(operation as u8), Operation::name(number));
            let reason = format!(
                "rank {} came to {other} of {length} bytes, and this one to {own} of {}",
                self.rank,
                bytes.len()
            );
            return Err(Error::Ranks { reason });
        }
        self.stream.read_exact(bytes).map_err(|error| self.lost(&error))
    }

    fn lost(&self, error: &std::io::Error) -> Error {
        let reason = match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                format!("rank {} has ended", self.rank)
            }
            _ => format!("the connection with rank {} has failed: {error}", self.rank),
        };
        Error::Ranks { reason }
    }
}

impl Collective for Sockets {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn reduce_scatter(&self, values: &mut [f32], ranges: &[Range<usize>]) -> Result<()> {
        const OPERATION: Operation = Operation::ReduceScatter;
        let mut connections = self.connections();
        for start in (0..values.len()).step_by(CHUNK) {
            let chunk = start..values.len().min(start + CHUNK);
            let common = |rank: usize| {
                let range = &ranges[rank];
                let start = range.start.clamp(chunk.start, chunk.end);
                start..range.end.clamp(start, chunk.end)
            };
            if self.rank > 0 {
                for connection in connections.iter_mut() {
                    connection.send(OPERATION, bytemuck::cast_slice(&values[chunk.clone()]))?;
                    connection
                        .receive(OPERATION, bytemuck::cast_slice_mut(&mut values[common(self.rank)]))?;
                }
                continue;
            }
            let mut others = vec![vec![0_f32; chunk.len()]; connections.len()];
            for (connection, other) in connections.iter_mut().zip(&mut others) {
                connection.receive(OPERATION, bytemuck::cast_slice_mut(other))?;
            }
            let others: Vec<&[f32]> = others.iter().map(Vec::as_slice).collect();
            add_in_order(&mut values[chunk.clone()], 0, &others);
            for connection in connections.iter_mut() {
                let part = &values[common(connection.rank)];
                connection.send(OPERATION, bytemuck::cast_slice(part))?;
            }
        }
        Ok(())
    }

    fn all_gather(&self, bytes: &mut [u8], ranges: &[Range<usize>]) -> Result<()> {
        const OPERATION: Operation = Operation::AllGather;
        let mut connections = self.connections();
        if self.rank > 0 {
            for connection in connections.iter_mut() {
                connection.send(OPERATION, &bytes[ranges[self.rank].clone()])?;
                connection.receive(OPERATION, bytes)?;
            }
            return Ok(());
        }
        for connection in connections.iter_mut() {
            connection.receive(OPERATION, &mut bytes[ranges[connection.rank].clone()])?;
        }
        connections.iter_mut().try_for_each(|connection| connection.send(OPERATION, bytes))
    }

    fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        let mut connections = self.connections();
        connections.iter_mut().try_for_each(|connection| match self.rank {
            0 => connection.send(Operation::Broadcast, bytes),
            _ => connection.receive(Operation::Broadcast, bytes),
        })
    }

    fn barrier(&self) -> Result<()> {
        let mut connections = self.connections();
        if self.rank > 0 {
            return connections.iter_mut().try_for_each(|connection| {
                connection.send(Operation::Barrier, &[])?;
                connection.receive(Operation::Barrier, &mut [])
            });
        }
        connections.iter_mut().try_for_each(|connection| connection.receive(Operation::Barrier, &mut []))?;
        connections.iter_mut().try_for_each(|connection| connection.send(Operation::Barrier, &[]))
    }
}
