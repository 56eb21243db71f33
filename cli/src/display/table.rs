//! Tables as aligned text for a terminal.

use cpift_model::table::Table;

use super::text::visible;

/// Characters of the widest line of [`aligned`].
pub fn aligned_width(table: &Table) -> usize {
    width_of_columns(&column_widths(&lines(table)))
}

/// Headings and rows as they are shown: a heading that spans columns stands in the first of them.
fn lines(table: &Table) -> Vec<Vec<String>> {
    let spanned = |(heading, span): &(String, usize)| {
        std::iter::once(visible(heading))
            .chain(std::iter::repeat_n(String::new(), span - 1))
            .collect::<Vec<_>>()
    };
    let head = table.head.iter().map(|row| row.iter().flat_map(spanned).collect());
    let rows = table.rows.iter().map(|row| row.iter().map(|cell| visible(cell)).collect());
    head.chain(rows).collect()
}

/// The table without its caption as lines of aligned text, each ending in a newline.
pub fn aligned(table: &Table) -> String {
    let lines = lines(table);
    let widths = column_widths(&lines);
    let rule = "─".repeat(width_of_columns(&widths)) + "\n";
    let first_summary = lines.len() - table.summary_rows;
    let mut text = String::new();
    for (index, row) in lines.iter().enumerate() {
        if index == table.head.len() || index == first_summary {
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
            aligned(&table),
            "task           rows  loss\n\
             ─────────────────────────\n\
             sort             12  0.25\n\
             a longer one  1 234\n\
             ─────────────────────────\n\
             Σ                      −1\n"
        );
        assert_eq!(aligned_width(&table), 25);
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(shorten("arithmetic", 10), "arithmetic");
        assert_eq!(shorten("arithmetic", 6), "arith…");
    }
}
