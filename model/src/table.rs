//! Tables: what they hold, and how they are written as Markdown.

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

    /// The table without its caption as Markdown, every line ending in a newline. Markdown has one row of headings:
    /// further ones become rows.
    pub fn markdown(&self) -> String {
        let spanned = |(heading, span): &(String, usize)| {
            std::iter::once(heading.clone())
                .chain(std::iter::repeat_n(String::new(), span - 1))
                .collect::<Vec<_>>()
        };
        let head = self.head.iter().map(|row| row.iter().flat_map(spanned).collect::<Vec<_>>());
        let lines: Vec<Vec<String>> = head.chain(self.rows.iter().cloned()).collect();
        let alignment = if self.is_text { "---|" } else { "---:|" };
        let mut text = String::new();
        for (index, line) in lines.iter().enumerate() {
            text += &markdown_line(line);
            if index == 0 {
                text += &format!("|---|{}\n", alignment.repeat(line.len().saturating_sub(1)));
            }
        }
        text
    }
}

/// One line of a table. A cell ends where the line or a `|` does: those of its text are replaced and escaped.
fn markdown_line(cells: &[String]) -> String {
    let cell = |cell: &String| match cell.as_str() {
        "" => "| ".to_owned(),
        cell => format!("| {} ", cell.replace('|', "\\|").replace(['\n', '\r'], " ")),
    };
    cells.iter().map(cell).collect::<String>() + "|\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_has_as_many_cells_as_the_table() {
        let mut table = Table::new(["task", "loss"]);
        table.row(["a|b", "0.25"]);
        table.row(["two\nlines", ""]);
        assert_eq!(table.markdown(), "| task | loss |\n|---|---:|\n| a\\|b | 0.25 |\n| two lines | |\n");
        let mut text = Table::of_text("", ["", ""]);
        text.row(["seed", "7"]);
        assert_eq!(text.markdown(), "| | |\n|---|---|\n| seed | 7 |\n");
    }

    #[test]
    fn headings_that_span_columns_leave_cells_empty() {
        let mut table = Table::new(["task", "base", "final"]);
        table.head.insert(0, vec![(String::new(), 1), ("loss".to_owned(), 2)]);
        table.row(["sort", "2", "1"]);
        assert_eq!(
            table.markdown(),
            "| | loss | |\n|---|---:|---:|\n| task | base | final |\n| sort | 2 | 1 |\n"
        );
    }
}
