//! What a component would give the compiler to do: refused where that is too much, before any of it is compiled.
//!
//! The compiler runs inside this process and cannot be stopped, so the bound must hold beforehand. It stands on the code
//! alone: the estimate of `compile_work.rs` for each function, one for each signature and each function of the component,
//! and the memory that tables and memories begin with. Parts that no plugin needs, and that would be compiled all the
//! same, are refused: modules that are never instantiated, and functions of nested components or from one function of
//! the component to another.

use std::collections::BTreeSet;

use wasmparser::{BinaryReaderError, CanonicalFunction, Instance, Parser, Payload, TypeRef};

use super::compile_work::{self, FunctionWork, Signatures};
use super::limits::Limits;
use super::refusal::refusal;
use querywright_types::Result;

/// Functions that a component may lift, lower or have for its resources.
const MOST_CANONICAL: usize = 1000;
/// Microseconds that one of them takes.
const CANONICAL_US: u64 = 500;
/// Bytes of a page of linear memory.
const PAGE: u64 = 64 << 10;

/// What compiling a component involves.
#[derive(Debug, Default)]
pub(super) struct Workload {
    modules: u32,
    /// Modules that are instantiated.
    instantiated: BTreeSet<u32>,
    microseconds: u64,
    heaviest: Option<Heaviest>,
    canonical: usize,
    /// Whether it has exported a function so far.
    has_lifted: bool,
    /// What no plugin needs, if it has it.
    needless: Option<&'static str>,
    pages: u64,
    table_elements: u64,
}

/// The function that may take longest.
#[derive(Debug, Clone, Copy)]
struct Heaviest {
    module: u32,
    function: usize,
    work: FunctionWork,
}

impl Workload {
    /// Reads a valid component.
    ///
    /// # Errors
    /// [`Error::Plugin`](querywright_types::Error::Plugin) if its code uses a feature that this host does not have.
    pub(super) fn of(name: &str, bytes: &[u8]) -> Result<Self> {
        let mut workload = Self::default();
        let unreadable =
            |e: BinaryReaderError| refusal(name, format!("it cannot be compiled here: {e}"), "build it for WASI 0.2");
        workload.read(bytes).map_err(unreadable)?;
        Ok(workload)
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), BinaryReaderError> {
        // Whether each section around the current one is a module; otherwise it is a component.
        let mut around: Vec<bool> = Vec::new();
        let mut module = Module::default();
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::ModuleSection { .. } => {
                    if !around.is_empty() {
                        self.needless = Some("a module inside a nested component");
                    }
                    module = Module::default();
                    self.modules += 1;
                    around.push(true);
                }
                Payload::ComponentSection { .. } => around.push(false),
                Payload::End(_) => {
                    around.pop();
                }
                Payload::InstanceSection(section) if around.is_empty() => {
                    for instance in section {
                        if let Instance::Instantiate { module_index, .. } = instance? {
                            self.instantiated.insert(module_index);
                        }
                    }
                }
                Payload::ComponentCanonicalSection(section) => {
                    for function in section {
                        self.add_canonical(&function?, around.is_empty());
                    }
                }
                section if around.last() == Some(&true) => self.add_section(section, &mut module)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn add_canonical(&mut self, function: &CanonicalFunction, outermost: bool) {
        self.canonical += 1;
        self.microseconds = self.microseconds.saturating_add(CANONICAL_US);
        if !outermost {
            self.needless = Some("a function inside a nested component");
        }
        match function {
            CanonicalFunction::Lift { .. } => self.has_lifted = true,
            // The functions that it imports are lowered first, since its modules need them before they export anything.
            CanonicalFunction::Lower { .. } if self.has_lifted => {
                self.needless = Some("a call from the component to itself");
            }
            _ => {}
        }
    }

    /// One section of a module.
    fn add_section(&mut self, section: Payload<'_>, module: &mut Module) -> Result<(), BinaryReaderError> {
        match section {
            Payload::TypeSection(section) => {
                for ty in section.into_iter_err_on_gc_types() {
                    let ty = ty?;
                    let (parameters, results) = (ty.params().len() as u64, ty.results().len() as u64);
                    self.add_microseconds(compile_work::of_signature(parameters, results));
                    module.signatures.types.push((parameters, results));
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let TypeRef::Func(ty) | TypeRef::FuncExact(ty) = import?.ty {
                        module.signatures.functions.push(ty);
                        module.imported += 1;
                    }
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    module.signatures.functions.push(ty?);
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    self.pages = self.pages.saturating_add(memory?.initial);
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    self.table_elements = self.table_elements.saturating_add(table?.ty.initial);
                }
            }
            Payload::CodeSectionEntry(body) => {
                let function = module.imported + module.defined;
                module.defined += 1;
                self.add_function(function, FunctionWork::of(&body, function, &module.signatures)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn add_function(&mut self, function: usize, work: FunctionWork) {
        let microseconds = work.microseconds();
        self.add_microseconds(microseconds);
        if self.heaviest.is_none_or(|heaviest| heaviest.work.microseconds() < microseconds) {
            self.heaviest = Some(Heaviest { module: self.modules - 1, function, work });
        }
    }

    fn add_microseconds(&mut self, more: u64) {
        self.microseconds = self.microseconds.saturating_add(more);
    }

    /// Refuses what would take too long or too much memory to compile.
    ///
    /// # Errors
    /// [`Error::Plugin`](querywright_types::Error::Plugin). It names the function, the estimate and the limit.
    pub(super) fn check(&self, name: &str, limits: &Limits) -> Result<()> {
        if let Some(needless) = self.needless {
            let found = format!("it holds {needless}, which no plugin needs");
            return Err(refusal(name, found, "build it with one module, as the SDK does"));
        }
        if let Some(unused) = (0..self.modules).find(|module| !self.instantiated.contains(module)) {
            let found = format!("module {unused} of its {} modules is never instantiated", self.modules);
            return Err(refusal(name, found, "leave it out"));
        }
        if self.canonical > MOST_CANONICAL {
            let found = format!("it lifts and lowers {} functions, and {MOST_CANONICAL} are allowed", self.canonical);
            return Err(refusal(name, found, "import and export fewer"));
        }
        self.check_memory(name, limits)?;
        self.check_work(name, limits)
    }

    fn check_memory(&self, name: &str, limits: &Limits) -> Result<()> {
        let kib = self.pages.saturating_mul(PAGE >> 10);
        if kib > limits.memory_mib << 10 {
            let found = format!("its memories begin with {kib} KiB, and limits.memory_mib = {}", limits.memory_mib);
            return Err(refusal(name, found, "begin with less, or raise the limit"));
        }
        if self.table_elements > limits.table_elements {
            let (found, limit) = (self.table_elements, limits.table_elements);
            let found = format!("its tables begin with {found} elements, and limits.table_elements = {limit}");
            return Err(refusal(name, found, "begin with fewer, or raise the limit"));
        }
        Ok(())
    }

    fn check_work(&self, name: &str, limits: &Limits) -> Result<()> {
        let limit = limits.compile_work;
        // One function may take a quarter: functions are compiled side by side, one cannot be split.
        let (most, most_of_one) = (limit.saturating_mul(1000), limit.saturating_mul(1000) / 4);
        if let Some(Heaviest { module, function, work }) =
            self.heaviest.filter(|heaviest| heaviest.work.microseconds() > most_of_one)
        {
            let found = format!(
                "function {function} of module {module} may take {} ms to compile ({} locals, {} branches), and a \
                 quarter of limits.compile_work = {limit} is allowed",
                work.microseconds() / 1000,
                work.locals,
                work.branches,
            );
            return Err(refusal(name, found, "split the function, or raise the limit"));
        }
        if self.microseconds > most {
            let may = self.microseconds / 1000;
            let found = format!("it may take {may} ms to compile, and limits.compile_work = {limit}");
            return Err(refusal(name, found, "make it smaller (opt-level, lto, fewer crates), or raise the limit"));
        }
        Ok(())
    }
}

/// What the code section of a module refers to.
#[derive(Debug, Default)]
struct Module {
    signatures: Signatures,
    imported: usize,
    defined: usize,
}
