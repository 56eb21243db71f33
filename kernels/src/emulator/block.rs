//! One block: its threads as coroutines, run until all wait, then released together.

use std::panic::{AssertUnwindSafe, catch_unwind};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::completion::{finish_something, refuse_leftovers, wake};
use super::schedule::Order;
use super::thread::{Context, Suspend, Wait, WarpOperation, Words, enter};
use crate::fault::{Cause, Threads};
use crate::launch::Request;

/// What a thread of the block is doing.
#[derive(Debug)]
pub(super) enum State {
    /// Can go on, with what its last wait brought.
    Ready(Words),
    /// Waits for the block or its warp.
    Waiting(Wait),
    /// Has returned.
    Done,
}

type Thread = Coroutine<Words, Wait, (), DefaultStack>;

impl Suspend for Yielder<Words, Wait> {
    fn suspend(&self, wait: Wait) -> Words {
        Yielder::suspend(self, wait)
    }
}

/// Runs a block to its end, each thread of it `body`, on stacks that it gives back.
pub fn run(
    request: &Request<'_>,
    body: &dyn Fn(),
    context: &Context<'_>,
    order: &mut Order,
    stacks: &mut Vec<DefaultStack>,
) -> Result<(), (Threads, Cause)> {
    let count = request.kernel.block as usize;
    let mut threads: Vec<Thread> = stacks
        .drain(..count)
        .map(|stack| {
            // SAFETY: `body` and `context` outlive the coroutine, which is dropped in this function.
            unsafe {
                Coroutine::with_stack_unchecked(stack, move |yielder, _| {
                    context.suspend.set(Some(yielder));
                    body();
                })
            }
        })
        .collect();
    let mut suspends = vec![None; count];
    let mut states: Vec<State> = (0..count).map(|_| State::Ready([0; 16])).collect();

    // What all threads that can do until they wait.
    let mut advance = |states: &mut [State], order: &mut Order| {
        for thread in order.shuffle(count) {
            let State::Ready(words) = states[thread] else { continue };
            context.thread.set(thread as u32);
            context.suspend.set(suspends[thread]);
            let outcome = threads[thread].resume(words);
            suspends[thread] = context.suspend.get();
            states[thread] = match outcome {
                CoroutineResult::Return(()) => State::Done,
                CoroutineResult::Yield(Wait::Fault(cause)) => {
                    return Err((Threads(vec![thread as u32]), cause));
                }
                CoroutineResult::Yield(wait) => State::Waiting(wait),
            };
        }
        Ok(())
    };
    while states.iter().any(|state| !matches!(state, State::Done)) {
        let advanced = catch_unwind(AssertUnwindSafe(|| enter(context, || advance(&mut states, order))));
        advanced.unwrap_or_else(|panic| {
            let thread = Threads(vec![context.thread.get()]);
            Err((thread, Cause::Panic(panic_message(&*panic))))
        })?;
        for warp in 0..count / 32 {
            release_warp(context, warp, &mut states)?;
        }
        wake(context, &mut states)?;
        let stuck = !states.iter().any(|state| matches!(state, State::Ready(_)));
        if stuck && !finish_something(context, order, &mut states)? {
            release_block(context, &mut states)?;
        }
    }
    refuse_leftovers(context)?;
    stacks.extend(threads.into_iter().map(Coroutine::into_stack));
    Ok(())
}

/// Does a warp's operation once all its lanes wait for the same one.
fn release_warp(context: &Context<'_>, warp: usize, states: &mut [State]) -> Result<(), (Threads, Cause)> {
    let lanes = &mut states[32 * warp..32 * (warp + 1)];
    let first = lanes.iter().find_map(|state| match state {
        State::Waiting(Wait::Warp(operation, _)) => Some(*operation),
        _ => None,
    });
    let Some(operation) = first else { return Ok(()) };
    let mut words = [[0; 16]; 32];
    let mut apart = Vec::new();
    // Lanes that wait for mbarriers may still come.
    if lanes.iter().any(|state| matches!(state, State::Waiting(Wait::Mbarrier(_)))) {
        return Ok(());
    }
    for (lane, state) in lanes.iter().enumerate() {
        match state {
            State::Waiting(Wait::Warp(own, brought)) if own.same_point(&operation) => words[lane] = *brought,
            _ => apart.push(lane),
        }
    }
    if let Some(&lane) = apart.first() {
        let threads = apart.iter().map(|lane| (32 * warp + lane) as u32).collect();
        let message = format!(
            "the rest of warp {warp} waits in {} at {}, thread {} {}",
            operation.name,
            operation.point,
            32 * warp + lane,
            describe(&lanes[lane]),
        );
        return Err((Threads(threads), Cause::Divergence(message)));
    }
    (operation.combine)(&mut words, context.shared.borrow().rules);
    if operation.orders_memory {
        context.shared.borrow_mut().warp_barrier(warp);
    }
    for (state, words) in lanes.iter_mut().zip(words) {
        *state = State::Ready(words);
    }
    Ok(())
}

/// Lets the block pass its barrier once all its threads wait at the same one.
fn release_block(context: &Context<'_>, states: &mut [State]) -> Result<(), (Threads, Cause)> {
    let first = states.iter().enumerate().find_map(|(thread, state)| match state {
        State::Waiting(Wait::Barrier(point)) => Some((thread, *point)),
        _ => None,
    });
    // Warps have been released and no thread is ready: all wait at barriers or have returned.
    let Some((waiting, point)) = first else { return Ok(()) };
    let apart: Vec<u32> = (0u32..)
        .zip(states.iter())
        .filter(|(_, state)| !matches!(state, State::Waiting(Wait::Barrier(own)) if *own == point))
        .map(|(thread, _)| thread)
        .collect();
    if let Some(&thread) = apart.first() {
        let other = describe(&states[thread as usize]);
        let message = format!("thread {waiting} waits in sync_threads at {point}, thread {thread} {other}");
        return Err((Threads(apart), Cause::Divergence(message)));
    }
    context.shared.borrow_mut().block_barrier();
    states.iter_mut().for_each(|state| *state = State::Ready([0; 16]));
    Ok(())
}

pub(super) fn describe(state: &State) -> String {
    match state {
        State::Waiting(Wait::Barrier(point)) => format!("waits in sync_threads at {point}"),
        State::Waiting(Wait::Warp(operation, _)) => {
            format!("waits in {} at {}", operation.name, operation.point)
        }
        State::Waiting(Wait::Mbarrier(wait)) => {
            format!(
                "waits for the phase of parity {} at the barrier at byte {}, at {}",
                wait.parity, wait.byte, wait.point
            )
        }
        State::Waiting(Wait::Warpgroup(operation) | Wait::Part(operation)) => {
            format!("waits for its group's products at {}", operation.point)
        }
        State::Done => "has returned".to_owned(),
        State::Ready(_) | State::Waiting(Wait::Fault(_)) => "runs".to_owned(),
    }
}

impl WarpOperation {
    fn same_point(&self, other: &Self) -> bool {
        self.name == other.name && self.point == other.point
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(message), _) => (*message).to_owned(),
        (_, Some(message)) => message.clone(),
        _ => "without a message".to_owned(),
    }
}
