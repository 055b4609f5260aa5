//! A frozen matrix, packed once for products with rows of activations.

use rayon::prelude::*;

use super::product::{Part, Rows, sum_of_products};
use super::tile::{BLOCK, Isa, PANEL, to_bf16_pairs};

/// How frozen weights are held. Activations, sums and results are f32 in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 where this machine multiplies it natively, else f32.
    #[default]
    Auto,
    /// 32-bit floats: golden values, machines without AVX512-BF16.
    F32,
    /// bf16 pairs; needs AVX512-BF16, otherwise the product runs in f32 on rounded weights.
    Bf16,
    /// 8-bit weights in blocks of 128 with a scale each, for serving: half the bytes of bf16, which is
    /// what one stream waits for. Many rows at once are slower than in bf16, and gradients are those of the rounded
    /// weights.
    Int8,
}

/// A matrix `M` of `inner` rows and `outer` columns in panels of 32 columns; [`multiply`](Self::multiply) computes
/// `x · M` for any number of rows of `x`.
#[derive(Clone)]
pub struct PackedMatrix {
    inner: usize,
    outer: usize,
    /// Inner rows that each panel has room for.
    room: usize,
    panels: Panels,
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix({} x {}, {} bytes)", self.inner, self.outer, self.bytes())
    }
}

#[derive(Clone)]
pub(super) enum Panels {
    F32(Vec<f32>),
    /// For each panel its values, and for each block of them along the inner dimension a scale a column.
    Int8 {
        values: Vec<i8>,
        scales: Vec<f32>,
        /// Where bytes have dot products: for each scale the sum of its values. The values of a column then lie in fours.
        sums: Option<Vec<i16>>,
    },
    #[cfg(target_arch = "x86_64")]
    Bf16(Vec<u32>),
}

impl Panels {
    fn zeros(words: usize, bf16: bool) -> Self {
        #[cfg(target_arch = "x86_64")]
        if bf16 {
            return Self::Bf16(vec![0; words]);
        }
        let _ = bf16;
        Self::F32(vec![0.0; words])
    }
}

/// Words along the inner dimension of a panel with `inner` rows.
pub(super) fn depth(inner: usize, bf16: bool) -> usize {
    if bf16 { inner.div_ceil(2) } else { inner }
}

/// Lines of a panel of 8-bit weights: whole fours, of which the last may be zeros.
fn lines(inner: usize) -> usize {
    inner.next_multiple_of(4)
}

/// Where value `i` of a column lies in a panel of 8-bit weights: in its line, or in fours of one column.
fn int8_slot(i: usize, lane: usize, fours: bool) -> usize {
    if fours { i / 4 * 4 * PANEL + lane * 4 + i % 4 } else { i * PANEL + lane }
}

/// Copies panels of `old` words to the beginnings of panels of `new` words.
fn widen<T: Copy>(from: &[T], to: &mut [T], old: usize, new: usize) {
    to.chunks_exact_mut(new).zip(from.chunks_exact(old)).for_each(|(to, from)| to[..old].copy_from_slice(from));
}

/// Two values rounded to bf16, the first one in the low half.
#[cfg(target_arch = "x86_64")]
fn bf16_pair(first: f32, second: f32) -> u32 {
    let bits = |v: f32| u32::from(half::bf16::from_f32(v).to_bits());
    bits(first) | bits(second) << 16
}

/// Pairs of a column that are rounded at once.
#[cfg(target_arch = "x86_64")]
const LONGEST: usize = 64;
/// Rows that a matrix which grows by rows has room for at first.
const FEWEST_ROWS: usize = 16;
impl PackedMatrix {
    /// Packs `M[i][j] = at(i, j)`.
    pub fn pack(inner: usize, outer: usize, precision: Precision, at: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        if precision == Precision::Int8 {
            return Self::pack_int8(inner, outer, at);
        }
        let panels = outer.div_ceil(PANEL);
        let native = Isa::detect().has_bf16() && precision != Precision::F32;
        let rounded = precision == Precision::Bf16;
        let value = |i: usize, j: usize| if i < inner && j < outer { at(i, j) } else { 0.0 };
        #[cfg(target_arch = "x86_64")]
        if native {
            let pairs = inner.div_ceil(2);
            let mut packed = vec![0u32; panels * pairs * PANEL];
            packed.par_chunks_mut((pairs * PANEL).max(1)).enumerate().for_each(|(panel, chunk)| {
                for (slot, word) in chunk.iter_mut().enumerate() {
                    let (p, j) = (slot / PANEL, panel * PANEL + slot % PANEL);
                    *word = bf16_pair(value(2 * p, j), value(2 * p + 1, j));
                }
            });
            return Self { inner, outer, room: inner, panels: Panels::Bf16(packed) };
        }
        let _ = native;
        let mut packed = vec![0f32; panels * inner * PANEL];
        packed.par_chunks_mut((inner * PANEL).max(1)).enumerate().for_each(|(panel, chunk)| {
            for (slot, word) in chunk.iter_mut().enumerate() {
                let v = value(slot / PANEL, panel * PANEL + slot % PANEL);
                *word = if rounded { half::bf16::from_f32(v).to_f32() } else { v };
            }
        });
        Self { inner, outer, room: inner, panels: Panels::F32(packed) }
    }

    /// Symmetric in each block: the largest value becomes 127.
    fn pack_int8(inner: usize, outer: usize, at: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let (panels, blocks) = (outer.div_ceil(PANEL), inner.div_ceil(BLOCK));
        let fours = Isa::detect().has_byte_dots();
        let mut values = vec![0i8; panels * lines(inner) * PANEL];
        let mut scales = vec![0f32; panels * blocks * PANEL];
        let mut sums = vec![0i16; scales.len()];
        let blocks_of = (blocks * PANEL).max(1);
        let chunks = values.par_chunks_mut((lines(inner) * PANEL).max(1)).zip(scales.par_chunks_mut(blocks_of));
        chunks.zip(sums.par_chunks_mut(blocks_of)).enumerate().for_each(|(panel, ((values, scales), sums))| {
            for (slot, (scale, sum)) in scales.iter_mut().zip(sums).enumerate() {
                let (block, lane) = (slot / PANEL, slot % PANEL);
                let (rows, column) = (block * BLOCK..inner.min((block + 1) * BLOCK), panel * PANEL + lane);
                if column >= outer {
                    continue;
                }
                let largest = rows.clone().map(|i| at(i, column).abs()).fold(0.0, f32::max);
                *scale = largest / 127.0;
                for i in rows {
                    // A block of zeros has the scale 0, and 0 / 0 is cast to 0.
                    let value = (at(i, column) / *scale).round() as i8;
                    values[int8_slot(i, lane, fours)] = value;
                    *sum += i16::from(value);
                }
            }
        });
        Self { inner, outer, room: inner, panels: Panels::Int8 { values, scales, sums: fours.then_some(sums) } }
    }

    /// No columns yet, of `inner` values each; see [`push_column`](Self::push_column).
    pub(super) fn columns(inner: usize, bf16: bool) -> Self {
        Self { inner, outer: 0, room: inner, panels: Panels::zeros(0, bf16) }
    }

    /// No rows yet, of `outer` values each, with room for some; see [`push_row`](Self::push_row).
    pub(super) fn rows(outer: usize, room: usize, bf16: bool) -> Self {
        let room = room.next_multiple_of(2).max(FEWEST_ROWS);
        let words = outer.div_ceil(PANEL) * depth(room, bf16) * PANEL;
        Self { inner: 0, outer, room, panels: Panels::zeros(words, bf16) }
    }

    /// Appends a column.
    pub(super) fn push_column(&mut self, column: &[f32]) {
        let depth = depth(self.room, self.is_bf16());
        let (panel, lane) = (self.outer / PANEL, self.outer % PANEL);
        let grown = (panel + 1) * depth * PANEL;
        let from = panel * depth * PANEL + lane;
        match &mut self.panels {
            Panels::F32(words) => {
                words.resize(words.len().max(grown), 0.0);
                words[from..].iter_mut().step_by(PANEL).zip(column).for_each(|(to, value)| *to = *value);
            }
            Panels::Int8 { .. } => {}
            #[cfg(target_arch = "x86_64")]
            Panels::Bf16(words) => {
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

    /// Forgets all columns from `outer` on.
    pub(super) fn truncate_columns(&mut self, outer: usize) {
        self.outer = self.outer.min(outer);
    }

    /// Forgets all rows from `inner` on.
    pub(super) fn truncate_rows(&mut self, inner: usize) {
        self.inner = self.inner.min(inner);
    }

    /// Appends a row.
    pub(super) fn push_row(&mut self, row: &[f32]) {
        let bf16 = self.is_bf16();
        if self.inner == self.room {
            let wider = Self::rows(self.outer, 2 * self.room, bf16);
            let (old, new) = (depth(self.room, bf16) * PANEL, depth(wider.room, bf16) * PANEL);
            let narrow = std::mem::replace(self, Self { inner: self.inner, ..wider });
            match (&narrow.panels, &mut self.panels) {
                (Panels::F32(from), Panels::F32(to)) => widen(from, to, old, new),
                #[cfg(target_arch = "x86_64")]
                (Panels::Bf16(from), Panels::Bf16(to)) => widen(from, to, old, new),
                _ => {}
            }
        }
        let depth = depth(self.room, bf16);
        for (panel, values) in row.chunks(PANEL).enumerate() {
            match &mut self.panels {
                Panels::F32(words) => {
                    words[(panel * depth + self.inner) * PANEL..][..values.len()].copy_from_slice(values);
                }
                Panels::Int8 { .. } => {}
                #[cfg(target_arch = "x86_64")]
                Panels::Bf16(words) => {
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

    /// Length of an input row.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// Length of an output row.
    pub fn outer(&self) -> usize {
        self.outer
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(p) => p.len() * 4,
            Panels::Int8 { values, scales, sums } => {
                values.len() + scales.len() * 4 + sums.as_ref().map_or(0, |s| s.len() * 2)
            }
            #[cfg(target_arch = "x86_64")]
            Panels::Bf16(p) => p.len() * 4,
        }
    }

    pub(super) fn panels(&self) -> &Panels {
        &self.panels
    }

    pub(super) fn panel_f32(&self, panel: usize) -> &[f32] {
        match &self.panels {
            Panels::F32(p) => &p[panel * self.room * PANEL..][..self.inner * PANEL],
            _ => &[],
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn panel_bf16(&self, panel: usize) -> &[u32] {
        match &self.panels {
            Panels::Bf16(p) => &p[panel * depth(self.room, true) * PANEL..][..depth(self.inner, true) * PANEL],
            _ => &[],
        }
    }

    /// The values of a panel from an inner row on that begins a block, and its scales (and sums of values) from that block
    /// on.
    pub(super) fn panel_int8(&self, panel: usize, from: usize) -> (&[i8], &[f32], Option<&[i16]>) {
        let Panels::Int8 { values, scales, sums } = &self.panels else { return (&[], &[], None) };
        let (blocks, lines) = (self.inner.div_ceil(BLOCK), lines(self.inner));
        let values = &values[(panel * lines + from) * PANEL..(panel + 1) * lines * PANEL];
        let own = (panel * blocks + from / BLOCK) * PANEL..(panel + 1) * blocks * PANEL;
        (values, &scales[own.clone()], sums.as_ref().map(|sums| &sums[own]))
    }

    /// Whether it multiplies by dot products of bytes.
    pub(super) fn has_byte_dots(&self) -> bool {
        matches!(self.panels, Panels::Int8 { sums: Some(_), .. })
    }

    /// The transpose, packed from the values held.
    pub fn transposed(&self) -> Self {
        match &self.panels {
            Panels::F32(p) => Self::pack(self.outer, self.inner, Precision::F32, |i, j| {
                p[(i / PANEL * self.room + j) * PANEL + i % PANEL]
            }),
            Panels::Int8 { values, scales, sums } => {
                let (blocks, lines) = (self.inner.div_ceil(BLOCK), lines(self.inner));
                Self::pack(self.outer, self.inner, Precision::Auto, |i, j| {
                    let (panel, lane) = (i / PANEL, i % PANEL);
                    let scale = scales[(panel * blocks + j / BLOCK) * PANEL + lane];
                    scale * f32::from(values[panel * lines * PANEL + int8_slot(j, lane, sums.is_some())])
                })
            }
            #[cfg(target_arch = "x86_64")]
            Panels::Bf16(p) => {
                let pairs = depth(self.room, true);
                Self::pack(self.outer, self.inner, Precision::Bf16, |i, j| {
                    let word = p[(i / PANEL * pairs + j / 2) * PANEL + i % PANEL];
                    half::bf16::from_bits((word >> (16 * (j % 2))) as u16).to_f32()
                })
            }
        }
    }

    /// `out = x · M`; `x` holds rows of `inner` values, `out` as many rows of `outer` values.
    pub fn multiply(&self, x: &[f32], out: &mut [f32]) {
        let x = Rows::new(x, self.inner);
        sum_of_products(&[Part::whole(0, &[(&x, self)])], out, self.outer, false, true);
    }

    pub(super) fn is_bf16(&self) -> bool {
        match self.panels {
            #[cfg(target_arch = "x86_64")]
            Panels::Bf16(_) => true,
            _ => false,
        }
    }
}
