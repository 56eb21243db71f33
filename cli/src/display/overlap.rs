//! The overlap table and the groups it leads to.

use std::fmt::Write;

use cpift_model::progress::GroupReport;
use cpift_model::table::Table;

use super::style::Style;
use super::table::{aligned, aligned_width, shorten};
use super::text::visible;
use super::units::grouped;

/// Columns of a terminal that a table may take.
const WIDTH: usize = 80;
/// Pairs listed when the tasks are too many for a matrix.
const LISTED_PAIRS: usize = 20;

/// Overlap of every pair with its lift over chance, agreement in sign, and the groups.
pub fn render(report: &GroupReport, style: Style) -> String {
    let mut text = format!("{}\n", style.bold("Overlap of the cores"));
    let matrix = matrix(report);
    if aligned_width(&matrix) <= WIDTH {
        text.push_str(&aligned(&matrix));
        let _ = writeln!(
            text,
            "Above the diagonal: Jaccard overlap and its lift over chance ({:.4}).\n\
             Below: how often a shared parameter moved to the same side.",
            report.chance
        );
    } else {
        text.push_str(&pairs(report));
    }
    if report.tasks.len() > 1 && report.chance >= report.threshold && report.threshold > 0.0 {
        let warning = format!(
            "Chance alone ({:.3}) reaches the threshold {}: these groups mean nothing.\n\
             Lower core.fraction or raise group.threshold (--fraction, --threshold).",
            report.chance, report.threshold
        );
        let _ = writeln!(text, "{}", style.yellow(warning));
    }
    text.push_str(&groups(report, style));
    text
}

fn matrix(report: &GroupReport) -> Table {
    let names = report.tasks.iter().map(|name| shorten(name, 12));
    let mut table = Table::new(std::iter::once(String::new()).chain(names));
    for (i, name) in report.tasks.iter().enumerate() {
        let cell = |j: usize| match j.cmp(&i) {
            std::cmp::Ordering::Greater => {
                format!("{:.3} ×{}", report.jaccard[i][j], lift(report.jaccard[i][j], report.chance))
            }
            std::cmp::Ordering::Equal => "·".to_owned(),
            std::cmp::Ordering::Less => same_side(report.sign_agreement[i][j]),
        };
        let cells = (0..report.tasks.len()).map(cell);
        table.row(std::iter::once(shorten(name, 12)).chain(cells));
    }
    table
}

/// The pairs that overlap most, for more tasks than a matrix has room for.
fn pairs(report: &GroupReport) -> String {
    let count = report.tasks.len();
    let mut pairs: Vec<(usize, usize)> =
        (0..count).flat_map(|i| (i + 1..count).map(move |j| (i, j))).collect();
    pairs.sort_by(|a, b| report.jaccard[b.0][b.1].total_cmp(&report.jaccard[a.0][a.1]));
    let mut table = Table::new(["pair", "overlap", "lift", "same side"]);
    for &(i, j) in pairs.iter().take(LISTED_PAIRS) {
        table.row([
            format!("{} + {}", shorten(&report.tasks[i], 20), shorten(&report.tasks[j], 20)),
            format!("{:.3}", report.jaccard[i][j]),
            format!("×{}", lift(report.jaccard[i][j], report.chance)),
            same_side(report.sign_agreement[i][j]),
        ]);
    }
    let mut text = aligned(&table);
    if let Some(rest) = pairs.len().checked_sub(LISTED_PAIRS).filter(|rest| *rest > 0) {
        let _ = writeln!(
            text,
            "and {} pairs that overlap less: see the JSON of the groups",
            grouped(rest as u64)
        );
    }
    text
}

/// How many times chance an overlap is.
pub fn lift(jaccard: f64, chance: f64) -> String {
    let lift = jaccard / chance;
    match lift {
        lift if !lift.is_finite() => "-".to_owned(),
        lift if lift < 9.95 => format!("{lift:.1}"),
        lift => format!("{lift:.0}"),
    }
}

fn same_side(agreement: Option<f64>) -> String {
    agreement.map_or("-".to_owned(), |share| format!("{:.0} %", 100.0 * share))
}

fn groups(report: &GroupReport, style: Style) -> String {
    let mut text =
        format!("{}\n", style.bold(format!("Groups, joined from an overlap of {} on", report.threshold)));
    for (index, group) in report.groups.iter().enumerate() {
        let tasks = group.iter().filter_map(|&task| report.tasks.get(task));
        let names = tasks.map(|name| visible(name)).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "  {}  {names}", index + 1);
    }
    text
}
