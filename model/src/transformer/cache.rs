//! Keys and values of the sequences being generated.

use cpift_engine::ops::attention::{Cache, Documents};
use cpift_engine::{Buffer, Device, Indices, Real, View};

use crate::config::ModelConfig;
use crate::error::Result;

/// Keys and values of every layer, one slot of `capacity` tokens per sequence.
#[derive(Debug)]
pub struct KeyValueCache<T: Real> {
    /// Per layer `[slots, capacity, KV, D]`, rotated.
    keys: Vec<Buffer<T>>,
    /// Per layer `[slots, capacity, KV, D]`.
    values: Vec<Buffer<T>>,
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

impl<T: Real> KeyValueCache<T> {
    /// Room for `slots` sequences of `capacity` tokens.
    pub fn new(config: &ModelConfig, device: &Device, slots: usize, capacity: usize) -> Result<Self> {
        let width = config.kv_width();
        let layer = |_| Ok(Buffer::zeros(device, slots * capacity * width)?);
        Ok(Self {
            keys: (0..config.layers).map(layer).collect::<Result<_>>()?,
            values: (0..config.layers).map(layer).collect::<Result<_>>()?,
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
        2 * config.layers * capacity * config.kv_width() * size_of::<T>()
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

    /// Takes over the first tokens of another cache of the same model; both have one slot.
    pub fn copy_first(&mut self, other: &Self, tokens: usize) -> Result<()> {
        let pairs = |own: &mut [Buffer<T>], others: &[Buffer<T>], length: usize| -> Result<()> {
            for (own, other) in own.iter_mut().zip(others) {
                own.slice_mut(0..length).copy_from(other.slice(0..length))?;
            }
            Ok(())
        };
        pairs(&mut self.keys, &other.keys, tokens * self.width)?;
        pairs(&mut self.values, &other.values, tokens * self.width)
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
