//! Where there is no AMX.

/// Rows of a tile.
pub(crate) const ROWS: usize = super::ROWS;

/// Whether this machine has the unit, and this process may use it.
pub(crate) fn detected() -> bool {
    false
}

/// The unit.
pub(crate) struct Unit;

impl Unit {
    pub(crate) fn new() -> Self {
        Self
    }
}
