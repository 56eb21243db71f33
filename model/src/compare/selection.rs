//! Which rows of the table are wanted, by the names of methods, families of ablations or single rows.

use super::family::Family;
use super::results::BudgetSteps;
use super::rows::{FINE_TUNES, MERGES, Row, ablations, methods};
use crate::error::{Error, Result};
use crate::recipe::Recipe;

/// Which rows are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Names of methods; all when empty.
    pub methods: Vec<String>,
    /// Families of ablations; `all` for every one.
    pub ablations: Vec<String>,
    /// Names of rows, methods and ablations alike; where there are any, they alone are run.
    pub rows: Vec<String>,
}

/// What stands for no method at all.
const NO_METHOD: &str = "none";

/// Names of all methods.
pub fn method_names() -> Vec<String> {
    let fine_tunes = FINE_TUNES.iter().map(|(method, _)| method.name().to_owned());
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
    Family::ALL.map(|family| family.name().to_owned()).to_vec()
}

/// The rows of the table in its order.
///
/// # Errors
/// A method, family or row that does not exist, or that the recipe rules out.
pub fn rows(recipe: &Recipe, steps: BudgetSteps, selection: &Selection) -> Result<Vec<Row>> {
    for (argument, wanted, known) in [
        ("--methods", &selection.methods, [method_names(), vec![NO_METHOD.to_owned()]].concat()),
        ("--ablations", &selection.ablations, [family_names(), vec!["all".to_owned()]].concat()),
    ] {
        if let Some(name) = wanted.iter().find(|name| !known.contains(name)) {
            let reason = format!("there is no `{name}`: use {}", known.join(", "));
            return Err(Error::setting(argument, reason));
        }
    }
    let other = selection.methods.iter().find(|name| *name != NO_METHOD);
    if let Some(other) = other.filter(|_| selection.methods.iter().any(|name| name == NO_METHOD)) {
        let reason = format!("`{NO_METHOD}` stands alone, not beside `{other}`");
        return Err(Error::setting("--methods", reason));
    }
    if !selection.rows.is_empty() {
        return rows_by_name(recipe, steps, &selection.rows);
    }
    let mut rows = methods(steps);
    rows.retain(|row| selection.methods.is_empty() || selection.methods.contains(&row.name));
    let all = selection.ablations.iter().any(|family| family == "all");
    let ablations = possible_ablations(recipe, steps);
    let has_rows = |family: &str| family == "all" || ablations.iter().any(|row| row.is_of(family));
    if let Some(family) = selection.ablations.iter().find(|family| !has_rows(family)) {
        let reason =
            format!("`{family}` needs probes of its own, and a task brings an existing model: leave it out");
        return Err(Error::setting("--ablations", reason));
    }
    let is_wanted = |row: &Row| selection.ablations.iter().any(|family| row.is_of(family));
    rows.extend(ablations.into_iter().filter(|row| all || is_wanted(row)));
    Ok(rows)
}

/// The rows of these names, in the table's order.
fn rows_by_name(recipe: &Recipe, steps: BudgetSteps, names: &[String]) -> Result<Vec<Row>> {
    let mut rows = [methods(steps), possible_ablations(recipe, steps)].concat();
    if let Some(name) = names.iter().find(|name| rows.iter().all(|row| row.name != **name)) {
        let mut known: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        known.dedup();
        let reason = format!("there is no row `{name}` for this recipe: use {}", known.join(", "));
        return Err(Error::setting("--rows", reason));
    }
    rows.retain(|row| names.contains(&row.name));
    Ok(rows)
}

/// The ablations, without those that need probes of their own where a task brings an existing model.
fn possible_ablations(recipe: &Recipe, steps: BudgetSteps) -> Vec<Row> {
    let brings_model = recipe.task.iter().any(|task| task.model.is_some());
    let mut rows = ablations(recipe, steps);
    rows.retain(|row| !brings_model || row.specialist_edits.is_empty());
    rows
}
