//! The heads of attention, and where they lie in a row.

/// The number of query heads, of key heads, and the values of a head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Query heads; a multiple of `keys`.
    pub queries: usize,
    /// Key heads, and value heads.
    pub keys: usize,
    /// Values of a head.
    pub dim: usize,
    /// What products of queries and keys are multiplied by: 1 / √dim in most models.
    pub scale: f32,
    /// Whether keys and values are kept in bf16; only where that is native.
    pub bf16: bool,
}

impl Heads {
    /// Values of a row of queries, keys and values.
    pub fn width(self) -> usize {
        (self.queries + 2 * self.keys) * self.dim
    }

    /// Query heads of one key head.
    pub(super) fn group(self) -> usize {
        self.queries / self.keys
    }

    /// Where the keys of a head begin in a row.
    pub(super) fn key(self, head: usize) -> usize {
        (self.queries + head) * self.dim
    }

    /// Where the values of a head begin in a row.
    pub(super) fn value(self, head: usize) -> usize {
        (self.queries + self.keys + head) * self.dim
    }

    /// The query rows of one key head, (row, member of the group) in that order, `dim` values each, out of rows of
    /// `width` values.
    pub(super) fn gather(self, from: &[f32], width: usize, head: usize, rows: impl Iterator<Item = usize>) -> Vec<f32> {
        let block = self.group() * self.dim;
        let mut gathered = Vec::with_capacity(rows.size_hint().0 * block);
        rows.for_each(|r| gathered.extend_from_slice(&from[r * width + head * block..][..block]));
        gathered
    }
}
