//! The gradients of what the gates are made with, from the sums that `gradients` leaves of every chunk.

use super::*;

/// Threads of a block that adds the gates' gradients, a warp a head.
const SUM_BLOCK: u32 = 128;

kernel! {
    /// d_a_log and d_dt_bias += what the chunks left in `gate_sums`, each chunk by the lane of its number, then over the
    /// lanes.
    ///
    /// A warp takes a head, all lanes of it to the end. Sums in f64, rounded once.
    pub fn gated_delta_rule_gate_sums {
        block: SUM_BLOCK,
        grid: value_heads.div_ceil(u64::from(SUM_BLOCK / WARP)),
        shared: 0,
    } (
        gate_sums: read f32 [2 * chunk_count * value_heads],
        d_a_log: update f32 [value_heads],
        d_dt_bias: update f32 [value_heads],
        chunk_count: scalar u32,
        value_heads: scalar u32,
    ) {
        let head = block_idx() * (SUM_BLOCK / WARP) + warp_id();
        let (mut of_a_log, mut of_dt_bias) = (0.0, 0.0);
        let mut chunk = lane_id();
        while head < value_heads && chunk < chunk_count {
            let place = 2 * (chunk as usize * value_heads as usize + head as usize);
            of_a_log += f64::from(gate_sums.load(place));
            of_dt_bias += f64::from(gate_sums.load(place + 1));
            chunk += WARP;
        }
        let (of_a_log, of_dt_bias) = (warp_sum_f64(of_a_log), warp_sum_f64(of_dt_bias));
        if lane_id() == 0 && head < value_heads {
            let head = head as usize;
            d_a_log.store(head, (f64::from(d_a_log.load(head)) + of_a_log) as f32);
            d_dt_bias.store(head, (f64::from(d_dt_bias.load(head)) + of_dt_bias) as f32);
        }
    }
}
