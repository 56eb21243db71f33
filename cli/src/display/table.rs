//! Tables: as aligned text for a terminal, as Markdown, and as what a page makes of them.

use super::text::visible;

/// A table whose first column is aligned left and whose others are aligned right.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// What it shows; in reports also how it was obtained.
    pub caption: String,
    /// Rows of headings, each with the number of columns it spans.
    pub head: Vec<Vec<(String, usize)>>,
    /// The rows. They may be shorter than others.
    pub rows: Vec<Vec<String>>,
    /// How many rows at the end sum up the others.
    pub summary_rows: usize,
    /// All columns are text.
    pub is_text: bool,
}

impl Table {
    /// A table with one row of headings.
    pub fn new<T: Into<String>>(headings: impl IntoIterator<Item = T>) -> Self {
        let head = headings.into_iter().map(|heading| (heading.into(), 1)).collect();
        Self { head: vec![head], ..Self::default() }
    }

    /// The same with a caption.
    pub fn captioned<T: Into<String>>(
        caption: impl Into<String>,
        headings: impl IntoIterator<Item = T>,
    ) -> Self {
        Self { caption: caption.into(), ..Self::new(headings) }
    }

    /// The same, all columns text.
    pub fn of_text<T: Into<String>>(
        caption: impl Into<String>,
        headings: impl IntoIterator<Item = T>,
    ) -> Self {
        Self { is_text: true, ..Self::captioned(caption, headings) }
    }

    /// Adds a row.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Adds a row that sums up those before.
    pub fn summary<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.row(cells);
        self.summary_rows += 1;
    }

    /// Characters of the widest line of [`Table::render`].
    pub fn width(&self) -> usize {
        width_of_columns(&column_widths(&self.lines()))
    }

    /// Headings and rows as they are shown: a heading that spans columns stands in the first of them.
    fn lines(&self) -> Vec<Vec<String>> {
        let spanned = |(heading, span): &(String, usize)| {
            std::iter::once(visible(heading))
                .chain(std::iter::repeat_n(String::new(), span - 1))
                .collect::<Vec<_>>()
        };
        let head = self.head.iter().map(|row| row.iter().flat_map(spanned).collect());
        let rows = self.rows.iter().map(|row| row.iter().map(|cell| visible(cell)).collect());
        head.chain(rows).collect()
    }

    /// The table without its caption as lines of aligned text, each ending in a newline.
    pub fn render(&self) -> String {
        let lines = self.lines();
        let widths = column_widths(&lines);
        let rule = "─".repeat(width_of_columns(&widths)) + "\n";
        let first_summary = lines.len() - self.summary_rows;
        let mut text = String::new();
        for (index, row) in lines.iter().enumerate() {
            if index == self.head.len() || index == first_summary {
                text.push_str(&rule);
            }
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let padding = " ".repeat(widths[column] - width(cell));
                match column {
                    0 => line.extend([cell.as_str(), &padding]),
                    _ => line.extend(["  ", &padding, cell]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// The table without its caption as Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = String::new();
        for head in &self.head {
            let headings: Vec<String> = head.iter().map(|(heading, _)| heading.clone()).collect();
            text.push_str(&line(&headings));
            text.push_str(&format!("|---|{}\n", "---:|".repeat(headings.len() - 1)));
        }
        text.extend(self.rows.iter().map(|row| line(row)));
        text
    }
}

fn column_widths(lines: &[Vec<String>]) -> Vec<usize> {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let cell_width = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| width(cell));
    (0..columns).map(|column| lines.iter().map(|row| cell_width(row, column)).max().unwrap_or(0)).collect()
}

fn width_of_columns(widths: &[usize]) -> usize {
    widths.iter().map(|width| width + 2).sum::<usize>().saturating_sub(2)
}

/// Characters a terminal shows; cells hold no wide characters and no colours.
fn width(cell: &str) -> usize {
    cell.chars().count()
}

/// `text` cut to `most` characters, the last one an ellipsis when something was cut.
pub fn shorten(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["task", "rows", "loss"]);
        table.row(["sort", "12", "0.25"]);
        table.row(["a longer one", "1 234"]);
        table.summary(["Σ", "", "−1"]);
        assert_eq!(
            table.render(),
            "task           rows  loss\n\
             ─────────────────────────\n\
             sort             12  0.25\n\
             a longer one  1 234\n\
             ─────────────────────────\n\
             Σ                      −1\n"
        );
        assert_eq!(table.width(), 25);
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(shorten("arithmetic", 10), "arithmetic");
        assert_eq!(shorten("arithmetic", 6), "arith…");
    }
}
