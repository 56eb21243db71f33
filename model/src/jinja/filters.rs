//! The filters of jinja2, and those that take or give lists.

use std::sync::Arc;

use super::arguments::{Arguments, flag, int, size, text};
use super::error::{Error, Result, fail};
use super::evaluate::Renderer;
use super::limits::ELEMENT;
use super::loops::{Cursor, elements};
use super::predicates;
use super::text_filters;
use super::tree::Operator;
use super::value::{Dict, Value, View};

/// A filter: what it is applied to, and its arguments.
pub(super) type Filter = fn(&Renderer<'_>, &Value, Arguments) -> Result<Value>;

/// The filter of a name.
pub(super) fn find(name: &str) -> Option<Filter> {
    Some(match name {
        "abs" => text_filters::abs,
        "attr" => attr,
        "batch" => batch,
        "count" | "length" => length,
        "d" | "default" => default,
        "dictsort" => dictsort,
        "first" => first,
        "groupby" => groupby,
        "items" => items,
        "join" => join,
        "last" => last,
        "list" => list,
        "map" => map,
        "max" => |renderer, value, arguments| extreme(renderer, value, arguments, true),
        "min" => |renderer, value, arguments| extreme(renderer, value, arguments, false),
        "random" => {
            |_, _, _| fail!("the filter `random` is not supported: the same data must give the same text")
        }
        "reject" => |renderer, value, arguments| select(renderer, value, arguments, false, false),
        "rejectattr" => |renderer, value, arguments| select(renderer, value, arguments, false, true),
        "reverse" => reverse,
        "select" => |renderer, value, arguments| select(renderer, value, arguments, true, false),
        "selectattr" => |renderer, value, arguments| select(renderer, value, arguments, true, true),
        "slice" => slice,
        "sort" => sort,
        "sum" => sum,
        "unique" => unique,
        other => return text_filters::find(other),
    })
}

fn length(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    arguments.none("length")?;
    if let Value::Loop(state) = value {
        return Ok(Value::int(state.count(&renderer.limits)?));
    }
    match Cursor::length(value) {
        Some(length) => Ok(Value::int(length)),
        None => fail!("object of type '{}' has no len()", value.kind()),
    }
}

fn default(_: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [default, boolean] = arguments.bind("default", ["default_value", "boolean"], 0)?;
    let replaced = matches!(value, Value::Undefined(_)) || (flag(boolean, false) && !value.is_true());
    Ok(if replaced { default.unwrap_or_else(|| Value::text("")) } else { value.clone() })
}

fn attr(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [name] = arguments.bind("attr", ["name"], 1)?;
    let name = text(&name.unwrap_or(Value::None))?;
    // The items of a dict are no attributes.
    match value {
        Value::Dict(_) if super::methods::method(value, &name).is_none() => {
            Ok(Value::missing(super::value::Missing::Attribute("dict object", name)))
        }
        _ => renderer.attribute(value, &name),
    }
}

fn batch(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [count, fill] = arguments.bind("batch", ["linecount", "fill_with"], 1)?;
    let count = size(&count.unwrap_or(Value::None))?;
    let fill = fill.filter(|fill| !matches!(fill, Value::None));
    let elements = elements(value, &renderer.limits)?;
    if count == 0 && !elements.is_empty() {
        fail!("batches must have at least one element");
    }
    let mut batches = Vec::new();
    for batch in elements.chunks(count.max(1)) {
        let mut batch = batch.to_vec();
        if let Some(fill) = &fill {
            renderer.limits.allocate_times(count - batch.len(), ELEMENT)?;
            batch.resize(count, fill.clone());
        }
        batches.push(Value::list(batch)?);
    }
    Value::iterator(batches, None, "generator")
}

fn slice(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [count, fill] = arguments.bind("slice", ["slices", "fill_with"], 1)?;
    let count = size(&count.unwrap_or(Value::None))?;
    let fill = fill.filter(|fill| !matches!(fill, Value::None));
    let elements = elements(value, &renderer.limits)?;
    if count == 0 {
        fail!("integer division or modulo by zero");
    }
    renderer.limits.allocate_times(count, 2 * ELEMENT)?;
    let (each, longer) = (elements.len() / count, elements.len() % count);
    let mut rest = &elements[..];
    let mut slices = Vec::new();
    for index in 0..count {
        let (part, after) = rest.split_at(each + usize::from(index < longer));
        rest = after;
        let mut part = part.to_vec();
        part.extend(fill.clone().filter(|_| index >= longer));
        slices.push(Value::list(part)?);
    }
    Value::iterator(slices, None, "generator")
}

fn items(_: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    arguments.none("items")?;
    match value {
        Value::Undefined(_) => Value::iterator(Vec::new(), None, "generator"),
        Value::Dict(dict) => Ok(Value::View(View::Items, dict.clone())),
        _ => fail!("Can only get item pairs from a mapping."),
    }
}

fn list(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    arguments.none("list")?;
    Value::list(elements(value, &renderer.limits)?)
}

fn first(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    arguments.none("first")?;
    let first = Cursor::new(value)?.next(&renderer.limits)?;
    Ok(first.unwrap_or_else(|| Value::hint("No first item, sequence was empty.")))
}

fn last(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    arguments.none("last")?;
    let found = match value {
        Value::Iterator(_) => fail!("'{}' object is not reversible", value.kind()),
        Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Range(_) => {
            let found = renderer.item(value, &Value::Int(-1))?;
            Some(found).filter(|found| !matches!(found, Value::Undefined(_)))
        }
        other => elements(other, &renderer.limits)?.pop(),
    };
    Ok(found.unwrap_or_else(|| Value::hint("No last item, sequence was empty.")))
}

fn reverse(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    arguments.none("reverse")?;
    if let Value::Str(text) = value {
        renderer.limits.allocate(text.len())?;
        return Ok(Value::text(text.chars().rev().collect::<String>()));
    }
    let mut elements = elements(value, &renderer.limits)?;
    elements.reverse();
    Value::iterator(elements, None, "list_reverseiterator")
}

fn join(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [separator, attribute] = arguments.bind("join", ["d", "attribute"], 0)?;
    let separator = separator.map_or(Ok(String::new()), |separator| renderer.str(&separator))?;
    let path = Path::new(attribute)?;
    let mut items: Vec<Arc<str>> = Vec::new();
    for item in elements(value, &renderer.limits)? {
        items.push(match path.get(renderer, &item)? {
            Value::Str(text) => text,
            other => renderer.str(&other)?.into(),
        });
    }
    renderer.join(&items, &separator)
}

fn sum(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [attribute, start] = arguments.bind("sum", ["attribute", "start"], 0)?;
    let path = Path::new(attribute)?;
    let mut sum = start.unwrap_or(Value::Int(0));
    if matches!(sum, Value::Str(_)) {
        fail!("sum() can't sum strings [use ''.join(seq) instead]");
    }
    for item in elements(value, &renderer.limits)? {
        sum = renderer.binary(Operator::Add, &sum, &path.get(renderer, &item)?)?;
    }
    Ok(sum)
}

/// Goes through `value` until `each` fails; the failure stands where it is met.
fn lazily(
    renderer: &Renderer<'_>,
    value: &Value,
    each: impl Fn(Value) -> Result<Option<Value>>,
) -> Result<Value> {
    let mut results = Vec::new();
    let mut failure = None;
    if value.is_true() {
        let mut cursor = Cursor::new(value)?;
        while let Some(item) = cursor.next(&renderer.limits)? {
            renderer.limits.allocate(ELEMENT)?;
            match each(item) {
                Ok(result) => results.extend(result),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
    }
    Value::iterator(results, failure, "generator")
}

fn map(renderer: &Renderer<'_>, value: &Value, mut arguments: Arguments) -> Result<Value> {
    let by_attribute = arguments.named.iter().any(|(name, _)| &**name == "attribute");
    if arguments.positional.is_empty() && by_attribute {
        let [attribute, default] = arguments.bind("map", ["attribute", "default"], 1)?;
        let path =
            Path { default: default.filter(|value| !matches!(value, Value::None)), ..Path::new(attribute)? };
        return lazily(renderer, value, |item| path.get(renderer, &item).map(Some));
    }
    if arguments.positional.is_empty() {
        fail!("map requires a filter argument");
    }
    let name = text(&arguments.positional.remove(0))?;
    let Some(filter) = find(&name) else {
        let error = Error::new(format!("No filter named '{name}'."));
        return Value::iterator(Vec::new(), Some(error).filter(|_| value.is_true()), "generator");
    };
    let _level = renderer.limits.enter()?;
    lazily(renderer, value, |item| filter(renderer, &item, arguments.clone()).map(Some))
}

fn select(
    renderer: &Renderer<'_>,
    value: &Value,
    mut arguments: Arguments,
    wanted: bool,
    by_attribute: bool,
) -> Result<Value> {
    let mut path = Path::default();
    if by_attribute {
        if arguments.positional.is_empty() {
            fail!("Missing parameter for attribute name");
        }
        path = Path::new(Some(arguments.positional.remove(0)))?;
    }
    let mut test = None;
    if !arguments.positional.is_empty() {
        let name = text(&arguments.positional.remove(0))?;
        let Some(found) = predicates::find(&name) else { fail!("No test named '{name}'.") };
        test = Some(found);
    }
    lazily(renderer, value, |item| {
        let tested = path.get(renderer, &item)?;
        let holds = match test {
            Some(test) => test(renderer, &tested, arguments.clone())?,
            None => tested.is_true(),
        };
        Ok((holds == wanted).then_some(item))
    })
}

fn sort(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [reverse, case_sensitive, attribute] =
        arguments.bind("sort", ["reverse", "case_sensitive", "attribute"], 0)?;
    let mut items = elements(value, &renderer.limits)?;
    let case_sensitive = flag(case_sensitive, false);
    let paths = match attribute {
        Some(Value::Str(names)) => {
            names.split(',').map(|name| Path::new(Some(Value::text(name)))).collect::<Result<Vec<_>>>()?
        }
        other => vec![Path::new(other)?],
    };
    let key = |item: &Value| {
        let parts = paths.iter().map(|path| fold(renderer, path.get(renderer, item)?, case_sensitive));
        Value::list(parts.collect::<Result<_>>()?)
    };
    renderer.sort(&mut items, key, flag(reverse, false))?;
    Value::list(items)
}

fn dictsort(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [case_sensitive, by, reverse] = arguments.bind("dictsort", ["case_sensitive", "by", "reverse"], 0)?;
    let case_sensitive = flag(case_sensitive, false);
    let by_value = match by {
        None => false,
        Some(Value::Str(by)) if &*by == "key" => false,
        Some(Value::Str(by)) if &*by == "value" => true,
        _ => fail!("You can only sort by either \"key\" or \"value\""),
    };
    let Value::Dict(dict) = value.defined()? else {
        fail!("'{}' object has no attribute 'items'", value.kind())
    };
    renderer.limits.allocate_times(dict.entries().len(), 4 * ELEMENT)?;
    let mut entries = dict.entries().to_vec();
    let key = |entry: &(Value, Value)| {
        fold(renderer, if by_value { entry.1.clone() } else { entry.0.clone() }, case_sensitive)
    };
    renderer.sort(&mut entries, key, flag(reverse, false))?;
    let pairs = entries.into_iter().map(|(key, value)| Value::tuple(vec![key, value]));
    Value::list(pairs.collect::<Result<_>>()?)
}

fn unique(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [case_sensitive, attribute] = arguments.bind("unique", ["case_sensitive", "attribute"], 0)?;
    let (case_sensitive, path) = (flag(case_sensitive, false), Path::new(attribute)?);
    let mut seen = Dict::default();
    let mut kept = Vec::new();
    for item in elements(value, &renderer.limits)? {
        let key = fold(renderer, path.get(renderer, &item)?, case_sensitive)?;
        if seen.get(&key, &renderer.limits)?.is_none() {
            seen.insert(key, Value::None, &renderer.limits)?;
            kept.push(item);
        }
    }
    Value::iterator(kept, None, "generator")
}

fn groupby(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [attribute, default, case_sensitive] =
        arguments.bind("groupby", ["attribute", "default", "case_sensitive"], 1)?;
    let case_sensitive = flag(case_sensitive, false);
    let path =
        Path { default: default.filter(|value| !matches!(value, Value::None)), ..Path::new(attribute)? };
    let mut items = elements(value, &renderer.limits)?;
    let key = |item: &Value| fold(renderer, path.get(renderer, item)?, case_sensitive);
    renderer.sort(&mut items, key, false)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for item in items {
        let key = key(&item)?;
        renderer.limits.allocate(2 * ELEMENT)?;
        match groups.last_mut() {
            Some((known, group)) if known.equals(&key, &renderer.limits)? => group.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let mut result = Vec::new();
    for (_, group) in groups {
        let grouper = path.get(renderer, &group[0])?;
        result.push(Value::group(grouper, Value::list(group)?)?);
    }
    Value::list(result)
}

fn extreme(renderer: &Renderer<'_>, value: &Value, arguments: Arguments, greatest: bool) -> Result<Value> {
    let [case_sensitive, attribute] = arguments.bind("min", ["case_sensitive", "attribute"], 0)?;
    let (case_sensitive, path) = (flag(case_sensitive, false), Path::new(attribute)?);
    let mut best: Option<(Value, Value)> = None;
    for item in elements(value, &renderer.limits)? {
        let key = fold(renderer, path.get(renderer, &item)?, case_sensitive)?;
        let better = match &best {
            None => true,
            Some((known, _)) => {
                let symbol = if greatest { ">" } else { "<" };
                let order = renderer.order(&key, known, symbol)?;
                order.is_some_and(|order| if greatest { order.is_gt() } else { order.is_lt() })
            }
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map_or_else(|| Value::hint("No aggregated item, sequence was empty."), |(_, item)| item))
}

/// Strings in small letters, unless case matters.
fn fold(renderer: &Renderer<'_>, value: Value, case_sensitive: bool) -> Result<Value> {
    match value {
        Value::Str(text) if !case_sensitive => {
            renderer.limits.allocate(text.len())?;
            Ok(Value::text(super::hidden::change_case(&text, str::to_lowercase)))
        }
        other => Ok(other),
    }
}

/// Where an attribute lies: `a.b.0`.
#[derive(Default)]
struct Path {
    parts: Vec<Value>,
    /// What stands for an undefined part.
    default: Option<Value>,
}

impl Path {
    fn new(attribute: Option<Value>) -> Result<Self> {
        let parts = match attribute {
            None | Some(Value::None) => Vec::new(),
            Some(Value::Str(names)) => {
                let part = |name: &str| match name.parse::<u64>() {
                    Ok(index) => Value::Int(i128::from(index)),
                    Err(_) => Value::text(name),
                };
                names.split('.').map(part).collect()
            }
            Some(other) => vec![Value::Int(int(&other)?)],
        };
        Ok(Self { parts, default: None })
    }

    fn get(&self, renderer: &Renderer<'_>, item: &Value) -> std::result::Result<Value, Error> {
        let mut item = item.clone();
        for part in &self.parts {
            item = renderer.item(&item, part)?;
            if let (Value::Undefined(_), Some(default)) = (&item, &self.default) {
                item = default.clone();
            }
        }
        Ok(item)
    }
}
