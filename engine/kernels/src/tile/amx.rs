//! Tiles in AMX: the matrix unit of Intel's server processors since Sapphire Rapids, which multiplies bf16 several times
//! as fast as AVX-512 does.
//!
//! The intrinsics are not stable, so instructions stand here as text. A panel's layout, pairs along the inner dimension
//! with the columns side by side, is the one that the unit reads. Every row is summed in steps of [`STEP`] pairs from the
//! first on, whatever the number of rows. What is left over of the inner dimension is a step with zeros.
//!
//! The compiler uses none of the unit's registers, as no code is compiled for it: so they keep their values from one block of
//! assembly to the next, though nothing says so to the compiler.

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::{Factor, Output, PANEL};

/// Rows of a tile: two registers of 16.
pub(crate) const ROWS: usize = 32;
/// Pairs of a row of a register.
const STEP: usize = 16;
/// Rows of a register.
const LINES: usize = 16;

/// Whether this machine has the unit, and this process may use it.
pub(crate) fn detected() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| is_there() && may_be_used())
}

/// The bits of `cpuid` for tiles and their bf16 products. Results are stored by AVX-512.
fn is_there() -> bool {
    const TILES: u32 = 1 << 24;
    const BF16: u32 = 1 << 22;
    let features = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).edx } else { 0 };
    features & TILES != 0 && features & BF16 != 0 && super::Isa::detect().has_bf16()
}

/// Asks the system for the state of the registers, which Linux grants to a process once and for all of its threads.
#[cfg(target_os = "linux")]
fn may_be_used() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: this system call reads its two arguments alone and changes no memory of the process. The kernel changes rcx
    // and r11.
    unsafe {
        asm!("syscall", inlateout("rax") result, in("rdi") REQUEST_PERMISSION, in("rsi") TILE_DATA,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn may_be_used() -> bool {
    false
}

/// The shapes of the eight registers, as `ldtilecfg` reads them.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// The unit, set up for tiles of some number of rows; given back when it is dropped.
pub(crate) struct Unit {
    /// Rows of a tile and pairs of a step; nothing before the first tile.
    shape: Option<(usize, usize)>,
}

impl Unit {
    /// A unit without a shape.
    pub(crate) fn new() -> Self {
        Self { shape: None }
    }

    /// Registers 0 to 3 hold sums, 4 and 5 rows of activations, 6 and 7 lines of a panel.
    fn shape(&mut self, rows: usize, pairs: usize) {
        assert!((1..=ROWS).contains(&rows) && (1..=STEP).contains(&pairs) && detected(), "{rows} x {pairs} in AMX");
        if self.shape == Some((rows, pairs)) {
            return;
        }
        // Registers that are not used have a shape, too.
        let (first, second) = (rows.min(LINES) as u8, rows.saturating_sub(LINES).max(1) as u8);
        let (lines, bytes) = (pairs as u8, 4 * pairs as u16);
        let sums = [(first, 64), (first, 64), (second, 64), (second, 64)];
        let factors = [(first, bytes), (second, bytes), (lines, 64), (lines, 64)];
        let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        for (register, (rows, bytes)) in sums.into_iter().chain(factors).enumerate() {
            (shapes.rows[register], shapes.bytes[register]) = (rows, bytes);
        }
        // SAFETY: the unit was detected (asserted above), and `shapes` are 64 bytes of the layout that it reads.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &shapes, options(nostack, readonly)) };
        self.shape = Some((rows, pairs));
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if self.shape.is_some() {
            // SAFETY: the unit was detected, or no shape would have been set.
            unsafe { asm!("tilerelease", options(nostack, nomem)) };
        }
    }
}

/// Steps of one tile: where the two registers of rows and the panel's lines begin, and what lies between two rows, in
/// bytes.
#[derive(Clone, Copy)]
struct Steps {
    first: *const u32,
    second: *const u32,
    between_rows: usize,
    panel: *const u32,
    count: usize,
}

/// `output[r][j] (+)= sum over i of x[r][i] * panel[i][j]` in bf16 pairs, for the output's rows, 1 to [`ROWS`].
///
/// # Safety
/// [`detected`] is true.
pub(crate) unsafe fn tile(unit: &mut Unit, factor: &Factor<'_, u32>, output: Output) {
    let rows = output.rows;
    factor.check(rows, ROWS);
    // A product of low rank is one step, as short as it is.
    let step = factor.inner.clamp(1, STEP);
    unit.shape(rows, step);
    let (two, wide) = (rows > LINES, output.columns > PANEL / 2);
    let (whole, rest) = (factor.inner / step, factor.inner % step);
    // Rows behind the first 16; those that are not there are not read.
    let behind = if two { LINES * factor.stride } else { 0 };
    // SAFETY: `Factor::check` asserted `rows` rows of `inner` pairs and as many lines of the panel, which whole steps keep
    // to. The padded copies are whole registers.
    unsafe {
        let whole_panel = output.columns == PANEL;
        if whole_panel && output.accumulate {
            load(output, two);
        } else {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        }
        let x = factor.x.as_ptr();
        if whole > 0 {
            let steps = Steps {
                first: x,
                second: x.add(behind),
                between_rows: factor.stride * 4,
                panel: factor.panel.as_ptr(),
                count: whole,
            };
            add_products(steps, two, wide);
        }
        if rest > 0 {
            let (mut padded, mut lines) = ([0u32; ROWS * STEP], [0u32; STEP * PANEL]);
            for (row, to) in padded.chunks_exact_mut(STEP).take(rows).enumerate() {
                to[..rest].copy_from_slice(&factor.x[row * factor.stride + whole * STEP..][..rest]);
            }
            lines[..rest * PANEL].copy_from_slice(&factor.panel[whole * STEP * PANEL..][..rest * PANEL]);
            let (first, panel) = (padded.as_ptr(), lines.as_ptr());
            let steps = Steps { first, second: first.add(LINES * STEP), between_rows: STEP * 4, panel, count: 1 };
            add_products(steps, two, wide);
        }
        if whole_panel {
            store(Sums::of(output), two, true);
        } else {
            add_to_part(output, two, wide);
        }
    }
}

/// Adds the products of some steps to the sums in registers 0 to 3.
///
/// # Safety
/// The registers have their shapes, and all that the steps name can be read.
unsafe fn add_products(steps: Steps, two: bool, wide: bool) {
    // One step: up to 16 pairs of up to 32 rows, times as many lines of half the panel or all of it.
    macro_rules! steps {
        ($($instruction:literal),*) => {
            // SAFETY: the caller's contract; memory is only read.
            unsafe {
                asm!(
                    "2:",
                    $($instruction,)*
                    "add {first}, 64",
                    "add {second}, 64",
                    "add {panel}, 2048",
                    "dec {count}",
                    "jnz 2b",
                    first = inout(reg) steps.first => _,
                    second = inout(reg) steps.second => _,
                    panel = inout(reg) steps.panel => _,
                    count = inout(reg) steps.count => _,
                    between_rows = in(reg) steps.between_rows,
                    between_lines = in(reg) PANEL * 4,
                    options(nostack, readonly)
                )
            }
        };
    }
    match (two, wide) {
        (true, true) => steps!(
            "tileloadd tmm6, [{panel} + {between_lines}]",
            "tileloadd tmm4, [{first} + {between_rows}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{panel} + {between_lines} + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{second} + {between_rows}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7"
        ),
        (true, false) => steps!(
            "tileloadd tmm6, [{panel} + {between_lines}]",
            "tileloadd tmm4, [{first} + {between_rows}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{second} + {between_rows}]",
            "tdpbf16ps tmm2, tmm5, tmm6"
        ),
        (false, true) => steps!(
            "tileloadd tmm6, [{panel} + {between_lines}]",
            "tileloadd tmm4, [{first} + {between_rows}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{panel} + {between_lines} + 64]",
            "tdpbf16ps tmm1, tmm4, tmm7"
        ),
        (false, false) => steps!(
            "tileloadd tmm6, [{panel} + {between_lines}]",
            "tileloadd tmm4, [{first} + {between_rows}]",
            "tdpbf16ps tmm0, tmm4, tmm6"
        ),
    }
}

/// Where the sums of registers 0 and 1, and those of 2 and 3, begin, and what lies between two rows, in bytes.
#[derive(Clone, Copy)]
struct Sums {
    first: *mut f32,
    second: *mut f32,
    between_rows: usize,
}

impl Sums {
    /// In the result itself; 16 rows further down nothing is touched where they are not there.
    fn of(output: Output) -> Self {
        let second = output.at.wrapping_add(LINES * output.stride);
        Self { first: output.at, second, between_rows: output.stride * 4 }
    }
}

/// Continues the sums of a whole panel.
///
/// # Safety
/// The registers have their shapes, for the output's rows.
unsafe fn load(output: Output, two: bool) {
    let Sums { first, second, between_rows } = Sums::of(output);
    // SAFETY: `Target::tile` asserted `rows` rows of `columns` values, a whole panel's.
    unsafe {
        asm!(
            "tileloadd tmm0, [{at} + {between}]",
            "tileloadd tmm1, [{at} + {between} + 64]",
            at = in(reg) first, between = in(reg) between_rows, options(nostack, readonly)
        );
        if two {
            asm!(
                "tileloadd tmm2, [{at} + {between}]",
                "tileloadd tmm3, [{at} + {between} + 64]",
                at = in(reg) second, between = in(reg) between_rows, options(nostack, readonly)
            );
        }
    }
}

/// Stores the sums of a whole panel, or of its first half.
///
/// # Safety
/// The registers have their shapes, and what is stored lies in memory that may be written.
unsafe fn store(to: Sums, two: bool, wide: bool) {
    let Sums { first, second, between_rows } = to;
    // SAFETY: the caller's contract.
    unsafe {
        asm!("tilestored [{} + {}], tmm0", in(reg) first, in(reg) between_rows, options(nostack));
        if wide {
            asm!("tilestored [{} + {} + 64], tmm1", in(reg) first, in(reg) between_rows, options(nostack));
        }
        if two {
            asm!("tilestored [{} + {}], tmm2", in(reg) second, in(reg) between_rows, options(nostack));
        }
        if two && wide {
            asm!("tilestored [{} + {} + 64], tmm3", in(reg) second, in(reg) between_rows, options(nostack));
        }
    }
}

/// Writes the sums of a part of a panel, or adds them.
///
/// # Safety
/// The registers have their shapes, for the output's rows.
unsafe fn add_to_part(output: Output, two: bool, wide: bool) {
    let mut sums = [[0f32; PANEL]; ROWS];
    let (first, second) = sums.split_at_mut(LINES);
    let to = Sums { first: first.as_mut_ptr().cast(), second: second.as_mut_ptr().cast(), between_rows: PANEL * 4 };
    // SAFETY: the sums have room for whole registers; AVX-512 was detected with the unit.
    unsafe {
        store(to, two, wide);
        add_rows(&sums, output);
    }
}

/// Writes sums row by row within the output's columns, or adds them.
#[target_feature(enable = "avx512f")]
fn add_rows(sums: &[[f32; PANEL]; ROWS], output: Output) {
    for (row, sums) in sums.iter().take(output.rows).enumerate() {
        // SAFETY: a row has 32 values.
        let sums = unsafe { [_mm512_loadu_ps(sums.as_ptr()), _mm512_loadu_ps(sums.as_ptr().add(LINES))] };
        output.skip_rows(row).store_avx512(&[sums]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Prefetch, Target, tile_bf16};
    use super::*;
    use crate::bf16::bf16_pair;

    /// Whole numbers, whose sums are exact in either order.
    fn pairs(count: usize, seed: usize) -> Vec<u32> {
        let value = |i: usize| ((i * 7 + seed) % 13) as f32 - 6.0;
        (0..count).map(|i| bf16_pair(value(2 * i), value(2 * i + 1))).collect()
    }

    #[test]
    fn tiles_of_every_shape_equal_those_of_avx512_and_touch_nothing_else() {
        if !detected() {
            querywright_testing::skipped("this machine has no AMX");
            return;
        }
        let mut unit = Unit::new();
        let (stride, above) = (40, 2);
        for rows in 1..=ROWS {
            for inner in [1, 7, 8, 15, 16, 17, 32, 45] {
                let between = inner + 3;
                let (x, panel) = (pairs(rows * between, 1), pairs(inner * PANEL, 5));
                for columns in [1, 15, 16, 17, 31, 32] {
                    for accumulate in [false, true] {
                        let mut results = [vec![0.5f32; (rows + 2 * above) * stride], vec![]];
                        results[1] = results[0].clone();
                        let [amx, avx512] = &mut results;
                        let factor = Factor { x: &x, stride: between, panel: &panel, inner };
                        let target = Target::new(amx, stride);
                        // SAFETY: one thread; the unit was detected.
                        unsafe { tile(&mut unit, &factor, target.tile((above, rows), (3, columns), accumulate)) };
                        let target = Target::new(avx512, stride);
                        for row in 0..rows {
                            let factor = Factor { x: &x[row * between..], ..factor };
                            // SAFETY: one thread; the unit comes with AVX-512.
                            unsafe {
                                let output = target.tile((above + row, 1), (3, columns), accumulate);
                                tile_bf16(&factor, output, Prefetch::NOTHING);
                            }
                        }
                        assert!(amx == avx512, "{rows} rows, {inner} pairs, {columns} columns, {accumulate}");
                        assert!(amx.iter().any(|v| v.abs() > 1.0) || inner == 1, "sums of something");
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "a tile of 33 rows")]
    fn a_tile_with_more_rows_than_two_registers_is_refused() {
        let mut result = vec![0.0; 33 * PANEL];
        let output = Target::new(&mut result, PANEL);
        let (x, panel) = (vec![0; 33], vec![0; PANEL]);
        let factor = Factor { x: &x, stride: 1, panel: &panel, inner: 1 };
        // SAFETY: one thread; the number of rows is refused before anything is done.
        unsafe { tile(&mut Unit::new(), &factor, output.tile((0, 33), (0, PANEL), false)) };
    }
}
