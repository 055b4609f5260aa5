//! A frozen matrix, packed once for products with rows of activations.

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::bf16::bf16_pair;
use super::int8::{BLOCK, Int8Panel};
use super::isa::Isa;
use super::tile::PANEL;

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
    panels: Panels,
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix({} x {}, {} bytes)", self.inner, self.outer, self.bytes())
    }
}

#[derive(Clone)]
enum Panels {
    Words(Words),
    /// For each panel its weights, and for each block of them along the inner dimension a scale a column.
    Int8 {
        weights: Vec<i8>,
        scales: Vec<f32>,
        /// Where bytes have dot products: for each scale the sum of its weights. The weights of a column then lie in
        /// groups of four.
        sums: Option<Vec<i16>>,
    },
}

/// Panels of f32, or of bf16 pairs along the inner dimension.
#[derive(Clone)]
pub(super) enum Words {
    F32(Vec<f32>),
    #[cfg(target_arch = "x86_64")]
    Bf16(Vec<u32>),
}

impl Words {
    pub(super) fn zeros(count: usize, bf16: bool) -> Self {
        #[cfg(target_arch = "x86_64")]
        if bf16 {
            return Self::Bf16(vec![0; count]);
        }
        let _ = bf16;
        Self::F32(vec![0.0; count])
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(words) => words.len(),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(words) => words.len(),
        }
    }

    pub(super) fn is_bf16(&self) -> bool {
        match self {
            Self::F32(_) => false,
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(_) => true,
        }
    }

    /// A matrix of `inner` rows and `outer` columns in panels that have room for `capacity` rows.
    pub(super) fn view(&self, (inner, outer): (usize, usize), capacity: usize) -> MatrixView<'_> {
        let bf16 = self.is_bf16();
        let (depth, used) = (depth(capacity, bf16), depth(inner, bf16));
        let panels = match self {
            Self::F32(words) => PanelsView::F32(WordPanels { words, depth, used }),
            #[cfg(target_arch = "x86_64")]
            Self::Bf16(words) => PanelsView::Bf16(WordPanels { words, depth, used }),
        };
        MatrixView { inner, outer, panels }
    }
}

/// Words along the inner dimension of a panel with `inner` rows.
pub(super) fn depth(inner: usize, bf16: bool) -> usize {
    if bf16 { inner.div_ceil(2) } else { inner }
}

/// What a product reads of a matrix of `inner` rows and `outer` columns.
#[derive(Clone, Copy)]
pub(super) struct MatrixView<'a> {
    pub(super) inner: usize,
    pub(super) outer: usize,
    pub(super) panels: PanelsView<'a>,
}

/// The panels of a matrix.
#[derive(Clone, Copy)]
pub(super) enum PanelsView<'a> {
    F32(WordPanels<'a, f32>),
    #[cfg(target_arch = "x86_64")]
    Bf16(WordPanels<'a, u32>),
    Int8(Int8Panels<'a>),
}

impl MatrixView<'_> {
    pub(super) fn is_bf16(&self) -> bool {
        match self.panels {
            #[cfg(target_arch = "x86_64")]
            PanelsView::Bf16(_) => true,
            _ => false,
        }
    }

    /// Whether it multiplies by dot products of bytes.
    pub(super) fn has_byte_dots(&self) -> bool {
        matches!(self.panels, PanelsView::Int8(Int8Panels { sums: Some(_), .. }))
    }
}

/// Panels of `depth` lines of [`PANEL`] words, of which the first `used` are filled.
#[derive(Clone, Copy)]
pub(super) struct WordPanels<'a, T> {
    words: &'a [T],
    depth: usize,
    used: usize,
}

impl<'a, T> WordPanels<'a, T> {
    /// The filled lines of a panel.
    pub(super) fn panel(&self, panel: usize) -> &'a [T] {
        &self.words[panel * self.depth * PANEL..][..self.used * PANEL]
    }
}

/// Panels of 8-bit weights.
#[derive(Clone, Copy)]
pub(super) struct Int8Panels<'a> {
    inner: usize,
    weights: &'a [i8],
    scales: &'a [f32],
    sums: Option<&'a [i16]>,
}

impl<'a> Int8Panels<'a> {
    /// A panel from a line on that begins a block.
    pub(super) fn panel(&self, panel: usize, from: usize) -> Int8Panel<'a> {
        let (blocks, lines) = (self.inner.div_ceil(BLOCK), int8_lines(self.inner));
        let own = (panel * blocks + from / BLOCK) * PANEL..(panel + 1) * blocks * PANEL;
        Int8Panel {
            weights: &self.weights[(panel * lines + from) * PANEL..(panel + 1) * lines * PANEL],
            scales: &self.scales[own.clone()],
            sums: self.sums.map(|sums| &sums[own]),
        }
    }
}

/// Lines of a panel of 8-bit weights: whole groups of four, the last of which may end in zeros.
fn int8_lines(inner: usize) -> usize {
    inner.next_multiple_of(4)
}

/// Where weight `i` of a column lies in a panel of 8-bit weights: in its line, or in groups of four of one column.
fn int8_slot(i: usize, lane: usize, fours: bool) -> usize {
    if fours { i / 4 * 4 * PANEL + lane * 4 + i % 4 } else { i * PANEL + lane }
}

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
            return Self { inner, outer, panels: Panels::Words(Words::Bf16(packed)) };
        }
        let _ = native;
        let mut packed = vec![0f32; panels * inner * PANEL];
        packed.par_chunks_mut((inner * PANEL).max(1)).enumerate().for_each(|(panel, chunk)| {
            for (slot, word) in chunk.iter_mut().enumerate() {
                let v = value(slot / PANEL, panel * PANEL + slot % PANEL);
                *word = if rounded { half::bf16::from_f32(v).to_f32() } else { v };
            }
        });
        Self { inner, outer, panels: Panels::Words(Words::F32(packed)) }
    }

    /// Symmetric in each block: the largest value becomes 127.
    fn pack_int8(inner: usize, outer: usize, at: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let (panels, blocks) = (outer.div_ceil(PANEL), inner.div_ceil(BLOCK));
        let fours = Isa::detect().has_byte_dots();
        let mut weights = vec![0i8; panels * int8_lines(inner) * PANEL];
        let mut scales = vec![0f32; panels * blocks * PANEL];
        let mut sums = vec![0i16; scales.len()];
        let blocks_of = (blocks * PANEL).max(1);
        let chunks = weights.par_chunks_mut((int8_lines(inner) * PANEL).max(1)).zip(scales.par_chunks_mut(blocks_of));
        chunks.zip(sums.par_chunks_mut(blocks_of)).enumerate().for_each(|(panel, ((weights, scales), sums))| {
            for (slot, (scale, sum)) in scales.iter_mut().zip(sums).enumerate() {
                let (block, lane) = (slot / PANEL, slot % PANEL);
                let (rows, column) = (block * BLOCK..inner.min((block + 1) * BLOCK), panel * PANEL + lane);
                if column >= outer {
                    // Padding of the last panel.
                    continue;
                }
                let largest = rows.clone().map(|i| at(i, column).abs()).fold(0.0, f32::max);
                *scale = largest / 127.0;
                for i in rows {
                    // A block of zeros has the scale 0, and 0 / 0 is cast to 0.
                    let weight = (at(i, column) / *scale).round() as i8;
                    weights[int8_slot(i, lane, fours)] = weight;
                    *sum += i16::from(weight);
                }
            }
        });
        Self { inner, outer, panels: Panels::Int8 { weights, scales, sums: fours.then_some(sums) } }
    }

    /// Length of an input row.
    pub(super) fn inner(&self) -> usize {
        self.inner
    }

    /// Length of an output row.
    pub(super) fn outer(&self) -> usize {
        self.outer
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        match &self.panels {
            Panels::Words(words) => words.len() * 4,
            Panels::Int8 { weights, scales, sums } => {
                weights.len() + scales.len() * 4 + sums.as_ref().map_or(0, |s| s.len() * 2)
            }
        }
    }

    /// What products read.
    pub(super) fn view(&self) -> MatrixView<'_> {
        let Self { inner, outer, panels } = self;
        match panels {
            Panels::Words(words) => words.view((*inner, *outer), *inner),
            Panels::Int8 { weights, scales, sums } => {
                let panels = PanelsView::Int8(Int8Panels { inner: *inner, weights, scales, sums: sums.as_deref() });
                MatrixView { inner: *inner, outer: *outer, panels }
            }
        }
    }

    pub(super) fn is_bf16(&self) -> bool {
        self.view().is_bf16()
    }

    /// The transpose, packed from the values held.
    pub(super) fn transposed(&self) -> Self {
        match &self.panels {
            Panels::Words(Words::F32(p)) => Self::pack(self.outer, self.inner, Precision::F32, |i, j| {
                p[(i / PANEL * self.inner + j) * PANEL + i % PANEL]
            }),
            #[cfg(target_arch = "x86_64")]
            Panels::Words(Words::Bf16(p)) => {
                let pairs = depth(self.inner, true);
                Self::pack(self.outer, self.inner, Precision::Bf16, |i, j| {
                    let word = p[(i / PANEL * pairs + j / 2) * PANEL + i % PANEL];
                    half::bf16::from_bits((word >> (16 * (j % 2))) as u16).to_f32()
                })
            }
            Panels::Int8 { weights, scales, sums } => {
                let (blocks, lines) = (self.inner.div_ceil(BLOCK), int8_lines(self.inner));
                Self::pack(self.outer, self.inner, Precision::Auto, |i, j| {
                    let (panel, lane) = (i / PANEL, i % PANEL);
                    let scale = scales[(panel * blocks + j / BLOCK) * PANEL + lane];
                    scale * f32::from(weights[panel * lines * PANEL + int8_slot(j, lane, sums.is_some())])
                })
            }
        }
    }
}
