//! How far a command is that reads or writes models.

use cpift_model::files::human_bytes;
use indicatif::{ProgressBar, ProgressStyle};

use super::{notices, tell};

/// Shares of the work after which a line is written where there is no bar.
const LINES: u64 = 10;
/// Bytes up to which there are no such lines: so much takes seconds.
const FEW: u64 = 1 << 32;

/// Bytes that are done of all that are to be, on standard error: a bar, or lines where there is none.
pub struct Transfer {
    title: String,
    notices: Vec<String>,
    terminal: bool,
    has_begun: bool,
    bar: Option<ProgressBar>,
    lines: u64,
}

impl Transfer {
    /// For work that is about to begin: what is done, and what a person should know about it.
    pub fn new(title: String, notices: &[String], terminal: bool) -> Self {
        Self { title, notices: notices.to_vec(), terminal, has_begun: false, bar: None, lines: 0 }
    }

    /// Shows how much is done.
    pub fn update(&mut self, done: u64, total: u64) {
        if !self.has_begun {
            self.has_begun = true;
            tell(&format!("{}\n", self.title));
            notices(self.notices.iter());
            self.bar = self.terminal.then(|| {
                let template = ProgressStyle::with_template(
                    "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
                );
                ProgressBar::new(total).with_style(template.unwrap_or_else(|_| ProgressStyle::default_bar()))
            });
        }
        if let Some(bar) = &self.bar {
            return bar.set_position(done);
        }
        let line = done.saturating_mul(LINES).checked_div(total).unwrap_or_default();
        if line > self.lines && total > FEW {
            self.lines = line;
            tell(&format!("{} of {}\n", human_bytes(done), human_bytes(total)));
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
