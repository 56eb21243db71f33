//! Ranks that are threads of one process: for tests, and for programs that embed the engine.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::sum::add_in_order;
use super::{Collective, Ranks};
use crate::error::{Error, Result};

/// `size` ranks of this process, each for a thread of its own. A rank that is dropped, by a panic too, has ended: what the
/// others then wait for is an error.
pub fn threads(size: usize) -> Vec<Ranks> {
    let state = State { posted: vec![None; size], taken: 0, has_ended: vec![false; size] };
    let meeting = Arc::new(Meeting { state: Mutex::new(state), changed: Condvar::new() });
    let of_rank = |rank| Ranks::new(Arc::new(ThreadRank { rank, size, meeting: Arc::clone(&meeting) }));
    (0..size).map(of_rank).collect()
}

#[derive(Debug)]
struct ThreadRank {
    rank: usize,
    size: usize,
    meeting: Arc<Meeting>,
}

/// Where ranks leave what the others take.
#[derive(Debug)]
struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// What each rank has brought to the operation under way.
    posted: Vec<Option<Post>>,
    /// Ranks that have taken what all brought.
    taken: usize,
    has_ended: Vec<bool>,
}

/// What a rank brings to an operation.
#[derive(Debug, Clone)]
struct Post {
    operation: &'static str,
    /// Bytes that the operation is about, which have to be the same for all ranks.
    length: usize,
    bytes: Arc<Vec<u8>>,
}

impl Meeting {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl ThreadRank {
    /// Leaves `own` for the others and takes what they left for the same operation.
    fn exchange(&self, operation: &'static str, length: usize, own: Vec<u8>) -> Result<Vec<Arc<Vec<u8>>>> {
        let mut state = self.meeting.state();
        // Until all have taken what was left for the operation before.
        while state.posted[self.rank].is_some() {
            state = self.meeting.wait(state);
        }
        state.posted[self.rank] = Some(Post { operation, length, bytes: Arc::new(own) });
        self.meeting.changed.notify_all();
        while state.posted.iter().any(Option::is_none) {
            let absent = (0..self.size).find(|&rank| state.has_ended[rank] && state.posted[rank].is_none());
            if let Some(rank) = absent {
                return Err(Error::Ranks { reason: format!("rank {rank} has ended") });
            }
            state = self.meeting.wait(state);
        }
        let posts: Vec<Post> = state.posted.iter().flatten().cloned().collect();
        state.taken += 1;
        if state.taken == self.size {
            state.taken = 0;
            state.posted.fill(None);
            self.meeting.changed.notify_all();
        }
        drop(state);
        let first = &posts[0];
        let other = |post: &Post| (post.operation, post.length) != (first.operation, first.length);
        if let Some(rank) = posts.iter().position(other) {
            let post = &posts[rank];
            let reason = format!(
                "rank 0 came to {} of {} bytes, and rank {rank} to {} of {}",
                first.operation, first.length, post.operation, post.length
            );
            return Err(Error::Ranks { reason });
        }
        Ok(posts.into_iter().map(|post| post.bytes).collect())
    }
}

impl Collective for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn reduce_scatter(&self, values: &mut [f32], ranges: &[Range<usize>]) -> Result<()> {
        let own = bytemuck::cast_slice(values).to_vec();
        let all = self.exchange("reduce-scatter", own.len(), own)?;
        let range = ranges[self.rank].clone();
        let others = all.iter().enumerate().filter(|(rank, _)| *rank != self.rank);
        // What was left is of bytes, which are not aligned as numbers are.
        let to_floats =
            |bytes: &[u8]| bytes.as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect();
        let others: Vec<Vec<f32>> = others.map(|(_, bytes)| to_floats(bytes)).collect();
        let others: Vec<&[f32]> = others.iter().map(|values| &values[range.clone()]).collect();
        add_in_order(&mut values[range], self.rank, &others);
        Ok(())
    }

    fn all_gather(&self, bytes: &mut [u8], ranges: &[Range<usize>]) -> Result<()> {
        let own = bytes[ranges[self.rank].clone()].to_vec();
        let all = self.exchange("all-gather", bytes.len(), own)?;
        all.iter().zip(ranges).for_each(|(part, range)| bytes[range.clone()].copy_from_slice(part));
        Ok(())
    }

    fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        let own = if self.rank == 0 { bytes.to_vec() } else { Vec::new() };
        let all = self.exchange("broadcast", bytes.len(), own)?;
        bytes.copy_from_slice(&all[0]);
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        self.exchange("barrier", 0, Vec::new()).map(drop)
    }
}

impl Drop for ThreadRank {
    fn drop(&mut self) {
        self.meeting.state().has_ended[self.rank] = true;
        self.meeting.changed.notify_all();
    }
}
