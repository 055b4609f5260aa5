//! An open device.

use std::sync::Arc;

use super::driver::{Captured, Driver};
use super::interface::DeviceInfo;
use super::pool::Pool;
use querywright_types::Result;

/// An open device. Cheap to clone.
#[derive(Clone)]
pub struct Device(Arc<Pool>);

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Device").field(&self.name()).finish()
    }
}

impl Device {
    /// Opens CUDA device `ordinal`.
    ///
    /// # Errors
    /// [`Error::Device`](querywright_types::Error::Device): not compiled in, no driver, no cuBLAS, no such device, too old.
    pub fn open(ordinal: usize) -> Result<Self> {
        Ok(Self(Arc::new(Pool::new(Driver::open(ordinal)?))))
    }

    /// As the user writes it: "cuda:0".
    pub fn name(&self) -> &str {
        self.driver().name()
    }

    /// Whether this is a clone of another one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Its model and memory.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn info(&self) -> Result<DeviceInfo> {
        let info = self.driver().info()?;
        Ok(DeviceInfo { free: self.available()?, peak: self.0.peak(), ..info })
    }

    /// Waits until everything launched is done.
    ///
    /// # Errors
    /// What failed since the last wait.
    pub fn synchronize(&self) -> Result<()> {
        self.driver().synchronize()
    }

    /// What `work` launches, captured to be sent as one. Its buffers must outlive the graph.
    ///
    /// # Errors
    /// Those of `work`, which may neither allocate nor copy to or from the host.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        Ok(Graph(self.driver().capture(work)?))
    }

    /// Launches everything that a graph holds.
    ///
    /// # Errors
    /// A device that is lost.
    pub fn send(&self, graph: &Graph) -> Result<()> {
        self.driver().send(&graph.0)
    }

    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.0
    }

    pub(super) fn driver(&self) -> &Driver {
        self.0.driver()
    }
}

/// A captured sequence of launches.
pub struct Graph(Captured);

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Graph")
    }
}
