//! The rows of the table: every method and every ablation, as settings that differ from the recipe.

use super::results::{Budget, BudgetSteps, RowKind};
use crate::error::{Error, Result};
use crate::settings::{Recipe, Stage};

/// One row: what is run for every seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Short name.
    pub name: String,
    /// For a person, one line.
    pub title: String,
    /// Method or ablation.
    pub kind: RowKind,
    /// What an ablation is about; empty for methods.
    pub family: String,
    /// Under which budgets it counts.
    pub budgets: Vec<Budget>,
    /// Optimizer steps of all specialists it begins with; 0 when it begins with the base.
    pub specialist_steps: u64,
    /// Optimizer steps after the specialists, or in all.
    pub steps: u64,
    /// Settings that differ from the recipe, as `--set` takes them.
    pub settings: Vec<String>,
    /// Of these the settings that the specialists differ by.
    pub specialist_settings: Vec<String>,
    /// The stage it ends after; none for all.
    pub until: Option<Stage>,
}

impl Row {
    /// Column of the job's report that holds its scores.
    pub fn column(&self) -> &'static str {
        if self.until == Some(Stage::Fuse) { "fused" } else { "final" }
    }
}

/// Which rows are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Names of methods; all when empty.
    pub methods: Vec<String>,
    /// Families of ablations; `all` for every one.
    pub ablations: Vec<String>,
}

/// Fine-tuning methods that begin with the base, by their recipe name.
const FINE_TUNES: [(&str, &str); 5] = [
    ("joint", "all tasks mixed"),
    ("sequential", "one task after the other"),
    ("staged", "one group of tasks after the other"),
    ("replay", "most tasks mixed, then the last with rows of the others"),
    ("half", "all tasks mixed, another random half frozen every round"),
];

/// Merges: name, what it is, settings.
const MERGES: [(&str, &str, &[&str]); 6] = [
    ("average", "mean of the specialists", &["fuse.backbone=average", "fuse.transplant=false"]),
    (
        "arithmetic",
        "task arithmetic, λ = 0.4",
        &["fuse.backbone=arithmetic", "fuse.transplant=false", "fuse.scale=0.4"],
    ),
    (
        "ties",
        "TIES, density 0.2, λ = 1",
        &["fuse.backbone=ties", "fuse.transplant=false", "fuse.density=0.2", "fuse.scale=1.0"],
    ),
    (
        "dare",
        "DARE, drop rate 0.9, λ = 0.4",
        &["fuse.backbone=dare", "fuse.transplant=false", "fuse.density=0.1", "fuse.scale=0.4"],
    ),
    (
        "dare-ties",
        "DARE joined as TIES, drop rate 0.9, λ = 1",
        &["fuse.backbone=dare-ties", "fuse.transplant=false", "fuse.density=0.1", "fuse.scale=1.0"],
    ),
    (
        "stitch",
        "localize-and-stitch: base and every core, shared coordinates averaged",
        &["fuse.backbone=base", "fuse.transplant=true", "fuse.conflict=mean"],
    ),
];

/// Cores transplanted into DARE's merge instead of the SLERP fold.
const CORES_IN_DARE: [&str; 3] = ["fuse.backbone=dare", "fuse.density=0.1", "fuse.scale=0.4"];

/// CPI-FT with one choice changed: family, name, what it is, settings.
const ABLATIONS: [(&str, &str, &str, &[&str]); 32] = [
    ("cores", "cores=random", "random cores", &["probe.importance=random"]),
    ("cores", "cores=inverse", "the least important parameters as cores", &["probe.importance=inverse"]),
    ("cores", "transplant=false", "cores frozen but not transplanted", &["fuse.transplant=false"]),
    ("importance", "importance=path", "importance by the length of the way", &["probe.importance=path"]),
    ("importance", "importance=fisher", "importance by squared gradients", &["probe.importance=fisher"]),
    ("fusion", "interpolation=lerp", "LERP instead of SLERP", &["fuse.interpolation=lerp"]),
    ("fusion", "space=weights", "SLERP of the weights", &["fuse.space=weights"]),
    ("fusion", "space=delta", "SLERP of the updates", &["fuse.space=delta"]),
    ("fusion", "backbone=base", "cores in the base, nothing else fused", &["fuse.backbone=base"]),
    ("fusion", "backbone=last", "cores in the last task's model", &["fuse.backbone=last"]),
    (
        "fusion",
        "backbone=arithmetic",
        "cores in task arithmetic, λ = 0.4",
        &["fuse.backbone=arithmetic", "fuse.scale=0.4"],
    ),
    (
        "fusion",
        "backbone=ties",
        "cores in TIES, density 0.2, λ = 1",
        &["fuse.backbone=ties", "fuse.density=0.2", "fuse.scale=1.0"],
    ),
    ("fusion", "backbone=dare", "cores in DARE, drop rate 0.9, λ = 0.4", &CORES_IN_DARE),
    ("freezing", "frozen=none", "nothing frozen", &["integrate.frozen=none"]),
    ("freezing", "frozen=prior", "cores of earlier groups frozen", &["integrate.frozen=prior"]),
    ("freezing", "frozen=others", "cores of all other groups frozen", &["integrate.frozen=others"]),
    ("freezing", "frozen=all", "all cores frozen", &["integrate.frozen=all"]),
    ("freezing", "frozen=half", "a random half frozen, another in every part", &["integrate.frozen=half"]),
    ("data", "data=mixed", "all tasks in every part of stage 4", &["integrate.data=mixed"]),
    ("data", "data=group", "only the part's group in stage 4", &["integrate.data=group"]),
    ("grouping", "one group", "no grouping: all tasks in one group", &["group.threshold=0"]),
    ("grouping", "all alone", "every task a group of its own", &["group.threshold=1.5"]),
    ("fraction", "fraction=0.001", "cores of 0.1 %", &["core.fraction=0.001"]),
    ("fraction", "fraction=0.01", "cores of 1 %", &["core.fraction=0.01"]),
    ("fraction", "fraction=0.05", "cores of 5 %", &["core.fraction=0.05"]),
    ("fraction", "fraction=0.2", "cores of 20 %", &["core.fraction=0.2"]),
    ("threshold", "threshold=0.005", "groups from an overlap of 0.005 on", &["group.threshold=0.005"]),
    ("threshold", "threshold=0.02", "groups from an overlap of 0.02 on", &["group.threshold=0.02"]),
    ("threshold", "threshold=0.1", "groups from an overlap of 0.1 on", &["group.threshold=0.1"]),
    ("threshold", "threshold=0.3", "groups from an overlap of 0.3 on", &["group.threshold=0.3"]),
    ("order", "order=given", "groups in the order of the recipe", &["group.order=given"]),
    ("order", "order=shuffled", "groups in an order of the seed", &["group.order=shuffled"]),
];

/// Families that are made rather than listed.
const MADE_FAMILIES: [&str; 4] = ["stage 4", "split", "scale", "learning-rate"];

/// Steps of a probe in the family `split`, as one part of so many of the recipe's: what the probes leave of
/// the total goes to stage 4.
const PROBE_PARTS: [u64; 3] = [2, 4, 8];

/// Forms of the family `split`: name, what it is, settings.
const SPLITS: [(&str, &str, &[&str]); 3] = [
    ("split", "CPI-FT as the recipe has it", &[]),
    ("split-delta", "SLERP of the updates", &["fuse.space=delta"]),
    ("split-half", "a random half frozen, another in every part", &["integrate.frozen=half"]),
];

/// λ of the merges in the family `scale`.
const SCALES: [f64; 5] = [0.2, 0.4, 0.7, 1.0, 1.5];

/// Factors of the recipe's learning rate in the family `learning-rate`.
const RATE_FACTORS: [f64; 3] = [0.5, 2.0, 4.0];

/// Names of all methods.
pub fn method_names() -> Vec<String> {
    let fine_tunes = FINE_TUNES.iter().map(|(name, _)| (*name).to_owned());
    let merges = MERGES.iter().flat_map(|(name, ..)| [(*name).to_owned(), format!("{name}+tune")]);
    ["cpift", "cpift-delta", "cpift-dare"]
        .map(str::to_owned)
        .into_iter()
        .chain(fine_tunes)
        .chain(merges)
        .collect()
}

/// Names of all families of ablations, as the command line takes them.
pub fn family_names() -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in ABLATIONS.iter().map(|(family, ..)| *family).chain(MADE_FAMILIES) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// The rows of the table in its order.
///
/// # Errors
/// A method or family that does not exist, or that the recipe rules out.
pub fn rows(recipe: &Recipe, steps: BudgetSteps, selection: &Selection) -> Result<Vec<Row>> {
    for (argument, wanted, known) in [
        ("--methods", &selection.methods, method_names()),
        ("--ablations", &selection.ablations, [family_names(), vec!["all".to_owned()]].concat()),
    ] {
        if let Some(name) = wanted.iter().find(|name| !known.contains(name)) {
            let reason = format!("there is no `{name}`: use {}", known.join(", "));
            return Err(Error::setting(argument, reason));
        }
    }
    let mut rows = methods(steps);
    rows.retain(|row| selection.methods.is_empty() || selection.methods.contains(&row.name));
    let all = selection.ablations.iter().any(|family| family == "all");
    let brings_model = recipe.task.iter().any(|task| task.model.is_some());
    let mut ablations = ablations(recipe, steps);
    ablations.retain(|row| !brings_model || row.specialist_settings.is_empty());
    let has_rows = |family: &str| family == "all" || ablations.iter().any(|row| row.family == family);
    if let Some(family) = selection.ablations.iter().find(|family| !has_rows(family)) {
        let reason =
            format!("`{family}` needs probes of its own, and a task brings an existing model: leave it out");
        return Err(Error::setting("--ablations", reason));
    }
    rows.extend(ablations.into_iter().filter(|row| all || selection.ablations.contains(&row.family)));
    Ok(rows)
}

fn methods(steps: BudgetSteps) -> Vec<Row> {
    let mut rows = vec![
        cpift("cpift", "CPI-FT as the recipe has it", &[], steps),
        cpift("cpift-delta", "CPI-FT, SLERP of the updates", &["fuse.space=delta"], steps),
        cpift("cpift-dare", "CPI-FT, cores in DARE (drop rate 0.9, λ = 0.4)", &CORES_IN_DARE, steps),
    ];
    for (name, title) in FINE_TUNES {
        for (budget, steps) in [(Budget::Total, steps.total), (Budget::Given, steps.given)] {
            rows.push(fine_tune(name, title, budget, steps));
        }
    }
    for (name, title, settings) in MERGES {
        let merge = cpift(name, title, settings, steps);
        rows.push(Row { steps: 0, until: Some(Stage::Fuse), ..merge.clone() });
        rows.push(Row {
            name: format!("{name}+tune"),
            title: format!("{title}; then stage 4 with nothing frozen"),
            settings: [merge.settings.clone(), vec!["integrate.frozen=none".to_owned()]].concat(),
            ..merge
        });
    }
    rows
}

fn ablations(recipe: &Recipe, steps: BudgetSteps) -> Vec<Row> {
    let ablation = |family: &str, row: Row| Row { kind: RowKind::Ablation, family: family.to_owned(), ..row };
    let mut rows = Vec::new();
    for (family, name, title, settings) in ABLATIONS {
        let mut row = ablation(family, cpift(name, title, settings, steps));
        if family == "importance" {
            row.specialist_settings = row.settings.clone();
        }
        rows.push(row);
    }
    let unfinished = cpift("no stage 4", "fused, and nothing after", &[], steps);
    rows.push(ablation("stage 4", Row { steps: 0, until: Some(Stage::Fuse), ..unfinished }));
    let splits = splits(recipe, steps);
    let shortest = &splits[splits.len().saturating_sub(SPLITS.len())..];
    rows.extend(splits.iter().cloned().map(|row| ablation("split", row)));
    for (name, title, settings) in MERGES.iter().filter(|(_, _, settings)| settings.iter().any(is_scale)) {
        for scale in SCALES {
            let title = format!("{}, λ = {scale}", title.split(", λ").next().unwrap_or(title));
            let mut row = cpift(&format!("{name} λ={scale}"), &title, settings, steps);
            row.settings.retain(|setting| !is_scale(&setting.as_str()));
            row.settings.push(format!("fuse.scale={scale:?}"));
            rows.push(ablation("scale", Row { steps: 0, until: Some(Stage::Fuse), ..row }));
        }
    }
    for factor in RATE_FACTORS {
        let rate = factor * recipe.integrate.training.learning_rate;
        let settings = format!("integrate.learning_rate={rate:?}");
        let title = format!("CPI-FT, learning rate of stage 4 × {factor}");
        let row = cpift(&format!("cpift rate×{factor}"), &title, &[&settings], steps);
        rows.push(ablation("learning-rate", row));
        for row in shortest {
            let mut row = row.clone();
            row.name.push_str(&format!(" rate×{factor}"));
            row.title.push_str(&format!("; learning rate of stage 4 × {factor}"));
            row.settings.push(settings.clone());
            rows.push(ablation("learning-rate", row));
        }
        for (name, title) in FINE_TUNES {
            for (budget, steps) in [(Budget::Total, steps.total), (Budget::Given, steps.given)] {
                let mut row = fine_tune(name, &format!("{title}, learning rate × {factor}"), budget, steps);
                row.name = format!("{name} rate×{factor}");
                row.settings.push(format!("train.learning_rate={:?}", factor * recipe.train.learning_rate));
                rows.push(ablation("learning-rate", row));
            }
        }
    }
    rows
}

/// CPI-FT with shorter probes and a longer stage 4 on all rows, at the same total: every form for every length, the
/// shortest last. None where a task brings an existing model, which is not shortened.
fn splits(recipe: &Recipe, steps: BudgetSteps) -> Vec<Row> {
    if recipe.task.iter().any(|task| task.model.is_some()) {
        return Vec::new();
    }
    let mut lengths: Vec<u64> = PROBE_PARTS.iter().map(|part| (steps.specialist / part).max(1)).collect();
    lengths.dedup();
    let of_length =
        |probe| SPLITS.map(|(name, title, settings)| split(name, title, settings, probe, recipe, steps));
    lengths.into_iter().flat_map(of_length).collect()
}

fn split(name: &str, title: &str, settings: &[&str], probe: u64, recipe: &Recipe, steps: BudgetSteps) -> Row {
    let specialist_steps = recipe.task.len() as u64 * probe;
    let stage_4 = steps.total - specialist_steps;
    let probes = format!("probe.steps={probe}");
    let split = [probes.clone(), format!("integrate.steps={stage_4}"), "integrate.sample=1.0".to_owned()];
    let title = format!("probes of {probe} steps, then stage 4 on all rows; {title}");
    let row = cpift(&format!("{name} {probe}"), &title, settings, steps);
    Row {
        settings: [split.to_vec(), row.settings].concat(),
        specialist_settings: vec![probes],
        specialist_steps,
        steps: stage_4,
        budgets: vec![Budget::Total],
        ..row
    }
}

fn is_scale(setting: &&str) -> bool {
    setting.starts_with("fuse.scale=")
}

/// A row that goes through the stages of CPI-FT: its runs count under both budgets.
fn cpift(name: &str, title: &str, settings: &[&str], steps: BudgetSteps) -> Row {
    Row {
        name: name.to_owned(),
        title: title.to_owned(),
        kind: RowKind::Method,
        family: String::new(),
        budgets: vec![Budget::Total, Budget::Given],
        specialist_steps: steps.total - steps.given,
        steps: steps.given,
        settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
        specialist_settings: Vec::new(),
        until: None,
    }
}

/// A row that fine-tunes the base. `staged` takes its groups from the specialists, which are not charged to it:
/// a person would make the groups by hand.
fn fine_tune(method: &str, title: &str, budget: Budget, steps: u64) -> Row {
    Row {
        name: method.to_owned(),
        title: title.to_owned(),
        kind: RowKind::Method,
        family: String::new(),
        budgets: vec![budget],
        specialist_steps: 0,
        steps,
        settings: vec![format!("method={method}"), format!("train.steps={steps}")],
        specialist_settings: Vec::new(),
        until: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: BudgetSteps = BudgetSteps { specialist: 60, total: 360, given: 60 };

    #[test]
    fn every_method_has_the_steps_of_its_budget() {
        for row in methods(STEPS) {
            for budget in &row.budgets {
                let (all, most) = match budget {
                    Budget::Total => (row.specialist_steps + row.steps, STEPS.total),
                    Budget::Given => (row.steps, STEPS.given),
                };
                let is_merge_alone = row.until == Some(Stage::Fuse);
                assert!(
                    if is_merge_alone { all < most } else { all == most },
                    "{}: {all} of {most}",
                    row.name
                );
            }
        }
    }

    #[test]
    fn names_are_unique_within_a_budget() {
        let rows = methods(STEPS);
        for budget in [Budget::Total, Budget::Given] {
            let mut names: Vec<_> =
                rows.iter().filter(|row| row.budgets.contains(&budget)).map(|row| &row.name).collect();
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count);
        }
        let mut names: Vec<String> = rows.into_iter().map(|row| row.name).collect();
        names.dedup();
        assert_eq!(names, method_names());
    }
}
