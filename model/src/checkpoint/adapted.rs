//! A model whose folder holds an adapter: its base's weights, with what the adapter adds or replaces.

use std::collections::BTreeMap;
use std::path::Path;

use super::header::TensorFile;
use super::low_rank::{Factor, LowRank};
use super::{Checkpoint, EMBEDDING, HEAD, Place, load, names};
use crate::adapter::{AdapterConfig, NAME_PREFIX, PICKLED_FILE, WEIGHTS_FILE};
use crate::error::{Error, Result};

/// What an adapter does to a tensor of the model; names are those in its file.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Module as the adapter calls it.
    module: String,
    /// The whole tensor.
    whole: Option<String>,
    /// The two matrices of a linear layer.
    a: Option<String>,
    b: Option<String>,
    /// The two of an embedding, which are stored the other way round.
    embedding_a: Option<String>,
    embedding_b: Option<String>,
}

/// What a tensor of an adapter is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Whole,
    A,
    B,
    EmbeddingA,
    EmbeddingB,
}

/// Opens an adapter with its base.
///
/// # Errors
/// As [`Checkpoint::open`], of the base; a tensor of the adapter that is missing, has another shape than the base asks
/// for, or belongs to nothing of it; an adapter of another kind.
pub(super) fn open(folder: &Path) -> Result<Checkpoint> {
    let config = AdapterConfig::read(folder)?;
    let base_folder = config.base_folder(folder)?;
    let file = open_weights(folder)?;
    let mut model = Checkpoint::open(&base_folder)?;
    let mut changes = changes_by_layout(&file, &model)?;
    let (tensors, base_is_tied) = (changes.len(), model.config.tied);
    if base_is_tied {
        untie(&mut model, &config, &mut changes)?;
    }
    let number = model.weights.files.len();
    for (tensor, change) in &changes {
        change.apply(&mut model, tensor, &config, &file, number)?;
    }
    model.weights.files.push(file);
    tie_equal(&mut model, base_is_tied)?;
    model.notices.push(format!(
        "{}: an adapter, added to {}: it changes {tensors} tensors",
        folder.display(),
        base_folder.display()
    ));
    if base_is_tied && !model.config.tied {
        model.notices.push(format!(
            "{}: the adapter makes `{HEAD}` another than `{EMBEDDING}`: the model is taken as one whose head is not tied",
            folder.display()
        ));
    }
    Ok(model)
}

pub(super) fn open_weights(folder: &Path) -> Result<TensorFile> {
    let path = folder.join(WEIGHTS_FILE);
    if !path.exists() {
        let reason = match folder.join(PICKLED_FILE).is_file() {
            true => format!(
                "there is only {PICKLED_FILE}; save the adapter again as safetensors: in Python, \
                 `AutoPeftModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)`"
            ),
            false => format!("there is an adapter's configuration, but no {WEIGHTS_FILE}"),
        };
        return Err(Error::format(folder, reason));
    }
    TensorFile::open(&path)
}

/// What is done to which tensor of the model. `find` says which of the model's tensors has a name of the adapter's, and
/// whether that is the embedding.
///
/// # Errors
/// A tensor of the adapter that belongs to nothing of the model, or stands there twice; none at all.
pub(super) fn find_changes(
    file: &TensorFile,
    find: impl Fn(&str) -> Option<(String, bool)>,
) -> Result<BTreeMap<String, Change>> {
    let mut changes: BTreeMap<String, Change> = BTreeMap::new();
    for name in file.names() {
        let error = |reason: &str| Error::format(file.path(), format!("`{name}` {reason}"));
        let (module, suffix, role) = parse(&name);
        let fits = |is_embedding: bool| match role {
            Role::Whole => true,
            Role::A | Role::B => !is_embedding,
            Role::EmbeddingA | Role::EmbeddingB => is_embedding,
        };
        let found = find(&format!("{module}.{suffix}"));
        let Some((tensor, _)) = found.filter(|(_, is_embedding)| fits(*is_embedding)) else {
            return Err(error("belongs to nothing that the base has and an adapter is supported of"));
        };
        if let Some(other) = changes.entry(tensor).or_default().set(module, role, &name) {
            return Err(error(&format!("stands there twice, also as `{other}`")));
        }
    }
    if changes.is_empty() {
        return Err(Error::format(file.path(), "holds no tensors"));
    }
    Ok(changes)
}

/// [`find_changes`] of a model whose architecture is known.
fn changes_by_layout(file: &TensorFile, model: &Checkpoint) -> Result<BTreeMap<String, Change>> {
    find_changes(file, |tensor| {
        let tensor = names::model_name(tensor, &model.layout);
        let is_known = tensor == HEAD || model.layout.find(&tensor).is_some();
        let is_embedding = tensor == EMBEDDING;
        is_known.then_some((tensor, is_embedding))
    })
}

/// Module, name of its parameter and role of a tensor: `….q_proj.lora_A.weight`, with an adapter's name inside in files
/// of old releases, `….lm_head.weight` or `….lm_head.modules_to_save.weight`.
fn parse(name: &str) -> (&str, &str, Role) {
    let name = name.strip_prefix(NAME_PREFIX).unwrap_or(name);
    let low_rank = [
        (".lora_A", Role::A),
        (".lora_B", Role::B),
        (".lora_embedding_A", Role::EmbeddingA),
        (".lora_embedding_B", Role::EmbeddingB),
    ];
    for (mark, role) in low_rank {
        if let Some((module, rest)) = name.split_once(mark)
            && matches!(rest, "" | ".weight" | ".default" | ".default.weight")
        {
            return (module, "weight", role);
        }
    }
    let (module, suffix) = name.rsplit_once('.').unwrap_or(("", name));
    let module = [".modules_to_save", ".modules_to_save.default", ".base_layer"]
        .into_iter()
        .find_map(|inside| module.strip_suffix(inside))
        .unwrap_or(module);
    (module, suffix, Role::Whole)
}

/// Gives a model with a tied head one of its own, equal to the embedding so far, where the adapter changes one of them or
/// both: while it was trained, PEFT changed them apart. Where it shared them, the change is the embedding's.
fn untie(
    model: &mut Checkpoint,
    config: &AdapterConfig,
    changes: &mut BTreeMap<String, Change>,
) -> Result<()> {
    let shares = |change: &Change| change.is_shared(config);
    match (changes.get(EMBEDDING), changes.get(HEAD)) {
        (None, None) => return Ok(()),
        (Some(change), None) if shares(change) => return Ok(()),
        (None, Some(change)) if shares(change) => {
            let change = changes.remove(HEAD).unwrap_or_default();
            changes.insert(EMBEDDING.to_owned(), change);
            return Ok(());
        }
        _ => {}
    }
    let embedding = model.place(EMBEDDING).cloned();
    model.config = model.config.clone().with_tied(false);
    model.layout = model.config.layout()?;
    // The layout has the head last.
    model.segments.extend(embedding);
    Ok(())
}

/// Ties the head again where it was and is equal to the embedding.
fn tie_equal(model: &mut Checkpoint, base_is_tied: bool) -> Result<()> {
    let (Some(head), Some(embedding)) = (model.place(HEAD), model.place(EMBEDDING)) else { return Ok(()) };
    if !base_is_tied || !load::are_equal(model.weights.stored(head), model.weights.stored(embedding))? {
        return Ok(());
    }
    model.segments.pop();
    model.config = model.config.clone().with_tied(true);
    model.layout = model.config.layout()?;
    Ok(())
}

impl Change {
    /// Notes what a tensor of the adapter is to a module; the one that was noted as that before.
    fn set(&mut self, module: &str, role: Role, name: &str) -> Option<String> {
        self.module = module.to_owned();
        let place = match role {
            Role::Whole => &mut self.whole,
            Role::A => &mut self.a,
            Role::B => &mut self.b,
            Role::EmbeddingA => &mut self.embedding_a,
            Role::EmbeddingB => &mut self.embedding_b,
        };
        place.replace(name.to_owned())
    }

    /// The module as the adapter calls it.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// Whether the change of an embedding that is the head, too, was the head's while it was trained.
    pub fn is_shared(&self, config: &AdapterConfig) -> bool {
        let is_only_whole = self.whole.is_some() && self.a.is_none() && self.embedding_a.is_none();
        config.keeps_tied || (is_only_whole && !config.replaces(&self.module))
    }

    /// The tensor that replaces the base's, its shape checked.
    pub fn whole(&self, file: &TensorFile, tensor: &str, shape: &[usize]) -> Result<Option<String>> {
        let Some(name) = &self.whole else { return Ok(None) };
        require_vocabulary(file, name, tensor, shape)?;
        file.require_floats(name, shape)?;
        Ok(Some(name.clone()))
    }

    /// Changes where the model's tensor is read from. `file` is to be the model's file `number`.
    fn apply(
        &self,
        model: &mut Checkpoint,
        tensor: &str,
        config: &AdapterConfig,
        file: &TensorFile,
        number: usize,
    ) -> Result<()> {
        // Of a model with a tied head there is none to be changed here any more.
        let Some(position) = model.position(tensor) else { return Ok(()) };
        let shape = model.layout.segments()[position].shape.clone();
        if let Some(name) = self.whole(file, tensor, &shape)? {
            model.segments[position] = Place { file: number, name, addition: None };
        }
        if let Some(low_rank) = self.low_rank(&shape, config, (file, number), false)? {
            model.segments[position].addition = Some(low_rank);
        }
        Ok(())
    }

    /// The product that is added, its shapes checked. `by_inputs` says that the weight is stored as `[inputs, outputs]`.
    pub fn low_rank(
        &self,
        shape: &[usize],
        config: &AdapterConfig,
        (file, number): (&TensorFile, usize),
        by_inputs: bool,
    ) -> Result<Option<LowRank>> {
        let (a, b, transposed) = match (&self.a, &self.b, &self.embedding_a, &self.embedding_b) {
            (None, None, None, None) => return Ok(None),
            (Some(a), Some(b), None, None) => (a, b, by_inputs),
            (None, None, Some(a), Some(b)) => (a, b, true),
            (a, b, c, d) => {
                let name = [a, b, c, d].into_iter().flatten().next().map_or("", String::as_str);
                let reason = format!("`{name}` is there, but not the matrix that it is multiplied with");
                return Err(Error::format(file.path(), reason));
            }
        };
        let &[rows, columns] = shape else {
            let reason = format!("`{a}` is for a tensor of shape {shape:?}, which is no matrix");
            return Err(Error::format(file.path(), reason));
        };
        let rank = config.rank(&self.module);
        let factor = |name: &str, shape: [usize; 2]| -> Result<Factor> {
            file.require_floats(name, &shape)?;
            Ok(Factor { name: name.to_owned(), shape, transposed })
        };
        // A of an embedding is [rank, V] and B is [C, rank]: the weight is changed by their product's transpose, as one that
        // is stored by inputs is.
        let (left, right) = match transposed {
            true => {
                if !by_inputs {
                    require_vocabulary(file, a, EMBEDDING, &[rank, rows])?;
                }
                (factor(a, [rank, rows])?, factor(b, [columns, rank])?)
            }
            false => (factor(b, [rows, rank])?, factor(a, [rank, columns])?),
        };
        Ok(Some(LowRank { file: number, left, right, scale: config.scale(&self.module) as f32 }))
    }
}

/// Says of an embedding or a head that differs in its rows alone what that means.
fn require_vocabulary(file: &TensorFile, name: &str, tensor: &str, shape: &[usize]) -> Result<()> {
    let found = &file.require(name)?.shape;
    if ![EMBEDDING, HEAD].contains(&tensor) || found.len() != shape.len() || found == shape {
        return Ok(());
    }
    let reason = format!(
        "`{name}` has the shape {found:?}, expected {shape:?}: was the base's vocabulary resized before it was trained? \
         Merge the adapter into the resized base (in PEFT: `merge_and_unload()`), save that, and give its folder"
    );
    Err(Error::format(file.path(), reason))
}
