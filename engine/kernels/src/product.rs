//! Sums of products of rows with packed matrices.

use std::ops::Range;

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::int8::tile_bytes;
use super::int8::tile_int8;
use super::isa::Isa;
use super::packed::{MatrixView, PackedMatrix, PanelsView, depth};
use super::rows::Rows;
use super::tile::{Factor, Output, PANEL, ROWS, Target, amx, tile_f32};
#[cfg(target_arch = "x86_64")]
use super::tile::{Prefetch, tile_bf16};

/// Rows that one task takes: their activations stay in the second-level cache while panels pass by.
const ROW_BLOCK: usize = 16 * ROWS;
/// Words of the inner dimension that are multiplied before the next ones: with more, neither a panel nor the rows of a
/// tile would stay in the second-level cache. A multiple of a block of 8-bit weights.
const INNER_BLOCK: usize = 1024;
/// Multiplications that are worth a second thread: waking one costs some microseconds.
const WORTH_A_THREAD: usize = 1 << 17;

/// Some columns of a result: a sum of products that have its number of columns.
pub(super) struct Part<'a> {
    /// The first column of the result.
    pub(super) column: usize,
    /// How many columns: the first ones of each matrix.
    pub(super) columns: usize,
    /// What is multiplied and added up; at least one.
    pub(super) factors: &'a [(&'a Rows<'a>, MatrixView<'a>)],
}

impl<'a> Part<'a> {
    /// All columns of the matrices.
    pub(super) fn whole(column: usize, factors: &'a [(&'a Rows<'a>, MatrixView<'a>)]) -> Self {
        Self { column, columns: factors.first().map_or(0, |f| f.1.outer), factors }
    }
}

impl PackedMatrix {
    /// `out = x · M`; `x` holds rows of `inner` values, `out` as many rows of `outer` values.
    pub fn multiply(&self, x: &[f32], out: &mut [f32]) {
        let x = Rows::new(x, self.inner());
        sum_of_products(&[Part::whole(0, &[(&x, self.view())])], out, self.outer(), false, true);
    }
}

/// `out[:, part] (+)= Σ x · M` for every part; `out` holds rows of `stride` values. The order of summation does not
/// depend on the number of rows.
pub(super) fn sum_of_products(parts: &[Part<'_>], out: &mut [f32], stride: usize, accumulate: bool, parallel: bool) {
    let target = Target::new(out, stride);
    let rows = target.rows();
    let (work, deepest) = check(parts, rows, stride);
    if rows == 0 {
        return;
    }
    let parallel = parallel && work >= WORTH_A_THREAD;
    let mut panels = Vec::new();
    for part in parts {
        for (x, matrix) in part.factors {
            // Rounded here, once, and not by the first task that needs them.
            if matrix.is_bf16() {
                x.bf16_pairs(parallel);
            }
            if matrix.has_byte_dots() {
                x.bytes();
            }
        }
        panels.extend((0..part.columns.div_ceil(PANEL)).map(|panel| (part, panel)));
    }
    let blocks = rows.div_ceil(ROW_BLOCK);
    let groups = match parallel {
        true => (rayon::current_num_threads() * 4).div_ceil(blocks).min(panels.len()).max(1),
        false => 1,
    };
    let in_bf16 = parts.iter().all(|part| part.factors.iter().all(|(_, matrix)| matrix.is_bf16()));
    let product = Product { isa: Isa::detect(), amx: in_bf16 && amx::detected(), target, accumulate };
    let task = |t: usize| {
        let (block, group) = (t / groups, t % groups);
        let own = &panels[group * panels.len() / groups..(group + 1) * panels.len() / groups];
        let rows = block * ROW_BLOCK..rows.min((block + 1) * ROW_BLOCK);
        for inner_block in 0..deepest.div_ceil(INNER_BLOCK).max(1) {
            // SAFETY: a task is a (block of rows, group of panels): no two tasks have a row and a panel in common. Panels
            // are disjoint columns of a part, and `check` asserted that parts share no column.
            unsafe { product.add_block(own, inner_block, rows.clone()) };
        }
    };
    if !parallel {
        (0..blocks).for_each(task);
    } else {
        (0..blocks * groups).into_par_iter().for_each(task);
    }
}

/// Asserts that parts and factors fit a result of `rows` rows of `stride` values, and each other. Gives the number of
/// multiplications and the longest inner dimension in words.
fn check(parts: &[Part<'_>], rows: usize, stride: usize) -> (usize, usize) {
    let (mut work, mut deepest) = (0, 0);
    for (index, part) in parts.iter().enumerate() {
        assert!(!part.factors.is_empty(), "a sum has at least one term");
        assert!(part.column + part.columns <= stride, "the part does not fit into a row");
        let shares =
            |other: &Part<'_>| part.column < other.column + other.columns && other.column < part.column + part.columns;
        assert!(!parts[..index].iter().any(shares), "parts share columns");
        for (x, matrix) in part.factors {
            assert!(matrix.is_bf16() || !x.is_bf16_alone(), "rows in bf16 for a matrix that is not");
            // Of a matrix with more rows than `x` has columns, the first ones are taken.
            assert!(x.width() <= matrix.inner, "rows do not fit the matrix");
            // The sums that go with weights in bytes are those of whole blocks.
            assert!(x.width() == matrix.inner || !matrix.has_byte_dots(), "some rows of a matrix in bytes");
            assert_eq!(x.count(), rows, "the factors have other rows than the result");
            assert!(part.columns <= matrix.outer, "a matrix has fewer columns than the part");
            work += rows * x.width() * part.columns;
            deepest = deepest.max(depth(x.width(), matrix.is_bf16()));
        }
    }
    (work, deepest)
}

/// What all tasks of a sum of products share.
struct Product<'a> {
    isa: Isa,
    /// Whether tiles are AMX's.
    amx: bool,
    target: Target<'a>,
    accumulate: bool,
}

impl Product<'_> {
    /// Adds one block of the inner dimension to some rows of some panels.
    ///
    /// # Safety
    /// No other thread touches these rows of these panels' columns.
    unsafe fn add_block(&self, panels: &[(&Part<'_>, usize)], inner_block: usize, rows: Range<usize>) {
        // Tiles of equal height: 64 rows are 6 tiles of 10 or 11, not 5 of 12 and a short one.
        let tiles = rows.len().div_ceil(if self.amx { amx::ROWS } else { ROWS });
        let edge = |n: usize| rows.start + rows.len() * n / tiles;
        let mut unit = self.amx.then(amx::Unit::new);
        for (index, (part, panel)) in panels.iter().enumerate() {
            let (column, columns) = (part.column + panel * PANEL, PANEL.min(part.columns - panel * PANEL));
            for n in 0..tiles {
                let tile = Tile { panel: *panel, from: inner_block * INNER_BLOCK, row: edge(n), n, tiles };
                for (position, factor) in part.factors.iter().enumerate() {
                    // One factor a call: with a loop over factors around it the inner loop runs out of registers.
                    // The sums that a further factor continues are still in the nearest cache.
                    let accumulate = self.accumulate || inner_block > 0 || position > 0;
                    let next = panels.get(index + 1).filter(|_| position == 0);
                    // SAFETY: the caller's promise; one tile is written after the other; the instructions were detected.
                    unsafe {
                        let rows = (tile.row, edge(n + 1) - tile.row);
                        let output = self.target.tile(rows, (column, columns), accumulate);
                        tile.multiply((self.isa, unit.as_mut()), factor, output, next);
                    }
                }
            }
        }
    }
}

/// Some rows of one panel, in one block of the inner dimension; number `n` of the `tiles` that lie one below the other.
struct Tile {
    panel: usize,
    /// The first word of the inner dimension.
    from: usize,
    row: usize,
    n: usize,
    tiles: usize,
}

impl Tile {
    /// Multiplies these rows of a factor, as many as the output has.
    ///
    /// # Safety
    /// The instructions of `isa` were detected.
    unsafe fn multiply(
        &self,
        (isa, unit): (Isa, Option<&mut amx::Unit>),
        (x, matrix): &(&Rows<'_>, MatrixView<'_>),
        output: Output,
        next: Option<&(&Part<'_>, usize)>,
    ) {
        let depth = depth(x.width(), matrix.is_bf16());
        let from = self.from.min(depth);
        let inner = INNER_BLOCK.min(depth - from);
        let values = || &x.values()[self.row * x.stride() + from..];
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (unit, next);
        match &matrix.panels {
            PanelsView::F32(panels) => {
                let panel = &panels.panel(self.panel)[from * PANEL..];
                let factor = Factor { x: values(), stride: x.stride(), panel, inner };
                // SAFETY: the instructions were detected.
                unsafe { tile_f32(isa, &factor, output) };
            }
            PanelsView::Int8(panels) => {
                let panel = panels.panel(self.panel, from);
                // SAFETY: as above; sums exist only where the instructions for bytes were detected.
                match panel.sums {
                    #[cfg(target_arch = "x86_64")]
                    Some(sums) => unsafe {
                        let panel = (panel.weights, panel.scales, sums);
                        tile_bytes((x.bytes(), self.row, from), panel, inner, output);
                    },
                    _ => unsafe { tile_int8(isa, (values(), x.stride()), panel, inner, output) },
                }
            }
            #[cfg(target_arch = "x86_64")]
            PanelsView::Bf16(panels) => {
                let pairs = x.width().div_ceil(2);
                let factor = Factor {
                    x: &x.bf16_pairs(false)[self.row * pairs + from..],
                    stride: pairs,
                    panel: &panels.panel(self.panel)[from * PANEL..],
                    inner,
                };
                // SAFETY: bf16 panels, and a unit, exist only where the instructions were detected.
                match unit {
                    Some(unit) => unsafe { amx::tile(unit, &factor, output) },
                    None => unsafe { tile_bf16(&factor, output, self.prefetch(next, from, inner)) },
                }
            }
        }
    }

    /// This tile's share of the panel that comes next.
    #[cfg(target_arch = "x86_64")]
    fn prefetch(&self, next: Option<&(&Part<'_>, usize)>, from: usize, inner: usize) -> Prefetch {
        let Some((PanelsView::Bf16(panels), panel)) = next.map(|(part, panel)| (part.factors[0].1.panels, panel))
        else {
            return Prefetch::NOTHING;
        };
        let panel = panels.panel(*panel);
        let share = (from + self.n * inner.div_ceil(self.tiles)) * PANEL;
        Prefetch::new(&panel[share.min(panel.len())..], self.tiles)
    }
}

#[cfg(test)]
mod tests;
