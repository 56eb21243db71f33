//! A running job as a person follows it: bars on a terminal, sparse lines elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_model::progress::{
    Column, Communication, EvaluationProgress, Event, Measured, Observer, Plan, SampleScore, Score,
    StepReport,
};
use indicatif::{ProgressBar, ProgressStyle};

use super::evaluation::{self, Evaluation};
use super::pace::Pace;
use super::style::Style;
use super::table::shorten;
use super::text::{is_unseen, message, visible};
use super::units::{bytes, count, counted, duration, flops_per_second, grouped, percent, sparkline};
use super::{overlap, plan, reports, tell};

/// Characters of a sample row that are shown.
const SAMPLE_LENGTH: usize = 600;
/// Characters of the curve of the loss.
const CURVE: usize = 24;

/// Shows the events of a job on standard error.
pub struct Progress {
    style: Style,
    terminal: bool,
    matmul_rate: Option<f64>,
    notice: Option<String>,
    stop: Arc<AtomicBool>,
    training: Option<Training>,
    bar: Option<ProgressBar>,
    evaluation: Option<Evaluation>,
}

impl Progress {
    /// A display that ends the job when `stop` becomes true. `matmul_rate` (FLOP/s) is what shares of
    /// the device's speed refer to.
    pub fn new(style: Style, terminal: bool, matmul_rate: Option<f64>, stop: Arc<AtomicBool>) -> Self {
        Self { style, terminal, matmul_rate, notice: None, stop, training: None, bar: None, evaluation: None }
    }

    /// Says `notice` before everything else, when the job starts: a job that is refused says one line, why.
    pub fn with_notice(mut self, notice: Option<String>) -> Self {
        self.notice = notice;
        self
    }

    fn started(&mut self, planned: &Plan) {
        if let Some(notice) = self.notice.take() {
            self.say_line(&notice);
        }
        self.say(&plan::render(planned, self.matmul_rate, self.style));
    }

    /// Writes lines above the bar.
    fn say(&self, text: &str) {
        match self.bar.as_ref().or(self.evaluation.as_ref().and_then(Evaluation::bar)) {
            Some(bar) => bar.suspend(|| tell(text)),
            None => tell(text),
        }
    }

    fn say_line(&self, text: &str) {
        self.say(&format!("{text}\n"));
    }

    fn clear_bar(&mut self) {
        self.evaluation = None;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn begin_training(&mut self, title: &str, step: u64, steps: u64) {
        self.clear_bar();
        if self.terminal {
            let bar = ProgressBar::new(steps).with_position(step);
            bar.set_style(training_style());
            bar.set_prefix(shorten(&visible(title), 40));
            self.bar = Some(bar);
        } else {
            let resumed = if step > 0 { format!(", {} done before", grouped(step)) } else { String::new() };
            self.say_line(&format!("{}: {}{resumed}", visible(title), counted(steps, "step")));
        }
        self.training = Some(Training::new(title, step, steps));
    }

    fn step(&mut self, step: &StepReport) {
        let Some(training) = &mut self.training else { return };
        training.add(step);
        let details = training.details(step, self.matmul_rate);
        if let Some(bar) = &self.bar {
            bar.set_position(training.done);
            bar.set_message(details);
        } else if training.pace.line_is_due(training.done, training.steps) {
            let line = format!("{}: step {}/{} · {details}", training.title, training.done, training.steps);
            self.say_line(&line);
        }
        if !(step.evaluation.is_empty() && step.measures.is_empty()) {
            self.say_line(&self.style.dim(samples(step)));
        }
    }

    fn finish_training(&mut self) {
        self.clear_bar();
        if let Some(training) = self.training.take().filter(|training| !training.losses.is_empty()) {
            self.say(&training.summary(self.matmul_rate, self.style));
        }
    }

    fn begin_evaluation(&mut self, column: &Column, task: &str) {
        self.clear_bar();
        self.evaluation = Some(Evaluation::begin(&format!("evaluating {column} on {task}"), self.terminal));
    }

    /// Between two steps an evaluation shows in the bar of the training.
    fn evaluating(&mut self, progress: EvaluationProgress, model: Measured<'_>, task: &str) {
        if let Some(evaluation) = &mut self.evaluation {
            return evaluation.update(progress);
        }
        if let Some(bar) = &self.bar {
            bar.set_message(format!(
                "evaluating {} on {}: {}",
                visible(&model.to_string()),
                visible(task),
                evaluation::how_far(progress)
            ));
        }
    }

    fn evaluated(&mut self, column: &Column, task: &str, score: &Score) {
        self.clear_bar();
        let share = score.share().map(|share| format!(", {} {}", percent(share), score.score_kind.name()));
        let by_loss = score.choice_by_loss.map(|share| format!(" ({} by loss)", percent(share)));
        let line = format!(
            "evaluated {column} on {}: loss {:.3}{}{}",
            visible(task),
            score.loss,
            share.unwrap_or_default(),
            by_loss.unwrap_or_default()
        );
        self.say_line(&self.style.dim(line));
    }

    fn sample(&self, task: &str, text: &str) {
        let heading = self.style.bold(format!("a row of {}, the loss is taken on ⟦this⟧", visible(task)));
        self.say(&format!("\n{heading}\n{}\n", readable_sample(text, self.style)));
    }
}

/// What was measured after a step, in a line.
fn samples(step: &StepReport) -> String {
    let score = |sample: &SampleScore| {
        let score = &sample.score;
        let share = score.share().map(|share| format!(", {} {}", percent(share), score.score_kind.name()));
        format!("{} loss {:.3}{}", visible(&sample.task), score.loss, share.unwrap_or_default())
    };
    let scores: Vec<String> = step.evaluation.iter().chain(&step.measures).map(score).collect();
    let seconds = duration(step.evaluation_seconds);
    format!("after step {} (measured in {seconds}): {}", grouped(step.number), scores.join(" · "))
}

/// A row that is not endless: of a long one the beginning, and where the first supervised part begins.
fn excerpt(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let learnt = characters.iter().position(|&character| character == '⟦').unwrap_or_default();
    if characters.len() <= SAMPLE_LENGTH || learnt + SAMPLE_LENGTH / 4 < SAMPLE_LENGTH {
        return shorten(text, SAMPLE_LENGTH);
    }
    let (beginning, before) = (SAMPLE_LENGTH / 2, SAMPLE_LENGTH / 4);
    let head: String = characters[..beginning].iter().collect();
    let part: String = characters[learnt - before..].iter().collect();
    format!("{head}…{}", shorten(&part, SAMPLE_LENGTH - beginning))
}

/// A row fit for a terminal: no control characters, not endless, supervised parts coloured.
fn readable_sample(text: &str, style: Style) -> String {
    let cut = excerpt(text.trim_end());
    let visible: String =
        cut.chars().map(|c| if is_unseen(c) && c != '\n' { '\u{fffd}' } else { c }).collect();
    let mut lines = Vec::new();
    let mut supervised = false;
    for line in visible.lines() {
        let mut painted = String::from("  ");
        for piece in line.split_inclusive(['⟦', '⟧']) {
            let (before, mark) = match piece.char_indices().last() {
                Some((at, mark @ ('⟦' | '⟧'))) => (&piece[..at], Some(mark)),
                _ => (piece, None),
            };
            painted.push_str(&if supervised { style.green(before) } else { before.to_owned() });
            supervised = mark.map_or(supervised, |mark| mark == '⟦');
            painted.extend(mark);
        }
        lines.push(painted);
    }
    lines.join("\n")
}

impl Observer for Progress {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Started(plan) => self.started(plan),
            Event::Sample { task, text } => self.sample(task, text),
            Event::Notice(text) => {
                self.say_line(&format!("{} {}", self.style.yellow("note:"), message(text)))
            }
            Event::TrainingStarted { title, step, steps } => self.begin_training(title, step, steps),
            Event::Step(step) => self.step(step),
            Event::TrainingFinished { .. } => self.finish_training(),
            Event::EvaluationStarted { column, task } => self.begin_evaluation(column, task),
            Event::EvaluationProgress { progress, model, task } => self.evaluating(progress, model, task),
            Event::Evaluated { column, task, score } => self.evaluated(column, task, score),
            Event::StageReused { stage, part } => {
                let name = format!("{} {}", stage.name(), visible(part));
                self.say_line(&format!("{} is complete already: taken over", name.trim_end()));
            }
            Event::Cores(report) => self.say(&format!("\n{}", reports::cores(report, self.style))),
            Event::Groups(report) => self.say(&format!("\n{}", overlap::render(report, self.style))),
            Event::Fused(report) => self.say(&format!("\n{}", reports::fusion(report, self.style))),
            // Every so many steps, and named again when the job is stopped: not worth a line each.
            Event::Checkpoint { .. } => {}
            // The closing table is the command's result: it goes to standard output, once.
            Event::Finished(_) => self.clear_bar(),
        }
    }

    fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear_bar();
    }
}

/// Two lines, so that neither is cut at 80 columns.
fn training_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:.bold} {bar:30.cyan/dim} {pos}/{len}\n  {msg:.dim}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

/// The training under way. Its steps are counted here: reports count over all parts of a stage.
struct Training {
    title: String,
    done: u64,
    steps: u64,
    losses: Vec<f64>,
    tokens: u64,
    seconds: f64,
    flops: f64,
    /// What ranks exchanged; none where the process is alone.
    communication: Option<Communication>,
    /// Smoothed seconds of a step, for the time left.
    step_seconds: Option<f64>,
    pace: Pace,
}

impl Training {
    fn new(title: &str, done: u64, steps: u64) -> Self {
        Self {
            title: shorten(&visible(title), 48),
            done,
            steps,
            losses: Vec::new(),
            tokens: 0,
            seconds: 0.0,
            flops: 0.0,
            communication: None,
            step_seconds: None,
            pace: Pace::begin(),
        }
    }

    fn add(&mut self, step: &StepReport) {
        self.done += 1;
        self.losses.push(step.loss);
        self.tokens += step.tokens;
        self.seconds += step.seconds;
        self.flops += step.flops;
        if let Some(now) = step.communication {
            let sum = self.communication.get_or_insert(Communication {
                bytes: 0,
                least_bytes: 0,
                seconds: 0.0,
                hidden_seconds: 0.0,
                ranks: now.ranks,
            });
            sum.bytes += now.bytes;
            sum.least_bytes += now.least_bytes;
            sum.seconds += now.seconds;
            sum.hidden_seconds += now.hidden_seconds;
        }
        let smoothed = |before: f64| 0.9 * before + 0.1 * step.seconds;
        self.step_seconds = Some(self.step_seconds.map_or(step.seconds, smoothed));
    }

    fn details(&self, step: &StepReport, matmul_rate: Option<f64>) -> String {
        let left = self.step_seconds.unwrap_or(0.0) * self.steps.saturating_sub(self.done) as f64;
        format!(
            "loss {:.4} · {} tok/s · {} · {} left",
            step.loss,
            count(step.tokens as f64 / step.seconds),
            speed(step.flops / step.seconds, matmul_rate),
            duration(left)
        )
    }

    fn summary(&self, matmul_rate: Option<f64>, style: Style) -> String {
        let edge = (self.losses.len() / 10).max(1);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let (first, last) = (mean(&self.losses[..edge]), mean(&self.losses[self.losses.len() - edge..]));
        let speed = format!(
            "{} in {} · {} tok/s · {}",
            counted(self.losses.len() as u64, "step"),
            duration(self.seconds),
            count(self.tokens as f64 / self.seconds),
            speed(self.flops / self.seconds, matmul_rate)
        );
        let curve = sparkline(&self.losses, CURVE);
        let exchanged = self.exchanged().map_or_else(String::new, |line| format!("  {}\n", style.dim(line)));
        format!(
            "{} loss {first:.3} {} {last:.3}\n  {}\n{exchanged}",
            style.bold(&self.title),
            style.green(curve),
            style.dim(speed)
        )
    }

    /// What ranks exchanged, against the least there can be.
    fn exchanged(&self) -> Option<String> {
        let Communication { ranks, bytes: received, least_bytes, seconds, hidden_seconds } =
            self.communication?;
        let steps = self.losses.len().max(1) as u64;
        let hidden = match hidden_seconds {
            0.0 => String::new(),
            _ => format!(", {} more beside the backward pass", percent(hidden_seconds / self.seconds)),
        };
        Some(format!(
            "{} · {} received a step by each ({} at least) · {} of the time{hidden}",
            counted(ranks, "rank"),
            bytes(received / steps),
            bytes(least_bytes / steps),
            percent(seconds / self.seconds)
        ))
    }
}

/// `45.2 GFLOP/s (63 % of peak)`.
fn speed(flops_per_s: f64, matmul_rate: Option<f64>) -> String {
    let rate = flops_per_second(flops_per_s);
    // On a busy machine the measured rate can come out below what training then reaches: no peak at all.
    match matmul_rate.filter(|peak| *peak > flops_per_s) {
        Some(peak) => format!("{rate} ({:.0} % of peak)", 100.0 * flops_per_s / peak),
        None => rate,
    }
}

#[cfg(test)]
mod tests {
    use cpift_model::progress::TrainingStage;

    use super::*;

    fn step(number: u64, steps: u64) -> StepReport {
        StepReport {
            stage: TrainingStage::Probe,
            part: "sort".to_owned(),
            number,
            steps,
            loss: 4.0 / number as f64,
            task_losses: Vec::new(),
            task_shares: Vec::new(),
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            tokens: 1024,
            supervised_tokens: 100,
            seconds: 0.5,
            flops: 20e9,
            phase: 1,
            frozen: 0,
            time: 0.0,
            evaluation: Vec::new(),
            measures: Vec::new(),
            evaluation_seconds: 0.0,
            communication: None,
        }
    }

    #[test]
    fn a_long_row_is_shown_with_what_is_learnt_of_it() {
        let row = |before: usize, behind: usize| format!("{}⟦{}⟧", "p".repeat(before), "a".repeat(behind));
        for (before, behind) in [(0, 598), (449, 149), (500, 98)] {
            assert_eq!(excerpt(&row(before, behind)), row(before, behind));
        }
        assert!(excerpt(&row(449, 200)).ends_with("aaa…"));
        assert_eq!(
            excerpt(&row(450, 200)),
            format!("{}…{}⟦{}…", "p".repeat(300), "p".repeat(150), "a".repeat(148))
        );
        assert_eq!(excerpt(&row(9_000, 1)), format!("{}…{}⟦a⟧", "p".repeat(300), "p".repeat(150)));
        assert_eq!(excerpt(&"ü".repeat(700)).chars().count(), 600);
    }

    #[test]
    fn a_training_is_summed_up_in_two_lines() {
        let mut training = Training::new("probe sort", 0, 8);
        (1..=8).for_each(|number| training.add(&step(number, 8)));
        assert_eq!(
            training.summary(Some(80e9), Style::PLAIN),
            "probe sort loss 4.000 █▄▃▂▂▁▁▁ 0.500\n  8 steps in 4.0 s · 2.05k tok/s · 40.0 GFLOP/s (50 % of peak)\n"
        );
    }

    #[test]
    fn steps_of_a_later_part_are_counted_from_its_own_beginning() {
        let mut training = Training::new("integrate part 2/2", 3, 8);
        training.add(&step(104, 108));
        assert_eq!(training.done, 4);
        assert_eq!(
            training.details(&step(4, 108), None),
            "loss 1.0000 · 2.05k tok/s · 40.0 GFLOP/s · 2.0 s left"
        );
    }

    #[test]
    fn samples_cannot_control_the_terminal() {
        let text = "sort: dcba\n= ⟦abcd\x1b[2J</s>⟧\r";
        assert_eq!(readable_sample(text, Style::PLAIN), "  sort: dcba\n  = ⟦abcd\u{fffd}[2J</s>⟧");
        assert!(readable_sample(&"x".repeat(5000), Style::PLAIN).ends_with("x…"));
    }
}
