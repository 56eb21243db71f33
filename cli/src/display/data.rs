//! The rows of task files: numbers, lengths, and rows as a model reads them.

use std::fmt::Write;

use cpift_model::Tokenizer;
use cpift_model::data::{Bin, Dataset, Quantiles, Row, RowFormat, Summary};
use cpift_model::table::Table;

use super::style::Style;
use super::table::aligned;
use super::text;
use super::units::{count, counted, grouped, percent};
use super::{from_here, path_from_here};

/// Characters of the longest bar.
const LONGEST_BAR: usize = 40;

/// A data set in numbers. `part` says what it is for: `train` or `eval`.
pub fn render(task: &str, part: &str, summary: &Summary, style: Style) -> String {
    let mut text = String::new();
    let files: Vec<String> = summary.files.iter().map(|path| path_from_here(path)).collect();
    let _ = writeln!(text, "{} {}", style.bold(format!("{task}, {part}:")), text::visible(&files.join(", ")));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<11} {value}");
    };
    let kind = match summary.format {
        RowFormat::Completion => "prompt and answer as texts",
        RowFormat::Messages => "messages for the chat template",
        RowFormat::Instruction => "an instruction in Alpaca's form and its answer",
        RowFormat::Text => "text, all of it learnt",
    };
    line("rows", format!("{}, each {kind}", grouped(summary.rows as u64)));
    let share = percent(summary.supervised_tokens as f64 / summary.tokens.max(1) as f64);
    let (tokens, supervised) = (count(summary.tokens as f64), count(summary.supervised_tokens as f64));
    line("tokens", format!("{tokens}, {supervised} of them supervised ({share})"));
    if summary.longer > 0 {
        let share = percent(summary.longer as f64 / summary.rows.max(1) as f64);
        let max_length = grouped(summary.max_length as u64);
        let fate = match (summary.truncated, summary.skipped) {
            (false, _) => "left out".to_owned(),
            (true, 0) => "cut".to_owned(),
            (true, skipped) => format!("cut, {} left out as nothing of the answer remains", rows(skipped)),
        };
        let value = format!("{} longer than {max_length} ({share}), {fate}", rows(summary.longer));
        line("max_length", style.yellow(value));
    }
    if summary.duplicates > 0 {
        line("duplicates", format!("{} the same as one before", rows(summary.duplicates)));
    }
    // Lines begin with a file's name.
    let message = |text: &str| text::message(from_here(text));
    if summary.invalid > 0 {
        line("left out", style.yellow(format!("{} that cannot be used", rows(summary.invalid))));
        for (place, reason) in &summary.invalid_rows {
            line("", message(&format!("{place} {reason}")));
        }
    }
    for notice in &summary.notices {
        line("note", message(notice));
    }
    let mut lengths = Table::new(["  tokens of a row", "least", "median", "90 %", "95 %", "99 %", "most"]);
    let mut quantiles = |name: &str, quantiles: &Quantiles| {
        let Quantiles { least, median, p90, p95, p99, most } = *quantiles;
        let numbers = [least, median, p90, p95, p99, most].map(|number| grouped(number as u64));
        lengths.row([vec![format!("  {name}")], numbers.to_vec()].concat());
    };
    quantiles("all", &summary.length);
    quantiles("supervised", &summary.supervised_length);
    text + "\n" + &aligned(&lengths) + "\n" + &histogram(&summary.histogram) + "\n"
}

fn rows(number: usize) -> String {
    counted(number as u64, "row")
}

fn histogram(bins: &[Bin]) -> String {
    let range = |bin: &Bin| format!("{} to {}", grouped(bin.from as u64), grouped(bin.to as u64));
    let width = bins.iter().map(|bin| range(bin).chars().count()).max().unwrap_or(0);
    let most = bins.iter().map(|bin| bin.rows).max().unwrap_or(0).max(1);
    let mut text = String::new();
    for bin in bins {
        let length = (bin.rows * LONGEST_BAR).div_ceil(most);
        let bar = "█".repeat(length);
        let _ = writeln!(text, "  {:>width$}  {bar:<LONGEST_BAR$}  {}", range(bin), grouped(bin.rows as u64));
    }
    text
}

/// A row as a model reads it, the supervised part green, underlined, or between `⟦` and `⟧`.
pub fn render_row(dataset: &Dataset, row: &Row, tokenizer: &Tokenizer, style: Style) -> String {
    let files: Vec<std::path::PathBuf> =
        dataset.files().iter().map(|path| path_from_here(path).into()).collect();
    let place = text::visible(&row.position.describe(&files));
    let (tokens, supervised) = (row.tokens.len(), row.supervised_tokens());
    let mut text = format!(
        "{}\n",
        style.dim(format!("{place}: {}, {supervised} supervised", counted(tokens as u64, "token")))
    );
    for (part, is_supervised) in row.decoded_parts(tokenizer) {
        let part = text::visible_lines(&part);
        text.push_str(&if is_supervised { style.supervised(&part) } else { part });
    }
    text + "\n\n"
}
