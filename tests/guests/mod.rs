//! Fixtures for the tests of plugins: the built components, a small catalogue, a request.
#![allow(dead_code, reason = "each test program uses some of these")]

use std::path::{Path, PathBuf};

use querywright::catalog::{Catalog, CatalogBuilder};
use querywright::plugin::{Inspection, Manifest, Wanted};
use querywright::types::Request;

/// A file of a built plugin. `QUERYWRIGHT_PLUGINS` names the folder of another build than the committed one.
pub fn built(name: &str, file: &str) -> PathBuf {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins");
    let root = std::env::var_os("QUERYWRIGHT_PLUGINS").map_or(committed, PathBuf::from);
    root.join(name).join("dist").join(file)
}

/// A plugin's component.
pub fn component(name: &str) -> Vec<u8> {
    let path = built(name, &format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The digest of a plugin's component.
pub fn digest(name: &str) -> String {
    Inspection::of(name, &component(name)).unwrap().sha256
}

/// A manifest that pins a plugin and asks for `capabilities`.
pub fn manifest(name: &str, capabilities: Wanted) -> Manifest {
    let mut manifest = Manifest::new(name, "0.1.0", digest(name));
    manifest.capabilities = capabilities;
    manifest
}

/// A catalogue of three documents. The first has this text.
pub fn catalog(first: &str) -> Catalog {
    let mut builder = CatalogBuilder::new();
    for (id, text) in [("a", first), ("b", "second"), ("c", "third")] {
        builder.push(id, [("text", text)]).unwrap();
    }
    builder.finish()
}

/// A request in plain words for ten hits.
pub fn request(text: &str) -> Request {
    Request::plain(text, 10)
}
