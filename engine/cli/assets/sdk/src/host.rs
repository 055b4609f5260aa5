//! What the host may lend: only what `plugin.toml` asks for and the embedder grants. A plugin that does not call one of
//! these does not import it. Outside WebAssembly everything is denied, and logs go to standard error.

pub use crate::bindings::querywright::plugin::artifact::ArtifactError;
pub use crate::bindings::querywright::plugin::embed::EmbedError;
pub use crate::bindings::querywright::plugin::http::{Header, HttpError, Method, Request, Response};
pub use crate::bindings::querywright::plugin::log::Level;

#[cfg(target_arch = "wasm32")]
use crate::bindings::querywright::plugin::{
    artifact as theirs_artifact, embed as theirs_embed, http as theirs_http, log as theirs_log,
};

/// Writes a line to the host's log.
pub fn log(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    theirs_log::write(level, message);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?}: {message}");
}

/// One vector of length 1 a text, from the host's encoder.
///
/// # Errors
/// Where it was not granted, moves too much, or fails.
pub fn embed(texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
    #[cfg(target_arch = "wasm32")]
    return theirs_embed::embed(texts);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = texts;
        Err(EmbedError::Denied)
    }
}

/// The bytes of an artifact.
///
/// # Errors
/// Where there is none of this name for this plugin, or it is too large for one call.
pub fn artifact(name: &str) -> Result<Vec<u8>, ArtifactError> {
    #[cfg(target_arch = "wasm32")]
    {
        let length = theirs_artifact::size(name)?;
        theirs_artifact::read(name, 0, u32::try_from(length).map_err(|_| ArtifactError::TooLarge)?)
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = name;
        Err(ArtifactError::Unknown)
    }
}

/// Sends a request and waits for the answer.
///
/// # Errors
/// Where the host is not granted, cannot be reached, or answers late or at too great length.
pub fn send(request: &Request) -> Result<Response, HttpError> {
    #[cfg(target_arch = "wasm32")]
    return theirs_http::send(request);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = request;
        Err(HttpError::Denied)
    }
}
