//! How much a plugin may use.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Ceilings of one plugin. In a manifest they are what the plugin needs, in a grant what it can have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Linear memory of all instances together, in MiB. Default 256.
    pub memory_mib: u64,
    /// Elements of all tables together. Default 20,000.
    pub table_elements: u64,
    /// Instances that may live at the same time. Default 8.
    pub instances: u64,
    /// Milliseconds that one call may take. Default 1,000.
    pub call_ms: u64,
    /// Bytes that one call may move through host interfaces, both ways together. Default 16 MiB.
    pub host_bytes: u64,
    /// Bytes that one call may log. Default 64 KiB.
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_mib: 256,
            table_elements: 20_000,
            instances: 8,
            call_ms: 1_000,
            host_bytes: 16 << 20,
            log_bytes: 64 << 10,
        }
    }
}

impl Limits {
    /// The smaller of each.
    pub fn at_most(&self, other: &Self) -> Self {
        Self {
            memory_mib: self.memory_mib.min(other.memory_mib),
            table_elements: self.table_elements.min(other.table_elements),
            instances: self.instances.min(other.instances),
            call_ms: self.call_ms.min(other.call_ms),
            host_bytes: self.host_bytes.min(other.host_bytes),
            log_bytes: self.log_bytes.min(other.log_bytes),
        }
    }

    /// Refuses limits under which no plugin could run. A plugin can do without tables, logs and host calls.
    ///
    /// # Errors
    /// When memory, instances or time are 0.
    pub fn validate(&self) -> Result<()> {
        for (key, value) in [("memory_mib", self.memory_mib), ("instances", self.instances), ("call_ms", self.call_ms)]
        {
            if value == 0 {
                return Err(Error::argument(format!("limits.{key}"), "found 0", "a plugin needs at least 1 to run"));
            }
        }
        Ok(())
    }
}
