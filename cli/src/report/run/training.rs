//! Losses of every training, the learning rate and the gradient norm over the run.

use cpift_model::progress::{StepReport, TrainingStage};
use cpift_model::recipe::Method;

use super::Context;
use crate::report::chart::NARROW;
use crate::report::chart::lines::{LineChart, Span};
use crate::report::document::{Block, Data, Figure, Section, number};

/// Height of a chart beside others, and of one that takes a whole line.
const HEIGHT: f64 = 200.0;
const WIDE_HEIGHT: f64 = 230.0;
/// Most charts of one training; the files have the others' data.
const MOST_TASKS: usize = 24;

/// A fine-tune's steps.
struct Training<'a> {
    stage: TrainingStage,
    part: &'a str,
    steps: Vec<&'a StepReport>,
}

/// The section `Training`; none before the first step.
pub fn section(context: &Context<'_>) -> Option<Section> {
    let trainings = trainings(&context.run.steps);
    if trainings.is_empty() {
        return None;
    }
    let (single, mixed): (Vec<_>, Vec<_>) = trainings.iter().partition(|training| !training.part.is_empty());
    let mut blocks = Vec::new();
    if !single.is_empty() {
        blocks.push(single_tasks(&single));
    }
    blocks.extend(mixed.iter().map(|training| mixed_tasks(context, training)));
    blocks.push(over_the_run(context, &trainings));
    blocks.extend(super::samples::mixtures(context));
    Some(Section { id: "training", title: "Training", blocks })
}

fn trainings(steps: &[StepReport]) -> Vec<Training<'_>> {
    let mut found: Vec<Training<'_>> = Vec::new();
    for step in steps {
        let same = |training: &&mut Training<'_>| training.stage == step.stage && training.part == step.part;
        match found.iter_mut().find(same) {
            Some(training) => training.steps.push(step),
            None => found.push(Training { stage: step.stage, part: &step.part, steps: vec![step] }),
        }
    }
    found
}

/// Steps on each side that a smoothed line is the mean of.
fn reach(steps: usize) -> usize {
    if steps < 12 { 0 } else { (steps / 40).max(1) }
}

/// Range of a chart's vertical axis; charts that are compared share it.
fn loss_range(trainings: &[&Training<'_>]) -> Option<(f64, f64)> {
    let losses = trainings
        .iter()
        .flat_map(|training| training.steps.iter())
        .flat_map(|step| step.task_losses.iter().map(|(_, loss)| *loss).chain([step.loss]));
    let losses: Vec<f64> = losses.filter(|loss| loss.is_finite()).collect();
    let low = losses.iter().copied().reduce(f64::min)?;
    Some((low, losses.iter().copied().fold(low, f64::max)))
}

fn loss_chart(title: &str, training: &Training<'_>, values: Vec<(f64, f64)>) -> LineChart {
    LineChart {
        title: title.to_owned(),
        y_label: "loss, nats per supervised token".to_owned(),
        x_label: "optimizer step".to_owned(),
        values,
        smoothing: Some(reach(training.steps.len())),
        colour: 1,
        ..LineChart::default()
    }
}

/// How the lines of a chart were obtained.
fn smoothing_text(steps: usize) -> String {
    let width = 2 * reach(steps) + 1;
    if width == 1 {
        return "Dots and line: every step’s mean loss over its supervised tokens, before the step."
            .to_owned();
    }
    format!(
        "Dots: every step’s mean loss over its supervised tokens, before the step; line: the mean over {width} steps \
         around each, fewer at the ends."
    )
}

/// One chart per training of a single task: the probes.
fn single_tasks(trainings: &[&Training<'_>]) -> Block {
    let range = loss_range(trainings);
    let figure = |training: &&Training<'_>| {
        let title = format!("{} {}", training.stage, training.part);
        let values = training.steps.iter().map(|step| (step.number as f64, step.loss)).collect();
        let chart = LineChart { y_range: range, ..loss_chart(&title, training, values) };
        let name = format!("loss-{}-{}", training.stage, training.part);
        Figure::narrow(name, format!("loss of {title}"), chart.draw(NARROW, HEIGHT))
    };
    let steps = trainings.iter().map(|training| training.steps.len()).max().unwrap_or(0);
    Block::Figures {
        caption: format!(
            "Probes: each task fine-tuned alone from the base model, on one common scale. {}{}",
            smoothing_text(steps),
            more_tasks(trainings.len())
        ),
        figures: trainings.iter().take(MOST_TASKS).map(figure).collect(),
    }
}

/// One chart for the loss of all tasks, and one per task.
fn mixed_tasks(context: &Context<'_>, training: &Training<'_>) -> Block {
    let range = loss_range(&[training]);
    let spans = phases(context, training, |step| step.number as f64);
    let spans = if spans.len() > 1 { vec![spans] } else { Vec::new() };
    let draw = |title: &str, values: Vec<(f64, f64)>, colour: usize| {
        let spans = spans.clone();
        let chart = LineChart { y_range: range, spans, colour, ..loss_chart(title, training, values) };
        let name = format!("loss-{title}").replace(": ", "-").replace(' ', "-");
        Figure::narrow(name, format!("loss of {title}"), chart.draw(NARROW, HEIGHT))
    };
    let all = training.steps.iter().map(|step| (step.number as f64, step.loss)).collect();
    let mut figures = vec![draw(&format!("{}: all tasks", training.stage), all, 2)];
    let of_task = |task: &String| {
        let loss = |step: &&StepReport| {
            let (_, loss) = step.task_losses.iter().find(|(name, _)| name == task)?;
            Some((step.number as f64, *loss))
        };
        let values: Vec<_> = training.steps.iter().filter_map(loss).collect();
        (!values.is_empty()).then(|| draw(&format!("{}: {task}", training.stage), values, 1))
    };
    let tasks = context.tasks.len();
    figures.extend(context.tasks.iter().take(MOST_TASKS).filter_map(of_task));
    let marks = match (spans.is_empty(), training.stage) {
        (true, _) => "",
        (false, TrainingStage::Integrate) => {
            " Stretches are the parts of stage 4, named by the group each is for: from its end on that group’s \
             cores may be frozen."
        }
        (false, _) => " Stretches are the consecutive parts, named by their tasks.",
    };
    Block::Figures {
        caption: format!(
            "{}: the loss over all tasks of a step, and each task’s own in the steps that hold some of it. {}{marks}{}",
            capital(training.stage.name()),
            smoothing_text(training.steps.len()),
            more_tasks(tasks)
        ),
        figures,
    }
}

fn more_tasks(tasks: usize) -> String {
    match tasks.saturating_sub(MOST_TASKS) {
        0 => String::new(),
        more => format!(" {more} more tasks are in steps.csv."),
    }
}

/// The consecutive parts of a training, by a position on the horizontal axis; versions that did not record them
/// give none.
fn phases(context: &Context<'_>, training: &Training<'_>, at: impl Fn(&StepReport) -> f64) -> Vec<Span> {
    let mut spans: Vec<(u64, Span)> = Vec::new();
    for step in training.steps.iter().filter(|step| step.phase > 0) {
        match spans.last_mut().filter(|(phase, _)| *phase == step.phase) {
            Some((_, span)) => span.end = at(step),
            None => {
                let name = phase_name(context, training.stage, step.phase);
                let start = spans.last().map_or(at(step) - 1.0, |(_, before)| before.end);
                spans.push((step.phase, Span { start, end: at(step), name }));
            }
        }
    }
    spans.into_iter().map(|(_, span)| span).collect()
}

/// What a part is for: the tasks of its group.
pub fn phase_name(context: &Context<'_>, stage: TrainingStage, phase: u64) -> String {
    let index = phase.saturating_sub(1) as usize;
    let sequential = stage == TrainingStage::Method(Method::Sequential);
    let group = context.run.groups.as_ref().and_then(|groups| {
        let members = groups.groups.get(index)?.iter().filter_map(|&task| groups.tasks.get(task));
        Some(members.cloned().collect::<Vec<_>>().join(", "))
    });
    let name = if sequential { context.tasks.get(index).cloned() } else { group };
    name.unwrap_or_else(|| format!("part {phase}"))
}

/// Learning rate and gradient norm over all steps of the run.
fn over_the_run(context: &Context<'_>, trainings: &[Training<'_>]) -> Block {
    let mut before = 0.0;
    let mut stages: Vec<Span> = Vec::new();
    let mut parts: Vec<Span> = Vec::new();
    for training in trainings {
        let (start, end) = (before, before + training.steps.len() as f64);
        match stages.last_mut().filter(|stage| stage.name == training.stage.name()) {
            Some(stage) => stage.end = end,
            None => stages.push(Span { start, end, name: training.stage.name().to_owned() }),
        }
        let first = training.steps.first().map_or(1, |step| step.number) as f64;
        let phases = phases(context, training, |step| before + step.number as f64 - first + 1.0);
        if !training.part.is_empty() {
            parts.push(Span { start, end, name: training.part.to_owned() });
        } else if phases.len() > 1 {
            parts.extend(phases);
        }
        before = end;
    }
    let steps: Vec<&StepReport> =
        trainings.iter().flat_map(|training| training.steps.iter().copied()).collect();
    let chart = |title: &str, smoothing, value: &dyn Fn(&StepReport) -> f64| LineChart {
        title: title.to_owned(),
        x_label: "optimizer step of the run".to_owned(),
        values: steps.iter().enumerate().map(|(index, step)| (index as f64 + 1.0, value(step))).collect(),
        smoothing,
        spans: vec![stages.clone(), parts.clone()],
        colour: 3,
        ..LineChart::default()
    };
    let shortest = trainings.iter().map(|training| training.steps.len()).min().unwrap_or(0);
    let highest = steps.iter().map(|step| step.learning_rate).fold(0.0, f64::max);
    let rate = LineChart {
        y_range: Some((0.0, highest)),
        ..chart("Learning rate", None, &|step| step.learning_rate)
    };
    let norm = chart("Gradient norm", Some(reach(shortest)), &|step| step.gradient_norm);
    Block::Figures {
        caption: format!(
            "Learning rate of every step, and the norm of its gradient over all parameters that are not frozen, before \
             clipping (line: mean over {} steps). Stages are named at the top, under them tasks and groups.",
            2 * reach(shortest) + 1
        ),
        figures: vec![
            Figure::wide("learning-rate", "learning rate over the run", |width| {
                rate.draw(width, WIDE_HEIGHT)
            }),
            Figure::wide("gradient-norm", "gradient norm over the run", |width| {
                norm.draw(width, WIDE_HEIGHT)
            }),
        ],
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// `steps.csv`: a line per step and task.
pub fn data(context: &Context<'_>) -> Data {
    let headings = [
        "stage",
        "part",
        "phase",
        "step",
        "task",
        "task_loss",
        "loss",
        "learning_rate",
        "gradient_norm",
        "frozen",
        "tokens",
        "supervised_tokens",
        "seconds",
    ];
    let mut data = Data::new("steps", &headings);
    for step in &context.run.steps {
        let tasks = step.task_losses.iter().map(|(task, loss)| (task.clone(), Some(*loss)));
        let tasks: Vec<_> = tasks.collect();
        let none = [(String::new(), None)];
        for (task, loss) in if tasks.is_empty() { &none[..] } else { &tasks[..] } {
            data.row([
                step.stage.to_string(),
                step.part.clone(),
                step.phase.to_string(),
                step.number.to_string(),
                task.clone(),
                number(*loss),
                step.loss.to_string(),
                step.learning_rate.to_string(),
                step.gradient_norm.to_string(),
                step.frozen.to_string(),
                step.tokens.to_string(),
                step.supervised_tokens.to_string(),
                step.seconds.to_string(),
            ]);
        }
    }
    data
}
