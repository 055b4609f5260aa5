//! How a plugin is loaded and served.

use std::path::PathBuf;

use super::capability::Grant;
use super::engine::Metering;
use super::manifest::Manifest;
use super::services::Services;

/// How long an instance serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reuse {
    /// One request. No request sees what another one has left behind.
    EachSearch,
    /// This many calls.
    Searches(u32),
    /// Until it fails: the fastest, and the default.
    #[default]
    UntilFault,
}

/// How a plugin is loaded and served.
#[derive(Debug, Clone, Default)]
pub struct PluginOptions {
    /// The digest of the component, and what it asks for. Default: none. Then any component is accepted, it is granted
    /// nothing, and the grant's limits hold.
    pub manifest: Option<Manifest>,
    /// What the embedder allows.
    pub grant: Grant,
    /// What the host interfaces use.
    pub services: Services,
    /// What bounds a call. Default: the clock.
    pub metering: Metering,
    /// How long an instance serves. Default: until it fails. With [`Metering::Fuel`] always one request.
    pub reuse: Reuse,
    /// Where compiled plugins are kept: a folder of their own, which is made if it is missing. Only this user may read and
    /// write it (mode 0700), and nobody else may be able to exchange a folder above it. It holds 4 GiB at most; the oldest
    /// go first. Default: none, so that a plugin is compiled each time. Plugins with a host interface are not kept, because
    /// their memory depends on what it answered; but those that have an encoder of a known digest, and nothing else, are.
    pub cache: Option<PathBuf>,
    /// What the catalogue holds, in a few words for the rewriter's prompt. Empty: "documents".
    pub content: String,
}
