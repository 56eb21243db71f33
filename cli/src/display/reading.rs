//! `cores`: how far the models are read.

use cpift_model::cores::{Cores, CoresProgress};
use cpift_model::files::human_bytes;
use indicatif::{ProgressBar, ProgressStyle};

use super::units::{counted, grouped};
use super::{notices, tell};

/// Shares of the work after which a line is written where there is no bar.
const LINES: u64 = 10;

/// How far the search for cores is, on standard error: a bar, or lines where there is none.
pub struct Reading {
    title: String,
    notices: Vec<String>,
    terminal: bool,
    bar: Option<ProgressBar>,
    lines: u64,
}

impl Reading {
    /// For a search that is about to begin.
    pub fn new(cores: &Cores, models: usize, terminal: bool) -> Self {
        let models = counted(models as u64, "model");
        let title = format!("cores of {models} of {} parameters", grouped(cores.parameters()));
        Self { title, notices: cores.notices().to_vec(), terminal, bar: None, lines: 0 }
    }

    /// Shows how much has been read.
    pub fn update(&mut self, progress: CoresProgress) {
        let CoresProgress { done, total } = progress;
        if done == 0 {
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
        // A search of seconds needs none between.
        if line > self.lines && total > 1 << 34 {
            self.lines = line;
            tell(&format!("{} of {} read\n", human_bytes(done), human_bytes(total)));
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
