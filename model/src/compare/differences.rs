//! Differences between the rows of a comparison, seed by seed: their intervals are narrower than those of the two rows where a
//! seed helps or harms both alike.

use super::results::{Budget, Comparison, Interval, MethodResult, Reference, RowKind, SeedRun};
use crate::progress::Score;

/// How far a method raised the loss of the task it harmed most, against the base.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorstLossChange {
    /// Nats per supervised token, over the seeds; below 0 where no task was harmed.
    pub change: Interval,
    /// The task that is the worst most often (of several the first), as an index.
    pub task: usize,
}

impl Comparison {
    /// The row that others are compared with under a budget; none where it was not run.
    pub fn reference_row(&self, budget: Budget) -> Option<&MethodResult> {
        self.methods.iter().find(|row| row.name == self.against && row.budgets.contains(&budget))
    }

    /// The rows that a table of a budget has. Ablations that count under both are in that of [`Budget::Given`] alone where
    /// their differences under the other would be the same.
    pub fn rows_under(&self, budget: Budget) -> Vec<&MethodResult> {
        let is_other_reference = self.reference_row(budget).is_some_and(|row| row.budgets.len() == 1);
        let is_shown = |row: &&MethodResult| {
            let once = row.kind == RowKind::Method || budget == Budget::Given || row.budgets.len() == 1;
            row.budgets.contains(&budget) && (once || is_other_reference)
        };
        self.methods.iter().filter(is_shown).collect()
    }

    /// The budget by which a row is compared where it is shown once: one under which there is a row to compare with.
    pub fn main_budget(&self, row: &MethodResult) -> Budget {
        let own = [Budget::Given, Budget::Total].into_iter().filter(|budget| row.budgets.contains(budget));
        let mut own: Vec<Budget> = own.collect();
        own.sort_by_key(|&budget| self.reference_row(budget).is_none());
        own.first().copied().unwrap_or(Budget::Given)
    }

    /// Normalised score of a row less that of the row [`Comparison::against`]. None where a score is missing, or for that
    /// row itself.
    pub fn difference(&self, row: &MethodResult, budget: Budget) -> Option<Interval> {
        self.to_reference(row, budget, |run| run.mean_normalised)
    }

    /// Loss of a row, mean over the tasks, less that of the row [`Comparison::against`], in nats per supervised token; none
    /// for that row itself.
    pub fn loss_difference(&self, row: &MethodResult, budget: Budget) -> Option<Interval> {
        self.to_reference(row, budget, |run| mean_loss(&run.scores))
    }

    /// Loss of a row, mean over the tasks, less that of the base model, in nats per supervised token.
    pub fn loss_change(&self, row: &MethodResult) -> Option<Interval> {
        Interval::of_all(row.runs.iter().map(|run| {
            let base = mean_loss(&self.base_of(run)?.base)?;
            Some(mean_loss(&run.scores)? - base)
        }))
    }

    /// The same of the task whose loss changed for the worst.
    pub fn worst_loss_change(&self, row: &MethodResult) -> Option<WorstLossChange> {
        let worst = |run: &SeedRun| {
            let bases = &self.base_of(run)?.base;
            let changes = run.scores.iter().zip(bases).map(|(now, base)| now.loss - base.loss);
            changes.enumerate().max_by(|a, b| a.1.total_cmp(&b.1))
        };
        let worst: Vec<_> = row.runs.iter().map(worst).collect::<Option<_>>()?;
        let change = Interval::of_all(worst.iter().map(|&(_, change)| Some(change)))?;
        let task = most_often(self.tasks.len(), worst.iter().map(|&(task, _)| task))?;
        Some(WorstLossChange { change, task })
    }

    fn base_of(&self, run: &SeedRun) -> Option<&Reference> {
        self.references.iter().find(|reference| reference.seed == run.seed)
    }

    fn to_reference(
        &self,
        row: &MethodResult,
        budget: Budget,
        value: impl Fn(&SeedRun) -> Option<f64>,
    ) -> Option<Interval> {
        let reference = self.reference_row(budget)?;
        if reference.name == row.name && reference.budgets == row.budgets {
            return None;
        }
        Interval::of_all(row.runs.iter().map(|run| {
            let same = reference.runs.iter().find(|other| other.seed == run.seed)?;
            Some(value(run)? - value(same)?)
        }))
    }
}

impl MethodResult {
    /// Loss, mean over the tasks, in nats per supervised token.
    pub fn mean_loss(&self) -> Option<Interval> {
        Interval::of_all(self.runs.iter().map(|run| mean_loss(&run.scores)))
    }

    /// Optimizer steps that count under a budget.
    pub fn steps_under(&self, budget: Budget) -> u64 {
        match budget {
            Budget::Total => self.specialist_steps + self.steps,
            Budget::Given => self.steps,
        }
    }
}

/// The task, of so many, that is found most often; of several the first, and none where none is found.
pub(super) fn most_often(tasks: usize, found: impl Iterator<Item = usize> + Clone) -> Option<usize> {
    let times = |task: usize| found.clone().filter(|&other| other == task).count();
    // Of equal counts the last is taken, so the tasks go backwards.
    (0..tasks).rev().max_by_key(|&task| times(task)).filter(|&task| times(task) > 0)
}

fn mean_loss(scores: &[Score]) -> Option<f64> {
    Interval::of_all(scores.iter().map(|score| Some(score.loss))).map(|interval| interval.mean)
}
