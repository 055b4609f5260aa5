//! The host interfaces: log, text encoder, artifacts, HTTP. A plugin gets those that its `plugin.toml` asks for and
//! that the embedder grants. A component imports only the interfaces that it calls. Outside WebAssembly, in `cargo
//! test`, all of them are denied, except that log lines go to standard error.

pub use crate::bindings::querywright::plugin::artifact::ArtifactError;
pub use crate::bindings::querywright::plugin::embed::EmbedError;
pub use crate::bindings::querywright::plugin::http::{Header, HttpError, Method, Request, Response};
pub use crate::bindings::querywright::plugin::log::Level;

#[cfg(target_arch = "wasm32")]
use crate::bindings::querywright::plugin as imports;

/// Writes a line to the host's log.
pub fn log(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    imports::log::write(level, message);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?}: {message}");
}

/// One vector of Euclidean length 1 for each text, from the host's encoder: of documents, of what is found. It works in
/// `load` and `commit` as well as in `recommend`.
///
/// # Errors
/// If the interface was not granted, if texts and vectors exceed `limits.host_bytes` or `limits.embed_texts`, or if the
/// encoder fails.
pub fn embed(texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
    #[cfg(target_arch = "wasm32")]
    return imports::embed::embed(texts);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = texts;
        Err(EmbedError::Denied)
    }
}

/// The same for queries: of what is searched for. The vector of a query does not depend on the texts beside it.
///
/// # Errors
/// Those of [`embed`].
pub fn embed_queries(texts: &[String]) -> Result<Vec<Vec<f32>>, EmbedError> {
    #[cfg(target_arch = "wasm32")]
    return imports::embed::embed_queries(texts);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = texts;
        Err(EmbedError::Denied)
    }
}

/// The bytes of an artifact.
///
/// # Errors
/// If this plugin may read no artifact of this name, or if it exceeds `limits.host_bytes`.
pub fn artifact(name: &str) -> Result<Vec<u8>, ArtifactError> {
    #[cfg(target_arch = "wasm32")]
    {
        let length = imports::artifact::size(name)?;
        imports::artifact::read(name, 0, u32::try_from(length).map_err(|_| ArtifactError::TooLarge)?)
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = name;
        Err(ArtifactError::Unknown)
    }
}

/// Sends an HTTP request and waits for the response. A status such as 404 is a response, not an error.
///
/// # Errors
/// If the server's host was not granted, cannot be reached, or responds too late or with too many bytes.
pub fn send(request: &Request) -> Result<Response, HttpError> {
    #[cfg(target_arch = "wasm32")]
    return imports::http::send(request);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _ = request;
        Err(HttpError::Denied)
    }
}
