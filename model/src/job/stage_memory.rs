//! What each stage takes beside what a job holds throughout: masks, lists, and memory of a moment.

use super::inputs::Inputs;
use super::trainings::has_probes;
use crate::progress::StageKind;
use crate::recipe::{Conflict, Frozen, ImportanceKind, Method, Recipe};
use crate::stages::merge::Merge;
use crate::stages::pieces::{PIECE, longest_part};

/// What a stage takes beside what the job holds throughout, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct StageMemory {
    /// On the device, whatever it is.
    pub buffers: usize,
    /// Masks and lists of coordinates, which are in the host's memory.
    pub masks: usize,
    /// What is on its way from and to files.
    pub files: usize,
    /// Copies of masks on a GPU.
    pub copies: usize,
    /// On the host where the device is a GPU.
    pub beside_gpu: usize,
}

impl StageMemory {
    /// All of it, where the device is a GPU or where it is the CPU.
    pub fn bytes(&self, on_gpu: bool) -> usize {
        let shared = self.buffers + self.masks + self.files;
        if on_gpu { shared + self.copies + self.beside_gpu } else { shared }
    }
}

/// The stages of a job, in order, with all that each takes at one time or another. `generation` is what answering an
/// evaluation takes, `files` what reading and writing does.
pub fn stage_memory(
    recipe: &Recipe,
    inputs: &Inputs,
    generation: usize,
    files: usize,
) -> Vec<(StageKind, Vec<StageMemory>)> {
    let sizes = Sizes::new(recipe, inputs);
    // Nothing is read or written meanwhile; what is frozen stays, as evaluations come between steps.
    let evaluation = |frozen: StageMemory| StageMemory { buffers: generation, ..frozen };
    let working = |memory: StageMemory| StageMemory { files, ..memory };
    let training = |frozen: StageMemory| vec![evaluation(frozen), working(frozen)];
    let nothing = StageMemory::default();
    let mut stages = Vec::new();
    if has_probes(recipe.method) {
        stages.push((StageKind::Probe, training(nothing)));
        stages.push((StageKind::Core, vec![working(sizes.selection())]));
        stages.push((StageKind::Group, vec![working(sizes.grouping())]));
    }
    match recipe.method {
        Method::Cpift => {
            let mut fusing = training(nothing);
            fusing.extend(sizes.fusion(recipe).map(working));
            stages.push((StageKind::Fuse, fusing));
            let frozen = match recipe.integrate.frozen {
                Frozen::None => nothing,
                Frozen::Half => sizes.random_half(),
                Frozen::Prior | Frozen::Others | Frozen::All => sizes.frozen_cores(),
            };
            stages.push((StageKind::Integrate, training(frozen)));
        }
        Method::Half => stages.push((StageKind::Train, training(sizes.random_half()))),
        Method::Joint | Method::Sequential | Method::Staged | Method::Replay => {
            stages.push((StageKind::Train, training(nothing)));
        }
    }
    stages
}

/// Sizes that masks and lists follow from.
struct Sizes {
    tasks: usize,
    /// Flat parameters.
    parameters: usize,
    /// Parameters of a core at most.
    core: usize,
    /// Bytes of a mask.
    mask: usize,
    /// Bytes of the words of the largest tensor, as they are read from a mask's file.
    words: usize,
    /// Parameters of the longest part that models are fused in.
    part: usize,
    /// Bytes of the second moments that weigh a part's importance.
    roots: usize,
}

impl Sizes {
    fn new(recipe: &Recipe, inputs: &Inputs) -> Self {
        let layout = &inputs.layout;
        let longest = layout.segments().iter().map(|segment| segment.length).max().unwrap_or(0);
        Self {
            tasks: inputs.tasks.len(),
            parameters: layout.len(),
            core: (recipe.core.fraction * layout.parameters() as f64).ceil() as usize,
            mask: layout.len() / 8,
            words: longest / 8,
            part: longest_part(layout),
            roots: match recipe.probe.importance {
                ImportanceKind::FisherNet => longest_part(layout) * size_of::<f32>(),
                _ => 0,
            },
        }
    }

    /// A piece of a mask and so many lists of values in it, at most as many as are in the whole mask.
    fn piece(&self, lists: usize, members: usize) -> usize {
        let piece = self.parameters.min(PIECE);
        piece / 8 + lists * size_of::<f32>() * members.min(piece)
    }

    /// Stage 1b: a mask is made; a GPU marks it in its own memory.
    fn selection(&self) -> StageMemory {
        let masks = self.mask + self.roots;
        StageMemory { masks, copies: self.mask, beside_gpu: self.mask, ..StageMemory::default() }
    }

    /// Stage 2: the directions of all cores, and two masks, or one and what it says of a piece.
    fn grouping(&self) -> StageMemory {
        let signs = self.tasks * 2 * self.core / 8;
        let reading = self.mask + self.words;
        let pair = self.mask + reading;
        StageMemory {
            masks: signs + pair.max(self.mask + self.piece(2, self.core)),
            copies: self.piece(1, self.core),
            ..StageMemory::default()
        }
    }

    /// Stage 3, of which one part of the parameters is in memory at a time: the cores of all tasks there and their owners,
    /// beside what a merge takes; or a core that is transplanted, and what all tasks have where cores overlap.
    fn fusion(&self, recipe: &Recipe) -> [StageMemory; 2] {
        let settings = &recipe.fuse;
        let float = size_of::<f32>();
        let mask = self.part / 8;
        let cores = if settings.transplant { self.tasks * mask } else { 0 };
        let owned = cores + 2 * mask;
        let mut merging = StageMemory { masks: owned, ..StageMemory::default() };
        if let Some(merge) = Merge::of(settings) {
            let (counts, chosen) = merge.bytes(self.part, self.tasks);
            merging.buffers = counts;
            merging.masks += chosen;
            // Merges are computed on the host; a GPU marks the largest updates.
            merging.copies = mask;
            merging.beside_gpu = mask + 4 * float * self.part;
        }
        if !settings.transplant {
            return [merging; 2];
        }
        let core = self.core.min(self.part);
        let claims = if self.tasks < 2 { 0 } else { self.tasks * core };
        let conflicts = (claims / 2).min(self.part);
        let ranked = if settings.conflict == Conflict::Max { 2 } else { 1 };
        // Of every conflict θ0 and the result, and which tasks claim it; of every claim a weight, and its importance.
        let lists = conflicts * (2 * float + self.tasks.div_ceil(8)) + claims * ranked * float;
        let transplanting = StageMemory {
            masks: owned + 2 * mask + self.words + lists + self.roots,
            copies: 4 * mask + float * core.max(conflicts),
            ..StageMemory::default()
        };
        [merging, transplanting]
    }

    /// The union of cores is made from one after the other; then its values are hashed in pieces.
    fn frozen_cores(&self) -> StageMemory {
        let members = (self.tasks * self.core).min(self.parameters);
        let reading = self.mask + self.words;
        StageMemory {
            masks: self.mask + reading.max(self.piece(1, members)),
            copies: self.mask + self.piece(1, members),
            ..StageMemory::default()
        }
    }

    fn random_half(&self) -> StageMemory {
        let members = self.parameters.div_ceil(2);
        StageMemory {
            masks: self.mask + self.piece(1, members),
            copies: self.mask + self.piece(1, members),
            beside_gpu: self.mask,
            ..StageMemory::default()
        }
    }
}
