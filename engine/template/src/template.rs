//! A template, and what it takes to render it.

use std::fmt;
use std::sync::Arc;

use minijinja::machinery::{Vm, make_string_output};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use querywright_types::quietly;

use crate::compile::{MAX_BYTES, compile};
use crate::limits::Budget;
use crate::{operators, python};

/// Stack of the thread that compiles and renders. What the limits on a template's nesting allow fits several times.
const STACK_BYTES: usize = 64 << 20;
/// Frames that a rendering may nest; a macro's call takes four.
const NESTED_FRAMES: usize = 200;

/// In whose way a template is rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Style {
    /// As transformers renders chat templates: Python's methods, its `%`, its `tojson` and its text of lists;
    /// `raise_exception` and `strftime_now`; a line that holds a block alone leaves nothing.
    Chat,
    /// As Jinja renders by default, in this project's prompts: a name without a value is an error, and `json` writes JSON
    /// as people do.
    Prompt,
}

/// A template that compiles. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Template(Arc<Source>);

#[derive(Debug)]
struct Source {
    name: String,
    text: String,
    style: Style,
}

/// Why a template cannot be used, or refuses its values.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TemplateError {
    /// What is wrong.
    pub message: String,
    /// The line of the template, from 1, where one is known.
    pub line: Option<usize>,
}

impl TemplateError {
    /// What is wrong with a template as a whole.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: None }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.line.map_or(Ok(()), |line| write!(f, " (line {line} of the template)"))
    }
}

impl std::error::Error for TemplateError {}

impl From<Error> for TemplateError {
    fn from(error: Error) -> Self {
        let message = match error.kind() {
            ErrorKind::OutOfFuel => "it takes too many steps".to_owned(),
            kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
        };
        Self { message, line: error.line() }
    }
}

impl Template {
    /// Compiles a template once, to see that it can be. `name` is for messages.
    ///
    /// # Errors
    /// What is wrong, with its line.
    pub fn new(name: impl Into<String>, text: impl Into<String>, style: Style) -> Result<Self, TemplateError> {
        let text = match (style, text.into()) {
            (Style::Chat, text) if text.len() <= MAX_BYTES => python::without_generation_tags(&text),
            (_, text) => text,
        };
        let source = Source { name: name.into(), text, style };
        apart(|| source.compile().map(drop))?;
        Ok(Self(Arc::new(source)))
    }

    /// The name for messages.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The template's text with `values`, a mapping.
    ///
    /// # Errors
    /// What the template refuses, lacks or exceeds.
    pub fn render(&self, values: &Value) -> Result<String, TemplateError> {
        self.evaluate(values, None)
    }

    /// The text of one of its macros.
    ///
    /// # Errors
    /// Those of [`render`](Self::render), and that there is no such macro.
    pub fn call(&self, values: &Value, name: &str, arguments: &[Value]) -> Result<String, TemplateError> {
        self.evaluate(values, Some((name, arguments)))
    }

    fn evaluate(&self, values: &Value, called: Option<(&str, &[Value])>) -> Result<String, TemplateError> {
        let source = &*self.0;
        apart(|| {
            let given = std::iter::once(values).chain(called.iter().flat_map(|(_, arguments)| *arguments));
            let budget = Budget::for_values(given)?;
            let environment = source.environment(&budget);
            let compiled = source.compile()?;
            let mut text = String::new();
            let mut output = make_string_output(&mut text);
            let vm = Vm::new(&environment);
            let (instructions, blocks) = (&compiled.instructions, &compiled.blocks);
            let (_, state) = vm.eval(instructions, values.clone(), blocks, &mut output, AutoEscape::None)?;
            match called {
                None => {
                    drop(state);
                    Ok(text)
                }
                Some((name, arguments)) => state.call_macro(name, arguments),
            }
        })
    }
}

impl Source {
    fn compile(&self) -> Result<minijinja::machinery::CompiledTemplate<'_>, Error> {
        compile(&self.name, &self.text, self.style == Style::Chat)
    }

    fn environment(&self, budget: &Arc<Budget>) -> Environment<'static> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(budget.steps()));
        environment.set_recursion_limit(NESTED_FRAMES);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        // It prints what the process holds.
        environment.remove_global("debug");
        operators::install(&mut environment, budget, self.style);
        match self.style {
            Style::Chat => python::install(&mut environment, budget),
            Style::Prompt => {
                environment.set_undefined_behavior(UndefinedBehavior::Strict);
                let budget = Arc::clone(budget);
                // The built-in filter `tojson` escapes for HTML. A model should see JSON as people write it.
                environment.add_filter("json", move |value: Value| budget.json(&value));
            }
        }
        environment
    }
}

/// Does `work` on a thread with a deep stack: the parser and the code generator recurse with the template.
fn apart<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, TemplateError> {
    let failed = |what: String| TemplateError::new(what);
    std::thread::scope(|scope| {
        let quiet = || quietly(|| work().map_err(TemplateError::from));
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, quiet);
        let thread = thread.map_err(|e| failed(format!("no thread could be started ({e})")))?;
        let done = thread.join().unwrap_or_else(|_| Err("its thread ended".to_owned()));
        done.unwrap_or_else(|panic| Err(failed(format!("the template engine failed ({panic})"))))
    })
}

#[cfg(test)]
mod tests;
