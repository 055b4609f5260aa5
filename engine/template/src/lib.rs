//! Jinja templates of strangers: rendered as transformers renders them, and within limits.
//!
//! A template comes with a model or an adapter, so whoever wrote it is not trusted. Whatever it says, rendering ends in a
//! text or an error, in bounded time and memory: instructions are counted (minijinja's fuel), every value that a template
//! makes is weighed (`limits.rs`), and stacks are deep enough for what the limits allow. A template sees its values and
//! nothing else: no file, no other template, no environment.
//!
//! ```
//! use minijinja::context;
//! use querywright_template::{Style, Template};
//!
//! let greeting = Template::new("greeting", "{{ '%s, %s' % ('hello', name.partition(' ')[0]) }}", Style::Chat)?;
//! assert_eq!(greeting.render(&context! { name => "Ada Lovelace" })?, "hello, Ada");
//!
//! let endless = Template::new("endless", "{% set x = 'ab' * 1000 %}{% for i in range(99) %}{{ x.join(x) }}{% endfor %}", Style::Chat)?;
//! assert!(endless.render(&context! {}).is_err());
//! # Ok::<(), querywright_template::TemplateError>(())
//! ```
#![deny(missing_docs, missing_debug_implementations)]

mod compile;
mod limits;
pub mod marks;
mod operators;
mod python;
mod template;
mod text;

pub use template::{Style, Template, TemplateError};
