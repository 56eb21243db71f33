//! The reading of task files as a person follows it: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cpift_model::data::{DataProgress, PreparationEvent};
use indicatif::{ProgressBar, ProgressStyle};

use super::table::shorten;
use super::text::visible;
use super::units::{count, duration, grouped};
use super::{path_from_here, tell};

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
    current: Option<Current>,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

/// The files that are being read.
struct Current {
    name: String,
    began: Instant,
    /// The share of them that was done then: more than nothing where they are in the cache in part.
    first: f64,
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

    /// Shows what happens.
    pub fn update(&self, event: PreparationEvent<'_>) {
        match event {
            PreparationEvent::Resumed { files, rows } => {
                let (name, rows) = (visible(&name(files)), grouped(rows as u64));
                tell(&format!("reading {name}: rows 1 to {rows} from the cache\n"));
            }
            PreparationEvent::CacheRefused(path) => {
                let path = visible(&path.display().to_string());
                tell(&format!("{path}: is damaged or of other data, and is made anew\n"));
            }
            PreparationEvent::Progress(progress) => self.show(progress),
        }
    }

    fn show(&self, progress: DataProgress<'_>) {
        // A poisoned lock is a panic elsewhere, which is reported there.
        let Ok(mut state) = self.state.lock() else { return };
        let name = name(progress.files);
        let share = progress.bytes as f64 / progress.total_bytes.max(1) as f64;
        if state.current.as_ref().is_none_or(|current| current.name != name) {
            clear(&mut state);
            state.current = Some(Current { name: name.clone(), began: Instant::now(), first: share });
        }
        let Some(Current { began, first, .. }) = &state.current else { return };
        if began.elapsed() < QUICK {
            return;
        }
        let left = duration(began.elapsed().as_secs_f64() * (1.0 - share) / (share - first).max(1e-9));
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

fn name(files: &[PathBuf]) -> String {
    files.first().map(|path| path_from_here(path)).unwrap_or_default()
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
