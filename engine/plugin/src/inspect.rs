//! What a component file holds, read before any of its code is compiled.

use wasmparser::{ComponentExternalKind, Parser, Payload};

use super::bindings::{IMPORTS, PACKAGE, RECOMMENDER, VERSION};
use super::limiter::MOST_PARTS;
use super::refusal::refusal;
use super::sanitize::printable;
use super::wasi;
use querywright_data::digest;
use querywright_types::Result;

/// What a component file holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
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
    /// Bytes of the longest function, which decides how long compiling takes.
    pub longest_function: usize,
}

/// Bytes of a function at most: a longer one takes unreasonably long to compile.
const LONGEST_FUNCTION: usize = 1 << 20;

impl Inspection {
    /// Reads a component without running it.
    ///
    /// # Errors
    /// [`Error::Plugin`](querywright_types::Error::Plugin) if the bytes are no component, or a broken one.
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
            sha256: digest::sha256(bytes),
            bytes: bytes.len(),
            imports: Vec::new(),
            exports: Vec::new(),
            modules: 0,
            memories: 0,
            tables: 0,
            functions: 0,
            longest_function: 0,
        };
        found.count_parts(bytes).map_err(broken)?;
        Ok(found)
    }

    fn count_parts(&mut self, bytes: &[u8]) -> Result<(), wasmparser::BinaryReaderError> {
        // Imports and exports count at the top level only, not in nested modules and components.
        let mut depth = 0usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::ModuleSection { .. } => {
                    self.modules += 1;
                    depth += 1;
                }
                Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::MemorySection(section) => self.memories += section.count() as usize,
                Payload::TableSection(section) => self.tables += section.count() as usize,
                Payload::CodeSectionEntry(body) => {
                    self.functions += 1;
                    self.longest_function = self.longest_function.max(body.range().len());
                }
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        self.imports.push(printable(import?.name.name));
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        let export = export?;
                        if export.kind == ComponentExternalKind::Instance {
                            self.exports.push(printable(export.name.name));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Refuses a component that this host cannot run: another version of the contract, other imports, too many parts, a
    /// function that is too long to compile.
    ///
    /// # Errors
    /// [`Error::Plugin`](querywright_types::Error::Plugin). It names both versions of the contract if they differ.
    pub fn check(&self, name: &str) -> Result<()> {
        self.check_export(name)?;
        self.imports.iter().try_for_each(|import| check_import(name, import))?;
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

    fn check_export(&self, name: &str) -> Result<()> {
        let wanted = format!("{PACKAGE}/{RECOMMENDER}@{VERSION}");
        if self.exports.contains(&wanted) {
            return Ok(());
        }
        let unversioned = format!("{PACKAGE}/{RECOMMENDER}@");
        let found = match self.exports.iter().find_map(|export| export.strip_prefix(&unversioned)) {
            Some(version) => format!("it implements version {version} of the contract, this host {VERSION}"),
            None => format!("it does not export {wanted}"),
        };
        Err(refusal(name, found, other_version()))
    }
}

fn check_import(name: &str, import: &str) -> Result<()> {
    let known = IMPORTS.iter().any(|interface| *import == format!("{PACKAGE}/{interface}@{VERSION}"));
    if known || wasi::provides(import) {
        return Ok(());
    }
    let of_contract = import.strip_prefix(PACKAGE).and_then(|rest| rest.split_once('@'));
    let (found, remedy) = match of_contract {
        Some((_, version)) => (
            format!("it imports {import}: version {version} of the contract, this host has {VERSION}"),
            other_version(),
        ),
        None if import.starts_with("wasi:") => (
            format!("it imports {import}, and this host has only WASI 0.2 without HTTP"),
            "build it for wasm32-unknown-unknown, as `querywright plugin build` does, or for wasm32-wasip2".to_owned(),
        ),
        None => (
            format!("it imports {import}, which no host provides"),
            "import only the interfaces of the contract".to_owned(),
        ),
    };
    Err(refusal(name, found, remedy))
}

fn other_version() -> String {
    format!("build it against {PACKAGE}@{VERSION}, or use a host that implements its version")
}
