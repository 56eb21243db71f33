//! Several ranks as threads of a test.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::thread;

use cpift_engine::{Device, Ranks};
use cpift_model::progress::{JobReport, Observer};
use cpift_model::{Recipe, Result, trainer};

use crate::jobs::{Options, SmallJob};

/// A number that is another in every run of a test; to be named where the test fails.
pub fn fresh_seed() -> u64 {
    RandomState::new().hash_one(())
}

/// What each of `size` ranks makes of `work`, in their order. Panics with one that does.
pub fn each<T: Send>(size: usize, work: impl Fn(Ranks) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let started: Vec<_> = cpift_engine::ranks::threads(size)
            .into_iter()
            .map(|ranks| {
                let work = &work;
                scope.spawn(move || work(ranks))
            })
            .collect();
        started.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Runs a small job on so many ranks on the CPU; what the other ranks say comes behind what the job does.
pub fn run(
    job: &SmallJob,
    job_files: (&Recipe, &str),
    size: usize,
    options: &Options<'_>,
    observer: &mut dyn Observer,
) -> (Result<JobReport>, Vec<Result<()>>) {
    run_on(&one_thread, job, job_files, size, options, observer)
}

/// A CPU for one rank: ranks wait for each other in the threads of their devices, so each has its own.
pub fn one_thread() -> Device {
    Device::cpu(NonZeroUsize::new(1)).unwrap()
}

/// The same, with devices of the other ranks that `open` gives; that of rank 0 is the job's.
pub fn run_on(
    open: &(dyn Fn() -> Device + Sync),
    job: &SmallJob,
    (recipe, out): (&Recipe, &str),
    size: usize,
    options: &Options<'_>,
    observer: &mut dyn Observer,
) -> (Result<JobReport>, Vec<Result<()>>) {
    run_by(&|ranks| ranks, open, job, (recipe, out), size, options, observer)
}

/// The same by what `change` makes of the ranks.
pub fn run_by(
    change: &(dyn Fn(Ranks) -> Ranks + Sync),
    open: &(dyn Fn() -> Device + Sync),
    job: &SmallJob,
    (recipe, out): (&Recipe, &str),
    size: usize,
    options: &Options<'_>,
    observer: &mut dyn Observer,
) -> (Result<JobReport>, Vec<Result<()>>) {
    let mut ranks: Vec<Ranks> = cpift_engine::ranks::threads(size).into_iter().map(change).collect();
    thread::scope(|scope| {
        let work = |ranks: Ranks| scope.spawn(move || trainer::work(&open(), &ranks));
        let others: Vec<_> = ranks.drain(1..).map(work).collect();
        let first = ranks.remove(0);
        let report = job.run_with(recipe, out, &Options { ranks: Some(&first), ..*options }, observer);
        // Where the job failed they learn of it by this.
        drop(first);
        (report, others.into_iter().map(|rank| rank.join().unwrap()).collect())
    })
}
