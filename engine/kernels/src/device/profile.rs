//! Where a device's time goes: each operation between two events, summed by what it is.

use std::collections::BTreeMap;

use super::handle::Device;
use super::interface::{Format, Gemm};
use querywright_types::Result;

/// What was launched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Operation {
    name: String,
    /// Multiplications and additions; 0 for all but products.
    operations: u64,
    /// What a product reads and writes, each value once; 0 for all others.
    bytes: u64,
}

#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "the driver makes them"))]
impl Operation {
    pub(super) fn kernel(name: &str) -> Self {
        Self { name: name.to_owned(), operations: 0, bytes: 0 }
    }

    pub(super) fn product(p: &Gemm) -> Self {
        let size = |format: Format| format.bytes() as u64;
        let (rows, columns, inner) = (p.rows as u64, p.columns as u64, p.inner as u64);
        let flips = match (p.flip_a, p.flip_b) {
            (false, false) => "nn",
            (false, true) => "nt",
            (true, false) => "tn",
            (true, true) => "tt",
        };
        Self {
            name: format!("product {flips} {rows} x {columns} x {inner}"),
            operations: 2 * rows * columns * inner,
            bytes: (rows + columns) * inner * size(p.factors) + rows * columns * size(p.result),
        }
    }
}

/// All launches of one operation in a [`profile`](Device::profile).
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Profiled {
    /// The kernel; of a product, which factors are transposed (`nt`: the second), and rows x columns x inner dimension.
    pub name: String,
    /// How often it was launched.
    pub launches: usize,
    /// Seconds of all launches, each with the time that its launch leaves the device idle.
    pub seconds: f64,
    /// 10¹² operations a second; 0 for all but products.
    pub teraflops: f64,
    /// 10⁹ bytes a second, where each value is read or written once; 0 for all but products.
    pub gigabytes: f64,
}

impl Device {
    /// Runs `work`, and says which operations it launched, the one that took longest first. What a decoder would send as
    /// a captured graph, it launches one by one while this runs.
    ///
    /// # Errors
    /// Those of `work`, and a device that is lost.
    pub fn profile<R>(&self, work: impl FnOnce() -> Result<R>) -> Result<(R, Vec<Profiled>)> {
        self.driver().begin_profile()?;
        let worked = work();
        let launched = self.driver().end_profile()?;
        let worked = worked?;
        let mut sums: BTreeMap<Operation, (usize, f64)> = BTreeMap::new();
        for (operation, seconds) in launched {
            let sum = sums.entry(operation).or_default();
            *sum = (sum.0 + 1, sum.1 + seconds);
        }
        let rate = |each: u64, launches: usize, seconds: f64| match seconds > 0.0 {
            true => each as f64 * launches as f64 / seconds,
            false => 0.0,
        };
        let told = sums.into_iter().map(|(operation, (launches, seconds))| Profiled {
            name: operation.name,
            launches,
            seconds,
            teraflops: rate(operation.operations, launches, seconds) / 1e12,
            gigabytes: rate(operation.bytes, launches, seconds) / 1e9,
        });
        let mut all: Vec<Profiled> = told.collect();
        all.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok((worked, all))
    }

    /// Whether a [`profile`](Self::profile) is under way.
    pub fn profiles(&self) -> bool {
        self.driver().profiles()
    }
}
