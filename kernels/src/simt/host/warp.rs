//! Operations of a warp: all 32 lanes take part, or the emulator reports those that do not.

use std::panic::Location;

use crate::emulator::thread::{Wait, WarpOperation, Words, suspend};

/// Hands `words` in and waits for what the warp makes of all lanes'.
#[track_caller]
pub(super) fn exchange(name: &'static str, words: Words, combine: fn(&mut [Words; 32])) -> Words {
    let location = Location::caller();
    suspend(Wait::Warp(WarpOperation { name, location, combine, orders_memory: false }, words))
}

/// Barrier of the warp. What its lanes wrote before is seen by them behind.
#[track_caller]
pub fn sync_warp() {
    let location = Location::caller();
    let operation = WarpOperation { name: "sync_warp", location, combine: |_| {}, orders_memory: true };
    suspend(Wait::Warp(operation, [0; 16]));
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

/// Sends word 0 along: lane i gets that of the lane named in its word 1.
fn gather(lanes: &mut [Words; 32]) {
    let values = lanes.map(|words| words[0]);
    for words in lanes {
        words[0] = values[words[1] as usize % 32];
    }
}

#[track_caller]
fn shuffle<T: ShuffleValue>(name: &'static str, value: T, source: u32) -> T {
    let mut words = [0; 16];
    (words[0], words[1]) = (value.to_word(), source);
    T::from_word(exchange(name, words, gather)[0])
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
    let mut words = [0; 16];
    words[0] = u32::from(predicate);
    exchange("ballot", words, |lanes| {
        let bits = (0..32).fold(0, |bits, lane| bits | lanes[lane][0] << lane);
        lanes.iter_mut().for_each(|words| words[0] = bits);
    })[0]
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
