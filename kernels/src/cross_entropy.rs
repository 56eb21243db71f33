//! Cross-entropy over a chunk of logits, and the rows it belongs to.
//!
//! The rows with a target are gathered (`embedding`) into a chunk, `gemm` makes their logits, the kernels here
//! their losses and d_logits, `gemm` the gradients, and [`cross_entropy_scatter_rows_f32`] puts those of the hidden states
//! back. Row i of the chunk is row rows\[i\] of the batch. Rows without a target are never touched: their
//! losses and gradients are zeros from before.
//!
//! Where `softcap` is not 0, losses and gradients are those of the logits softcap·tanh(logit / softcap).
//!
//! Logits are f32 whatever the model is: rounded to bf16 a logit of 20 is off by up to 0.06, and so is the
//! loss. d_logits are operands of products, f32 or bf16. A vocabulary of any size: both are accessed 16 bytes
//! at a time where it is a multiple of that many and the buffers are aligned, else one by one.

use crate::simt::*;
use crate::softcap::Softcap;

/// Threads of a block that does a row of logits.
const BLOCK: u32 = 512;
/// Bytes of shared memory of such a block: one number per warp.
const SHARED: u64 = (BLOCK / WARP) as u64 * 4;
/// Threads of a block that moves rows, one per warp.
const ROWS_BLOCK: u32 = 128;
/// Rows of such a block.
const ROWS_PER_BLOCK: u64 = (ROWS_BLOCK / WARP) as u64;

/// Largest `value` of the block, in every thread. Every thread must call it; `scratch` may be used again
/// at once.
#[inline(always)]
fn block_max(value: f32, scratch: Shared<f32>) -> f32 {
    let largest = warp_max(value);
    if lane_id() == 0 {
        scratch.store(warp_id(), largest);
    }
    sync_threads();
    let mut total = scratch.load(0);
    for warp in 1..BLOCK / WARP {
        total = max(total, scratch.load(warp));
    }
    sync_threads();
    total
}

/// m and s with Σ e^logit = s · e^m over the row, m its largest logit; the same in all threads of the block.
///
/// Every thread keeps its own m as it goes along, so that the row is read once.
#[inline(always)]
fn maximum_and_sum<const N: usize>(logits: Global<f32>, vocabulary: usize, cap: Softcap) -> (f32, f32)
where
    f32: Pack<N>,
{
    // Not infinite: the difference to itself must be a number.
    let (mut maximum, mut sum) = (f32::MIN, 0.0);
    let mut column = N * thread_idx() as usize;
    while column < vocabulary {
        let mut values = <f32 as Pack<N>>::load(logits, column);
        if cap.is_on() {
            values = values.map(|logit| cap.apply(logit));
        }
        let mut larger = maximum;
        for value in &values {
            larger = max(larger, *value);
        }
        sum *= exp(maximum - larger);
        maximum = larger;
        for value in &values {
            sum += exp(*value - maximum);
        }
        column += N * BLOCK as usize;
    }
    let scratch = Shared::new(0, BLOCK / WARP);
    let largest = block_max(maximum, scratch);
    (largest, block_sum(sum * exp(maximum - largest), scratch))
}

/// d_logits = scale · (softmax(logits) − onehot(target)), times the cap's derivative where there is one, by the block.
#[inline(always)]
fn differentiate<E: Pack<N>, const N: usize>(
    logits: Global<f32>,
    d_logits: GlobalMut<E>,
    vocabulary: usize,
    target: usize,
    (maximum, sum): (f32, f32),
    (scale, cap): (f32, Softcap),
) where
    f32: Pack<N>,
{
    let factor = divide(scale, sum);
    let mut column = N * thread_idx() as usize;
    while column < vocabulary {
        let mut values = <f32 as Pack<N>>::load(logits, column);
        let gradient = |logit: f32, lane: usize| {
            let one = if column + lane == target { scale } else { 0.0 };
            exp(logit - maximum) * factor - one
        };
        if cap.is_on() {
            // An element at a time: all slopes at once would not fit into registers.
            for (lane, value) in values.iter_mut().enumerate() {
                let capped = cap.apply(*value);
                *value = gradient(capped, lane) * cap.slope(capped);
            }
        } else {
            for (lane, value) in values.iter_mut().enumerate() {
                *value = gradient(*value, lane);
            }
        }
        E::store(d_logits, column, values);
        column += N * BLOCK as usize;
    }
}

/// −ln softmax(logits)\[target\].
#[inline(always)]
fn loss_of((maximum, sum): (f32, f32), target: f32, cap: Softcap) -> f32 {
    let target = if cap.is_on() { cap.apply(target) } else { target };
    log(sum) + (maximum - target)
}

/// Maximum and sum of a row as above, by vectors where they fit.
#[inline(always)]
fn summarize(logits: Global<f32>, vocabulary: usize, cap: Softcap) -> (f32, f32) {
    if logits.is_aligned() && vocabulary.is_multiple_of(4) {
        maximum_and_sum::<4>(logits, vocabulary, cap)
    } else {
        maximum_and_sum::<1>(logits, vocabulary, cap)
    }
}

kernel! {
    /// losses\[rows\[i\]\] = ln Σ_v e^logits\[i, v\] − logits\[i, targets\[rows\[i\]\]\], in nats, for
    /// i < `count`; logits `[count, vocabulary]`.
    ///
    /// A block per i; `rows` are below `batch`, each at most once, their targets below `vocabulary`.
    /// All threads reach every barrier. Reads every logit once.
    pub fn cross_entropy_losses { block: BLOCK, grid: count, shared: SHARED } (
        logits: read f32 [count * vocabulary],
        rows: read u32 [count],
        targets: read u32 [batch],
        losses: update f32 [batch],
        count: scalar u64,
        vocabulary: scalar u64,
        batch: scalar u64,
        softcap: scalar f32,
    ) requires { vocabulary < 1 << 31, vocabulary > 0, softcap >= 0.0 } {
        let cap = Softcap::new(softcap);
        let vocabulary = vocabulary as usize;
        let logits = logits.offset(block_idx() as usize * vocabulary);
        let row = rows.load(block_idx() as usize) as usize;
        let sums = summarize(logits, vocabulary, cap);
        if thread_idx() == 0 {
            losses.store(row, loss_of(sums, logits.load(targets.load(row) as usize), cap));
        }
    }
}

kernel! {
    /// The losses as by [`cross_entropy_losses`], and d_logits = scale · (softmax(logits) − onehot(target)): the
    /// gradient of `scale` times the loss.
    ///
    /// A block per i; `rows` are below `batch`, each at most once, their targets below `vocabulary`.
    /// All threads reach every barrier. Reads every logit twice, the second time from the cache where
    /// it is large enough, and writes its gradient once.
    pub fn cross_entropy_losses_and_gradients<E> =
        cross_entropy_losses_and_gradients_f32, cross_entropy_losses_and_gradients_bf16; {
        block: BLOCK,
        grid: count,
        shared: SHARED,
        min_blocks: 3,
    } (
        logits: read f32 [count * vocabulary],
        d_logits: write E [count * vocabulary],
        rows: read u32 [count],
        targets: read u32 [batch],
        losses: update f32 [batch],
        count: scalar u64,
        vocabulary: scalar u64,
        batch: scalar u64,
        scale: scalar f32,
        softcap: scalar f32,
    ) requires { vocabulary < 1 << 31, vocabulary > 0, softcap >= 0.0 } {
        let cap = Softcap::new(softcap);
        let vocabulary = vocabulary as usize;
        let first = block_idx() as usize * vocabulary;
        let (logits, d_logits) = (logits.offset(first), d_logits.offset(first));
        let row = rows.load(block_idx() as usize) as usize;
        let target = targets.load(row) as usize;
        let sums = summarize(logits, vocabulary, cap);
        if logits.is_aligned() && d_logits.is_aligned() && vocabulary.is_multiple_of(const { vector_length::<E>() }) {
            differentiate::<E, { vector_length::<E>() }>(logits, d_logits, vocabulary, target, sums, (scale, cap));
        } else {
            differentiate::<E, 1>(logits, d_logits, vocabulary, target, sums, (scale, cap));
        }
        if thread_idx() == 0 {
            losses.store(row, loss_of(sums, logits.load(target), cap));
        }
    }
}

/// Copies a row by a warp, `N` elements at a time.
#[inline(always)]
fn copy_row<T: Copy, const N: usize>(columns: usize, load: impl Fn(usize) -> T, store: impl Fn(usize, T)) {
    let step = N * WARP as usize;
    let mut column = N * lane_id() as usize;
    while column + (3) * step < columns {
        let (a, b) = (load(column), load(column + step));
        let (c, d) = (load(column + 2 * step), load(column + 3 * step));
        store(column, a);
        store(column + step, b);
        store(column + 2 * step, c);
        store(column + 3 * step, d);
        column += 4 * step;
    }
    while column < columns {
        store(column, load(column));
        column += step;
    }
}

kernel! {
    /// out\[rows\[i\]\] = x\[i\] for i < `count`, bit by bit; x `[count, columns]`, out `[batch, columns]`.
    ///
    /// A warp per i; `rows` are below `batch`, each at most once. No barriers. Two element moves per
    /// element.
    pub fn cross_entropy_scatter_rows<E> = cross_entropy_scatter_rows_f32, cross_entropy_scatter_rows_bf16; {
        block: ROWS_BLOCK,
        grid: count.div_ceil(ROWS_PER_BLOCK),
        shared: 0,
    } (
        x: read E [count * columns],
        rows: read u32 [count],
        out: update E [batch * columns],
        count: scalar u64,
        columns: scalar u64,
        batch: scalar u64,
    ) {
        let index = block_idx() as usize * ROWS_PER_BLOCK as usize + warp_id() as usize;
        let columns = columns as usize;
        if index < count as usize {
            let x = x.offset(index * columns);
            let out = out.offset(rows.load(index) as usize * columns);
            if columns.is_multiple_of(const { vector_length::<E>() }) && x.is_aligned() && out.is_aligned() {
                type Vector = <E as Real>::Vector;
                let load = |column| x.load_vector::<Vector>(column);
                copy_row::<Vector, { vector_length::<E>() }>(columns, load, |column, v| out.store_vector(column, v));
            } else {
                let load = |column| x.load(column);
                copy_row::<E, 1>(columns, load, |column, value| out.store(column, value));
            }
        }
    }
}
