//! A LoRA adapter: of every linear layer's update the nearest product of two thin matrices.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use std::ops::Range;

use cpift_engine::{CpuDevice, Device};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::REPORT;
use super::adapter_files::{AdapterSettings, factor_names, report_text, saved_name};
use super::changes::{Bytes, chunks, in_type};
use super::layers::{Layer, Layers};
use super::pair::{Pair, Tensor};
use super::svd::{Factors, Matrix, energy};
use super::watch::{ExportProgress, Watch};
use crate::adapter::{CONFIG_FILE, WEIGHTS_FILE};
use crate::checkpoint::{SMALL_FILES, TensorFolder, WeightType, header_of, is_embedding, transposed};
use crate::error::{Error, Result};
use crate::files::{AtomicFolder, FileWriter, require_empty, require_free_space};
use crate::merge::{narrow, widen, widen_finite};

/// Name of the report for people.
const REPORT_TEXT: &str = "report.md";

/// What becomes of tensors that changed and are no weights of linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Their modules are stored as a whole, where PEFT can do that.
    Save,
    /// They stay the base's.
    Leave,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct LoraRequest {
    /// The base.
    pub base: PathBuf,
    /// A fine-tune of it.
    pub model: PathBuf,
    /// What the adapter says of the base: a folder, or a name on the hub.
    pub base_name: String,
    /// Columns of the thin matrices.
    pub rank: usize,
    /// What becomes of the other tensors.
    pub others: Others,
    /// Type of the thin matrices.
    pub dtype: WeightType,
}

/// An adapter whose models are opened and matched; nothing is written yet.
#[derive(Debug)]
pub struct LoraAdapter {
    request: LoraRequest,
    pair: Pair,
}

/// What became of a tensor's update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Treatment {
    /// A product is added to the base's.
    LowRank,
    /// It is stored as it is.
    Saved,
    /// It stays the base's.
    Left,
}

/// A tensor that changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraTensor {
    /// Name in the model.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// What became of its update.
    pub treatment: Treatment,
    /// Why it stays the base's, where that was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The sum of the squares of its update.
    pub energy: f64,
    /// The Frobenius norm of what is lost of the update, over the update's.
    pub relative_error: f64,
    /// The share of the energy that the adapter has.
    pub energy_kept: f64,
}

/// What was written, as `report.json` holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraReport {
    /// Columns of the thin matrices.
    pub rank: usize,
    /// Elements of the adapter.
    pub parameters: u64,
    /// Elements of the model.
    pub model_parameters: u64,
    /// Bytes of the adapter's weights.
    pub bytes: u64,
    /// Of the whole update: the norm of what is lost over its norm, and the share of its energy that is kept.
    pub relative_error: f64,
    /// Share of the energy that is kept.
    pub energy_kept: f64,
    /// Tensors that are the base's, bit for bit.
    pub unchanged: usize,
    /// Those that changed, in the order in which the model stores them.
    pub tensors: Vec<LoraTensor>,
}

/// A tensor of the adapter's file.
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
}

/// One that changed, and what is done with it.
struct Changed<'a> {
    number: usize,
    tensor: &'a Tensor,
    layer: Layer,
}

impl LoraAdapter {
    /// Opens a base and a fine-tune of it.
    ///
    /// # Errors
    /// A rank of 0, or larger than any layer has; a folder that is no model's, or damaged; tensors that do not match, by name;
    /// a model without the head that its base has.
    pub fn new(request: &LoraRequest) -> Result<Self> {
        if request.rank == 0 {
            return Err(Error::setting("--rank", "must be at least 1"));
        }
        let pair = Pair::open(&request.base, &request.model)?;
        if pair.lacks_head {
            let reason = "has no head, and its base has one that is not its embedding: with an adapter the model would have it, \
                          too; write a delta (--as delta)";
            return Err(Error::format(pair.model().folder(), reason));
        }
        if let Some(largest) = Layers::of(&pair).largest_rank().filter(|&largest| request.rank > largest) {
            let reason = format!(
                "is {}, but no update of this model has a rank above {largest}, the least of its layers' inputs and outputs",
                request.rank
            );
            return Err(Error::setting("--rank", reason));
        }
        Ok(Self { request: request.clone(), pair })
    }

    /// What a person should know about the models, a line each.
    pub fn notices(&self) -> &[String] {
        &self.pair.notices
    }

    /// Elements of the model.
    pub fn parameters(&self) -> u64 {
        self.pair.parameters()
    }

    /// Writes the adapter into a folder, which appears whole or not at all.
    ///
    /// # Errors
    /// The folder exists and is not empty; too little space; no linear layer changed; NaN or infinity, by tensor and element;
    /// a stop; the system's.
    pub fn write(
        &self,
        device: &Device,
        out: &Path,
        stop: &AtomicBool,
        observer: &mut (dyn FnMut(ExportProgress) + Send),
    ) -> Result<LoraReport> {
        let Device::Cpu(cpu) = device else {
            return Err(Error::Job("adapters are made on the CPU".to_owned()));
        };
        require_empty(out)?;
        let (model_bytes, base_bytes) = self.pair.bytes();
        let mut watch = Watch::new(stop, observer, 2 * (model_bytes + base_bytes));
        let changed = self.changed(cpu, &mut watch)?;
        let mut entries = self.entries(&changed);
        let order: Vec<usize> = entries.iter().map(|(number, _)| *number).collect();
        let header = entries.iter().flat_map(|(_, entries)| entries);
        let header = header_of(header.map(|entry| (&entry.name, entry.dtype, &entry.shape)), Some("pt"))
            .map_err(Error::Job)?;
        let elements = |entry: &Entry| entry.shape.iter().product::<usize>() as u64;
        let all = || entries.iter().flat_map(|(_, entries)| entries);
        let parameters: u64 = all().map(elements).sum();
        let data: u64 = all().map(|entry| elements(entry) * (entry.dtype.bitsize() / 8) as u64).sum();
        let bytes = header.len() as u64 + data;
        require_free_space(out, bytes + SMALL_FILES)?;
        entries.clear();
        let mut writing = AtomicFolder::create(out)?;
        let mut tensors: Vec<Option<LoraTensor>> = changed.iter().map(|_| None).collect();
        writing.write(WEIGHTS_FILE, |file| {
            file.put(&header)?;
            for number in order {
                let measured = self.write_tensor(cpu, &changed[number], file, &mut watch)?;
                tensors[number] = Some(measured);
            }
            Ok(())
        })?;
        for (tensor, changed) in tensors.iter_mut().zip(&changed).filter(|(tensor, _)| tensor.is_none()) {
            *tensor = Some(self.measure_left(cpu, changed, &mut watch)?);
        }
        let tensors: Vec<LoraTensor> = tensors.into_iter().flatten().collect();
        let total: f64 = tensors.iter().map(|tensor| tensor.energy).sum();
        let lost: f64 = tensors.iter().map(|tensor| tensor.energy * tensor.relative_error.powi(2)).sum();
        let share = if total > 0.0 { lost / total } else { 0.0 };
        let report = LoraReport {
            rank: self.request.rank,
            parameters,
            model_parameters: self.pair.parameters(),
            bytes,
            relative_error: share.sqrt(),
            energy_kept: 1.0 - share,
            unchanged: self.pair.tensors.len() - changed.len(),
            tensors,
        };
        writing.write_json(CONFIG_FILE, &self.settings(&changed).to_json())?;
        writing.write_json(REPORT, &report)?;
        writing.write_bytes(REPORT_TEXT, report_text(&report).as_bytes())?;
        writing.commit()?;
        Ok(report)
    }

    /// The tensors that are to be looked at: those that changed, and the others of modules that are stored as a whole.
    fn changed(&self, cpu: &CpuDevice, watch: &mut Watch<'_>) -> Result<Vec<Changed<'_>>> {
        let layers = Layers::of(&self.pair);
        let mut found = Vec::new();
        for tensor in &self.pair.tensors {
            let layer = layers.layer(tensor);
            let layer = match (self.request.others, layer) {
                (Others::Leave, Layer::Module(_)) => Layer::Other("it is no weight of a linear layer"),
                (_, layer) => layer,
            };
            found.push((tensor, layer, self.differs(cpu, tensor, watch)?));
        }
        let saved = saved_modules(&layers.modules(), &mut found);
        let is_wanted = |layer: &Layer, differs: bool| match layer {
            Layer::Module(module) => saved.contains(module),
            _ => differs,
        };
        found.retain(|(_, layer, differs)| is_wanted(layer, *differs));
        if !found.iter().any(|(_, layer, _)| matches!(layer, Layer::Linear { .. })) {
            let reason = "has no linear layer that is not its base's: there is nothing for an adapter to add";
            return Err(Error::format(self.pair.model().folder(), reason));
        }
        let changed = found.into_iter().enumerate();
        Ok(changed.map(|(number, (tensor, layer, _))| Changed { number, tensor, layer }).collect())
    }

    /// Whether a tensor is not its base's; the first difference decides.
    fn differs(&self, cpu: &CpuDevice, tensor: &Tensor, watch: &mut Watch<'_>) -> Result<bool> {
        let mut differs = false;
        for elements in chunks(tensor.elements()) {
            let mut base = Bytes::new(elements.len() * tensor.base_dtype.bitsize() / 8);
            let mut model = Bytes::new(elements.len() * tensor.width());
            self.pair.base().read(&tensor.base_name, elements.start, base.bytes_mut())?;
            self.pair.model().read(&tensor.name, elements.start, model.bytes_mut())?;
            let base = cpu.run(|| in_type(base.bytes(), tensor.base_dtype, tensor.dtype));
            if base.bytes() != model.bytes() {
                differs = true;
                break;
            }
        }
        watch.add(tensor.bytes() + tensor.base_bytes())?;
        Ok(differs)
    }

    /// What the adapter's file holds of each tensor, wide types first, so that each starts at a multiple of its element's size.
    fn entries(&self, changed: &[Changed<'_>]) -> Vec<(usize, Vec<Entry>)> {
        let (rank, dtype) = (self.request.rank, self.request.dtype.dtype());
        let of = |Changed { number, tensor, layer }: &Changed<'_>| match layer {
            Layer::Other(_) => None,
            Layer::Module(module) => {
                let entry = |name| Entry { name, dtype: tensor.dtype, shape: tensor.shape.clone() };
                let mut entries = vec![entry(saved_name(module, &tensor.name))];
                entries.extend(self.tied_head(tensor).map(|head| entry(saved_name(&head, &tensor.name))));
                Some((*number, entries))
            }
            Layer::Linear { module, by_inputs } => {
                let (outputs, inputs) = match by_inputs {
                    true => (tensor.shape[1], tensor.shape[0]),
                    false => (tensor.shape[0], tensor.shape[1]),
                };
                let [a, b] = factor_names(module);
                let entry = |name, shape: [usize; 2]| Entry { name, dtype, shape: shape.to_vec() };
                Some((*number, vec![entry(a, [rank, inputs]), entry(b, [outputs, rank])]))
            }
        };
        let mut entries: Vec<_> = changed.iter().filter_map(of).collect();
        entries.sort_by_key(|(_, entries)| Reverse(entries[0].dtype));
        entries
    }

    fn settings(&self, changed: &[Changed<'_>]) -> AdapterSettings<'_> {
        let modules = |is: fn(&Layer) -> Option<&String>| -> Vec<String> {
            let found: BTreeSet<&String> = changed.iter().filter_map(|changed| is(&changed.layer)).collect();
            found.into_iter().cloned().collect()
        };
        let saves_tied_embedding = |changed: &Changed<'_>| {
            matches!(changed.layer, Layer::Module(_)) && self.tied_head(changed.tensor).is_some()
        };
        AdapterSettings {
            base: &self.request.base_name,
            task_type: Layers::of(&self.pair).task_type(),
            rank: self.request.rank,
            targets: modules(|layer| match layer {
                Layer::Linear { module, .. } => Some(module),
                _ => None,
            }),
            saved: modules(|layer| match layer {
                Layer::Module(module) => Some(module),
                _ => None,
            }),
            by_inputs: changed
                .iter()
                .any(|changed| matches!(changed.layer, Layer::Linear { by_inputs: true, .. })),
            keeps_tied: changed.iter().any(saves_tied_embedding),
        }
    }

    /// The head's module, of an embedding that is the head, too: PEFT wants both in the file, and ties them again.
    fn tied_head(&self, tensor: &Tensor) -> Option<String> {
        let layers = is_embedding(&tensor.name).then(|| Layers::of(&self.pair));
        layers.and_then(|layers| layers.tied_head())
    }

    /// Writes what the adapter has of a tensor, and measures what it lacks.
    fn write_tensor(
        &self,
        cpu: &CpuDevice,
        changed: &Changed<'_>,
        file: &mut FileWriter,
        watch: &mut Watch<'_>,
    ) -> Result<LoraTensor> {
        let tensor = changed.tensor;
        match &changed.layer {
            Layer::Linear { by_inputs, .. } => {
                let mut update = vec![0.0; tensor.elements()];
                for elements in chunks(tensor.elements()) {
                    self.read_update(tensor, elements.clone(), &mut update[elements], watch)?;
                }
                let matrix = Matrix { values: &update, rows: tensor.shape[0], columns: tensor.shape[1] };
                let factors = cpu.run(|| Factors::of(matrix, self.request.rank));
                let overflow = || {
                    Error::format(
                        self.pair.model().listing(),
                        format!("`{}` is too far from the base", tensor.name),
                    )
                };
                let factors = self.rounded(factors.ok_or_else(overflow)?).ok_or_else(overflow)?;
                let turned = || {
                    [
                        transposed(&factors.left, self.request.rank),
                        transposed(&factors.right, tensor.shape[1]),
                    ]
                };
                // A is [rank, inputs], B is [outputs, rank].
                let [a, b] = match by_inputs {
                    true => turned(),
                    false => [factors.right.clone(), factors.left.clone()],
                };
                for values in [a, b] {
                    let mut stored = Bytes::new(values.len() * self.request.dtype.bytes() as usize);
                    narrow(&values, self.request.dtype, stored.bytes_mut());
                    file.put(stored.bytes())?;
                }
                let (energy, lost) = cpu.run(|| (energy(&update), factors.residual(matrix)));
                Ok(measured(tensor, Treatment::LowRank, None, energy, lost))
            }
            _ => {
                let copies = if self.tied_head(tensor).is_some() { 2 } else { 1 };
                for elements in (0..copies).flat_map(|_| chunks(tensor.elements())) {
                    let mut stored = Bytes::new(elements.len() * tensor.width());
                    self.pair.model().read(&tensor.name, elements.start, stored.bytes_mut())?;
                    file.put(stored.bytes())?;
                }
                Ok(measured(tensor, Treatment::Saved, None, self.energy(cpu, tensor, watch)?, 0.0))
            }
        }
    }

    /// The factors as the file has them; none where the type cannot hold them.
    fn rounded(&self, factors: Factors) -> Option<Factors> {
        let round = |values: &[f32]| {
            let mut stored = Bytes::new(values.len() * self.request.dtype.bytes() as usize);
            let mut rounded = vec![0.0; values.len()];
            let fits = narrow(values, self.request.dtype, stored.bytes_mut());
            (fits && widen(stored.bytes(), self.request.dtype, &mut rounded)).then_some(rounded)
        };
        Some(Factors { left: round(&factors.left)?, right: round(&factors.right)? })
    }

    /// A tensor that stays the base's.
    fn measure_left(
        &self,
        cpu: &CpuDevice,
        changed: &Changed<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<LoraTensor> {
        let reason = match &changed.layer {
            Layer::Other(reason) => Some((*reason).to_owned()),
            _ => None,
        };
        let energy = match WeightType::of(changed.tensor.dtype) {
            Some(_) => self.energy(cpu, changed.tensor, watch)?,
            None => 0.0,
        };
        Ok(measured(changed.tensor, Treatment::Left, reason, energy, energy))
    }

    /// The sum of the squares of what the model adds to the base.
    fn energy(&self, cpu: &CpuDevice, tensor: &Tensor, watch: &mut Watch<'_>) -> Result<f64> {
        let mut sum = 0.0;
        let mut update = Vec::new();
        for elements in chunks(tensor.elements()) {
            update.resize(elements.len(), 0.0);
            self.read_update(tensor, elements, &mut update, watch)?;
            sum += cpu.run(|| energy(&update));
        }
        Ok(sum)
    }

    /// What the model adds to some of the base's elements.
    fn read_update(
        &self,
        tensor: &Tensor,
        elements: Range<usize>,
        update: &mut [f32],
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let mut of_base = vec![0.0; elements.len()];
        read_floats(self.pair.model(), &tensor.name, elements.start, update)?;
        read_floats(self.pair.base(), &tensor.base_name, elements.start, &mut of_base)?;
        update.iter_mut().zip(&of_base).for_each(|(value, base)| *value -= base);
        watch.add((elements.len() * (tensor.width() + tensor.base_dtype.bitsize() / 8)) as u64)
    }
}

/// Modules that are stored as a whole: those of which a tensor changed, and others that PEFT takes with them, as it takes
/// every module whose name ends with one that is listed. Where it cannot, neither is stored.
fn saved_modules(modules: &BTreeSet<String>, found: &mut [(&Tensor, Layer, bool)]) -> BTreeSet<String> {
    let mut can_be_saved: BTreeMap<String, bool> = BTreeMap::new();
    for (_, layer, differs) in found.iter() {
        if let Layer::Module(module) = layer {
            *can_be_saved.entry(module.clone()).or_default() |= *differs;
        }
    }
    let mut saved = BTreeSet::new();
    for (module, _) in can_be_saved.iter().filter(|(_, differs)| **differs) {
        let taken: Vec<&String> = modules.iter().filter(|other| other.ends_with(module.as_str())).collect();
        if taken.iter().all(|other| can_be_saved.contains_key(*other)) {
            saved.extend(taken.into_iter().cloned());
        }
    }
    for (_, layer, differs) in found {
        if let Layer::Module(module) = layer
            && *differs
            && !saved.contains(module)
        {
            *layer = Layer::Other("PEFT would store modules with it whose names end with its");
        }
    }
    saved
}

fn read_floats(folder: &TensorFolder, name: &str, start: usize, target: &mut [f32]) -> Result<()> {
    let (file, _, dtype) = folder.require_floats(name)?;
    let mut stored = Bytes::new(target.len() * dtype.bytes() as usize);
    folder.read(name, start, stored.bytes_mut())?;
    widen_finite((file, name), start, stored.bytes(), dtype, target)
}

fn measured(
    tensor: &Tensor,
    treatment: Treatment,
    reason: Option<String>,
    energy: f64,
    lost: f64,
) -> LoraTensor {
    let share = if energy > 0.0 { lost / energy } else { f64::from(u8::from(treatment == Treatment::Left)) };
    LoraTensor {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        treatment,
        reason,
        energy,
        relative_error: share.sqrt(),
        energy_kept: 1.0 - share,
    }
}
