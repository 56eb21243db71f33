//! What layers keep of the sequences being generated: keys and values, or the states of gated DeltaNets.

use cpift_engine::ops::attention::{Cache, Documents};
use cpift_engine::{Buffer, Device, IndexView, Indices, Real, View, ViewMut};

use crate::config::{DeltaNet, ModelConfig};
use crate::error::{Error, Result};

/// What every layer keeps, one slot per sequence: keys and values of up to `capacity` tokens, or states.
#[derive(Debug)]
pub struct KeyValueCache<T: Real> {
    /// Per layer `[slots, capacity, KV, D]`, rotated.
    keys: Vec<Buffer<T>>,
    /// Per layer `[slots, capacity, KV, D]`.
    values: Vec<Buffer<T>>,
    /// Per layer the states of its gated DeltaNet, which then has neither keys nor values.
    states: Vec<Option<DeltaNetStates<T>>>,
    /// Tokens of a slot.
    capacity: usize,
    /// Elements of a token in one layer, KV·D.
    width: usize,
    /// Slot of each row of the step in progress, and the tokens it holds with the row's own.
    rows: Vec<(u32, u32)>,
    /// The same on the device.
    slots: Indices,
    lengths: Indices,
    /// Most rows of a step.
    row_capacity: usize,
}

/// The states of a gated DeltaNet, whatever the lengths of the sequences.
#[derive(Debug)]
struct DeltaNetStates<T: Real> {
    sizes: DeltaNet,
    /// The latest inputs of its convolution `[slots, K − 1, M]`.
    inputs: Buffer<T>,
    /// The states of its heads `[slots, HV, DK, DV]`.
    heads: Buffer<f32>,
}

impl<T: Real> DeltaNetStates<T> {
    fn new(sizes: DeltaNet, device: &Device, slots: usize) -> Result<Self> {
        Ok(Self {
            sizes,
            inputs: Buffer::zeros(device, slots * input_length(&sizes))?,
            heads: Buffer::zeros(device, slots * sizes.state_length())?,
        })
    }
}

/// Elements of the inputs that a convolution keeps of a sequence.
fn input_length(sizes: &DeltaNet) -> usize {
    (sizes.taps - 1) * sizes.channels()
}

/// A gated DeltaNet's states for the rows of a step.
#[derive(Debug)]
pub struct StepStates<'a, T: Real> {
    /// Slots of the rows.
    pub slots: IndexView<'a>,
    /// The latest inputs of its convolution `[slots, K − 1, M]`.
    pub inputs: ViewMut<'a, T>,
    /// The states of its heads `[slots, HV, DK, DV]`.
    pub heads: ViewMut<'a, f32>,
}

impl<T: Real> KeyValueCache<T> {
    /// Room for `slots` sequences of `capacity` tokens.
    pub fn new(config: &ModelConfig, device: &Device, slots: usize, capacity: usize) -> Result<Self> {
        let width = config.kv_width();
        let layer = |index: usize| {
            let slots = if config.attention[index].delta_net.is_some() { 0 } else { slots };
            Ok(Buffer::zeros(device, slots * capacity * width)?)
        };
        let states = config.attention.iter().map(|layer| layer.delta_net);
        let states =
            states.map(|sizes| sizes.map(|sizes| DeltaNetStates::new(sizes, device, slots)).transpose());
        Ok(Self {
            keys: (0..config.layers).map(layer).collect::<Result<_>>()?,
            values: (0..config.layers).map(layer).collect::<Result<_>>()?,
            states: states.collect::<Result<_>>()?,
            capacity,
            width,
            rows: Vec::with_capacity(slots),
            slots: Indices::with_capacity(device, slots)?,
            lengths: Indices::with_capacity(device, slots)?,
            row_capacity: slots,
        })
    }

    /// Bytes that one sequence of `capacity` tokens takes.
    pub fn bytes_per_slot(config: &ModelConfig, capacity: usize) -> usize {
        let layer = |delta_net: Option<DeltaNet>| match delta_net {
            None => capacity.saturating_mul(2 * config.kv_width() * size_of::<T>()),
            Some(sizes) => input_length(&sizes) * size_of::<T>() + sizes.state_length() * size_of::<f32>(),
        };
        let layers = config.attention.iter().map(|attention| layer(attention.delta_net));
        layers.fold(0, usize::saturating_add)
    }

    /// Whether what is kept of a text's beginning cannot be had from what is kept of the whole.
    pub fn has_states(&self) -> bool {
        self.states.iter().any(Option::is_some)
    }

    /// Makes room for steps of so many rows.
    pub fn reserve_rows(&mut self, device: &Device, rows: usize) -> Result<()> {
        if rows > self.row_capacity {
            self.slots = Indices::with_capacity(device, rows)?;
            self.lengths = Indices::with_capacity(device, rows)?;
            self.row_capacity = rows;
        }
        Ok(())
    }

    /// Takes over the first tokens of another cache of the same model, which with states are all that it has; both have
    /// one slot.
    pub fn copy_first(&mut self, other: &Self, tokens: usize) -> Result<()> {
        let pairs = |own: &mut [Buffer<T>], others: &[Buffer<T>], length: usize| -> Result<()> {
            for (own, other) in own.iter_mut().zip(others) {
                // A layer with states has neither.
                let length = length.min(other.len());
                own.slice_mut(0..length).copy_from(other.slice(0..length))?;
            }
            Ok(())
        };
        pairs(&mut self.keys, &other.keys, tokens * self.width)?;
        pairs(&mut self.values, &other.values, tokens * self.width)?;
        for (own, other) in self.states.iter_mut().flatten().zip(other.states.iter().flatten()) {
            own.inputs.view_mut().copy_from(other.inputs.view())?;
            own.heads.view_mut().copy_from(other.heads.view())?;
        }
        Ok(())
    }

    /// The states of `layer`'s gated DeltaNet, for the rows of this step.
    pub fn states(&mut self, layer: usize) -> Option<StepStates<'_, T>> {
        let states = self.states[layer].as_mut()?;
        let (inputs, heads) = (states.inputs.view_mut(), states.heads.view_mut());
        Some(StepStates { slots: self.slots.view(), inputs, heads })
    }

    /// Leaves in the slots from `first_slot` on the latest inputs of the convolution in `layer`, from `mixed` `[N, M]`,
    /// and returns the states of its heads in these slots, to be written.
    pub fn store_states(
        &mut self,
        layer: usize,
        documents: &Documents,
        first_slot: usize,
        mixed: View<'_, T>,
    ) -> Result<ViewMut<'_, f32>> {
        let states = self.states[layer].as_mut();
        let states = states.ok_or_else(|| Error::Job(format!("layer {layer} has no states")))?;
        let (width, length) = (states.sizes.channels(), input_length(&states.sizes));
        for (slot, tokens) in (first_slot..).zip(documents.ranges()) {
            let mut inputs = states.inputs.slice_mut(slot * length..(slot + 1) * length);
            inputs.fill(T::default())?;
            let kept = tokens.len().min(states.sizes.taps - 1);
            let latest = mixed.slice((tokens.end - kept) * width..tokens.end * width);
            inputs.slice(length - kept * width..length).copy_from(latest)?;
        }
        let length = states.sizes.state_length();
        Ok(states.heads.slice_mut(first_slot * length..(first_slot + documents.len()) * length))
    }

    /// The rows of the next step: slot, and tokens seen with the row's own.
    pub fn set_rows(&mut self, rows: impl Iterator<Item = (u32, u32)>) -> Result<()> {
        self.rows.clear();
        self.rows.extend(rows);
        let (slots, lengths): (Vec<u32>, Vec<u32>) = self.rows.iter().copied().unzip();
        self.slots.set(&slots)?;
        Ok(self.lengths.set(&lengths)?)
    }

    /// Stores `layer`'s keys and values of whole documents at the start of slots `first_slot`….
    pub fn store(
        &mut self,
        layer: usize,
        documents: &Documents,
        first_slot: usize,
        keys: View<'_, T>,
        values: View<'_, T>,
    ) -> Result<()> {
        for (slot, tokens) in (first_slot..).zip(documents.ranges()) {
            let from = tokens.start * self.width..tokens.end * self.width;
            self.write(layer, slot, 0, keys.slice(from.clone()), values.slice(from))?;
        }
        Ok(())
    }

    /// Stores `layer`'s key and value of the one new token of each row.
    pub fn append(&mut self, layer: usize, keys: View<'_, T>, values: View<'_, T>) -> Result<()> {
        let mut row = 0;
        while row < self.rows.len() {
            let (slot, length) = self.rows[row];
            // Rows that follow each other in a slot are written as one.
            let follow =
                self.rows[row..].iter().zip(length..).take_while(|(next, length)| **next == (slot, *length));
            let end = row + follow.count();
            let from = row * self.width..end * self.width;
            let position = length as usize - 1;
            self.write(layer, slot as usize, position, keys.slice(from.clone()), values.slice(from))?;
            row = end;
        }
        Ok(())
    }

    fn write(
        &mut self,
        layer: usize,
        slot: usize,
        position: usize,
        keys: View<'_, T>,
        values: View<'_, T>,
    ) -> Result<()> {
        let start = (slot * self.capacity + position) * self.width;
        self.keys[layer].slice_mut(start..start + keys.len()).copy_from(keys)?;
        self.values[layer].slice_mut(start..start + values.len()).copy_from(values)?;
        Ok(())
    }

    /// One layer, for the rows of this step.
    pub fn layer(&self, layer: usize) -> Cache<'_, T> {
        Cache {
            k: self.keys[layer].view(),
            v: self.values[layer].view(),
            capacity: self.capacity,
            slots: self.slots.view(),
            lengths: self.lengths.view(),
        }
    }
}
