//! What a report consists of, before it becomes a page and files.

use super::chart::Drawing;
pub use cpift_model::table::Table;

/// A report.
#[derive(Debug, Clone, Default)]
pub struct Document {
    /// Its heading.
    pub title: String,
    /// The line under the heading.
    pub lead: String,
    /// Its sections in order.
    pub sections: Vec<Section>,
    /// What its figures and tables were made from, as files.
    pub data: Vec<Data>,
}

/// A section of the page.
#[derive(Debug, Clone, Default)]
pub struct Section {
    /// Its anchor on the page.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// Its content in order.
    pub blocks: Vec<Block>,
}

/// A part of a section. All text is plain: the page escapes it.
#[derive(Debug, Clone)]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// A paragraph that must not be missed.
    Notice(String),
    /// Names and what they stand for.
    Facts(Vec<(String, String)>),
    /// A table.
    Table(Table),
    /// Charts that belong together, and what they show.
    Figures {
        /// What they show and how it was obtained.
        caption: String,
        /// The charts.
        figures: Vec<Figure>,
    },
    /// Text as it is in a file, folded away.
    Code {
        /// What it is.
        summary: String,
        /// The text.
        text: String,
    },
}

/// One chart.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Its file's name without ending.
    pub name: String,
    /// What it shows, for those who do not see it.
    pub label: String,
    /// The chart.
    pub drawing: Drawing,
    /// The same for narrow pages, where the chart takes a whole line.
    pub narrow: Option<Drawing>,
}

impl Figure {
    /// A chart of the width of a phone.
    pub fn narrow(name: impl Into<String>, label: impl Into<String>, drawing: Drawing) -> Self {
        Self { name: file_name(&name.into()), label: label.into(), drawing, narrow: None }
    }

    /// A chart that takes a whole line, drawn a second time for narrow pages.
    pub fn wide(name: impl Into<String>, label: impl Into<String>, draw: impl Fn(f64) -> Drawing) -> Self {
        let narrow = Some(draw(super::chart::NARROW));
        Self { name: file_name(&name.into()), label: label.into(), drawing: draw(super::chart::WIDE), narrow }
    }
}

/// A name that any file system takes: what is not a letter, a digit, `-`, `_` or `.` becomes `_`.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// A file of comma-separated values.
#[derive(Debug, Clone)]
pub struct Data {
    /// Its name without ending.
    pub name: &'static str,
    /// Its text.
    pub text: String,
}

impl Data {
    /// A file with a line of headings.
    pub fn new(name: &'static str, headings: &[&str]) -> Self {
        let mut data = Self { name, text: String::new() };
        data.row(headings.iter().map(|&heading| heading.to_owned()));
        data
    }

    /// Adds a line; cells that need it are quoted (RFC 4180).
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        for (index, cell) in cells.into_iter().enumerate() {
            if index > 0 {
                self.text.push(',');
            }
            if cell.contains([',', '"', '\n', '\r']) {
                self.text.push_str(&format!("\"{}\"", cell.replace('"', "\"\"")));
            } else {
                self.text.push_str(&cell);
            }
        }
        self.text.push_str("\r\n");
    }
}

/// A number for a file, in full; empty where there is none.
pub fn number(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_with_commas_and_quotes_are_quoted() {
        let mut data = Data::new("x", &["task", "loss"]);
        data.row(["a,\"b\"".to_owned(), number(Some(0.1))]);
        data.row(["c".to_owned(), number(None)]);
        assert_eq!(data.text, "task,loss\r\n\"a,\"\"b\"\"\",0.1\r\nc,\r\n");
    }

    #[test]
    fn names_of_files_are_plain() {
        assert_eq!(file_name("loss-<a/b>\u{e9}.x"), "loss-_a_b__.x");
    }
}
