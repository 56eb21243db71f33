//! Files of the hub on their way, as a person follows them: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use cpift_model::hub::{Download, HubEvent};
use indicatif::{ProgressBar, ProgressStyle};

use super::table::shorten;
use super::text::visible;
use super::units::{bytes, counted};
use super::{notices, tell};

/// Time between two plain lines.
const PAUSE: Duration = Duration::from_secs(30);

/// Files of the hub on their way.
pub struct Fetching {
    terminal: bool,
    state: Mutex<State>,
}

struct State {
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Fetching {
    /// Nothing is fetched yet.
    pub fn begin() -> Self {
        let state = State { bar: None, last_line: Instant::now() };
        Self { terminal: std::io::stderr().is_terminal(), state: Mutex::new(state) }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = self.state.lock().ok().and_then(|mut state| state.bar.take()) {
            bar.finish_and_clear();
        }
    }

    /// Shows what happens.
    pub fn update(&self, event: HubEvent<'_>) {
        match event {
            HubEvent::Notice(text) => self.notice(text),
            HubEvent::Begun(download) => self.start(download),
            HubEvent::Progress(download, done) => self.show(download, done),
            HubEvent::Finished(_) => self.finish(),
        }
    }

    /// The bar stays below it.
    fn notice(&self, text: &str) {
        let tell = || notices(std::iter::once(&text.to_owned()));
        let bar = self.state.lock().ok().and_then(|state| state.bar.clone());
        match bar {
            Some(bar) => bar.suspend(tell),
            None => tell(),
        }
    }

    fn start(&self, download: &Download) {
        self.finish();
        // A poisoned lock is a panic elsewhere, which is reported there.
        let Ok(mut state) = self.state.lock() else { return };
        state.last_line = Instant::now();
        let name = visible(&download.name);
        if self.terminal {
            let bar = ProgressBar::new(download.bytes);
            bar.set_style(style());
            bar.set_prefix(format!("fetching {}", shorten(&name, 48)));
            state.bar = Some(bar);
        } else {
            let files = counted(download.files as u64, "file");
            tell(&format!("fetching {name}: {files}, {}\n", bytes(download.bytes)));
        }
    }

    fn show(&self, download: &Download, done: u64) {
        let Ok(mut state) = self.state.lock() else { return };
        if let Some(bar) = &state.bar {
            bar.set_position(done);
        } else if state.last_line.elapsed() >= PAUSE {
            state.last_line = Instant::now();
            let share = 100.0 * done as f64 / download.bytes.max(1) as f64;
            tell(&format!(
                "fetching {}: {share:.0} % of {}\n",
                visible(&download.name),
                bytes(download.bytes)
            ));
        }
    }
}

fn style() -> ProgressStyle {
    let template = "{prefix:.bold} {bar:24.cyan/dim} {binary_bytes} of {binary_total_bytes} · {binary_bytes_per_sec:.dim} · {eta:.dim} left";
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}
