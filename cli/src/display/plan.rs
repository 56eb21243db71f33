//! The block before work begins.

use std::fmt::Write;

use cpift_model::progress::{MeasurePlan, Plan, StageEvaluation, StagePlan, TaskPlan, TrainingKind};
use cpift_model::recipe::Method;
use cpift_model::state_type::StateType;
use cpift_model::table::Table;
use cpift_model::transformer::Recompute;

use super::style::Style;
use super::table::{aligned, shorten};
use super::units::{bytes, count, counted, duration, flops_per_second, grouped, percent};

/// The plan as text. `matmul_rate` is the measured speed of the device in FLOP/s, from which the
/// time is estimated.
pub fn render(plan: &Plan, matmul_rate: Option<f64>, style: Style) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{} {value}", style.bold(format!("{name:<7}")));
    };
    line("device", plan.device.clone());
    line("model", format!("{}, {} parameters", plan.architecture, grouped(plan.parameters)));
    let method = plan.method.name();
    line(
        "method",
        format!(
            "{method}, {}, {}",
            counted(plan.tasks.len() as u64, "task"),
            counted(plan.steps(), "optimizer step")
        ),
    );
    line("memory", memory(plan));
    let without_probes = plan
        .disk_bytes_without_probes
        .map_or_else(String::new, |least| format!("; {} where probes cannot stay", bytes(least)));
    line("disk", format!("{} in the run folder{without_probes}", bytes(plan.disk_bytes)));
    if let Some(rate) = matmul_rate.filter(|rate| *rate > 0.0) {
        line("time", estimate(plan, rate));
    }
    let share = |flops: f64| percent(flops / plan.training_flops.max(1.0));
    let stages = &plan.stage_evaluations;
    // Most answers end before they have to. Options that are measured by their losses are not counted.
    if !stages.is_empty() {
        let evaluations = counted(stages.iter().map(|stage| stage.tasks).sum(), "evaluation");
        let share = share(stages.iter().map(|stage| stage.flops).sum());
        line("measure", format!("{evaluations} between stages, at most {share} more to compute"));
    }
    if plan.evaluations > 0 {
        let evaluations = counted(plan.evaluations, "evaluation");
        let share = share(plan.evaluation_flops);
        line("measure", format!("{evaluations} while training, at most {share} more to compute"));
    }
    text.push('\n');
    text.push_str(&aligned(&tasks(&plan.tasks)));
    if !plan.measures.is_empty() {
        text.push('\n');
        text.push_str(&aligned(&measures(&plan.measures)));
    }
    text
}

/// The peak, and what kind of state it is with, where that is not the usual one.
fn memory(plan: &Plan) -> String {
    let mut peak = format!("{} at the peak", bytes(plan.memory_bytes()));
    if !plan.rank_bytes.is_empty() {
        let all = bytes(plan.rank_bytes.iter().sum());
        let _ = write!(peak, " of rank 0, {all} of all {} ranks", plan.rank_bytes.len());
    }
    // A CPU's memory is the host's.
    if !plan.device.starts_with("cpu") {
        let on_host: u64 = plan.memory.iter().filter(|part| part.on_host).map(|part| part.bytes).sum();
        let on_device = plan.memory_bytes() - on_host;
        let _ = write!(peak, ": {} on the device, {} on the host", bytes(on_device), bytes(on_host));
    }
    match plan.recompute {
        Recompute::Nothing => {}
        Recompute::Mlp => peak.push_str(", MLPs computed again"),
        Recompute::Layer => peak.push_str(", layers computed again"),
    }
    let kept = match plan.state {
        StateType::Exact => return peak,
        StateType::Compact => "with compact state",
        StateType::Offload => "with compact state, offloaded",
    };
    let larger: Vec<String> = plan
        .too_large
        .iter()
        .map(|larger| format!("{} state would take {}", larger.state.name(), bytes(larger.bytes)))
        .collect();
    match larger.is_empty() {
        true => format!("{peak}, {kept}"),
        false => format!("{peak}, {kept} ({}, more than there is)", larger.join(", ")),
    }
}

/// Shares of the speed of large matrix products that whole train steps reach: small models and large.
const SHARES_OF_PEAK: [f64; 2] = [0.3, 0.9];

/// Seconds of all train steps on a device with this speed of matrix products (FLOP/s): least and most.
pub fn training_seconds(plan: &Plan, matmul_rate: f64) -> [f64; 2] {
    let [slow, fast] = SHARES_OF_PEAK;
    [plan.training_flops / (fast * matmul_rate), plan.training_flops / (slow * matmul_rate)]
}

fn estimate(plan: &Plan, matmul_rate: f64) -> String {
    let [least, most] = training_seconds(plan, matmul_rate).map(duration);
    format!("{least} to {most} of training (matrix products here: {})", flops_per_second(matmul_rate))
}

fn tasks(tasks: &[TaskPlan]) -> Table {
    let mut table = Table::new(["task", "rows", "tokens", "supervised", "too long", "eval rows"]);
    for task in tasks {
        table.row([
            shorten(&task.name, 24),
            grouped(task.train_rows),
            count(task.train_tokens as f64),
            count(task.supervised_tokens as f64),
            grouped(task.long_rows),
            task.eval_rows.map_or("-".to_owned(), grouped),
        ]);
    }
    table
}

fn measures(measures: &[MeasurePlan]) -> Table {
    let mut table = Table::new(["measured only", "rows", "tokens", "supervised", "too long"]);
    for MeasurePlan { name, rows, .. } in measures {
        table.row([
            shorten(name, 24),
            grouped((rows.rows - rows.skipped) as u64),
            count(rows.tokens as f64),
            count(rows.supervised_tokens as f64),
            grouped(rows.longer as u64),
        ]);
    }
    table
}

/// What the files of every task and measure hold: lengths of rows before they are cut, the share that is cut or left out, rows that
/// occur twice, and rows of `eval` that are trained on.
fn data(plan: &Plan) -> Table {
    let mut table = Table::new([
        "data",
        "rows",
        "supervised",
        "median",
        "95 %",
        "longest",
        "too long",
        "twice",
        "in train",
    ]);
    let of_tasks = plan.tasks.iter().flat_map(|task| {
        [(&task.name, "train", task.train.as_ref()), (&task.name, "eval", task.eval.as_ref())]
    });
    let of_measures = plan.measures.iter().map(|measure| (&measure.name, "eval", Some(&measure.rows)));
    for (name, part, summary) in of_tasks.chain(of_measures) {
        let Some(summary) = summary else { continue };
        let also_trained = if part == "eval" { grouped(summary.also_trained as u64) } else { "-".to_owned() };
        table.row([
            format!("{} {part}", shorten(name, 16)),
            grouped((summary.rows - summary.skipped) as u64),
            count(summary.supervised_tokens as f64),
            grouped(summary.length.median as u64),
            grouped(summary.length.p95 as u64),
            grouped(summary.length.most as u64),
            percent(summary.longer as f64 / summary.rows.max(1) as f64),
            grouped(summary.duplicates as u64),
            also_trained,
        ]);
    }
    table
}

/// The data, each training and each part of the memory: what `plan` shows beyond [`render`].
pub fn render_details(plan: &Plan) -> String {
    let mut trainings = Table::new(["training", "steps", "tokens"]);
    for training in &plan.trainings {
        trainings.row([shorten(&training.title, 48), grouped(training.steps), count(training.tokens as f64)]);
    }
    let on = if plan.measures.is_empty() { "tasks" } else { "tasks and more" };
    let mut measured = Table::new(["measured", on, "losses", "answers"]);
    for StageEvaluation { column, tasks, losses, answers, .. } in &plan.stage_evaluations {
        measured.row([column.to_string(), grouped(*tasks), grouped(*losses), grouped(*answers)]);
    }
    let mut memory = Table::new(["memory", "bytes", "share"]);
    let total = plan.memory_bytes();
    for part in &plan.memory {
        let share = format!("{:.0} %", 100.0 * part.bytes as f64 / total.max(1) as f64);
        memory.row([shorten(&part.name, 48), bytes(part.bytes), share]);
    }
    memory.summary(["all".to_owned(), bytes(total)]);
    let mut ranks = Table::new(["rank", "memory"]);
    for (rank, of_rank) in plan.rank_bytes.iter().enumerate() {
        ranks.row([rank.to_string(), bytes(*of_rank)]);
    }
    if !plan.rank_bytes.is_empty() {
        ranks.summary(["all".to_owned(), bytes(plan.rank_bytes.iter().sum())]);
    }
    let mut stages = Table::new(["stage", "memory", "disk", "disk after it"]);
    for StagePlan { stage, memory_bytes, disk_bytes, disk_bytes_after } in &plan.stages {
        let name = stage.name().to_owned();
        stages.row([name, bytes(*memory_bytes), bytes(*disk_bytes), bytes(*disk_bytes_after)]);
    }
    let tables = [
        (data(plan), String::new()),
        (trainings, about_epochs(plan)),
        (measured, String::new()),
        (memory, String::new()),
        (ranks, String::new()),
        (stages, String::new()),
    ];
    let tables = tables.into_iter().filter(|(table, _)| !table.rows.is_empty());
    tables.map(|(table, note)| aligned(&table) + &note).collect::<Vec<_>>().join("\n")
}

/// What epochs come to where there are several tasks.
fn about_epochs(plan: &Plan) -> String {
    if plan.tasks.len() < 2 {
        return String::new();
    }
    let epochs_of = |is_meant: fn(TrainingKind) -> bool| {
        plan.trainings.iter().filter(|training| is_meant(training.kind)).find_map(|training| training.epochs)
    };
    let mut text = String::new();
    if let Some(epochs) = epochs_of(|kind| kind == TrainingKind::Probe) {
        let _ = writeln!(
            text,
            "All probes have the mean of the steps that epochs = {epochs} takes of each task."
        );
    }
    if epochs_of(|kind| kind != TrainingKind::Probe).is_some() && !matches!(plan.method, Method::Sequential) {
        text.push_str("An epoch of several tasks has as many rows as all; [mixture] divides them.\n");
    }
    text
}
