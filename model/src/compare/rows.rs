//! The rows of the table: every method and every ablation, as edits of the recipe.

use super::family::Family;
use super::rates;
use super::results::{Budget, BudgetSteps, RowKind};
use crate::progress::Column;
use crate::recipe::Edit::{
    CoreFraction, FuseBackbone, FuseConflict, FuseDensity, FuseInterpolation, FuseScale, FuseSpace,
    FuseTransplant, GroupThreshold, IntegrateFrozen, ProbeImportance,
};
use crate::recipe::{
    Backbone, Conflict, Edit, Frozen, GroupOrder, ImportanceKind as Importance, IntegrateData, Interpolation,
    Method, Recipe, SlerpSpace, Stage,
};

/// One row: what is run for every seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Short name.
    pub name: String,
    /// For a person, one line.
    pub title: String,
    /// Method or ablation.
    pub kind: RowKind,
    /// What an ablation is about; none for methods.
    pub family: Option<Family>,
    /// Under which budgets it counts.
    pub budgets: Vec<Budget>,
    /// Optimizer steps of all specialists it begins with; 0 when it begins with the base.
    pub specialist_steps: u64,
    /// Optimizer steps after the specialists, or in all.
    pub steps: u64,
    /// Settings that differ from the recipe.
    pub edits: Vec<Edit>,
    /// Of these the edits that the specialists differ by.
    pub specialist_edits: Vec<Edit>,
    /// The stage it ends after; none for all.
    pub until: Option<Stage>,
}

impl Row {
    /// Whether it is an ablation of the family of that name.
    pub(super) fn is_of(&self, family: &str) -> bool {
        self.family.is_some_and(|own| own.name() == family)
    }

    /// Column of the job's report that holds its scores.
    pub fn column(&self) -> Column {
        if self.until == Some(Stage::Fuse) { Column::Fused } else { Column::Final }
    }
}

/// Fine-tuning methods that begin with the base.
pub(super) const FINE_TUNES: [(Method, &str); 5] = [
    (Method::Joint, "all tasks mixed"),
    (Method::Sequential, "one task after the other"),
    (Method::Staged, "one group of tasks after the other"),
    (Method::Replay, "most tasks mixed, then the last with rows of the others"),
    (Method::Half, "all tasks mixed, another random half frozen every round"),
];

/// Merges: name, what it is, edits.
pub(super) const MERGES: [(&str, &str, &[Edit]); 6] = [
    ("average", "mean of the specialists", &[FuseBackbone(Backbone::Average), FuseTransplant(false)]),
    (
        "arithmetic",
        "task arithmetic, λ = 0.4",
        &[FuseBackbone(Backbone::Arithmetic), FuseTransplant(false), FuseScale(0.4)],
    ),
    (
        "ties",
        "TIES, density 0.2, λ = 1",
        &[FuseBackbone(Backbone::Ties), FuseTransplant(false), FuseDensity(0.2), FuseScale(1.0)],
    ),
    (
        "dare",
        "DARE, drop rate 0.9, λ = 0.4",
        &[FuseBackbone(Backbone::Dare), FuseTransplant(false), FuseDensity(0.1), FuseScale(0.4)],
    ),
    (
        "dare-ties",
        "DARE joined as TIES, drop rate 0.9, λ = 1",
        &[FuseBackbone(Backbone::DareTies), FuseTransplant(false), FuseDensity(0.1), FuseScale(1.0)],
    ),
    (
        "stitch",
        "localize-and-stitch: base and every core, shared coordinates averaged",
        &[FuseBackbone(Backbone::Base), FuseTransplant(true), FuseConflict(Conflict::Mean)],
    ),
];

/// Cores transplanted into DARE's merge instead of the SLERP fold.
const CORES_IN_DARE: [Edit; 3] = [FuseBackbone(Backbone::Dare), FuseDensity(0.1), FuseScale(0.4)];

/// CPI-FT with one choice changed: family, name, what it is, edits.
const ABLATIONS: [(Family, &str, &str, &[Edit]); 34] = [
    (Family::Cores, "cores=random", "random cores", &[ProbeImportance(Importance::Random)]),
    (
        Family::Cores,
        "cores=inverse",
        "the least important parameters as cores",
        &[ProbeImportance(Importance::Inverse)],
    ),
    (Family::Cores, "transplant=false", "cores frozen but not transplanted", &[FuseTransplant(false)]),
    (
        Family::Importance,
        "importance=net",
        "importance by how far a parameter has moved",
        &[ProbeImportance(Importance::Net)],
    ),
    (
        Family::Importance,
        "importance=path",
        "importance by the length of the path",
        &[ProbeImportance(Importance::Path)],
    ),
    (
        Family::Importance,
        "importance=fisher",
        "importance by squared gradients",
        &[ProbeImportance(Importance::Fisher)],
    ),
    (
        Family::Importance,
        "importance=fisher-net",
        "importance by movement weighted by squared gradients",
        &[ProbeImportance(Importance::FisherNet)],
    ),
    (
        Family::Fusion,
        "interpolation=lerp",
        "LERP instead of SLERP",
        &[FuseInterpolation(Interpolation::Lerp)],
    ),
    (Family::Fusion, "space=weights", "SLERP of the weights", &[FuseSpace(SlerpSpace::Weights)]),
    (Family::Fusion, "space=delta", "SLERP of the updates", &[FuseSpace(SlerpSpace::Delta)]),
    (
        Family::Fusion,
        "backbone=base",
        "cores in the base, nothing else fused",
        &[FuseBackbone(Backbone::Base)],
    ),
    (Family::Fusion, "backbone=last", "cores in the last task's model", &[FuseBackbone(Backbone::Last)]),
    (
        Family::Fusion,
        "backbone=arithmetic",
        "cores in task arithmetic, λ = 0.4",
        &[FuseBackbone(Backbone::Arithmetic), FuseScale(0.4)],
    ),
    (
        Family::Fusion,
        "backbone=ties",
        "cores in TIES, density 0.2, λ = 1",
        &[FuseBackbone(Backbone::Ties), FuseDensity(0.2), FuseScale(1.0)],
    ),
    (Family::Fusion, "backbone=dare", "cores in DARE, drop rate 0.9, λ = 0.4", &CORES_IN_DARE),
    (Family::Freezing, "frozen=none", "nothing frozen", &[IntegrateFrozen(Frozen::None)]),
    (Family::Freezing, "frozen=prior", "cores of earlier groups frozen", &[IntegrateFrozen(Frozen::Prior)]),
    (
        Family::Freezing,
        "frozen=others",
        "cores of all other groups frozen",
        &[IntegrateFrozen(Frozen::Others)],
    ),
    (Family::Freezing, "frozen=all", "all cores frozen", &[IntegrateFrozen(Frozen::All)]),
    (
        Family::Freezing,
        "frozen=half",
        "a random half frozen, another in every part",
        &[IntegrateFrozen(Frozen::Half)],
    ),
    (
        Family::Data,
        "data=mixed",
        "all tasks in every part of stage 4",
        &[Edit::IntegrateData(IntegrateData::Mixed)],
    ),
    (
        Family::Data,
        "data=group",
        "only the part's group in stage 4",
        &[Edit::IntegrateData(IntegrateData::Group)],
    ),
    (Family::Grouping, "one group", "no grouping: all tasks in one group", &[GroupThreshold(0.0)]),
    (Family::Grouping, "all alone", "every task a group of its own", &[GroupThreshold(1.5)]),
    (Family::Fraction, "fraction=0.001", "cores of 0.1 %", &[CoreFraction(0.001)]),
    (Family::Fraction, "fraction=0.01", "cores of 1 %", &[CoreFraction(0.01)]),
    (Family::Fraction, "fraction=0.05", "cores of 5 %", &[CoreFraction(0.05)]),
    (Family::Fraction, "fraction=0.2", "cores of 20 %", &[CoreFraction(0.2)]),
    (Family::Threshold, "threshold=0.005", "groups from an overlap of 0.005 on", &[GroupThreshold(0.005)]),
    (Family::Threshold, "threshold=0.02", "groups from an overlap of 0.02 on", &[GroupThreshold(0.02)]),
    (Family::Threshold, "threshold=0.1", "groups from an overlap of 0.1 on", &[GroupThreshold(0.1)]),
    (Family::Threshold, "threshold=0.3", "groups from an overlap of 0.3 on", &[GroupThreshold(0.3)]),
    (
        Family::Order,
        "order=given",
        "groups in the order of the recipe",
        &[Edit::GroupOrder(GroupOrder::Given)],
    ),
    (
        Family::Order,
        "order=shuffled",
        "groups in an order of the seed",
        &[Edit::GroupOrder(GroupOrder::Shuffled)],
    ),
];

/// Steps of a probe in the family `split`, as one part of so many of the recipe's: what the probes leave of
/// the total goes to stage 4.
const PROBE_PARTS: [u64; 3] = [2, 4, 8];

/// Forms of the family `split`: name, what it is, edits.
const SPLITS: [(&str, &str, &[Edit]); 3] = [
    ("split", "CPI-FT as the recipe has it", &[]),
    ("split-delta", "SLERP of the updates", &[FuseSpace(SlerpSpace::Delta)]),
    ("split-half", "a random half frozen, another in every part", &[IntegrateFrozen(Frozen::Half)]),
];

/// λ of the merges in the family `scale`.
const SCALES: [f64; 5] = [0.2, 0.4, 0.7, 1.0, 1.5];

/// Every method, in the order of the table.
pub(super) fn methods(steps: BudgetSteps) -> Vec<Row> {
    let mut rows = vec![
        cpift("cpift", "CPI-FT as the recipe has it", &[], steps),
        cpift("cpift-delta", "CPI-FT, SLERP of the updates", &[FuseSpace(SlerpSpace::Delta)], steps),
        cpift("cpift-dare", "CPI-FT, cores in DARE (drop rate 0.9, λ = 0.4)", &CORES_IN_DARE, steps),
    ];
    for (method, title) in FINE_TUNES {
        for (budget, steps) in [(Budget::Total, steps.total), (Budget::Given, steps.given)] {
            rows.push(fine_tune(method, title, budget, steps));
        }
    }
    for (name, title, edits) in MERGES {
        let merge = cpift(name, title, edits, steps);
        rows.push(Row { steps: 0, until: Some(Stage::Fuse), ..merge.clone() });
        rows.push(Row {
            name: format!("{name}+tune"),
            title: format!("{title}; then stage 4 with nothing frozen"),
            edits: [&merge.edits[..], &[IntegrateFrozen(Frozen::None)]].concat(),
            ..merge
        });
    }
    rows
}

/// Every ablation, in the order of the table.
pub(super) fn ablations(recipe: &Recipe, steps: BudgetSteps) -> Vec<Row> {
    let ablation = |family: Family, row: Row| Row { kind: RowKind::Ablation, family: Some(family), ..row };
    let mut rows = Vec::new();
    for (family, name, title, edits) in ABLATIONS {
        if edits == [ProbeImportance(recipe.probe.importance)] {
            // What the recipe has anyway, as the row `cpift`.
            continue;
        }
        let mut row = ablation(family, cpift(name, title, edits, steps));
        // Random and least important cores are chosen by probes that accumulate `net`.
        let is_of_other_probes = recipe.probe.importance != Importance::Net
            && row.edits.iter().any(|edit| matches!(edit, ProbeImportance(_)));
        if family == Family::Importance || is_of_other_probes {
            row.specialist_edits = row.edits.clone();
        }
        rows.push(row);
    }
    let unfinished = cpift("no stage 4", "fused, and nothing after", &[], steps);
    rows.push(ablation(Family::StageFour, Row { steps: 0, until: Some(Stage::Fuse), ..unfinished }));
    let splits = splits(recipe, steps);
    let shortest = &splits[splits.len().saturating_sub(SPLITS.len())..];
    rows.extend(splits.iter().cloned().map(|row| ablation(Family::Split, row)));
    for (name, title, edits) in MERGES.iter().filter(|(_, _, edits)| edits.iter().any(is_scale)) {
        for scale in SCALES {
            let title = format!("{}, λ = {scale}", title.split(", λ").next().unwrap_or(title));
            let mut row = cpift(&format!("{name} λ={scale}"), &title, edits, steps);
            row.edits.retain(|edit| !is_scale(edit));
            row.edits.push(FuseScale(scale));
            rows.push(ablation(Family::Scale, Row { steps: 0, until: Some(Stage::Fuse), ..row }));
        }
    }
    rows.extend(rates::rows(recipe, steps, shortest).into_iter().map(|(family, row)| ablation(family, row)));
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
        |probe| SPLITS.map(|(name, title, edits)| split(name, title, edits, probe, recipe, steps));
    lengths.into_iter().flat_map(of_length).collect()
}

fn split(name: &str, title: &str, edits: &[Edit], probe: u64, recipe: &Recipe, steps: BudgetSteps) -> Row {
    let specialist_steps = recipe.task.len() as u64 * probe;
    let stage_4 = steps.total - specialist_steps;
    let probes = Edit::ProbeSteps(probe);
    let split = [probes, Edit::IntegrateSteps(stage_4), Edit::IntegrateSample(1.0)];
    let title = format!("probes of {probe} steps, then stage 4 on all rows; {title}");
    let row = cpift(&format!("{name} {probe}"), &title, edits, steps);
    Row {
        edits: [&split[..], &row.edits].concat(),
        specialist_edits: vec![probes],
        specialist_steps,
        steps: stage_4,
        budgets: vec![Budget::Total],
        ..row
    }
}

fn is_scale(edit: &Edit) -> bool {
    matches!(edit, FuseScale(_))
}

/// A row that goes through the stages of CPI-FT: its runs count under both budgets.
pub(super) fn cpift(name: &str, title: &str, edits: &[Edit], steps: BudgetSteps) -> Row {
    Row {
        name: name.to_owned(),
        title: title.to_owned(),
        kind: RowKind::Method,
        family: None,
        budgets: vec![Budget::Total, Budget::Given],
        specialist_steps: steps.total - steps.given,
        steps: steps.given,
        edits: edits.to_vec(),
        specialist_edits: Vec::new(),
        until: None,
    }
}

/// A row that fine-tunes the base. `staged` takes its groups from the specialists, which are not charged to it:
/// a person would make the groups by hand.
pub(super) fn fine_tune(method: Method, title: &str, budget: Budget, steps: u64) -> Row {
    Row {
        name: method.name().to_owned(),
        title: title.to_owned(),
        kind: RowKind::Method,
        family: None,
        budgets: vec![budget],
        specialist_steps: 0,
        steps,
        edits: vec![Edit::Method(method), Edit::TrainSteps(steps)],
        specialist_edits: Vec::new(),
        until: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::selection::method_names;
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
