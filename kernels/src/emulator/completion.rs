//! What is done when no thread can go on: products by `wgmma`, copies by TMA, the end of phases.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::async_proxy::WARPGROUP;
use super::block::{State, describe};
use super::schedule::Order;
use super::thread::{Context, Wait, WgmmaOperation};
use crate::fault::{Cause, Threads};

type Faulty = (Threads, Cause);

/// Lets threads go on whose phases are over.
pub fn wake(context: &Context<'_>, states: &mut [State]) -> Result<(), Faulty> {
    let shared = &mut *context.shared.borrow_mut();
    for (thread, state) in (0u32..).zip(states) {
        let State::Waiting(Wait::Mbarrier(wait)) = state else { continue };
        let poll = shared.poll(thread, wait.byte, wait.parity, &|| wait.point.to_string());
        if poll.map_err(|cause| (Threads(vec![thread]), cause))? {
            *state = State::Ready([0; 16]);
        }
    }
    Ok(())
}

/// Does one thing that threads may wait for; false where nothing is under way.
pub fn finish_something(
    context: &Context<'_>,
    order: &mut Order,
    states: &mut [State],
) -> Result<bool, Faulty> {
    for group in states.chunks_exact_mut(WARPGROUP) {
        begin(group);
    }
    for warp in order.shuffle(states.len() / 32) {
        if multiply(context, warp, &mut states[32 * warp..32 * (warp + 1)])? {
            return Ok(true);
        }
    }
    let mut shared = context.shared.borrow_mut();
    let under_way = shared.tma_copies.len();
    if under_way > 0 {
        let mut counter = context.counter.map(RefCell::borrow_mut);
        shared.finish_tma_copy(order.pick(under_way), counter.as_deref_mut());
        return Ok(true);
    }
    refuse_deadlock(&shared.mbarriers, states)?;
    Ok(false)
}

/// Begins a warpgroup's product once all of it waits for the same one.
fn begin(group: &mut [State]) {
    let Some(State::Waiting(Wait::Warpgroup(operation))) = group.first() else { return };
    let operation = *operation;
    // SAFETY: threads that wait for their warpgroup are suspended in its operation.
    let same = |own: &WgmmaOperation| unsafe { own.is_same(&operation) };
    let waits = |state: &State| matches!(state, State::Waiting(Wait::Warpgroup(own)) if same(own));
    if !group.iter().all(waits) {
        return;
    }
    for state in group {
        if let State::Waiting(Wait::Warpgroup(own)) = state {
            *state = State::Waiting(Wait::Part(*own));
        }
    }
}

/// Does a warp's part of a product that has begun: none waits for the others' to be done.
fn multiply(context: &Context<'_>, warp: usize, lanes: &mut [State]) -> Result<bool, Faulty> {
    let parts: Vec<WgmmaOperation> = lanes
        .iter()
        .filter_map(|state| match state {
            State::Waiting(Wait::Part(operation)) => Some(*operation),
            _ => None,
        })
        .collect();
    // Lanes begin and end their part together.
    if parts.is_empty() {
        return Ok(false);
    }
    // SAFETY: every lane is suspended in the operation, and has lent its instructions and their sums.
    let result = unsafe { context.shared.borrow_mut().multiply(warp as u32, &parts) };
    let flops =
        result.map_err(|cause| (Threads((32 * warp as u32..32 * (warp as u32 + 1)).collect()), cause))?;
    if let Some(counter) = context.counter {
        counter.borrow_mut().multiply(flops);
    }
    lanes.iter_mut().for_each(|state| *state = State::Ready([0; 16]));
    Ok(true)
}

/// Nothing is under way: threads that wait for mbarriers or for their warpgroup wait for ever.
fn refuse_deadlock(mbarriers: &super::mbarrier::Mbarriers, states: &[State]) -> Result<(), Faulty> {
    let mut waiting = BTreeMap::<String, Vec<u32>>::new();
    let mut groups = Vec::new();
    for (thread, state) in (0u32..).zip(states) {
        match state {
            State::Waiting(Wait::Mbarrier(wait)) => {
                let what = format!("{}; {}", describe(state), mbarriers.describe(wait.byte));
                waiting.entry(what).or_default().push(thread);
            }
            State::Waiting(Wait::Warpgroup(_)) => groups.push(thread),
            _ => {}
        }
    }
    if let Some(&thread) = groups.first() {
        let group = thread as usize / WARPGROUP;
        let same = |other: usize| match (&states[other], &states[thread as usize]) {
            // SAFETY: as in `begin`.
            (State::Waiting(Wait::Warpgroup(other)), State::Waiting(Wait::Warpgroup(own))) => unsafe {
                own.is_same(other)
            },
            _ => false,
        };
        let apart = (WARPGROUP * group..WARPGROUP * (group + 1)).find(|&other| !same(other));
        // Without one apart the product would have been made; threads behind the last group have none.
        let other =
            apart.map_or_else(String::new, |other| format!(", thread {other} {}", describe(&states[other])));
        let message = format!("thread {thread} {}{other}", describe(&states[thread as usize]));
        return Err((Threads(groups), Cause::Divergence(message)));
    }
    if waiting.is_empty() {
        return Ok(());
    }
    let list = waiting.iter().map(|(what, threads)| format!("{}: {what}", Threads(threads.clone())));
    let message = list.collect::<Vec<_>>().join("; ");
    let mut threads: Vec<u32> = waiting.into_values().flatten().collect();
    threads.sort_unstable();
    Err((Threads(threads), Cause::Deadlock(message)))
}

/// All threads have returned: so must have the copies they began.
pub fn refuse_leftovers(context: &Context<'_>) -> Result<(), Faulty> {
    let shared = context.shared.borrow();
    shared.tma_copies.first().map_or(Ok(()), |copy| {
        let message =
            format!("all threads have returned, and a copy to byte {} is still under way", copy.byte);
        Err((Threads(vec![copy.thread]), Cause::Deadlock(message)))
    })
}
