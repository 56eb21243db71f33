//! An evaluation as a person follows it: a bar on a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use cpift_model::progress::{EvaluationPhase, EvaluationProgress};
use indicatif::{ProgressBar, ProgressStyle};

use super::tell;
use super::text::visible;
use super::units::{duration, grouped};

/// Time between two plain lines.
const PAUSE: Duration = Duration::from_secs(30);

/// The evaluation under way.
pub struct Evaluation {
    title: String,
    bar: Option<ProgressBar>,
    phase: Option<EvaluationPhase>,
    /// When the phase began.
    began: Instant,
    last_line: Instant,
}

impl Evaluation {
    /// One that begins; `title` says what is evaluated on what.
    pub fn begin(title: &str, terminal: bool) -> Self {
        let title = visible(title);
        let bar = terminal.then(|| {
            let spinner = ProgressBar::new_spinner().with_message(title.clone());
            spinner.enable_steady_tick(Duration::from_millis(120));
            spinner
        });
        let now = Instant::now();
        Self { title, bar, phase: None, began: now, last_line: now }
    }

    /// Shows how far it is.
    pub fn update(&mut self, progress: EvaluationProgress) {
        if self.phase != Some(progress.phase) {
            // The first sign of a phase comes when part of it is done: it began when the one before ended.
            self.phase = Some(progress.phase);
            if let Some(bar) = &self.bar {
                bar.set_style(style());
                bar.set_prefix(self.title.clone());
            }
        }
        let text = self.describe(progress);
        if progress.done == progress.rows {
            self.began = Instant::now();
        }
        if let Some(bar) = &self.bar {
            bar.set_length(progress.rows as u64);
            bar.set_position(progress.done as u64);
            bar.set_message(text);
        } else if self.last_line.elapsed() >= PAUSE && progress.done < progress.rows {
            self.last_line = Instant::now();
            tell(&format!(
                "{}: {} of {} rows · {text}\n",
                self.title,
                grouped(progress.done as u64),
                grouped(progress.rows as u64)
            ));
        }
    }

    /// The bar, above which others write.
    pub fn bar(&self) -> Option<&ProgressBar> {
        self.bar.as_ref()
    }

    fn describe(&self, progress: EvaluationProgress) -> String {
        let what = match progress.phase {
            EvaluationPhase::Losses => "losses",
            EvaluationPhase::Answers => "answers",
            EvaluationPhase::Options => "losses of the options",
        };
        let left = progress.rows.saturating_sub(progress.done) as f64 / progress.done.max(1) as f64
            * self.began.elapsed().as_secs_f64();
        format!("{what} · {} left", duration(left))
    }
}

impl Drop for Evaluation {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Two lines, so that neither is cut at 80 columns.
fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:.bold} {bar:24.cyan/dim} {pos}/{len} rows\n  {msg:.dim}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}
