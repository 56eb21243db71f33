//! The reading of task files as a person follows it: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cpift_model::data::DataProgress;
use indicatif::{ProgressBar, ProgressStyle};

use super::table::shorten;
use super::text::visible;
use super::units::{count, duration};
use super::{shown, tell};

/// Reading that takes less is not shown.
const QUICK: Duration = Duration::from_secs(1);
/// Time between two plain lines.
const PAUSE: Duration = Duration::from_secs(30);

/// The reading of files under way.
pub struct Preparing {
    terminal: bool,
    state: Mutex<State>,
}

struct State {
    /// Name of the files, when they were begun.
    current: Option<(String, Instant)>,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Preparing {
    /// Nothing is read yet.
    pub fn begin() -> Self {
        let state = State { current: None, bar: None, last_line: Instant::now() };
        Self { terminal: std::io::stderr().is_terminal(), state: Mutex::new(state) }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Ok(mut state) = self.state.lock() {
            clear(&mut state);
        }
    }

    /// Shows how far it is.
    pub fn update(&self, progress: DataProgress<'_>) {
        // A poisoned lock is a panic elsewhere, which is reported there.
        let Ok(mut state) = self.state.lock() else { return };
        let name = progress.files.first().map(|path| shown(path)).unwrap_or_default();
        if state.current.as_ref().is_none_or(|(current, _)| *current != name) {
            clear(&mut state);
            state.current = Some((name.clone(), Instant::now()));
        }
        let began = state.current.as_ref().map_or_else(Instant::now, |(_, began)| *began);
        if began.elapsed() < QUICK {
            return;
        }
        let share = progress.bytes as f64 / progress.total_bytes.max(1) as f64;
        let left = duration(began.elapsed().as_secs_f64() * (1.0 / share.max(1e-9) - 1.0));
        let text = format!("{} rows · {left} left", count(progress.rows as f64));
        if self.terminal {
            let bar = state.bar.get_or_insert_with(|| {
                let bar = ProgressBar::new(progress.total_bytes);
                bar.set_style(style());
                bar.set_prefix(format!("reading {}", shorten(&visible(&name), 32)));
                bar
            });
            bar.set_position(progress.bytes);
            bar.set_message(text);
        } else if state.last_line.elapsed() >= PAUSE {
            state.last_line = Instant::now();
            tell(&format!("reading {}: {:.0} % · {text}\n", visible(&name), 100.0 * share));
        }
    }
}

fn clear(state: &mut State) {
    if let Some(bar) = state.bar.take() {
        bar.finish_and_clear();
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:.bold} {bar:24.cyan/dim} {percent} % · {msg:.dim}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}
