//! Graphs: nodes with their parameters, looked up anew at every launch.

use cudarc::driver::sys::CUresult;

use crate::launch::{Geometry, Value};
use crate::state::{Outcome, State, violation};
use crate::stream::Work;

/// A graph in the making.
#[derive(Debug)]
pub struct Graph {
    /// Whose it is.
    pub context: usize,
    /// In the order they were added, with their handles.
    pub nodes: Vec<(usize, Node)>,
}

/// A graph that can be launched.
#[derive(Debug)]
pub struct Executable {
    /// Whose it is.
    pub context: usize,
    /// The graph it was made from, which must outlive changes.
    pub graph: usize,
    /// As in the graph.
    pub nodes: Vec<(usize, Node)>,
}

/// What a node does.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// A kernel.
    Launch {
        /// How.
        geometry: Geometry,
        /// Values of the arguments.
        values: Vec<Value>,
    },
    /// Bytes set.
    Set {
        /// Where.
        to: u64,
        /// What to.
        byte: u8,
        /// How many.
        bytes: usize,
    },
    /// A copy within the device.
    Copy {
        /// Where to.
        to: u64,
        /// Where from.
        from: u64,
        /// How many bytes.
        bytes: usize,
    },
}

impl Node {
    /// Whether a node of a ready graph can be changed from the one to the other.
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl Graph {
    /// Adds a node behind others, which here is behind the last: what the engine builds is a chain.
    pub fn add(&mut self, handle: usize, behind: &[usize], node: Node) -> Outcome {
        let last: Vec<usize> = self.nodes.last().map(|&(handle, _)| handle).into_iter().collect();
        if behind != last {
            let message = "a node that is not behind the last alone: this driver knows only chains";
            return Err(violation(CUresult::CUDA_ERROR_NOT_SUPPORTED, message));
        }
        self.nodes.push((handle, node));
        Ok(())
    }
}

impl State {
    /// A node as work, with its addresses looked up.
    pub fn work_of(&self, node: &Node) -> Outcome<Work> {
        let context = self.context()?;
        let place = |address, bytes, what| self.memory.place(address, bytes, context, what);
        Ok(match *node {
            Node::Launch { ref geometry, ref values } => self.prepare(geometry, values)?,
            Node::Set { to, byte, bytes } => Work::Set { to: place(to, bytes, "setting memory")?, byte },
            Node::Copy { to, from, bytes } => {
                let (start, end) = (from.max(to), from.min(to) + bytes as u64);
                if start < end {
                    let message = "a copy within the device between ranges that overlap";
                    return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, message));
                }
                Work::Copy { to: place(to, bytes, "copying to")?, from: place(from, bytes, "copying from")? }
            }
        })
    }
}
