//! From logits to statistics, gradients and sampled tokens (`cuda/head.cuh`), and the optimiser (`cuda/optimizer.cuh`).

use std::collections::HashMap;

use super::handle::Device;
use super::interface::{AdamWConstants, Argument};
use super::operations::{BLOCK, Matrix, address, int, named, threads};
use super::pool::{Buffer, View};
use querywright_types::{Error, Result};

/// The tokens that may stand in the place of each row, on a device.
#[derive(Debug)]
pub struct Within {
    /// Where each row's list begins, and how long it is: 0 where all tokens may stand there.
    listed: Buffer,
    tokens: Buffer,
    rows: usize,
}

/// What rows of a decoding step read, for the kernel that samples to write (`Next` in `cuda/head.cuh`).
#[derive(Debug, Clone, Copy)]
pub struct NextStep<'a> {
    /// The token of each row (u32).
    pub tokens: View<'a>,
    /// Its position (i32).
    pub positions: View<'a>,
    /// Where its key and value go (i32).
    pub cache_rows: View<'a>,
    /// What it sees ([`Slot`](super::Slot)).
    pub slots: View<'a>,
    /// The end of the cache rows that a sequence may write (i32). One that has come there goes on in the row `spare`.
    pub ends: View<'a>,
    /// A cache row that no sequence sees.
    pub spare: usize,
}

/// Threads of a block that samples (`SAMPLE_THREADS` in `cuda/head.cuh`).
const SAMPLE_THREADS: usize = 1024;

impl Device {
    /// Brings the tokens that may stand in the place of each row to the device, each list in rising order; none: all of them.
    /// A list that many rows share is brought once.
    ///
    /// # Errors
    /// A list without a token, too little memory.
    pub fn within<'a>(&self, rows: impl Iterator<Item = Option<&'a [u32]>>) -> Result<Within> {
        let (mut listed, mut tokens) = (Vec::new(), Vec::new());
        // Most lists are made anew for a sequence, and equal to another one's.
        let mut known: HashMap<&[u32], usize> = HashMap::new();
        let mut seen: HashMap<*const u32, usize> = HashMap::new();
        let number = |value: usize| {
            let bug = |_| Error::bug("restricted answers on a GPU", format!("a list at {value}"));
            i32::try_from(value).map_err(bug)
        };
        for list in rows {
            let Some(list) = list else {
                listed.extend([0, 0]);
                continue;
            };
            if list.is_empty() {
                return Err(Error::bug("restricted answers on a GPU", "a place where no token may stand"));
            }
            let from = *seen.entry(list.as_ptr()).or_insert_with(|| {
                *known.entry(list).or_insert_with(|| {
                    tokens.extend_from_slice(list);
                    tokens.len() - list.len()
                })
            });
            listed.extend([number(from)?, number(list.len())?]);
        }
        Ok(Within { rows: listed.len() / 2, listed: self.upload(&listed)?, tokens: self.upload(&tokens)? })
    }

    /// The arguments of a kernel that restricts tokens, where there is something to restrict.
    fn restricted(&self, op: &'static str, within: Option<&Within>, rows: usize) -> Result<Vec<Argument>> {
        let Some(within) = within else { return Ok(Vec::new()) };
        if within.rows != rows {
            return Err(Error::bug(op, format!("lists of tokens for {} of {rows} rows", within.rows)));
        }
        Ok(vec![within.listed.view().into(), within.tokens.view().into()])
    }

    /// Log-probability and entropy (two f32 a row) of `targets` (u32) given `logits` (rows, vocabulary) in f32, among the
    /// tokens `within`.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn statistics(
        &self,
        logits: View<'_>,
        targets: View<'_>,
        out: View<'_>,
        (rows, vocabulary): (usize, usize),
        scale: f32,
        within: Option<&Within>,
    ) -> Result<()> {
        let op = "statistics";
        self.need(op, logits, 4 * rows * vocabulary)?;
        self.need(op, targets, 4 * rows)?;
        self.need(op, out, 8 * rows)?;
        let mut arguments = vec![logits.into(), targets.into(), out.into(), int(vocabulary)?, Argument::Float(scale)];
        arguments.extend(self.restricted(op, within, rows)?);
        let kernel = if within.is_some() { "statistics_within_f32" } else { "statistics_f32" };
        self.run(kernel, (rows, 1), threads(vocabulary), &arguments)
    }

    /// As [`statistics`](Self::statistics), and the gradient of `Σ weights.0 · log p + weights.1 · entropy` with respect
    /// to the logits; `weights` are two f32 a row.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn statistics_backward(
        &self,
        logits: View<'_>,
        (targets, weights): (View<'_>, View<'_>),
        out: View<'_>,
        dlogits: Matrix<'_>,
        scale: f32,
        within: Option<&Within>,
    ) -> Result<()> {
        let (op, rows, vocabulary) = ("statistics_backward", dlogits.rows, dlogits.columns);
        self.need(op, logits, 4 * rows * vocabulary)?;
        self.need(op, targets, 4 * rows)?;
        self.need(op, weights, 8 * rows)?;
        self.need(op, out, 8 * rows)?;
        self.need(op, dlogits.view, dlogits.bytes())?;
        let mut arguments = vec![
            logits.into(),
            targets.into(),
            weights.into(),
            out.into(),
            dlogits.view.into(),
            int(vocabulary)?,
            Argument::Float(scale),
        ];
        arguments.extend(self.restricted(op, within, rows)?);
        let kernel = if within.is_some() { "slopes_within" } else { "slopes" };
        self.run(&named(kernel, dlogits.format), (rows, 1), threads(vocabulary), &arguments)
    }

    /// Samples a token a row: where the running sum of probabilities at `scale` passes the row's uniform number (f64).
    /// Without a scale it takes the most probable one. `out` takes three words a row: the token (u32), its
    /// log-probability and its distribution's entropy (f32), at the scale, or at 1 where there is none. With `next`, it
    /// also writes what the next step reads.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn sample(
        &self,
        logits: View<'_>,
        uniforms: View<'_>,
        out: View<'_>,
        (rows, vocabulary): (usize, usize),
        scale: Option<f32>,
        next: Option<NextStep<'_>>,
    ) -> Result<()> {
        let op = "sample";
        if let Some(next) = next {
            for view in [next.tokens, next.positions, next.cache_rows, next.ends] {
                self.need(op, view, 4 * rows)?;
            }
            self.need(op, next.slots, 20 * rows)?;
        }
        let mut arguments = self.sampled(op, (logits, uniforms, out), (rows, vocabulary), scale)?;
        arguments.extend([
            address(next.map(|n| n.tokens)),
            address(next.map(|n| n.positions)),
            address(next.map(|n| n.cache_rows)),
            address(next.map(|n| n.slots)),
            address(next.map(|n| n.ends)),
            int(next.map_or(0, |n| n.spare))?,
        ]);
        self.run_early("sample_f32", (rows, 1), SAMPLE_THREADS, &arguments)
    }

    /// As [`sample`](Self::sample), among the tokens `within`: in their order, with log-probabilities and entropies among them.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn sample_within(
        &self,
        logits: View<'_>,
        uniforms: View<'_>,
        out: View<'_>,
        (rows, vocabulary): (usize, usize),
        scale: Option<f32>,
        within: &Within,
    ) -> Result<()> {
        let op = "sample_within";
        let mut arguments = self.sampled(op, (logits, uniforms, out), (rows, vocabulary), scale)?;
        arguments.extend(self.restricted(op, Some(within), rows)?);
        self.run_early("sample_within_f32", (rows, 1), SAMPLE_THREADS, &arguments)
    }

    /// Checks the operands of sampling, and puts them into their order.
    fn sampled(
        &self,
        op: &'static str,
        (logits, uniforms, out): (View<'_>, View<'_>, View<'_>),
        (rows, vocabulary): (usize, usize),
        scale: Option<f32>,
    ) -> Result<Vec<Argument>> {
        self.need(op, logits, 4 * rows * vocabulary)?;
        self.need(op, uniforms, 8 * rows)?;
        self.need(op, out, 12 * rows)?;
        Ok(vec![
            logits.into(),
            uniforms.into(),
            out.into(),
            int(vocabulary)?,
            Argument::Float(scale.unwrap_or(1.0)),
            Argument::Int(i32::from(scale.is_none())),
        ])
    }

    /// The sum of squares of `count` values in single precision, summed in double; not finite where one of them is not.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn squares(&self, values: View<'_>, count: usize) -> Result<f64> {
        const BLOCKS: usize = 256;
        self.need("squares", values, 4 * count)?;
        let partial = self.allocate(8 * BLOCKS)?;
        let arguments = [values.into(), partial.view().into(), Argument::Long(count as i64)];
        self.run("squares_f32", (BLOCKS, 1), BLOCK, &arguments)?;
        let mut sums = [0f64; BLOCKS];
        self.read(partial.view(), &mut sums)?;
        Ok(sums.iter().sum())
    }

    /// One update of AdamW over `count` values in single precision.
    ///
    /// # Errors
    /// Operands that are too small.
    pub fn adamw(
        &self,
        values: View<'_>,
        gradient: View<'_>,
        (m, v): (View<'_>, View<'_>),
        count: usize,
        constants: AdamWConstants,
    ) -> Result<()> {
        for view in [values, gradient, m, v] {
            self.need("adamw", view, 4 * count)?;
        }
        let count_argument = Argument::Long(count as i64);
        let arguments =
            [values.into(), gradient.into(), m.into(), v.into(), count_argument, Argument::AdamW(constants)];
        self.run("adamw_f32", (count.div_ceil(BLOCK), 1), BLOCK, &arguments)
    }
}
