//! Losses of the methods of a comparison, mean over the tasks, for terminal, Markdown and report.

use cpift_model::compare::results::{Budget, Comparison, MethodResult};
use cpift_model::table::Table;

use super::comparison::{signed, with_interval};
use super::units::grouped;

/// Mean losses of some rows under a budget, their change against the base, their difference to the row that all are compared
/// with, and the task that was harmed most.
pub fn losses_table(comparison: &Comparison, title: &str, budget: Budget, rows: &[&MethodResult]) -> Table {
    let against = format!("loss to {}", comparison.against);
    let mut table = Table::captioned(
        format!("{title}. Loss, mean over the tasks, in nats per supervised token"),
        ["method", "steps", "loss", "to the base", &against, "worst task to the base", "worst task"],
    );
    let none = || "-".to_owned();
    for row in rows {
        let worst = comparison.worst_loss_change(row);
        table.row([
            row.name.clone(),
            grouped(row.steps_under(budget)),
            row.mean_loss().map_or_else(none, |loss| with_interval(loss, 1.0, 4)),
            comparison.loss_change(row).map_or_else(none, |change| signed(change, 1.0, 4)),
            comparison.loss_difference(row, budget).map_or_else(none, |change| signed(change, 1.0, 4)),
            worst.map_or_else(none, |worst| signed(worst.change, 1.0, 4)),
            worst.map_or_else(none, |worst| comparison.tasks[worst.task].clone()),
        ]);
    }
    table
}
