//! Random numbers by position: the finaliser of SplitMix64 over a Weyl sequence. Nothing is kept from one
//! number to the next, so any part can be made by any thread.

/// Spreads 64 bits over 64 bits.
#[inline(always)]
pub fn mix(mut state: u64) -> u64 {
    state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ state >> 31
}

/// Number `index` of the sequence that begins at `start`, itself the [`mix`] of a seed.
#[inline(always)]
pub fn at(start: u64, index: u64) -> u64 {
    mix(start.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}
