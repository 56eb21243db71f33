//! What NCCL does between processes: operations that all ranks make together, in a stream like any other work.
//!
//! A rank that comes to one brings what it is and what it sends to the [hub](hub) of rank 0's process, which compares all and
//! gives each what is its own. As on hardware, a rank waits without end for one that does not come.

pub mod hub;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use cudarc::driver::sys::CUresult;

use crate::memory::Place;
use crate::state::{Outcome, log, violation};

/// What memory holds that an operation leaves without meaning.
const POISON: u8 = 0xff;

/// A rank's end.
#[derive(Debug)]
pub struct Communicator {
    /// Whose it is.
    pub context: usize,
    /// This rank.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    connection: Mutex<TcpStream>,
}

/// What ranks do together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The sum of all, for the root.
    Reduce = 1,
    /// A part of the sum of all, for each.
    ReduceScatter,
    /// The sum of all, for all.
    AllReduce,
    /// What the root has, for all.
    Broadcast,
    /// What all have, for all.
    AllGather,
}

/// An element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Element {
    /// One byte.
    Byte = 1,
    /// 4 bytes.
    F32,
    /// 8 bytes.
    F64,
}

impl Kind {
    /// NCCL's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reduce => "Reduce",
            Self::ReduceScatter => "ReduceScatter",
            Self::AllReduce => "AllReduce",
            Self::Broadcast => "Broadcast",
            Self::AllGather => "AllGather",
        }
    }
}

impl Element {
    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// What has to be the same on all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The operation.
    pub kind: Kind,
    /// Of what.
    pub element: Element,
    /// Of how many, as the call counts them.
    pub count: usize,
    /// Whose, where that matters.
    pub root: usize,
}

/// Bytes of a header between processes.
const HEADER: usize = 18;

impl Header {
    fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        (bytes[0], bytes[1]) = (self.kind as u8, self.element as u8);
        bytes[2..10].copy_from_slice(&(self.count as u64).to_le_bytes());
        bytes[10..].copy_from_slice(&(self.root as u64).to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; HEADER]) -> Option<Self> {
        let number =
            |start: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[start + byte])) as usize;
        let kinds = [Kind::Reduce, Kind::ReduceScatter, Kind::AllReduce, Kind::Broadcast, Kind::AllGather];
        let elements = [Element::Byte, Element::F32, Element::F64];
        Some(Self {
            kind: *kinds.iter().find(|kind| **kind as u8 == bytes[0])?,
            element: *elements.iter().find(|element| **element as u8 == bytes[1])?,
            count: number(2),
            root: number(10),
        })
    }

    /// Whether what is sent means nothing afterwards, where it is not received: what a sum was made from.
    pub fn spoils(&self) -> bool {
        matches!(self.kind, Kind::Reduce | Kind::ReduceScatter)
    }

    /// Elements that a rank sends, of `size` ranks.
    fn sent(&self, size: usize) -> usize {
        match self.kind {
            Kind::ReduceScatter => self.count * size,
            _ => self.count,
        }
    }

    /// Elements that a rank receives.
    fn received(&self, rank: usize, size: usize) -> usize {
        match self.kind {
            Kind::Reduce if rank != self.root => 0,
            Kind::AllGather => self.count * size,
            _ => self.count,
        }
    }
}

/// One operation, whose memory was checked.
#[derive(Debug, Clone)]
pub struct Operation {
    /// What all ranks have to say.
    pub header: Header,
    /// What is sent.
    pub send: Place,
    /// Where what is received goes.
    pub receive: Place,
}

impl Communicator {
    /// A rank that has come to its hub.
    pub fn new(context: usize, [rank, size]: [usize; 2], connection: TcpStream) -> Self {
        Self { context, rank, size, connection: Mutex::new(connection) }
    }

    /// Bytes that an operation reads from where it sends, and writes where it receives.
    pub fn bytes(&self, header: &Header) -> (usize, usize) {
        let bytes = header.element.bytes();
        (header.sent(self.size) * bytes, header.received(self.rank, self.size) * bytes)
    }

    /// Makes an operation with the other ranks.
    pub fn run(&self, operation: &Operation) -> Outcome {
        let Header { kind, element, count, root } = operation.header;
        log(&format!("collective of rank {}: {kind:?} {element:?} {count} {root}", self.rank));
        let (sent, received) = (operation.send.bytes, operation.receive.bytes);
        // SAFETY: the place was checked for these bytes and holds its memory.
        let own = unsafe { std::slice::from_raw_parts(operation.send.host(), sent) };
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let brought =
            connection.write_all(&operation.header.to_bytes()).and_then(|()| connection.write_all(own));
        let mut result = vec![0; received];
        let mut status = [0];
        let taken = brought.and_then(|()| connection.read_exact(&mut status));
        let taken = taken.and_then(|()| match status[0] {
            hub::AGREED => connection.read_exact(&mut result),
            _ => Ok(()),
        });
        if taken.is_err() {
            // The process of rank 0 is gone: on hardware, too, nobody would say so.
            loop {
                sleep(Duration::from_secs(1));
            }
        }
        if status[0] != hub::AGREED {
            let message = format!(
                "rank {} came to {kind:?} of {count} {element:?} for {root}, and others did not",
                self.rank
            );
            return Err(violation(CUresult::CUDA_ERROR_LAUNCH_FAILED, &message));
        }
        if operation.header.spoils() {
            // SAFETY: as above; nothing else uses memory that is sent and received in place.
            unsafe { operation.send.host().write_bytes(POISON, sent) };
        }
        // SAFETY: the place was checked for these bytes and holds its memory.
        unsafe { operation.receive.host().copy_from(result.as_ptr(), received) };
        Ok(())
    }
}
