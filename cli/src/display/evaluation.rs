//! An evaluation as a person follows it: a bar on a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use cpift_model::progress::{EvaluationPhase, EvaluationProgress};
use indicatif::{ProgressBar, ProgressStyle};

use super::pace::Pace;
use super::tell;
use super::text::visible;
use super::units::{duration, grouped};

/// The evaluation under way.
pub struct Evaluation {
    title: String,
    bar: Option<ProgressBar>,
    phase: Option<EvaluationPhase>,
    /// When the phase began, of which a first part is done already when it first shows.
    began: Instant,
    /// The plain lines of the phase.
    pace: Pace,
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
        Self { title, bar, phase: None, began: Instant::now(), pace: Pace::begin() }
    }

    /// Shows how far it is.
    pub fn update(&mut self, progress: EvaluationProgress) {
        if self.phase != Some(progress.phase) {
            // The first sign of a phase may come when part of it is done: it began when the one before ended.
            self.phase = Some(progress.phase);
            self.pace = Pace::begin();
            if let Some(bar) = &self.bar {
                bar.set_style(style());
                bar.set_prefix(self.title.clone());
            }
        }
        let elapsed = self.began.elapsed();
        if progress.done == progress.rows {
            self.began = Instant::now();
        }
        if let Some(bar) = &self.bar {
            bar.set_length(progress.rows as u64);
            bar.set_position(progress.done as u64);
            bar.set_message(format!("{}{}", name(progress.phase), time_left(progress, elapsed)));
        } else if self.pace.line_is_due(progress.done as u64, progress.rows as u64) {
            tell(&format!(
                "{}: {}{}\n",
                self.title,
                how_far(progress),
                time_left(progress, self.began.elapsed())
            ));
        }
    }

    /// The bar, above which others write.
    pub fn bar(&self) -> Option<&ProgressBar> {
        self.bar.as_ref()
    }
}

/// `losses of 128 of 200 rows`.
pub fn how_far(progress: EvaluationProgress) -> String {
    let EvaluationProgress { phase, done, rows } = progress;
    format!("{} of {} of {} rows", name(phase), grouped(done as u64), grouped(rows as u64))
}

fn name(phase: EvaluationPhase) -> &'static str {
    match phase {
        EvaluationPhase::Losses => "losses",
        EvaluationPhase::Answers => "answers",
        EvaluationPhase::Options => "losses of the options",
    }
}

/// The time left of a phase by what is done of it; nothing where nothing is done or all.
fn time_left(progress: EvaluationProgress, elapsed: Duration) -> String {
    let EvaluationProgress { done, rows, .. } = progress;
    if done == 0 || done >= rows {
        return String::new();
    }
    let left = (rows - done) as f64 / done as f64 * elapsed.as_secs_f64();
    format!(" · {} left", duration(left))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_and_the_time_left_is_of_what_goes_on() {
        let of = |phase, done| EvaluationProgress { phase, done, rows: 1200 };
        assert_eq!(how_far(of(EvaluationPhase::Answers, 0)), "answers of 0 of 1 200 rows");
        assert_eq!(how_far(of(EvaluationPhase::Losses, 1200)), "losses of 1 200 of 1 200 rows");
        let elapsed = Duration::from_secs(100);
        assert_eq!(time_left(of(EvaluationPhase::Answers, 0), elapsed), "", "nothing to go by");
        assert_eq!(time_left(of(EvaluationPhase::Losses, 1200), elapsed), "", "answers may follow");
        assert!(time_left(of(EvaluationPhase::Answers, 600), elapsed).starts_with(" · 1 min 4"));
    }

    #[test]
    fn the_bar_counts_answers_from_none() {
        let mut evaluation = Evaluation::begin("evaluating", true);
        let of = |phase, done| EvaluationProgress { phase, done, rows: 12 };
        let shown = |evaluation: &Evaluation| {
            let bar = evaluation.bar().unwrap();
            (bar.position(), bar.length(), bar.message())
        };
        evaluation.update(of(EvaluationPhase::Losses, 12));
        assert_eq!(shown(&evaluation), (12, Some(12), "losses".to_owned()));
        evaluation.update(of(EvaluationPhase::Answers, 0));
        assert_eq!(shown(&evaluation), (0, Some(12), "answers".to_owned()));
    }
}
