//! Some answers of every task and measure, as every model of the run gave them.

use cpift_model::evaluation::Answer;
use cpift_model::progress::Column;

use super::{Context, column_title};
use crate::display::table::shorten;
use crate::report::document::{Block, Data, Section, Table};

/// Characters of a prompt, a reference or an answer that are shown.
const SHOWN: usize = 400;

/// The section `Answers`; none where no answers were kept.
pub fn section(context: &Context<'_>) -> Option<Section> {
    let tables: Vec<Block> =
        context.evaluated().filter_map(|task| table(context, task)).map(Block::Table).collect();
    if tables.is_empty() {
        return None;
    }
    let intro = "What the models answered to a few rows of every evaluation file, the same rows in every column: ✓ right, \
                 ✗ wrong by the task’s score; [cut] behind an answer: it was as long as it may be (max_new_tokens), and not \
                 at its end. The whole texts are in answers.csv.";
    let mut blocks = vec![Block::Text(intro.to_owned())];
    blocks.extend(tables);
    Some(Section { id: "answers", title: "Answers", blocks })
}

/// The columns that have answers to a task.
fn columns<'a>(context: &'a Context<'_>, task: &str) -> Vec<(&'a Column, &'a [Answer])> {
    let of = |column: &'a Column| {
        let answers = context.run.answers.get(column)?.get(task)?;
        Some((column, answers.as_slice()))
    };
    context.columns.iter().filter_map(of).collect()
}

fn table(context: &Context<'_>, task: &str) -> Option<Table> {
    let columns = columns(context, task);
    let (_, rows) = columns.first()?;
    let headings = ["row", "prompt", "reference"].into_iter().map(str::to_owned);
    let headings = headings.chain(columns.iter().map(|(column, _)| column_title(column)));
    let mut table = Table::of_text(task.to_owned(), headings);
    for (index, row) in rows.iter().enumerate() {
        let mut cells = vec![place(row, rows), end_of(&row.prompt), beginning_of(&row.reference)];
        cells.extend(columns.iter().map(|(_, answers)| {
            let is_same = |answer: &&Answer| (&answer.file, answer.row) == (&row.file, row.row);
            let answer = answers.get(index).filter(is_same);
            answer.map_or("–".to_owned(), |answer| {
                let verdict = if answer.right { "✓" } else { "✗" };
                let text = if answer.answer.is_empty() {
                    "(nothing)".to_owned()
                } else {
                    beginning_of(&answer.answer)
                };
                format!("{verdict} {text}{}", if answer.cut { " [cut]" } else { "" })
            })
        }));
        table.row(cells);
    }
    Some(table)
}

/// Where a row stands, with its file's name where the rows are of several files.
fn place(row: &Answer, all: &[Answer]) -> String {
    match row.file.file_name().filter(|_| all.iter().any(|other| other.file != row.file)) {
        Some(file) => format!("{}:{}", file.to_string_lossy(), row.row),
        None => row.row.to_string(),
    }
}

/// A text on one line, its beginning where it is long.
fn beginning_of(text: &str) -> String {
    shorten(&text.trim().replace('\n', " ⏎ "), SHOWN)
}

/// The same, its end where it is long: there a prompt says what is asked, whatever precedes it.
fn end_of(prompt: &str) -> String {
    let text = prompt.trim().replace('\n', " ⏎ ");
    let length = text.chars().count();
    if length <= SHOWN {
        return text;
    }
    let end: String = text.chars().skip(length + 1 - SHOWN).collect();
    format!("…{end}")
}

/// `answers.csv`: the answers that are kept, whole.
pub fn data(context: &Context<'_>) -> Option<Data> {
    let headings = [
        "task",
        "column",
        "file",
        "row",
        "prompt",
        "reference",
        "answer",
        "expected",
        "found",
        "right",
        "exact",
        "cut",
    ];
    let mut data = Data::new("answers", &headings);
    let mut is_empty = true;
    for task in context.evaluated() {
        for (column, answers) in columns(context, task) {
            for answer in answers {
                is_empty = false;
                data.row([
                    task.clone(),
                    column.to_string(),
                    answer.file.display().to_string(),
                    answer.row.to_string(),
                    answer.prompt.clone(),
                    answer.reference.clone(),
                    answer.answer.clone(),
                    answer.expected.clone(),
                    answer.found.clone().unwrap_or_default(),
                    answer.right.to_string(),
                    answer.exact.to_string(),
                    answer.cut.to_string(),
                ]);
            }
        }
    }
    (!is_empty).then_some(data)
}
