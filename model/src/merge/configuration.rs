//! Configurations of mergekit 0.1.5, as its `mergekit-yaml` reads them, to requests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::method::{Method, Rescale};
use super::options::{InputSlice, MergeRequest, OutputSlice};
use super::settings::{Condition, Parameters, Setting};
use super::vocabulary::Vocabulary;
use super::yaml::{Document, Fields, Value, unknown};
use crate::checkpoint::WeightType;
use crate::error::{Result, clip};

/// mergekit's names of methods.
const METHODS: [(&str, Method); 15] = [
    ("linear", Method::Average),
    ("passthrough", Method::Passthrough),
    ("slerp", Method::Slerp),
    ("nuslerp", Method::Nuslerp),
    ("task_arithmetic", Method::Arithmetic),
    ("ties", Method::Ties),
    ("dare_linear", Method::Dare),
    ("dare_ties", Method::DareTies),
    ("della", Method::Della),
    ("della_linear", Method::DellaLinear),
    ("breadcrumbs", Method::Breadcrumbs),
    ("breadcrumbs_ties", Method::BreadcrumbsTies),
    ("model_stock", Method::ModelStock),
    ("sce", Method::Sce),
    ("karcher", Method::Karcher),
];

/// Parameters that are numbers, of any method.
const NUMBERS: [&str; 10] =
    ["weight", "t", "lambda", "density", "select_topk", "gamma", "epsilon", "scale", "max_iter", "tol"];

/// Those that are switches.
const SWITCHES: [&str; 6] =
    ["normalize", "rescale", "int8_mask", "nuslerp_flatten", "nuslerp_row_wise", "filter_wise"];

/// The only `tol` of `karcher` that is computed with, mergekit's default.
const TOLERANCE: f64 = 1e-5;

impl MergeRequest {
    /// Reads a configuration of mergekit. The models are as they are written: folders, from the current one, or names on
    /// the hub.
    ///
    /// # Errors
    /// It cannot be read, or asks for what cannot be done: file, line and key.
    pub fn from_configuration(path: &Path) -> Result<Self> {
        let document = Document::read(path)?;
        let root = document.root();
        let mut fields = root.fields()?;
        if let Some(modules) = fields.take("modules") {
            return Err(modules.refuse("is not read: use `models` or `slices`"));
        }
        let method = method(&required(&root, &mut fields, "merge_method")?)?;
        let mut reader = Reader { method, models: Vec::new(), places: Vec::new(), unused: BTreeMap::new() };
        let base = fields.take("base_model").map(|model| reader.model(&model)).transpose()?;
        let mut parameters = reader.parameters(&mut fields)?;
        if method != Method::Sce {
            let everywhere = Setting::Same(1.0);
            parameters.density = Some(parameters.density.map_or(everywhere, |density| density.or(1.0)));
        }
        let slices = match (fields.take("models"), fields.take("slices")) {
            (Some(models), None) => vec![reader.models(&models, base)?],
            (None, Some(slices)) => reader.slices(&slices, base)?,
            (None, None) => return Err(root.refuse("has neither `models` nor `slices`")),
            (Some(_), Some(slices)) => return Err(slices.refuse("and `models` cannot both be given")),
        };
        let dtype = fields.take("dtype").map(|value| dtype(&value)).transpose()?;
        let out_dtype = fields.take("out_dtype").map(|value| self::dtype(&value)).transpose()?;
        let chat_template = fields.take("chat_template").map(|value| chat_template(&value)).transpose()?;
        let (vocabulary, tokenizer_place) = vocabulary(&mut fields)?;
        fields.end(&[
            "merge_method",
            "base_model",
            "models",
            "slices",
            "parameters",
            "dtype",
            "out_dtype",
            "chat_template",
            "tokenizer_source",
            "tokenizer",
        ])?;
        let notice = |(name, line): (&str, usize)| {
            format!("{}:{line}: `{name}` is nothing that {} uses", path.display(), method_name(method))
        };
        Ok(Self {
            models: reader.models,
            slices,
            method,
            parameters,
            seed: 0,
            vocabulary,
            chat_template,
            dtype: out_dtype.or(dtype),
            shard_bytes: super::DEFAULT_SHARD_BYTES,
            configuration: Some(path.to_owned()),
            places: reader.places,
            tokenizer_place,
            notices: reader.unused.into_iter().map(notice).collect(),
        })
    }
}

/// What is read so far.
struct Reader<'a> {
    method: Method,
    /// The models in the order in which they are first named, the base before all.
    models: Vec<PathBuf>,
    /// Line and key where each is.
    places: Vec<(usize, String)>,
    /// Parameters that the method does not use, with the line where each is first given.
    unused: BTreeMap<&'a str, usize>,
}

impl<'a> Reader<'a> {
    /// The number of a model.
    fn model(&mut self, value: &Value<'_>) -> Result<usize> {
        let text = if value.is_scalar() { value.text()? } else { "" };
        if text.is_empty() {
            return Err(value.refuse("is to be a folder, or a name on the hub"));
        }
        let path = PathBuf::from(text);
        Ok(self.models.iter().position(|model| *model == path).unwrap_or_else(|| {
            self.models.push(path);
            self.places.push(value.place());
            self.models.len() - 1
        }))
    }

    /// Whole models; the base is one of them, also where the list does not have it.
    fn models(&mut self, list: &Value<'a>, base: Option<usize>) -> Result<OutputSlice> {
        let mut slice = OutputSlice::default();
        for value in list.list()? {
            let mut fields = value.fields()?;
            let model = self.model(&required(&value, &mut fields, "model")?)?;
            let parameters = self.parameters(&mut fields)?;
            fields.end(&["model", "parameters"])?;
            slice.sources.push(InputSlice { model, layers: None, parameters });
        }
        if let Some(base) = base.filter(|base| slice.sources.iter().all(|source| source.model != *base)) {
            slice.sources.push(InputSlice { model: base, ..InputSlice::default() });
        }
        self.find_base(list, &mut slice, base)?;
        Ok(slice)
    }

    fn slices(&mut self, list: &Value<'a>, base: Option<usize>) -> Result<Vec<OutputSlice>> {
        let mut slices = Vec::new();
        for value in list.list()? {
            let mut fields = value.fields()?;
            let sources = required(&value, &mut fields, "sources")?;
            let mut slice =
                OutputSlice { parameters: self.parameters(&mut fields)?, ..OutputSlice::default() };
            for source in sources.list()? {
                slice.sources.push(self.source(&source)?);
            }
            let lengths = slice.sources.iter().flat_map(|source| &source.layers).map(ExactSizeIterator::len);
            if lengths.clone().min() != lengths.max() {
                return Err(sources.refuse("have different numbers of layers"));
            }
            let own = fields.take("base_model").map(|model| self.model(&model)).transpose()?;
            fields.end(&["sources", "base_model", "parameters"])?;
            self.find_base(&sources, &mut slice, own.or(base))?;
            slices.push(slice);
        }
        match slices.is_empty() {
            true => Err(list.refuse("has no slices")),
            false => Ok(slices),
        }
    }

    fn source(&mut self, value: &Value<'a>) -> Result<InputSlice> {
        let mut fields = value.fields()?;
        let model = self.model(&required(value, &mut fields, "model")?)?;
        let range = required(value, &mut fields, "layer_range")?;
        let parameters = self.parameters(&mut fields)?;
        fields.end(&["model", "layer_range", "parameters"])?;
        let ends = range.list()?.iter().map(Value::whole).collect::<Result<Vec<_>>>()?;
        match ends[..] {
            [start, end] if start < end => Ok(InputSlice { model, layers: Some(start..end), parameters }),
            _ => Err(range.refuse("is to be the first layer, and the one behind the last: [0, 8]")),
        }
    }

    /// Says which source is the base, and checks that the method can be computed of these.
    fn find_base(&self, sources: &Value<'_>, slice: &mut OutputSlice, base: Option<usize>) -> Result<()> {
        let method = self.method;
        let name = method_name(method);
        let models: Vec<usize> = slice.sources.iter().map(|source| source.model).collect();
        let folder = |model: usize| self.models[model].display();
        if let Some((_, twice)) =
            models.iter().enumerate().find(|(index, model)| models[..*index].contains(model))
        {
            return Err(sources.refuse(format!("has {} twice", folder(*twice))));
        }
        let needs_base = method.needs_base() || method == Method::Slerp;
        slice.preferred = base.filter(|base| models.contains(base));
        slice.base = match base {
            // All sources are alike.
            _ if !needs_base && method != Method::Nuslerp => None,
            None if needs_base => {
                return Err(sources.refuse(format!("cannot be merged by {name} without a `base_model`")));
            }
            None => None,
            Some(base) => match models.iter().position(|model| *model == base) {
                Some(place) => Some(place),
                None => return Err(sources.refuse(format!("does not have the base, {}", folder(base)))),
            },
        };
        let others = models.len() - usize::from(slice.base.is_some());
        let (count, least, most) = match method {
            Method::Slerp => (models.len(), 2, 2),
            Method::Passthrough => (models.len(), 1, 1),
            Method::Nuslerp => (others, 2, 2),
            Method::ModelStock => (others, 2, usize::MAX),
            _ => (models.len(), 1, usize::MAX),
        };
        if !(least..=most).contains(&count) {
            let wanted = if least == most { format!("{least}") } else { format!("at least {least}") };
            let kind = if count == models.len() { "models" } else { "models beside the base" };
            return Err(sources.refuse(format!("has {count} {kind}, and {name} takes {wanted}")));
        }
        Ok(())
    }

    /// What is said under `parameters`.
    fn parameters(&mut self, fields: &mut Fields<'a>) -> Result<Parameters> {
        let mut parameters = Parameters::default();
        let Some(value) = fields.take("parameters") else { return Ok(parameters) };
        let method = self.method;
        for (name, value) in value.fields()?.rest() {
            let is_used = if NUMBERS.contains(&name) {
                let numbers = setting(&value, &Value::number)?;
                set_number(method, &mut parameters, name, numbers, &value)?
            } else if SWITCHES.contains(&name) {
                set_switch(method, &mut parameters, name, &value)?
            } else {
                let known: Vec<&str> = NUMBERS.into_iter().chain(SWITCHES).collect();
                return Err(unknown(name, &value, &known));
            };
            if !is_used {
                self.unused.entry(name).or_insert(value.line());
            }
        }
        Ok(parameters)
    }
}

/// Sets a number; false where the method uses none of that name.
fn set_number(
    method: Method,
    parameters: &mut Parameters,
    name: &str,
    setting: Setting<f64>,
    value: &Value<'_>,
) -> Result<bool> {
    let is_sum = method.is_sparse() || method == Method::Arithmetic;
    let (field, is_used) = match name {
        "weight" => (&mut parameters.weight, is_sum || matches!(method, Method::Average | Method::Nuslerp)),
        "scale" => (&mut parameters.weight, method == Method::Passthrough),
        "t" => (&mut parameters.t, method == Method::Slerp),
        "lambda" => (&mut parameters.scale, is_sum),
        "density" => (&mut parameters.density, method.is_sparse()),
        "select_topk" => (&mut parameters.density, method == Method::Sce),
        "gamma" => (&mut parameters.gamma, method.is_breadcrumbs()),
        "epsilon" => (&mut parameters.epsilon, method.is_della()),
        "max_iter" => (&mut parameters.iterations, method == Method::Karcher),
        _ => {
            if method == Method::Karcher && setting.values().iter().any(|tolerance| *tolerance != TOLERANCE) {
                return Err(value.refuse(format!("is to be {TOLERANCE}, and nothing else")));
            }
            return Ok(method == Method::Karcher);
        }
    };
    if name == "max_iter"
        && is_used
        && setting.values().iter().any(|count| count.fract() != 0.0 || *count < 0.0)
    {
        return Err(value.refuse("is to be a whole number"));
    }
    if is_used {
        *field = Some(setting);
    }
    Ok(is_used)
}

/// Sets a switch; false where the method uses none of that name.
fn set_switch(method: Method, parameters: &mut Parameters, name: &str, value: &Value<'_>) -> Result<bool> {
    let switch = setting(value, &Value::flag)?;
    let is_sum = method.is_sparse() || method == Method::Arithmetic;
    let refuse = |is_refused: bool| match is_refused {
        true => Err(value.refuse("is not computed in this way here: leave it out")),
        false => Ok(()),
    };
    let is_used = match name {
        "normalize" => is_sum || method == Method::Average,
        "rescale" => method.is_sparse(),
        "nuslerp_flatten" => method == Method::Nuslerp,
        "filter_wise" => method == Method::ModelStock,
        // Of the type of a mask nothing follows, nor of which rows are flattened.
        _ => return Ok(true),
    };
    match name {
        _ if !is_used => {}
        "normalize" => parameters.normalize = Some(switch),
        "rescale" => {
            let rescale = |value: &Value<'_>| Ok(if value.flag()? { Rescale::Norm } else { Rescale::None });
            parameters.rescale = Some(setting(value, &rescale)?);
        }
        "nuslerp_flatten" => refuse(switch.values().contains(&false))?,
        _ => refuse(switch.values().contains(&true))?,
    }
    Ok(is_used)
}

/// A value that must be there.
fn required<'a>(parent: &Value<'a>, fields: &mut Fields<'a>, name: &str) -> Result<Value<'a>> {
    fields.take(name).ok_or_else(|| parent.refuse(format!("has no `{name}`")))
}

/// One value, a list of them from the first layer to the last, or a list of values with filters.
fn setting<'a, T>(value: &Value<'a>, read: &dyn Fn(&Value<'a>) -> Result<T>) -> Result<Setting<T>> {
    if value.is_scalar() {
        return Ok(Setting::Same(read(value)?));
    }
    if value.is_map() {
        return Ok(Setting::Conditions(vec![condition(value, read)?]));
    }
    let list = value.list()?;
    if list.iter().all(Value::is_scalar) {
        return Ok(Setting::Gradient(list.iter().map(read).collect::<Result<_>>()?));
    }
    Ok(Setting::Conditions(list.iter().map(|value| condition(value, read)).collect::<Result<_>>()?))
}

fn condition<'a, T>(value: &Value<'a>, read: &dyn Fn(&Value<'a>) -> Result<T>) -> Result<Condition<T>> {
    let mut fields = value.fields()?;
    let filter = fields.take("filter").map(|filter| filter.text()).transpose()?.map(str::to_owned);
    let values = required(value, &mut fields, "value")?;
    fields.end(&["filter", "value"])?;
    let values = match values.is_scalar() {
        true => vec![read(&values)?],
        false => values.list()?.iter().map(read).collect::<Result<_>>()?,
    };
    Ok(Condition { filter, values })
}

fn method(value: &Value<'_>) -> Result<Method> {
    let text = value.text()?;
    let found = METHODS.into_iter().find(|(name, _)| *name == text);
    found.map(|(_, method)| method).ok_or_else(|| {
        let names = METHODS.map(|(name, _)| name).join(", ");
        value.refuse(format!("is to be one of {names}, not `{}`", clip(text)))
    })
}

/// mergekit's name of a method.
fn method_name(method: Method) -> &'static str {
    METHODS.into_iter().find(|(_, other)| *other == method).map_or(method.name(), |(name, _)| name)
}

fn dtype(value: &Value<'_>) -> Result<WeightType> {
    let text = value.text()?;
    match text.strip_prefix("torch.").unwrap_or(text) {
        "float32" => Ok(WeightType::F32),
        "float16" => Ok(WeightType::F16),
        "bfloat16" => Ok(WeightType::BF16),
        _ => Err(value.refuse(format!("is to be float32, float16 or bfloat16, not `{}`", clip(text)))),
    }
}

/// What `tokenizer_source` or `tokenizer` asks for, and where.
fn vocabulary(fields: &mut Fields<'_>) -> Result<(Vocabulary, Option<(usize, String)>)> {
    let source = match (fields.take("tokenizer_source"), fields.take("tokenizer")) {
        (Some(_), Some(tokenizer)) => {
            return Err(tokenizer.refuse("and `tokenizer_source` cannot both be given"));
        }
        (source, None) => source,
        (None, Some(tokenizer)) => {
            let mut fields = tokenizer.fields()?;
            for name in ["tokens", "pad_to_multiple_of"] {
                if let Some(value) = fields.take(name) {
                    return Err(
                        value.refuse("is not read: tokens have the rows that mergekit gives them by default")
                    );
                }
            }
            if let Some(source) = tokenizer.empty_entry("source") {
                return Err(source.refuse("is empty: use union, base, or a model"));
            }
            let source = fields.take("source");
            fields.end(&["source", "tokens", "pad_to_multiple_of"])?;
            match source {
                Some(source) => Some(source),
                None => return Ok((Vocabulary::Union, None)),
            }
        }
    };
    let Some(source) = source else { return Ok((Vocabulary::ByNumber, None)) };
    let vocabulary = match source.text()? {
        "base" => Vocabulary::Base,
        "union" => Vocabulary::Union,
        folder => Vocabulary::Of(PathBuf::from(folder)),
    };
    Ok((vocabulary, Some(source.place())))
}

fn chat_template(value: &Value<'_>) -> Result<String> {
    let text = value.text()?;
    match text.contains('{') {
        true => Ok(text.to_owned()),
        false => {
            let reason =
                "is to be the template itself: mergekit's names of templates, and `auto`, are not read";
            Err(value.refuse(reason))
        }
    }
}
