//! Text to text: what turns a query into a better one.
//!
//! A [`Prompter`] builds prompts from the retriever's card and reads answers, as text; a [`PromptEncoder`] does so in
//! one model's tokens. [`LanguageModel`] and [`Remote`] rewrite by them; [`Identity`] is the raw query.

use crate as rewrite;
use querywright_model as model;
use querywright_types::{self as types, error};

mod answer;
mod compose;
mod encoder;
mod language_model;
mod prompt;
mod remote;
mod terms;

pub use answer::{Answer, FormatFault};
pub use compose::{Composer, Mode};
pub use encoder::{PromptEncoder, Reading, TermReading};
pub use language_model::LanguageModel;
pub use prompt::{Example, Prompt, PromptConfig, PromptStyle, Prompter, Task, Titles};
pub use remote::{Remote, RemoteConfig};
pub use terms::{Term, terms, without_term};

#[cfg(test)]
#[path = "../../sources/src/fake_server.rs"]
mod fake_server;
