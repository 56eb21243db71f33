//! The table of a comparison, for a terminal and as Markdown.

use cpift_model::compare::results::{Budget, Comparison, Forgetting, Interval, MethodResult, Reference};
use cpift_model::progress::{Score, perplexity_text};
use cpift_model::table::Table;

use super::losses::losses_table;
use super::style::Style;
use super::table::{aligned, shorten};
use super::units::{bytes, duration, grouped};

/// The comparison as text for a terminal.
pub fn render(comparison: &Comparison, style: Style) -> String {
    let mut text = String::new();
    for mut table in tables(comparison) {
        table.head.iter_mut().flatten().for_each(|(heading, _)| *heading = shorten(heading, 26));
        text.push_str(&format!("\n{}\n{}", style.bold(&table.caption), aligned(&table)));
    }
    format!("{text}\n{}\n", legend(comparison))
}

/// The comparison as Markdown.
pub fn markdown(comparison: &Comparison) -> String {
    let section = |table: Table| format!("## {}\n\n{}\n", table.caption, table.markdown());
    let text: String = tables(comparison).into_iter().map(section).collect();
    text + &legend(comparison) + "\n"
}

fn legend(comparison: &Comparison) -> String {
    let intervals = if comparison.seeds.len() > 1 {
        format!("means over the seeds {:?} ± half a 95 % interval", comparison.seeds)
    } else {
        format!("one seed, {}: there are no intervals", comparison.seeds[0])
    };
    format!(
        "Cells of tasks: rows answered {} in % / loss in nats per supervised token. Normalised: base 0, own \
         specialist 1; to {}: the difference in it with the same seed; worst: the task where it is least. Of losses \
         less is better, also in differences, and the worst task is the one that lost most against the base. \
         {intervals}. Time and memory are of what follows the specialists, a run's own process. \
         {}, {} parameters.",
        answered(comparison),
        comparison.against,
        comparison.origin.device,
        grouped(comparison.origin.parameters)
    )
}

/// How rows are answered that count.
fn answered(comparison: &Comparison) -> String {
    match comparison.score_title() {
        "exact" => "exactly".to_owned(),
        "score" => "right by each task’s score".to_owned(),
        kind => format!("right by the score `{kind}`"),
    }
}

fn tables(comparison: &Comparison) -> Vec<Table> {
    let steps = &comparison.steps;
    let mut tables = vec![references(comparison)];
    for (budget, title) in [
        (Budget::Total, format!("Equal steps in all: {}", grouped(steps.total))),
        (Budget::Given, format!("Specialists given: {} steps after them", grouped(steps.given))),
    ] {
        let rows = comparison.rows_under(budget);
        if !rows.is_empty() {
            tables.push(methods_table(comparison, &title, budget, &rows));
            tables.push(losses_table(comparison, &title, budget, &rows));
        }
    }
    tables.push(perplexities(comparison, &comparison.methods.iter().collect::<Vec<_>>()));
    tables.extend(measures_table(comparison, &comparison.methods.iter().collect::<Vec<_>>()));
    tables.extend(comparison.forgetting.as_ref().map(forgetting));
    tables.extend(overlaps(comparison));
    tables.extend(comparison.probe_lengths.iter().flat_map(super::probe_lengths::tables));
    tables
}

fn task_headings(comparison: &Comparison, first: &str) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(comparison.task_titles()).collect()
}

/// Base and specialists, mean over the seeds.
fn references(comparison: &Comparison) -> Table {
    let row = |name: &str, specialist: bool| {
        let cell = |task: usize| {
            let scores: Vec<_> = comparison
                .references
                .iter()
                .map(|reference| if specialist { reference.specialist[task] } else { reference.base[task] })
                .collect();
            let loss = Interval::of_all(scores.iter().map(|score| Some(score.loss)));
            let share = Interval::of_all(scores.iter().map(Score::share));
            loss.map_or("-".to_owned(), |loss| cell(&loss, share.as_ref()))
        };
        std::iter::once(name.to_owned()).chain((0..comparison.tasks.len()).map(cell)).collect()
    };
    let mut table = Table::captioned(
        format!("Base and specialists ({} steps each)", comparison.steps.specialist),
        task_headings(comparison, "model"),
    );
    table.rows = vec![row("base", false), row("own specialist", true)];
    table
}

fn methods_table(comparison: &Comparison, title: &str, budget: Budget, methods: &[&MethodResult]) -> Table {
    let mut headings = task_headings(comparison, "method");
    headings.insert(1, "steps".to_owned());
    let against = format!("to {}", comparison.against);
    headings.extend(
        [comparison.score_title(), "normalised", &against, "worst", "worst task", "time", "memory"]
            .map(str::to_owned),
    );
    let row = |method: &&MethodResult| {
        let summary = &method.summary;
        let mut cells = vec![method.name.clone(), grouped(method.steps_under(budget))];
        cells.extend(summary.tasks.iter().map(|task| cell(&task.loss, task.share().as_ref())));
        cells.push(summary.mean_share().map_or("-".to_owned(), percent));
        cells
            .push(summary.mean_normalised.map_or("-".to_owned(), |interval| with_interval(interval, 1.0, 3)));
        cells.push(comparison.difference(method, budget).map_or("-".to_owned(), difference));
        cells.push(
            summary.worst_normalised.map_or("-".to_owned(), |interval| with_interval(interval, 1.0, 3)),
        );
        cells.push(summary.worst_task.map_or("-".to_owned(), |task| comparison.tasks[task].clone()));
        cells.push(duration(summary.seconds.mean));
        cells.push(summary.peak_memory_bytes.map_or("-".to_owned(), bytes));
        cells
    };
    let mut table = Table::captioned(title, headings);
    table.rows = methods.iter().map(row).collect();
    table
}

/// The perplexity of base, specialists and some methods on every task: of the mean loss over the seeds.
pub fn perplexities(comparison: &Comparison, methods: &[&MethodResult]) -> Table {
    let mut headings = task_headings(comparison, "model");
    headings.insert(1, "steps".to_owned());
    let mut table = Table::captioned("Perplexity, of the mean loss over the seeds", headings);
    let text = |loss: f64| perplexity_text(loss.exp());
    let mut reference = |name: &str, steps: u64, scores: fn(&Reference) -> &[Score]| {
        let cell = |task: usize| {
            let losses = comparison.references.iter().map(|seed| Some(scores(seed)[task].loss));
            Interval::of_all(losses).map_or("-".to_owned(), |loss| text(loss.mean))
        };
        let cells = (0..comparison.tasks.len()).map(cell);
        table.row([name.to_owned(), grouped(steps)].into_iter().chain(cells));
    };
    reference("base", 0, |seed| &seed.base);
    reference("own specialist", comparison.steps.specialist, |seed| &seed.specialist);
    for method in methods {
        let losses = method.summary.tasks.iter().map(|task| text(task.loss.mean));
        let steps = grouped(method.specialist_steps + method.steps);
        table.row([method.name.clone(), steps].into_iter().chain(losses));
    }
    table
}

/// What some methods cost in what is measured only: losses and scores less those of the base, mean over the seeds; none
/// where nothing is measured only.
pub fn measures_table(comparison: &Comparison, methods: &[&MethodResult]) -> Option<Table> {
    if comparison.measures.is_empty() {
        return None;
    }
    let bases = |measure: usize| comparison.references.iter().map(move |seed| &seed.measures[measure]);
    let mut headings = vec!["model".to_owned(), "steps".to_owned()];
    let mut base = vec!["base".to_owned(), "0".to_owned()];
    let mut answered = Vec::new();
    for (measure, name) in comparison.measures.iter().enumerate() {
        headings.push(format!("{name}: loss"));
        let loss = Interval::of_all(bases(measure).map(|score| Some(score.loss)));
        base.push(loss.map_or("-".to_owned(), |loss| format!("{:.4}", loss.mean)));
        let share = Interval::of_all(bases(measure).map(Score::share));
        answered.push(share.is_some());
        if let Some(share) = share {
            let kind = bases(measure).next().map(|score| score.score_kind).unwrap_or_default();
            headings.push(format!("{name}: {}", kind.name()));
            base.push(format!("{:.1} %", 100.0 * share.mean));
        }
    }
    let caption = "What no task asks for: the base, and the change against it with the same seed";
    let mut table = Table::captioned(caption, headings);
    table.row(base);
    for method in methods {
        let mut row = vec![method.name.clone(), grouped(method.specialist_steps + method.steps)];
        for (change, answered) in method.summary.measures.iter().zip(&answered) {
            row.push(signed(change.loss_change, 1.0, 4));
            if *answered {
                let change = change.score_change;
                row.push(change.map_or("-".to_owned(), |change| signed(change, 100.0, 1)));
            }
        }
        table.row(row);
    }
    Some(table)
}

fn forgetting(forgetting: &Forgetting) -> Table {
    let mut table = Table::captioned(
        format!(
            "Two tasks one after the other, {} steps each: change in points while the second is learnt",
            forgetting.second_steps
        ),
        ["method", "on the first", "on the second", "how"],
    );
    for method in &forgetting.methods {
        let [first, second] = [method.first_change, method.second_change].map(percent);
        table.row([method.name.clone(), first, second, method.title.clone()]);
    }
    table
}

fn overlaps(comparison: &Comparison) -> Option<Table> {
    let overlaps = comparison.overlaps.as_ref()?;
    let mut table = Table::captioned(
        format!("Overlap of cores that ought to agree (chance {:.4})", overlaps.chance),
        task_headings(comparison, "cores"),
    );
    let mut add = |name: String, of_task: &dyn Fn(usize) -> Vec<f64>| {
        let cell = |task: usize| {
            Interval::of(&of_task(task)).map_or("-".to_owned(), |jaccard| format!("{:.3}", jaccard.mean))
        };
        table.row(std::iter::once(name).chain((0..comparison.tasks.len()).map(cell)));
    };
    let mut kinds: Vec<&String> = overlaps.importance.iter().map(|overlap| &overlap.importance).collect();
    kinds.dedup();
    kinds.sort();
    kinds.dedup();
    for kind in kinds {
        let of = |task: usize| {
            let same = |overlap: &&cpift_model::compare::results::ImportanceOverlap| {
                overlap.task == task && overlap.importance == *kind
            };
            overlaps.importance.iter().filter(same).map(|overlap| overlap.jaccard).collect()
        };
        add(format!("the recipe’s and {kind}"), &of);
    }
    if !overlaps.seeds.is_empty() {
        add("two seeds".to_owned(), &|task| {
            overlaps
                .seeds
                .iter()
                .filter(|overlap| overlap.task == task)
                .map(|overlap| overlap.jaccard)
                .collect()
        });
    }
    Some(table)
}

/// Share answered right in percent and loss; the loss alone where nothing is answered.
fn cell(loss: &Interval, share: Option<&Interval>) -> String {
    match share {
        Some(share) => format!("{:.1} / {:.3}", 100.0 * share.mean, loss.mean),
        None => format!("{:.3}", loss.mean),
    }
}

fn percent(interval: Interval) -> String {
    with_interval(interval, 100.0, 1)
}

/// A difference of normalised scores, with its sign.
fn difference(interval: Interval) -> String {
    signed(interval, 1.0, 3)
}

/// A difference with its sign, as [`with_interval`] has it.
pub fn signed(interval: Interval, factor: f64, digits: usize) -> String {
    let text = with_interval(interval, factor, digits);
    if interval.mean > 0.0 { format!("+{text}") } else { text }
}

/// A mean with half its interval, times `factor`.
pub fn with_interval(interval: Interval, factor: f64, digits: usize) -> String {
    let mean = format!("{:.digits$}", factor * interval.mean);
    match interval.half_width {
        Some(half) => format!("{mean} ± {:.digits$}", factor * half),
        None => mean,
    }
}
