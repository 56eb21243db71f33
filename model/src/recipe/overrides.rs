//! `--set key=value`.

use toml::de::DeValue;
use toml::{Table, Value};

use super::fault::nearest;
use super::numbers::{TooLarge, too_large};
use super::origins::Origins;
use super::shape::keys_of;
use crate::error::{Error, Result};

/// Puts one `key=value` into the recipe.
///
/// The key is `seed`, `train.steps`, `task[0].weight`, `task.NAME.weight` or `task.NAME.columns.prompt`, likewise of a `measure`; the
/// value is TOML, and a bare word is a string. A length (`epochs` or `steps`) replaces the other one of its section.
///
/// # Errors
/// [`Error::Setting`] naming the assignment.
pub fn apply(assignment: &str, table: &mut Table, origins: &mut Origins) -> Result<()> {
    apply_in("", assignment, table, origins)
}

/// The same for a key that is given without the section it lies in, whose name is `prefix`.
pub fn apply_in(prefix: &str, assignment: &str, table: &mut Table, origins: &mut Origins) -> Result<()> {
    let refuse = |reason: &str| Error::setting(format!("--set {assignment}"), reason);
    let (key, text) =
        assignment.split_once('=').ok_or_else(|| refuse("has no `=`: write --set section.key=value"))?;
    let key = key.trim();
    let value = parse_value(text.trim()).map_err(|reason| refuse(&reason))?;
    if key.is_empty() || key.ends_with('.') || key.starts_with('.') {
        return Err(refuse("has no key: write --set section.key=value"));
    }
    let key = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    let (section_key, field) = key.rsplit_once('.').unwrap_or(("", &key));
    for (list, example) in [("task", "weight=2"), ("measure", "eval_limit=100")] {
        if section_key == list || field.starts_with(&format!("{list}[")) {
            return Err(refuse(&format!(
                "names a whole {list}: write --set with one of its keys, as in `{list}[0].{example}`"
            )));
        }
    }
    let (section_key, section) = find_section(section_key, table).map_err(|reason| refuse(&reason))?;
    assign(section, field, value);
    let full = if section_key.is_empty() { field.to_owned() } else { format!("{section_key}.{field}") };
    origins.set(&full, assignment);
    Ok(())
}

/// Sets a key of a section; a length (`epochs` or `steps`) replaces the other one.
pub fn assign(section: &mut Table, key: &str, value: Value) {
    match key {
        "epochs" => drop(section.remove("steps")),
        "steps" => drop(section.remove("epochs")),
        _ => {}
    }
    section.insert(key.to_owned(), value);
}

/// The section a key lies in, with its name as [`Origins`] knows it (`task[2]`, never `task.sort`).
fn find_section<'a>(key: &str, table: &'a mut Table) -> std::result::Result<(String, &'a mut Table), String> {
    if key.is_empty() {
        return Ok((String::new(), table));
    }
    for list in ["task", "measure"] {
        let after = key.strip_prefix(list);
        if let Some(item) = after.and_then(|rest| rest.strip_prefix(['.', '['])) {
            return find_item(list, item, table);
        }
    }
    if let Some((section, _)) = key.split_once('.').filter(|(section, _)| !keys_of(section).is_empty()) {
        return Err(format!("`{key}` is not a section: write --set {section}.key=value"));
    }
    Ok((key.to_owned(), section_of(table, key)?))
}

/// The section of a task or measure, or one inside it: `list` says which, `item` is the rest of the key.
fn find_item<'a>(
    list: &str,
    item: &str,
    table: &'a mut Table,
) -> std::result::Result<(String, &'a mut Table), String> {
    let items = table.get_mut(list).and_then(Value::as_array_mut);
    let items = items.ok_or_else(|| format!("there is no [[{list}]] in the recipe"))?;
    // A name may have points itself.
    let whole = item_index(item, items).map(|index| (index, None));
    let of_nested = || {
        let mut parts = item.rmatch_indices('.').map(|(point, _)| item.split_at(point));
        parts.find_map(|(item, nested)| Some((item_index(item, items)?, Some(&nested[1..]))))
    };
    let missing = || format!("there is no such {list}: the recipe has {}", describe_items(list, items));
    let (index, nested) = whole.or_else(of_nested).ok_or_else(missing)?;
    let is_section = |name: &&str| !keys_of(&format!("{list}.{name}")).is_empty();
    if let Some(nested) = nested.filter(|nested| !is_section(nested)) {
        let sections = keys_of(list).iter().map(String::as_str).filter(is_section);
        let near = nearest(nested, sections);
        let hint = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
        return Err(format!("`{nested}` is not a section of a {list}{hint}"));
    }
    let section = items[index].as_table_mut().ok_or_else(|| format!("`{list}` is not a list of sections"))?;
    let name = format!("{list}[{index}]");
    match nested {
        None => Ok((name, section)),
        Some(nested) => Ok((format!("{name}.{nested}"), section_of(section, nested)?)),
    }
}

/// The section of this name in a table, made where there is none.
fn section_of<'a>(table: &'a mut Table, key: &str) -> std::result::Result<&'a mut Table, String> {
    let entry = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
    entry.as_table_mut().ok_or_else(|| format!("`{key}` is not a section"))
}

/// Index of a task or measure by its name, or by `2]`, behind `task[`.
fn item_index(item: &str, items: &[Value]) -> Option<usize> {
    match item.strip_suffix(']') {
        Some(index) => index.parse::<usize>().ok().filter(|&index| index < items.len()),
        None => items.iter().position(|entry| entry.get("name").and_then(Value::as_str) == Some(item)),
    }
}

fn describe_items(list: &str, items: &[Value]) -> String {
    let name = |(index, item): (usize, &Value)| match item.get("name").and_then(Value::as_str) {
        Some(name) => format!("{list}[{index}] = {name}"),
        None => format!("{list}[{index}]"),
    };
    items.iter().enumerate().map(name).collect::<Vec<_>>().join(", ")
}

/// TOML where it is TOML, else the text itself as a string. The error says of a number that there is none so large.
fn parse_value(text: &str) -> std::result::Result<Value, String> {
    match DeValue::parse(text).ok().and_then(|value| too_large(value.get_ref())) {
        Some(TooLarge { reason, .. }) => Err(reason),
        None => Ok(text.parse::<Value>().unwrap_or_else(|_| Value::String(text.to_owned()))),
    }
}
