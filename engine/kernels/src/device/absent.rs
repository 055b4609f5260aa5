//! The driver in a build without the feature `cuda`: no device can be opened, so no operation on one can be reached.

use super::interface::{Argument, Begins, DeviceInfo, Gemm};
use super::profile::Operation;
use querywright_types::{Error, Result};

pub(super) enum Driver {}

pub(super) enum Captured {}

pub(super) enum Pinned {}

impl Driver {
    pub(super) fn open(ordinal: usize) -> Result<Self> {
        let remedy = "build with `cargo build --release --features cuda`, or use --device cpu";
        Err(Error::device(format!("cuda:{ordinal}"), "this program was built without support for GPUs", remedy))
    }

    pub(super) fn name(&self) -> &str {
        match *self {}
    }

    pub(super) fn info(&self) -> Result<DeviceInfo> {
        match *self {}
    }

    pub(super) fn allocate(&self, _: usize) -> Result<Option<u64>> {
        match *self {}
    }

    pub(super) fn free(&self, _: u64) {
        match *self {}
    }

    pub(super) fn copy_in(&self, _: u64, _: &[u8]) -> Result<()> {
        match *self {}
    }

    pub(super) fn copy_out(&self, _: &mut [u8], _: u64) -> Result<()> {
        match *self {}
    }

    pub(super) fn copy(&self, _: u64, _: u64, _: usize) -> Result<()> {
        match *self {}
    }

    pub(super) fn clear(&self, _: u64, _: usize) -> Result<()> {
        match *self {}
    }

    pub(super) fn launch(&self, _: &str, _: (usize, usize), _: usize, _: &[Argument], _: Begins) -> Result<()> {
        match *self {}
    }

    pub(super) fn multiply(&self, _: &Gemm) -> Result<()> {
        match *self {}
    }

    pub(super) fn capture(&self, _: impl FnOnce() -> Result<()>) -> Result<Captured> {
        match *self {}
    }

    pub(super) fn send(&self, _: &Captured) -> Result<()> {
        match *self {}
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        match *self {}
    }

    pub(super) fn pinned(&self, _: usize) -> Result<Pinned> {
        match *self {}
    }

    pub(super) fn post(&self, _: &mut Pinned, _: u64, _: usize) -> Result<()> {
        match *self {}
    }

    pub(super) fn wait<'a>(&self, _: &'a Pinned) -> Result<&'a [u8]> {
        match *self {}
    }

    pub(super) fn multiprocessors(&self) -> usize {
        match *self {}
    }

    pub(super) fn profiles(&self) -> bool {
        match *self {}
    }

    pub(super) fn begin_profile(&self) -> Result<()> {
        match *self {}
    }

    pub(super) fn end_profile(&self) -> Result<Vec<(Operation, f64)>> {
        match *self {}
    }
}
