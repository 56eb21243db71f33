//! `merge --sweep`: how each value did.

use std::path::Path;

use cpift_model::sweep::{SweepPoint, SweepReport};
use cpift_model::table::Table;

use super::path_from_here;
use super::style::Style;
use super::table::{aligned, shorten};
use super::units::percent;

/// Characters of a file's name above its columns.
const NAME: usize = 16;

/// What was measured of one value, as a phrase.
pub fn measured(point: &SweepPoint) -> String {
    match point.score {
        Some(score) => format!("{} of the answers right, loss {:.4}", percent(score), point.loss),
        None => format!("loss {:.4}", point.loss),
    }
}

/// The files' names, or numbers in their place where two are alike as far as there is room.
fn column_names<'a>(paths: impl Iterator<Item = &'a Path>) -> Vec<String> {
    let name = |path: &Path| shorten(&path.file_name().unwrap_or_default().to_string_lossy(), NAME);
    let names: Vec<String> = paths.map(name).collect();
    let is_once = |name: &String| names.iter().filter(|other| *other == name).count() == 1;
    match names.iter().all(is_once) {
        true => names,
        false => (1..=names.len()).map(|number| format!("file {number}")).collect(),
    }
}

/// A row for every value: the mean over the files, then each file.
pub fn table(report: &SweepReport) -> Table {
    let files = report.points.first().map_or(&[][..], |point| &point.files);
    let names = column_names(files.iter().map(|file| file.path.as_path()));
    let columns: &[&str] = if report.by_score { &["loss", "score"] } else { &["loss"] };
    let mut over = vec![(String::new(), 1), ("mean".to_owned(), columns.len())];
    let mut headings = vec![(report.key.name().to_owned(), 1)];
    headings.extend(columns.iter().map(|column| ((*column).to_owned(), 1)));
    let each = if files.len() > 1 { files } else { &[] };
    for (_, name) in each.iter().zip(names) {
        over.push((name, columns.len()));
        headings.extend(columns.iter().map(|column| ((*column).to_owned(), 1)));
    }
    headings.push((String::new(), 1));
    let mut table = Table::new::<String>([]);
    table.head = if each.is_empty() { vec![headings] } else { vec![over, headings] };
    for (number, point) in report.points.iter().enumerate() {
        let cells = |loss: f64, score: Option<f64>| {
            let score = report.by_score.then(|| score.map_or("-".to_owned(), percent));
            std::iter::once(format!("{loss:.4}")).chain(score)
        };
        let mut row = vec![point.value.to_string()];
        row.extend(cells(point.loss, point.score));
        for file in point.files.iter().take(each.len()) {
            row.extend(cells(file.loss, file.score));
        }
        row.push(if number == report.best { "best".to_owned() } else { String::new() });
        table.row(row);
    }
    table
}

/// The table, and where the best model is.
pub fn render(report: &SweepReport, out: &Path, style: Style) -> String {
    let (key, value) = (report.key.name(), report.points[report.best].value);
    let place = style.green(path_from_here(out));
    format!("{}{} {place} with {key} {value}\n", aligned(&table(report)), style.bold("merged into"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_name_are_told_apart() {
        let names = |paths: &[&str]| column_names(paths.iter().map(Path::new));
        assert_eq!(names(&["a/sort.jsonl", "code.jsonl"]), ["sort.jsonl", "code.jsonl"]);
        assert_eq!(names(&["a/eval.jsonl", "b/eval.jsonl"]), ["file 1", "file 2"]);
        assert_eq!(names(&["the-first-half-a.jsonl", "the-first-half-b.jsonl"]), ["file 1", "file 2"]);
    }
}
