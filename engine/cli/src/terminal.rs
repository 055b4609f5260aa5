//! The one place that prints. What is printed may quote documents, models, plugins and servers, so no character that could
//! rewrite a terminal, forge a line or disguise a name gets out: a line that is said stays one line.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::Result;
use querywright::Error;
use querywright::types::{printable, printable_json};
use serde::Serialize;

/// What errors call where results go.
pub const OUTPUT: &str = "standard output";

/// Prints a line on standard output; a reader that has gone is no reason to panic.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::terminal::line(format_args!($($text)*))?
    };
}

/// Prints a line on standard error: warnings, progress, the log.
macro_rules! tell {
    ($($text:tt)*) => {
        $crate::terminal::log(format_args!($($text)*))
    };
}

/// Prints one line on standard output.
pub fn line(text: Arguments<'_>) -> Result<()> {
    write(&printable(&text.to_string()))
}

/// Prints a text of several lines on standard output. Its lines are this program's: nobody else's text breaks one.
pub fn lines(text: &str) -> Result<()> {
    text.lines().try_for_each(|text| line(format_args!("{text}")))
}

/// Prints a value as one line of JSON.
pub fn json(value: &impl Serialize) -> Result<()> {
    write(&printable_json(&serde_json::to_string(value)?))
}

/// A script for a shell, or another text that is wholly this program's, byte for byte.
pub fn verbatim(text: &[u8]) -> Result<()> {
    Ok(std::io::stdout().write_all(text).map_err(|e| Error::write(OUTPUT, e))?)
}

fn write(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}").map_err(|e| Error::write(OUTPUT, e))?)
}

/// Prints one line on standard error. Nobody may be reading it.
pub fn log(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{}", printable(&text.to_string()));
}

/// Prints what ended the program. A text of several lines, as a configuration's mistake with its place, keeps them, set in, so
/// that none looks like a message of its own.
pub fn failure(error: &anyhow::Error) {
    for (number, line) in sentence(error).lines().enumerate() {
        tell!("{}{line}", if number == 0 { "error: " } else { "  " });
    }
}

/// An error with its causes, but for those that it has told already.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said.contains(&cause) {
        true => said,
        false if said.is_empty() => cause,
        false => format!("{said}: {cause}"),
    })
}

/// Panics say what they say, printable: some quote the text that a library failed on.
pub fn keep_panics_printable() {
    std::panic::set_hook(Box::new(|panic| {
        panic.to_string().lines().for_each(|line| tell!("{line}"));
        let trace = std::backtrace::Backtrace::capture();
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            trace.to_string().lines().for_each(|line| tell!("{line}"));
        }
    }));
}

/// Whether the reader of our output has seen enough: `querywright … | head` is no failure.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match cause.downcast_ref::<Error>() {
        // A pipe that a file was to be written to is another matter.
        Some(Error::Io { path, source, .. }) => source.kind() == ErrorKind::BrokenPipe && path == Path::new(OUTPUT),
        _ => cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_once_and_a_pipe_that_broke_below_it_is_found() {
        let broken = || std::io::Error::from(ErrorKind::BrokenPipe);
        let error = anyhow::Error::from(Error::write(OUTPUT, broken())).context("serving");
        assert!(!is_broken_pipe(&Error::write("fifo", broken()).into()), "a run file that nobody reads is lost");
        assert!(is_broken_pipe(&error) && is_broken_pipe(&broken().into()));
        assert!(!is_broken_pipe(&Error::write("x", std::io::Error::from(ErrorKind::StorageFull)).into()));
        let said = sentence(&error);
        assert_eq!(said.matches("broken pipe").count(), 1, "{said}");
    }
}
