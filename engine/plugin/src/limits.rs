//! How much a plugin may use: the settings. `limiter.rs` and `budget.rs` enforce them.

use serde::{Deserialize, Serialize};

use querywright_types::{Error, Result};

/// Upper bounds on what one plugin uses. A manifest says what the plugin needs, a grant what it can have at most; the
/// smaller value holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Size of the component file, in MiB. Default 32.
    pub component_mib: u64,
    /// Milliseconds that compiling may take. Default 60,000.
    pub compile_ms: u64,
    /// Milliseconds that compiling may take at worst on one core, as the host estimates it from the code before it
    /// compiles any; one function may take a quarter. Ordinary code takes about a third of the estimate. Default 12,000,
    /// enough for about 700 KB of ordinary code. Where a language brings its runtime along, several hundred thousand.
    pub compile_work: u64,
    /// Milliseconds that loading the catalogue may take, including `commit`. Default 60,000.
    pub load_ms: u64,
    /// Fuel of one call of `load` or `commit`: roughly the number of instructions. Applies to `Metering::Fuel`.
    /// Default 1e12.
    pub load_fuel: u64,
    /// Linear memory of one instance, in MiB, summed over all its memories. Default 256.
    pub memory_mib: u64,
    /// Table elements of one instance, summed over all its tables. Default 20,000.
    pub table_elements: u64,
    /// Instances that may exist at the same time. Default 8.
    pub instances: u64,
    /// Milliseconds that one request may take. A call with n requests may take n times that. Default 1,000.
    pub call_ms: u64,
    /// Fuel of one request: roughly the number of instructions. Applies to `Metering::Fuel`. Default 2e9, about a
    /// second.
    pub fuel: u64,
    /// Bytes that one call may move through host interfaces, in both directions together. Default 16 MiB.
    pub host_bytes: u64,
    /// Texts that one call may have encoded by the host. A text is read up to the encoder's own limit. Default 4,096.
    pub embed_texts: u64,
    /// Bytes that one call may log. Default 64 KiB.
    pub log_bytes: u64,
}

/// The size of a 32-bit memory: 4 GiB.
const MOST_MIB: u64 = 4096;
/// A day.
const MOST_MS: u64 = 24 * 60 * 60 * 1000;

impl Default for Limits {
    fn default() -> Self {
        Self {
            component_mib: 32,
            compile_ms: 60_000,
            compile_work: 12_000,
            load_ms: 60_000,
            load_fuel: 1_000_000_000_000,
            memory_mib: 256,
            table_elements: 20_000,
            instances: 8,
            call_ms: 1_000,
            fuel: 2_000_000_000,
            host_bytes: 16 << 20,
            embed_texts: 4096,
            log_bytes: 64 << 10,
        }
    }
}

impl Limits {
    /// The smaller value of each limit.
    pub fn at_most(&self, other: &Self) -> Self {
        Self {
            component_mib: self.component_mib.min(other.component_mib),
            compile_ms: self.compile_ms.min(other.compile_ms),
            compile_work: self.compile_work.min(other.compile_work),
            load_ms: self.load_ms.min(other.load_ms),
            load_fuel: self.load_fuel.min(other.load_fuel),
            memory_mib: self.memory_mib.min(other.memory_mib),
            table_elements: self.table_elements.min(other.table_elements),
            instances: self.instances.min(other.instances),
            call_ms: self.call_ms.min(other.call_ms),
            fuel: self.fuel.min(other.fuel),
            host_bytes: self.host_bytes.min(other.host_bytes),
            embed_texts: self.embed_texts.min(other.embed_texts),
            log_bytes: self.log_bytes.min(other.log_bytes),
        }
    }

    /// Refuses limits under which no plugin could run. A plugin needs no tables, logs or host calls, so these may be 0.
    ///
    /// # Errors
    /// [`Error::Argument`] if a size, a count, fuel or a time is 0, a size is above 4 GiB, or a time is above a day.
    pub fn validate(&self) -> Result<()> {
        for (key, value) in [
            ("component_mib", self.component_mib),
            ("compile_ms", self.compile_ms),
            ("compile_work", self.compile_work),
            ("load_ms", self.load_ms),
            ("load_fuel", self.load_fuel),
            ("memory_mib", self.memory_mib),
            ("instances", self.instances),
            ("call_ms", self.call_ms),
            ("fuel", self.fuel),
        ] {
            if value == 0 {
                return Err(Error::argument(format!("limits.{key}"), "found 0", "a plugin needs at least 1 to run"));
            }
        }
        for (key, value, most) in [
            ("component_mib", self.component_mib, MOST_MIB),
            ("memory_mib", self.memory_mib, MOST_MIB),
            ("compile_ms", self.compile_ms, MOST_MS),
            ("compile_work", self.compile_work, MOST_MS),
            ("load_ms", self.load_ms, MOST_MS),
            ("call_ms", self.call_ms, MOST_MS),
        ] {
            if value > most {
                let remedy = format!("give at most {most}");
                return Err(Error::argument(format!("limits.{key}"), format!("found {value}"), remedy));
            }
        }
        Ok(())
    }
}
