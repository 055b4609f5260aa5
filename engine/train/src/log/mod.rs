//! The logs of a training run: metrics as JSON lines and as TensorBoard event files, completions as JSON lines.
//!
//! All files are only ever appended to. A run that resumes from the checkpoint of a step cuts off what was written
//! after it, so that the files read as if the run had never stopped.

mod completions;
mod json_lines;
mod metrics;
mod tensorboard;

pub use completions::{CompletionRecord, CompletionsLog};
pub use json_lines::JsonLines;
pub use metrics::{MetricsLog, StepMetrics, name};
pub use tensorboard::EventFile;
