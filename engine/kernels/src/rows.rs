//! Rows of activations, as products read them.

use std::sync::OnceLock;

use rayon::prelude::*;

use super::bf16::to_bf16_pairs;
use super::int8::Bytes;

/// Rows that one task rounds at least.
const TASK: usize = 12;

/// Rows of activations, rounded once for all products that take them in bf16 or in bytes.
pub(super) struct Rows<'a> {
    values: &'a [f32],
    count: usize,
    width: usize,
    stride: usize,
    /// In bf16 from the beginning; then there are no `values`.
    given: Option<&'a [u32]>,
    rounded: OnceLock<Vec<u32>>,
    bytes: OnceLock<Bytes>,
}

impl<'a> Rows<'a> {
    /// Rows of `width` values, one behind the other.
    pub(super) fn new(values: &'a [f32], width: usize) -> Self {
        assert!(width > 0 && values.len().is_multiple_of(width), "{} values are not rows of {width}", values.len());
        Self::with(values, values.len() / width, width, width, None)
    }

    /// The columns `from..from + width` of rows of `stride` values.
    pub(super) fn columns(values: &'a [f32], stride: usize, from: usize, width: usize) -> Self {
        assert!(stride > 0 && values.len().is_multiple_of(stride), "{} values are not rows of {stride}", values.len());
        assert!(width > 0 && from + width <= stride, "{width} columns from {from} on in rows of {stride}");
        // Where there are no rows, there is no column to begin at.
        Self::with(&values[from.min(values.len())..], values.len() / stride, width, stride, None)
    }

    /// Rows of `width` values that are in bf16 pairs already; only for products with matrices in bf16.
    pub(super) fn in_bf16(pairs: &'a [u32], width: usize) -> Self {
        let words = width.div_ceil(2);
        assert!(words > 0 && pairs.len().is_multiple_of(words), "{} pairs are not rows of {width}", pairs.len());
        Self::with(&[], pairs.len() / words, width, width, Some(pairs))
    }

    fn with(values: &'a [f32], count: usize, width: usize, stride: usize, given: Option<&'a [u32]>) -> Self {
        Self { values, count, width, stride, given, rounded: OnceLock::new(), bytes: OnceLock::new() }
    }

    /// How many rows.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Values of a row.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Values from the beginning of a row to that of the next.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// From the first row's first value to the end; nothing for rows that are only in bf16.
    pub(super) fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Whether the rows have no values in f32.
    pub(super) fn is_bf16_alone(&self) -> bool {
        self.given.is_some()
    }

    pub(super) fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..row * self.stride + self.width]
    }

    /// All rows in bytes.
    pub(super) fn bytes(&self) -> &Bytes {
        self.bytes.get_or_init(|| Bytes::new((0..self.count).map(|row| self.row(row)), self.width))
    }

    /// All rows in bf16 pairs.
    pub(super) fn bf16_pairs(&self, parallel: bool) -> &[u32] {
        if let Some(pairs) = self.given {
            return pairs;
        }
        self.rounded.get_or_init(|| {
            let pairs = self.width.div_ceil(2);
            let mut rounded = vec![0u32; self.count * pairs];
            if parallel && rounded.len() > 1 << 16 {
                let rows = rounded.par_chunks_mut(pairs).enumerate().with_min_len(TASK);
                rows.for_each(|(row, to)| to_bf16_pairs(self.row(row), to));
            } else {
                rounded.chunks_mut(pairs).enumerate().for_each(|(row, to)| to_bf16_pairs(self.row(row), to));
            }
            rounded
        })
    }
}
