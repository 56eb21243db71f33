//! Text tables with aligned columns.

use super::text::visible;

/// A table whose first column is aligned left and whose others are aligned right.
#[derive(Debug, Clone, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    rules: Vec<usize>,
}

impl Table {
    /// A table with these headings.
    pub fn new<T: Into<String>>(headings: impl IntoIterator<Item = T>) -> Self {
        let mut table = Self::default();
        table.row(headings);
        table.rule();
        table
    }

    /// Adds a row. Rows may be shorter than others.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(|cell| visible(&cell.into())).collect());
    }

    /// Draws a line below the last row.
    pub fn rule(&mut self) {
        self.rules.push(self.rows.len());
    }

    /// Characters of the widest line.
    pub fn width(&self) -> usize {
        self.column_widths().iter().map(|width| width + 2).sum::<usize>().saturating_sub(2)
    }

    fn column_widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell_width = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| width(cell));
        (0..columns)
            .map(|column| self.rows.iter().map(|row| cell_width(row, column)).max().unwrap_or(0))
            .collect()
    }

    /// The table as lines, each ending in a newline.
    pub fn render(&self) -> String {
        let widths = self.column_widths();
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            if index != 0 && self.rules.contains(&index) {
                text.push_str(&"─".repeat(self.width()));
                text.push('\n');
            }
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let padding = " ".repeat(widths[column] - width(cell));
                if column == 0 {
                    line.push_str(cell);
                    line.push_str(&padding);
                } else {
                    line.push_str("  ");
                    line.push_str(&padding);
                    line.push_str(cell);
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
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
        table.rule();
        table.row(["Σ", "", "−1"]);
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
