//! Cores, fusion, scores: the reports of the stages as text.

use std::fmt::Write;
use std::path::Path;

use cpift_model::compare::results::Interval;
use cpift_model::progress::{
    Column, CoreReport, FusionReport, JobReport, Score, TaskCore, measures_table, perplexity_text,
};
use cpift_model::table::Table;

use super::style::Style;
use super::table::{aligned, shorten};
use super::units::{counted, duration, grouped, histogram};

/// Size, threshold and distribution of every task's core.
pub fn cores(report: &CoreReport, style: Style) -> String {
    let mut table = Table::new(["task", "parameters", "move", "threshold", "by layer"]);
    for core in &report.tasks {
        table.row([
            shorten(&core.task, 20),
            grouped(core.size),
            format!("{:.2} %", 100.0 * core.relative_move),
            format!("{:.1e}", core.threshold),
            histogram(&core.by_layer.iter().map(|(_, size)| *size as f64).collect::<Vec<_>>()),
        ]);
    }
    let mut text = format!("{}\n{}", style.bold("Cores"), aligned(&table));
    if let Some(layers) = report.tasks.first().map(|core| &core.by_layer).filter(|layers| layers.len() > 1) {
        let _ = writeln!(
            text,
            "Move: ‖θi − θ0‖ / ‖θ0‖. Layers from {} to {}.",
            layers[0].0,
            layers[layers.len() - 1].0
        );
    }
    for chunk in report.tasks.chunks(5) {
        text.push('\n');
        text.push_str(&aligned(&core_kinds(chunk)));
    }
    text
}

/// Share of each core that lies in each kind of tensor.
fn core_kinds(tasks: &[TaskCore]) -> Table {
    let names = tasks.iter().map(|core| shorten(&core.task, 10));
    let mut table = Table::new(std::iter::once("kind".to_owned()).chain(names));
    for (index, (kind, _)) in tasks[0].by_kind.iter().enumerate() {
        let share = |core: &TaskCore| {
            let size = core.by_kind.get(index).map_or(0, |(_, size)| *size);
            format!("{:.1} %", 100.0 * size as f64 / core.size.max(1) as f64)
        };
        table.row(std::iter::once(shorten(kind, 20)).chain(tasks.iter().map(share)));
    }
    table
}

/// Angles of the SLERP fold, transplanted and contested parameters.
pub fn fusion(report: &FusionReport, style: Style) -> String {
    let mut text = format!("{} backbone `{}`\n", style.bold("Fusion"), report.backbone);
    if !report.slerps.is_empty() {
        text.push_str(&aligned(&angles(report)));
    }
    for reason in ["small angle", "zero norm", "antipodal"] {
        let tensors = report.slerps.iter().filter(|slerp| slerp.fallback.as_deref() == Some(reason)).count();
        if tensors > 0 {
            let tensors = counted(tensors as u64, "tensor");
            let _ = writeln!(text, "interpolated linearly: {tensors} ({reason})");
        }
    }
    let _ = writeln!(
        text,
        "{} parameters are in one core and taken from that task.\n\
         {} are in several, {} of them with updates to both sides.",
        grouped(report.transplanted),
        grouped(report.conflicts),
        grouped(report.sign_conflicts)
    );
    text
}

/// The tasks of the SLERP fold, in its order.
pub fn folded_tasks(report: &FusionReport) -> Vec<&str> {
    let mut tasks: Vec<&str> = report.slerps.iter().map(|slerp| slerp.task.as_str()).collect();
    tasks.dedup();
    tasks
}

/// Angles of one step of the fold, over its tensors.
pub struct FoldAngles<'a> {
    /// The task folded in.
    pub task: &'a str,
    /// Tensors.
    pub tensors: usize,
    /// The least, the median and the largest angle, in degrees.
    pub degrees: [f64; 3],
    /// Tensors that were interpolated linearly.
    pub linear: usize,
}

/// Every step of the SLERP fold, in its order.
pub fn fold_angles(report: &FusionReport) -> Vec<FoldAngles<'_>> {
    let of_task = |task| {
        let slerps: Vec<_> = report.slerps.iter().filter(|slerp| slerp.task == task).collect();
        let mut angles: Vec<f64> = slerps.iter().map(|slerp| slerp.angle.to_degrees()).collect();
        angles.sort_by(f64::total_cmp);
        let tensors = angles.len();
        let linear = slerps.iter().filter(|slerp| slerp.fallback.is_some()).count();
        FoldAngles {
            task,
            tensors,
            degrees: [0, tensors / 2, tensors - 1].map(|index| angles[index]),
            linear,
        }
    };
    folded_tasks(report).into_iter().map(of_task).collect()
}

fn angles(report: &FusionReport) -> Table {
    let mut table = Table::new(["folded in", "tensors", "least angle", "median", "largest", "LERP"]);
    for FoldAngles { task, tensors, degrees, linear } in fold_angles(report) {
        let [least, median, largest] = degrees.map(|angle| format!("{angle:.2}°"));
        table.row([shorten(task, 24), tensors.to_string(), least, median, largest, linear.to_string()]);
    }
    table
}

/// The closing table: loss and score of every task in every column, and their means; the perplexities; and what is measured
/// only.
pub fn scores(report: &JobReport, style: Style) -> String {
    let measures = measures_table(&report.columns, &report.measures).map(|mut table| {
        table.rows.iter_mut().for_each(|row| row[0] = shorten(&row[0], 18));
        format!(
            "\n{}\n{}",
            style.bold("Measured only, never trained: change against the base"),
            aligned(&table)
        )
    });
    task_scores(report, style) + &measures.unwrap_or_default()
}

fn task_scores(report: &JobReport, style: Style) -> String {
    if report.tasks.iter().all(|task| task.scores.iter().all(Option::is_none)) {
        let nothing = if report.measures.is_empty() { ": nothing was measured" } else { "" };
        return format!("No task has an `eval` file{nothing}.\n");
    }
    let columns = &report.columns;
    let above = columns.iter().map(|column| (column.to_string(), 2));
    let kind = report.score_kind();
    // Where nothing was answered, the score that would have been taken.
    let is_mixed = kind.is_none() && report.tasks.iter().any(|task| task.score_kind().is_some());
    let title = if is_mixed { "score" } else { kind.unwrap_or_default().name() };
    let below = std::iter::once("task").chain(columns.iter().flat_map(|_| ["loss", title]));
    let mut table = Table::new(below);
    table.head.insert(0, std::iter::once((String::new(), 1)).chain(above).collect());
    for task in &report.tasks {
        let cells = task.scores.iter().flat_map(|score| score_cells(score.as_ref()));
        let name = match task.score_kind().filter(|_| is_mixed) {
            Some(kind) => format!("{} ({})", shorten(&task.task, 12), kind.name()),
            None => shorten(&task.task, 18),
        };
        table.row(std::iter::once(name).chain(cells));
    }
    if report.tasks.len() > 1 {
        let cells = (0..columns.len()).flat_map(|column| mean_cells(report, column));
        table.summary(std::iter::once("mean".to_owned()).chain(cells));
    }
    format!(
        "{}\n{}{}{}",
        style.bold("Every task before and after"),
        aligned(&table),
        choices_by_loss(report),
        perplexities(report, style)
    )
}

/// The perplexity of every task in every column.
fn perplexities(report: &JobReport, style: Style) -> String {
    let headings = std::iter::once("task".to_owned()).chain(report.columns.iter().map(Column::to_string));
    let mut table = Table::new(headings);
    for task in &report.tasks {
        let cell =
            |score: &Option<Score>| score.map_or("-".to_owned(), |score| perplexity_text(score.perplexity()));
        table.row(std::iter::once(shorten(&task.task, 18)).chain(task.scores.iter().map(cell)));
    }
    format!("{}\n{}", style.bold("Perplexity"), aligned(&table))
}

/// For tasks whose answers are choices: how often the right option has the lowest loss, a line each.
fn choices_by_loss(report: &JobReport) -> String {
    let mut text = String::new();
    for task in &report.tasks {
        let share = |(column, score): (&Column, &Option<Score>)| {
            Some(format!("{column} {}", exact(score.as_ref()?.choice_by_loss?)))
        };
        let shares: Vec<String> = report.columns.iter().zip(&task.scores).filter_map(share).collect();
        if !shares.is_empty() {
            let _ = writeln!(text, "{}, by loss: {}", shorten(&task.task, 16), shares.join(", "));
        }
    }
    text
}

fn score_cells(score: Option<&Score>) -> [String; 2] {
    let Some(score) = score else { return ["-".to_owned(), "-".to_owned()] };
    [format!("{:.3}", score.loss), score.share().map_or("-".to_owned(), exact)]
}

/// Means of a column over the tasks that have the value; a mean over fewer tasks than all would mislead.
fn mean_cells(report: &JobReport, column: usize) -> [String; 2] {
    let scores = || report.tasks.iter().map(|task| task.scores.get(column).copied().flatten());
    let loss = Interval::of_all(scores().map(|score| Some(score?.loss)));
    let matches = Interval::of_all(scores().map(|score| score?.share()));
    [
        loss.map_or("-".to_owned(), |loss| format!("{:.3}", loss.mean)),
        matches.map_or("-".to_owned(), |matches| exact(matches.mean)),
    ]
}

fn exact(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// What follows the closing table: the cost, the check of the frozen parameters, the way to the model.
pub fn ending(report: &JobReport, run: &Path, style: Style) -> String {
    let mut text = format!("{} in {}", counted(report.steps, "step"), duration(report.seconds));
    if report.frozen_verified > 0 {
        let _ = write!(
            text,
            "; {} checked: not a bit changed",
            counted(report.frozen_verified, "frozen parameter")
        );
    }
    text.push('\n');
    if let Some(model) = &report.model {
        let _ = writeln!(text, "{} {}", style.bold("model"), style.green(model.display()));
        let command = format!("try it: cpift-engine generate {} --prompt \"…\"", quoted(model));
        let _ = writeln!(text, "{}", style.dim(command));
    }
    let _ = writeln!(text, "{}", style.dim(format!("charts: cpift-engine report {}", quoted(run))));
    text
}

/// A path as a word of a command.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    if path.contains(' ') { format!("'{path}'") } else { path }
}
