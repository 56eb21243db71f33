//! From the scores of probes at several lengths to how far they agree, and what their cores are worth.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use cpift_engine::Device;
use cpift_engine::ops::select::share_of;
use serde::{Deserialize, Serialize};

use super::results::{Interval, Reference};
use crate::error::{Error, Result};
use crate::files::read_json;
use crate::job::names::{REPORT, probe_length_place};
use crate::job::{LengthReport, ProbeLengths, length_scores};
use crate::stages::group::chance_overlap;
use crate::stages::saliency::Saliency;

/// Shares of the parameters whose overlaps are given.
const FRACTIONS: [f64; 5] = [0.001, 0.01, 0.05, 0.2, 0.5];

/// How importance depends on the length of a probe, its seed and its saliency. Probes have one learning rate from the first
/// step on, so that a longer one is a shorter one that went on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LengthResults {
    /// Optimizer steps of the probes.
    pub steps: Vec<u64>,
    /// Parameters that overlaps and correlations are taken over, the same in all probes.
    pub sampled: u64,
    /// Of so many that can be in a core.
    pub eligible: u64,
    /// Shares of the parameters that cores have, for [`SaliencyAtLength::overlaps`].
    pub fractions: Vec<f64>,
    /// The overlap that chance would give, for each of the fractions.
    pub chance: Vec<f64>,
    /// Shares of the parameters that were transplanted, for [`SaliencyAtLength::gains`].
    pub transplants: Vec<f64>,
    /// Mean loss of the probes of each length on their own tasks, over tasks and seeds; `base_loss` is the base's.
    pub losses: Vec<f64>,
    /// Mean loss of the base.
    pub base_loss: f64,
    /// By saliency and length.
    pub saliencies: Vec<SaliencyAtLength>,
    /// As [`SaliencyAtLength::gains`], of as many random parameters, for each length.
    pub random_gains: Vec<Vec<Option<Interval>>>,
}

impl LengthResults {
    /// Whether all lists have the lengths that they say.
    pub(super) fn fits(&self) -> bool {
        let (steps, fractions, transplants) =
            (self.steps.len(), self.fractions.len(), self.transplants.len());
        let is_whole =
            |found: &SaliencyAtLength| found.overlaps.len() == fractions && found.gains.len() == transplants;
        self.chance.len() == fractions
            && self.losses.len() == steps
            && self.random_gains.len() == steps
            && self.random_gains.iter().all(|gains| gains.len() == transplants)
            && self.saliencies.len() == steps * Saliency::ALL.len()
            && self.saliencies.iter().all(is_whole)
    }
}

/// A saliency at one length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SaliencyAtLength {
    /// The saliency.
    pub saliency: Saliency,
    /// Optimizer steps of the probes.
    pub steps: u64,
    /// Spearman's rank correlation of the scores.
    pub correlation: Agreement,
    /// Jaccard overlap of the cores, for each of the fractions.
    pub overlaps: Vec<Agreement>,
    /// Share of a probe's gain over the base that the base has with the core of the probe alone, for each share that was
    /// transplanted: sum of the tasks' gains over sum of the probes', interval over the seeds. None where probes gain nothing.
    pub gains: Vec<Option<Interval>>,
}

/// How far scores of two probes agree.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Of one task with two seeds: mean over pairs of seeds, interval over the tasks. None with one seed.
    pub seeds: Option<Interval>,
    /// Of two tasks with one seed: mean over pairs of tasks, interval over the seeds.
    pub tasks: Option<Interval>,
    /// Of this length and the longest, with one task and seed: mean over the tasks, interval over the seeds.
    pub longest: Option<Interval>,
}

/// Reads what the runs of all seeds measured.
///
/// # Errors
/// Naming the first file that is missing or damaged.
pub fn collect(
    runs: &[PathBuf],
    lengths: &ProbeLengths,
    tasks: &[String],
    references: &[Reference],
) -> Result<LengthResults> {
    let longest = lengths.steps.last().copied().unwrap_or_default();
    let mut reports = Vec::new();
    for &steps in &lengths.steps {
        reports
            .push(of_all(runs, tasks, |run, task| read_report(&run.join(probe_length_place(task, steps))))?);
    }
    let host = Device::cpu(Some(NonZeroUsize::MIN))?;
    let ranked = |steps_index: usize, saliency| {
        let steps = lengths.steps[steps_index];
        let mut reports = reports[steps_index].iter().flatten();
        of_all(runs, tasks, |run, task| {
            let folder = run.join(probe_length_place(task, steps));
            let report = reports.next().ok_or_else(|| missing(&folder))?;
            Ok(Ranks::of(&length_scores(&host, &folder, report, saliency)?))
        })
    };
    let base: Vec<Vec<f64>> =
        references.iter().map(|seed| seed.base.iter().map(|score| score.loss).collect()).collect();
    let mut saliencies = Vec::new();
    for saliency in Saliency::ALL {
        let last = ranked(lengths.steps.len() - 1, saliency)?;
        for (index, &steps) in lengths.steps.iter().enumerate() {
            let own = if steps == longest { None } else { Some(ranked(index, saliency)?) };
            let ranks = own.as_ref().unwrap_or(&last);
            let correlation = agreement(ranks, &last, |a, b| vec![a.correlation(b)]);
            let overlaps = agreement(ranks, &last, |a, b| a.overlaps(b, &FRACTIONS));
            let gain = |&fraction: &f64| gains(&reports[index], &base, Some(saliency), fraction);
            saliencies.push(SaliencyAtLength {
                saliency,
                steps,
                correlation: correlation[0],
                overlaps,
                gains: lengths.transplants.iter().map(gain).collect(),
            });
        }
    }
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let values: Vec<f64> = values.collect();
        values.iter().sum::<f64>() / values.len().max(1) as f64
    };
    let first = reports.iter().flatten().flatten().next();
    let first = first.ok_or_else(|| Error::Job("probes of no length were measured".to_owned()))?;
    let random = |reports: &Vec<Vec<LengthReport>>| {
        lengths.transplants.iter().map(|&fraction| gains(reports, &base, None, fraction)).collect()
    };
    Ok(LengthResults {
        steps: lengths.steps.clone(),
        sampled: first.sampled,
        eligible: first.eligible,
        fractions: FRACTIONS.to_vec(),
        chance: FRACTIONS.map(chance_overlap).to_vec(),
        transplants: lengths.transplants.clone(),
        losses: reports.iter().map(|of| mean(&mut of.iter().flatten().map(|report| report.loss))).collect(),
        base_loss: mean(&mut base.iter().flatten().copied()),
        random_gains: reports.iter().map(random).collect(),
        saliencies,
    })
}

/// Something of every seed and task.
fn of_all<T>(
    runs: &[PathBuf],
    tasks: &[String],
    mut of: impl FnMut(&Path, &str) -> Result<T>,
) -> Result<Vec<Vec<T>>> {
    runs.iter().map(|run| tasks.iter().map(|task| of(run, task)).collect()).collect()
}

fn read_report(folder: &Path) -> Result<LengthReport> {
    read_json(&folder.join(REPORT))?.ok_or_else(|| missing(folder))
}

fn missing(folder: &Path) -> Error {
    Error::format(folder, "is missing: run the comparison with --resume")
}

/// Values of pairs of probes, `[seed][task]`, put together as [`Agreement`] says. `compare` gives several values of a pair.
fn agreement(
    probes: &[Vec<Ranks>],
    longest: &[Vec<Ranks>],
    compare: impl Fn(&Ranks, &Ranks) -> Vec<f64>,
) -> Vec<Agreement> {
    let (seeds, tasks) = (probes.len(), probes.first().map_or(0, Vec::len));
    let pairs = |count: usize| (0..count).flat_map(move |i| (i + 1..count).map(move |j| (i, j)));
    // Of each task, seed and seed again: means over pairs, all values of a pair side by side.
    let of_seeds: Vec<Vec<f64>> = (0..tasks)
        .filter_map(|task| means(pairs(seeds).map(|(i, j)| compare(&probes[i][task], &probes[j][task]))))
        .collect();
    let of_tasks: Vec<Vec<f64>> =
        probes.iter().filter_map(|of| means(pairs(tasks).map(|(i, j)| compare(&of[i], &of[j])))).collect();
    let of_longest: Vec<Vec<f64>> = probes
        .iter()
        .zip(longest)
        .filter_map(|(own, longest)| {
            means(own.iter().zip(longest).map(|(own, longest)| compare(own, longest)))
        })
        .collect();
    let count = [&of_seeds, &of_tasks, &of_longest].iter().filter_map(|of| of.first()).map(Vec::len).max();
    let interval = |of: &[Vec<f64>], value: usize| {
        Interval::of(&of.iter().map(|values| values[value]).collect::<Vec<_>>())
    };
    (0..count.unwrap_or(0))
        .map(|value| Agreement {
            seeds: interval(&of_seeds, value),
            tasks: interval(&of_tasks, value),
            longest: interval(&of_longest, value),
        })
        .collect()
}

/// Means of lists, place by place; none of no lists.
fn means(lists: impl Iterator<Item = Vec<f64>>) -> Option<Vec<f64>> {
    let lists: Vec<Vec<f64>> = lists.collect();
    let mean = |place: usize| lists.iter().map(|list| list[place]).sum::<f64>() / lists.len() as f64;
    lists.first().map(|first| (0..first.len()).map(mean).collect())
}

/// What a transplant brings of what the probes bring, over the tasks, for each seed.
fn gains(
    reports: &[Vec<LengthReport>],
    base: &[Vec<f64>],
    saliency: Option<Saliency>,
    fraction: f64,
) -> Option<Interval> {
    let of_seed = |(reports, base): (&Vec<LengthReport>, &Vec<f64>)| -> Option<f64> {
        let (mut gain, mut whole) = (0.0, 0.0);
        for (report, base) in reports.iter().zip(base) {
            let is_it =
                |loss: &&crate::job::TransplantLoss| loss.saliency == saliency && loss.fraction == fraction;
            gain += base - report.transplants.iter().find(is_it)?.loss;
            whole += base - report.loss;
        }
        (whole > 0.0).then_some(gain / whole)
    };
    Interval::of_all(reports.iter().zip(base).map(of_seed))
}

/// The order of a probe's scores.
struct Ranks {
    /// For each parameter how many come before it: the largest score first, of equals the lower index.
    places: Vec<u32>,
    /// For each parameter its rank less the mean of all ranks; equal scores share the mean of theirs.
    centred: Vec<f32>,
}

impl Ranks {
    fn of(scores: &[f32]) -> Self {
        let mut order: Vec<u32> = (0..scores.len() as u32).collect();
        let score = |index: &u32| scores[*index as usize];
        order.sort_by(|a, b| score(b).total_cmp(&score(a)));
        let mut places = vec![0; scores.len()];
        let mut centred = vec![0.0; scores.len()];
        let middle = (scores.len() as f64 - 1.0) / 2.0;
        let mut start = 0;
        for equals in order.chunk_by(|a, b| score(a) == score(b)) {
            let shared = start as f64 + (equals.len() as f64 - 1.0) / 2.0 - middle;
            for (offset, &index) in equals.iter().enumerate() {
                places[index as usize] = (start + offset) as u32;
                centred[index as usize] = shared as f32;
            }
            start += equals.len();
        }
        Self { places, centred }
    }

    /// Spearman's: the correlation of ranks; 0 where all scores of one are equal.
    fn correlation(&self, other: &Self) -> f64 {
        let product =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let norms = product(&self.centred, &self.centred) * product(&other.centred, &other.centred);
        if norms > 0.0 { product(&self.centred, &other.centred) / norms.sqrt() } else { 0.0 }
    }

    /// Jaccard overlap of the first of both, for each share.
    fn overlaps(&self, other: &Self, fractions: &[f64]) -> Vec<f64> {
        let overlap = |&fraction: &f64| {
            let size = share_of(fraction, self.places.len());
            let is_in = |place: &u32| (*place as usize) < size;
            let shared = self.places.iter().zip(&other.places).filter(|(a, b)| is_in(a) && is_in(b)).count();
            if size == 0 { 0.0 } else { shared as f64 / (2 * size - shared) as f64 }
        };
        fractions.iter().map(overlap).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_the_mean_of_equals_and_correlate_as_spearman() {
        let ranks = Ranks::of(&[0.5, 2.0, 0.5, 1.0]);
        assert_eq!(ranks.places, [2, 0, 3, 1]);
        assert_eq!(ranks.centred, [1.0, -1.5, 1.0, -0.5]);
        assert!((ranks.correlation(&ranks) - 1.0).abs() < 1e-12);
        // By the definition: −1.5 / √(4.5 · 5).
        let other = Ranks::of(&[3.0, 1.0, 2.0, 4.0]);
        assert!((ranks.correlation(&other) + 0.316_227_766).abs() < 1e-6, "{}", ranks.correlation(&other));
        assert_eq!(Ranks::of(&[1.0, 1.0]).correlation(&Ranks::of(&[1.0, 2.0])), 0.0);
    }

    #[test]
    fn overlaps_are_jaccards_of_the_first() {
        let (first, second) = (Ranks::of(&[4.0, 3.0, 2.0, 1.0]), Ranks::of(&[1.0, 4.0, 3.0, 2.0]));
        assert_eq!(first.overlaps(&second, &[0.1, 0.25, 0.5, 1.0]), [0.0, 0.0, 1.0 / 3.0, 1.0]);
    }

    #[test]
    fn agreements_are_means_over_pairs() {
        let probes =
            [[1.0, 2.0, 3.0], [2.0, 1.0, 3.0]].map(|scores| vec![Ranks::of(&scores), Ranks::of(&scores)]);
        let found = agreement(&probes, &probes, |a, b| vec![a.correlation(b), 7.0]);
        assert_eq!(found.len(), 2);
        let [seeds, tasks, longest] = [found[0].seeds, found[0].tasks, found[0].longest].map(Option::unwrap);
        assert!((seeds.mean - 0.5).abs() < 1e-6 && seeds.count == 2);
        assert!((tasks.mean - 1.0).abs() < 1e-12 && (longest.mean - 1.0).abs() < 1e-12);
        let single = agreement(&probes[..1], &probes[..1], |a, b| vec![a.correlation(b)]);
        assert_eq!(single[0].seeds, None);
    }

    #[test]
    fn gains_are_shares_of_what_the_probes_gain() {
        let report = |loss: f64, transplanted: f64| LengthReport {
            steps: 1,
            sampled: 1,
            eligible: 1,
            loss,
            transplants: vec![crate::job::TransplantLoss {
                saliency: None,
                fraction: 0.1,
                loss: transplanted,
            }],
        };
        let reports = vec![vec![report(1.0, 1.5), report(2.0, 3.5)]];
        let base = vec![vec![2.0, 4.0]];
        let found = gains(&reports, &base, None, 0.1).unwrap();
        assert!((found.mean - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(gains(&reports, &base, Some(Saliency::Net), 0.1), None);
        assert_eq!(gains(&reports, &[vec![1.0, 2.0]], None, 0.1), None);
    }
}
