//! Text to text: what turns a query into a better one.

mod answer;
mod identity;
mod language_model;
mod prompt;

pub use answer::{FormatFault, Reading, TermReading};
pub use identity::Identity;
pub use language_model::LanguageModel;
pub use prompt::{Example, Mode, PromptConfig, PromptStyle, Prompter, Task};
