//! Another version of a plugin, without a pause.

use std::sync::{Arc, PoisonError, RwLock};

use super::Plugin;
use crate::error::Result;

/// The plugin that serves now, and can be exchanged while it does.
#[derive(Debug)]
pub struct PluginSlot(RwLock<Arc<Plugin>>);

impl PluginSlot {
    /// Serves with this one.
    pub fn new(plugin: Plugin) -> Self {
        Self(RwLock::new(Arc::new(plugin)))
    }

    /// The plugin that serves now. Whoever holds it goes on with it after an exchange.
    pub fn current(&self) -> Arc<Plugin> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Loads another one, here and now on the caller's thread while the old one serves, has it checked, and exchanges the
    /// two in one step. The card of the new one may differ: caches and prompts that were made from the old card are stale.
    ///
    /// # Errors
    /// Those of `load` and `check`; the old one then stays.
    pub fn reload(
        &self,
        load: impl FnOnce() -> Result<Plugin>,
        check: impl FnOnce(&Plugin) -> Result<()>,
    ) -> Result<Arc<Plugin>> {
        let fresh = load()?;
        check(&fresh)?;
        let fresh = Arc::new(fresh);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        Ok(fresh)
    }
}
