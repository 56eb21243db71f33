//! Operations of a warp: all 32 lanes take part, or the emulator reports those that do not.

use crate::emulator::instructions::{self, Point};

/// Barrier of the warp. What its lanes wrote before is seen by them behind.
#[track_caller]
pub fn sync_warp() {
    instructions::warp_barrier(Point::caller());
}

/// What lanes can exchange: 32 bits.
pub trait ShuffleValue: Copy {
    /// Its bits.
    fn to_word(self) -> u32;
    /// From its bits.
    fn from_word(word: u32) -> Self;
}

impl ShuffleValue for u32 {
    fn to_word(self) -> u32 {
        self
    }
    fn from_word(word: u32) -> Self {
        word
    }
}

impl ShuffleValue for f32 {
    fn to_word(self) -> u32 {
        self.to_bits()
    }
    fn from_word(word: u32) -> Self {
        Self::from_bits(word)
    }
}

#[track_caller]
fn shuffle<T: ShuffleValue>(name: &'static str, value: T, source: u32) -> T {
    T::from_word(instructions::shuffle(name, Point::caller(), value.to_word(), source))
}

/// `value` of the lane whose number differs in the bits of `mask`.
#[track_caller]
pub fn shuffle_xor<T: ShuffleValue>(value: T, mask: u32) -> T {
    shuffle("shuffle_xor", value, super::super::lane_id() ^ mask)
}

/// `value` of the lane `delta` further on; behind the last lane, the own.
#[track_caller]
pub fn shuffle_down<T: ShuffleValue>(value: T, delta: u32) -> T {
    let lane = super::super::lane_id();
    shuffle("shuffle_down", value, if lane + delta < 32 { lane + delta } else { lane })
}

/// `value` of lane `lane` modulo 32.
#[track_caller]
pub fn shuffle_idx<T: ShuffleValue>(value: T, lane: u32) -> T {
    shuffle("shuffle_idx", value, lane)
}

/// Bit i is `predicate` of lane i.
#[track_caller]
pub fn ballot(predicate: bool) -> u32 {
    instructions::ballot(Point::caller(), predicate)
}

/// Whether `predicate` holds in any lane.
#[track_caller]
pub fn any(predicate: bool) -> bool {
    ballot(predicate) != 0
}

/// Whether `predicate` holds in all lanes.
#[track_caller]
pub fn all(predicate: bool) -> bool {
    ballot(predicate) == u32::MAX
}
