//! A matrix that grows by rows or by columns, packed as it comes: keys and values of attention.

#[cfg(target_arch = "x86_64")]
use super::bf16::{bf16_pair, to_bf16_pairs};
use super::packed::{MatrixView, Words, depth};
use super::tile::PANEL;

/// A matrix of `inner` rows and `outer` columns in panels of 32 columns, in f32 or bf16.
#[derive(Clone)]
pub(super) struct GrowingMatrix {
    inner: usize,
    outer: usize,
    /// Rows that each panel has room for.
    capacity: usize,
    words: Words,
}

impl std::fmt::Debug for GrowingMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GrowingMatrix({} x {}, room for {} rows)", self.inner, self.outer, self.capacity)
    }
}

/// Pairs of a column that are rounded at once.
#[cfg(target_arch = "x86_64")]
const LONGEST: usize = 64;
/// Rows that a matrix which grows by rows has room for at first.
const FEWEST_ROWS: usize = 16;

impl GrowingMatrix {
    /// No columns yet, of `inner` values each; see [`push_column`](Self::push_column).
    pub(super) fn columns(inner: usize, bf16: bool) -> Self {
        Self { inner, outer: 0, capacity: inner, words: Words::zeros(0, bf16) }
    }

    /// No rows yet, of `outer` values each, with room for some; see [`push_row`](Self::push_row).
    pub(super) fn rows(outer: usize, capacity: usize, bf16: bool) -> Self {
        let capacity = capacity.next_multiple_of(2).max(FEWEST_ROWS);
        let words = Words::zeros(outer.div_ceil(PANEL) * depth(capacity, bf16) * PANEL, bf16);
        Self { inner: 0, outer, capacity, words }
    }

    /// Length of an output row.
    pub(super) fn outer(&self) -> usize {
        self.outer
    }

    /// Memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.words.len() * size_of::<f32>()
    }

    /// What products read.
    pub(super) fn view(&self) -> MatrixView<'_> {
        self.words.view((self.inner, self.outer), self.capacity)
    }

    /// Appends a column.
    pub(super) fn push_column(&mut self, column: &[f32]) {
        assert_eq!(column.len(), self.inner, "a column for a matrix of {} rows", self.inner);
        let depth = depth(self.capacity, self.words.is_bf16());
        let (panel, lane) = (self.outer / PANEL, self.outer % PANEL);
        let grown = (panel + 1) * depth * PANEL;
        let from = panel * depth * PANEL + lane;
        match &mut self.words {
            Words::F32(words) => {
                words.resize(words.len().max(grown), 0.0);
                words[from..].iter_mut().step_by(PANEL).zip(column).for_each(|(to, value)| *to = *value);
            }
            #[cfg(target_arch = "x86_64")]
            Words::Bf16(words) => {
                words.resize(words.len().max(grown), 0);
                let mut pairs = [0; LONGEST];
                for (column, from) in column.chunks(2 * LONGEST).zip((from..).step_by(LONGEST * PANEL)) {
                    to_bf16_pairs(column, &mut pairs);
                    let to = words[from..].iter_mut().step_by(PANEL).zip(pairs).take(column.len().div_ceil(2));
                    to.for_each(|(to, pair)| *to = pair);
                }
            }
        }
        self.outer += 1;
    }

    /// Appends a row.
    pub(super) fn push_row(&mut self, row: &[f32]) {
        assert_eq!(row.len(), self.outer, "a row for a matrix of {} columns", self.outer);
        let bf16 = self.words.is_bf16();
        if self.inner == self.capacity {
            let old = depth(self.capacity, bf16) * PANEL;
            self.capacity *= 2;
            let new = depth(self.capacity, bf16) * PANEL;
            match &mut self.words {
                Words::F32(words) => *words = widened(words, old, new),
                #[cfg(target_arch = "x86_64")]
                Words::Bf16(words) => *words = widened(words, old, new),
            }
        }
        let depth = depth(self.capacity, bf16);
        for (panel, values) in row.chunks(PANEL).enumerate() {
            match &mut self.words {
                Words::F32(words) => {
                    words[(panel * depth + self.inner) * PANEL..][..values.len()].copy_from_slice(values);
                }
                #[cfg(target_arch = "x86_64")]
                Words::Bf16(words) => {
                    let words = &mut words[(panel * depth + self.inner / 2) * PANEL..][..values.len()];
                    let second = self.inner % 2 == 1;
                    for (word, value) in words.iter_mut().zip(values) {
                        *word = if second { *word & 0xFFFF | bf16_pair(0.0, *value) } else { bf16_pair(*value, 0.0) };
                    }
                }
            }
        }
        self.inner += 1;
    }

    /// Forgets all columns from `outer` on.
    pub(super) fn truncate_columns(&mut self, outer: usize) {
        self.outer = self.outer.min(outer);
    }

    /// Forgets all rows from `inner` on.
    pub(super) fn truncate_rows(&mut self, inner: usize) {
        self.inner = self.inner.min(inner);
    }
}

/// Panels of `old` words at the beginnings of panels of `new` words.
fn widened<T: Copy + Default>(panels: &[T], old: usize, new: usize) -> Vec<T> {
    let mut wide = vec![T::default(); panels.len() / old * new];
    wide.chunks_exact_mut(new).zip(panels.chunks_exact(old)).for_each(|(to, from)| to[..old].copy_from_slice(from));
    wide
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::oracle::noise;
    use crate::product::{Part, sum_of_products};
    use crate::rows::Rows;
    use crate::{PackedMatrix, Precision};

    fn product(x: &Rows<'_>, m: MatrixView<'_>, columns: usize) -> Vec<f32> {
        let mut out = vec![0.0; x.count() * columns];
        let part = Part { column: 0, columns, factors: &[(x, m)] };
        sum_of_products(&[part], &mut out, columns, false, false);
        out
    }

    #[test]
    fn a_matrix_that_grows_by_rows_or_columns_multiplies_like_one_that_was_packed_whole() {
        let (inner, outer) = (70, 40);
        let w = noise(inner * outer, 4);
        let x = noise(3 * inner, 5);
        for bf16 in [false, Isa::detect().has_bf16()] {
            let precision = if bf16 { Precision::Bf16 } else { Precision::F32 };
            let whole = PackedMatrix::pack(inner, outer, precision, |i, j| w[i * outer + j]);
            let (mut rows, mut columns) = (GrowingMatrix::rows(outer, 0, bf16), GrowingMatrix::columns(inner, bf16));
            for (index, row) in w.chunks(outer).enumerate() {
                // What is forgotten is written over.
                rows.push_row(&noise(outer, 9));
                rows.push_row(&noise(outer, 8));
                rows.truncate_rows(index);
                rows.push_row(row);
            }
            columns.push_column(&noise(inner, 9));
            columns.truncate_columns(0);
            (0..outer).for_each(|j| columns.push_column(&w.iter().skip(j).step_by(outer).copied().collect::<Vec<_>>()));
            let all = Rows::new(&x, inner);
            let want = product(&all, whole.view(), outer);
            assert_eq!(product(&all, rows.view(), outer), want);
            assert_eq!(product(&all, columns.view(), outer), want);
            // The first 33 rows and 9 columns alone.
            let short: Vec<f32> = x.chunks(inner).flat_map(|row| &row[..33]).copied().collect();
            let first = PackedMatrix::pack(33, 9, precision, |i, j| w[i * outer + j]);
            let want = product(&Rows::new(&short, 33), first.view(), 9);
            let got = product(&Rows::columns(&x, inner, 0, 33), rows.view(), 9);
            assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 0.1), "{got:?} {want:?}");
        }
    }

    #[test]
    #[should_panic(expected = "a column for a matrix of 4 rows")]
    fn a_column_of_another_length_is_refused() {
        GrowingMatrix::columns(4, false).push_column(&[1.0; 5]);
    }
}
