//! The layout of a model's parameters in one flat allocation.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Error, Result};

/// Alignment of every allocation in bytes: a cache line pair, and what flat segments are aligned to.
pub const ALIGNMENT: usize = 256;

/// Elements a segment's start is a multiple of: 256 bytes of f32.
pub const SEGMENT_ALIGNMENT: usize = ALIGNMENT / size_of::<f32>();

/// Index of a segment in its [`Layout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub usize);

/// One tensor's place in the flat allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Name of the tensor, as in the checkpoint.
    pub name: String,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// First element in the flat allocation; a multiple of [`SEGMENT_ALIGNMENT`].
    pub offset: usize,
    /// Number of elements, the product of the shape.
    pub length: usize,
}

impl Segment {
    /// Elements of the flat allocation that are this tensor.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.length
    }
}

/// Names, shapes and offsets of all tensors of a model in one flat allocation.
///
/// Weights, gradients, moments, importance and masks all share one layout, so that index `j` means
/// the same parameter in each. Between segments there is padding up to the alignment: it belongs to
/// no parameter, holds zeros, and no operation selects it or counts it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    segments: Vec<Segment>,
    by_name: HashMap<String, SegmentId>,
    parameters: usize,
    length: usize,
}

impl Layout {
    /// Lays out tensors in the order given.
    ///
    /// # Errors
    /// A name that occurs twice, or a size that overflows.
    pub fn new<N: Into<String>>(tensors: impl IntoIterator<Item = (N, Vec<usize>)>) -> Result<Self> {
        let mut layout = Self::default();
        for (name, shape) in tensors {
            layout.push(name.into(), shape)?;
        }
        Ok(layout)
    }

    fn push(&mut self, name: String, shape: Vec<usize>) -> Result<()> {
        let invalid = |reason: String| Error::Argument { op: "layout", reason };
        let length = shape
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size))
            .filter(|length| self.length.checked_add(*length).is_some_and(|end| end < usize::MAX / 64))
            .ok_or_else(|| invalid(format!("the size of `{name}` {shape:?} overflows")))?;
        let id = SegmentId(self.segments.len());
        if self.by_name.insert(name.clone(), id).is_some() {
            return Err(invalid(format!("the tensor `{name}` occurs twice")));
        }
        self.segments.push(Segment { name, shape, offset: self.length, length });
        self.parameters += length;
        self.length = (self.length + length).next_multiple_of(SEGMENT_ALIGNMENT);
        Ok(())
    }

    /// All segments, by ascending offset.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// One segment.
    pub fn segment(&self, id: SegmentId) -> &Segment {
        &self.segments[id.0]
    }

    /// The segment with this name.
    pub fn find(&self, name: &str) -> Option<SegmentId> {
        self.by_name.get(name).copied()
    }

    /// Number of parameters (D in the paper): padding not counted.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// Elements of the flat allocation, padding included.
    pub fn len(&self) -> usize {
        self.length
    }

    /// True when there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }
}
