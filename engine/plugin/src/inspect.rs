//! What a component says of itself before any of its code is compiled.

use sha2::{Digest, Sha256};
use wasmparser::{ComponentExternalKind, Parser, Payload};

use super::contract::{IMPORTS, PACKAGE, RECOMMENDER, VERSION};
use super::meter::MOST_PARTS;
use super::{hex, refusal, system};
use crate::error::Result;

/// What a component file holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Inspection {
    /// SHA-256 of the file, in lower-case hexadecimal digits.
    pub sha256: String,
    /// Its length in bytes.
    pub bytes: usize,
    /// What it imports: `querywright:plugin/log@0.1.0`.
    pub imports: Vec<String>,
    /// What it exports: `querywright:plugin/recommender@0.1.0`.
    pub exports: Vec<String>,
    /// Core modules inside.
    pub modules: usize,
    /// Linear memories of all modules.
    pub memories: usize,
    /// Tables of all modules.
    pub tables: usize,
    /// Functions of all modules.
    pub functions: u32,
    /// Bytes of the longest function: what a compiler needs time for.
    pub longest_function: usize,
}

/// Bytes of a function above which compiling it takes unreasonably long.
const LONGEST_FUNCTION: usize = 1 << 20;

impl Inspection {
    /// Reads a component; nothing of it is run.
    ///
    /// # Errors
    /// [`Error::Plugin`](crate::error::Error::Plugin) where it is no component, or a broken one.
    pub fn of(name: &str, bytes: &[u8]) -> Result<Self> {
        let build = "build it with `querywright plugin build`";
        if !bytes.starts_with(b"\0asm") {
            return Err(refusal(name, "it is no WebAssembly file", build));
        }
        if Parser::is_core_wasm(bytes) {
            return Err(refusal(name, "it is a core module, not a component", build));
        }
        let broken =
            |e: wasmparser::BinaryReaderError| refusal(name, format!("it is broken: {e}"), "fetch or build it again");
        wasmparser::Validator::new().validate_all(bytes).map_err(broken)?;
        let mut found = Self {
            sha256: hex(&Sha256::digest(bytes)),
            bytes: bytes.len(),
            imports: Vec::new(),
            exports: Vec::new(),
            modules: 0,
            memories: 0,
            tables: 0,
            functions: 0,
            longest_function: 0,
        };
        let mut depth = 0usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(broken)? {
                Payload::ModuleSection { .. } => {
                    found.modules += 1;
                    depth += 1;
                }
                Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::MemorySection(section) => found.memories += section.count() as usize,
                Payload::TableSection(section) => found.tables += section.count() as usize,
                Payload::CodeSectionEntry(body) => {
                    found.functions += 1;
                    found.longest_function = found.longest_function.max(body.range().len());
                }
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        found.imports.push(import.map_err(broken)?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        let export = export.map_err(broken)?;
                        if export.kind == ComponentExternalKind::Instance {
                            found.exports.push(export.name.name.to_owned());
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Refuses what this host does not know: another version of the contract, imports that are not of it, functions
    /// that a compiler would sit over.
    ///
    /// # Errors
    /// [`Error::Plugin`](crate::error::Error::Plugin), naming both versions where they differ.
    pub fn check(&self, name: &str) -> Result<()> {
        let wanted = format!("{PACKAGE}/{RECOMMENDER}@{VERSION}");
        if !self.exports.contains(&wanted) {
            let own = format!("{PACKAGE}/{RECOMMENDER}@");
            let found = match self.exports.iter().find_map(|export| export.strip_prefix(&own)) {
                Some(version) => format!("it speaks version {version} of the contract, this host speaks {VERSION}"),
                None => format!("it does not export {wanted}"),
            };
            let remedy = format!("build it against {PACKAGE}@{VERSION}, or use a host that speaks its version");
            return Err(refusal(name, found, remedy));
        }
        for import in &self.imports {
            let known = IMPORTS.iter().any(|interface| *import == format!("{PACKAGE}/{interface}@{VERSION}"));
            if known || system::knows(import) {
                continue;
            }
            let newer = import.strip_prefix(PACKAGE).and_then(|rest| rest.split_once('@'));
            let (found, remedy) = match newer {
                Some((_, version)) => (
                    format!("it imports {import}: version {version} of the contract, this host speaks {VERSION}"),
                    format!("build it against {PACKAGE}@{VERSION}, or use a host that speaks its version"),
                ),
                None if import.starts_with("wasi:") => (
                    format!("it imports {import}, and of WASI this host knows 0.2 without the web"),
                    "build it for wasm32-unknown-unknown, as `querywright plugin build` does, or for wasm32-wasip2"
                        .to_owned(),
                ),
                None => (
                    format!("it imports {import}, which no host provides"),
                    "import the contract's own interfaces alone".to_owned(),
                ),
            };
            return Err(refusal(name, found, remedy));
        }
        for (what, count) in [("modules", self.modules), ("memories", self.memories), ("tables", self.tables)] {
            if count > MOST_PARTS {
                let found = format!("it has {count} {what}, and {MOST_PARTS} are allowed");
                return Err(refusal(name, found, "link it into fewer"));
            }
        }
        if self.longest_function > LONGEST_FUNCTION {
            let found = format!("a function has {} bytes, and {LONGEST_FUNCTION} are allowed", self.longest_function);
            return Err(refusal(name, found, "split the function"));
        }
        Ok(())
    }
}
