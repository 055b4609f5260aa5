//! Replacing the plugin that serves by another version, without a pause.

use std::sync::{Arc, PoisonError, RwLock};

use super::retriever::Plugin;
use querywright_types::Result;

/// Holds the plugin that serves now. It can be replaced while it serves.
#[derive(Debug)]
pub struct PluginSlot(RwLock<Arc<Plugin>>);

impl PluginSlot {
    /// A slot that serves with this plugin.
    pub fn new(plugin: Plugin) -> Self {
        Self(RwLock::new(Arc::new(plugin)))
    }

    /// The plugin that serves now. A caller may go on using it after a replacement.
    pub fn current(&self) -> Arc<Plugin> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Loads another plugin on the caller's thread while the old one serves, checks it, and then replaces the old one
    /// in one step. The card of the new plugin may differ. Caches and prompts that were made from the old card are then
    /// stale.
    ///
    /// # Errors
    /// Those of `load` and `check`. The old plugin then stays.
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
