//! What the tests of all crates share: how a test says that it is skipped, and where golden values, data sets and the
//! pretrained model lie.
//!
//! The test harness knows no test that finds out while it runs that it cannot: it counts one that returns early as
//! passed. So such a test prints a line, and `.ci/run` counts that line:
//!
//! ```text
//! test skipped: tests::the_weights_are_the_same: QUERYWRIGHT_NETWORK is not set
//! ```

pub mod fake_server;
pub mod postgres;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Says that the running test is skipped, and why. The test returns right after it, having asserted nothing.
///
/// The line goes to the standard error past the harness, which would swallow what a passing test prints.
pub fn skipped(reason: impl Display) {
    let thread = std::thread::current();
    let line = line(thread.name().unwrap_or("a test"), &reason.to_string());
    // One write, so that lines of several threads do not mix. Where nobody reads, nothing is lost.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn line(test: &str, reason: &str) -> String {
    format!("test skipped: {test}: {}\n", reason.replace('\n', " "))
}

/// The variable's value. None, with `purpose` as the reason to skip, where it is not set.
pub fn variable(name: &str, purpose: &str) -> Option<OsString> {
    let value = std::env::var_os(name);
    if value.is_none() {
        skipped(format!("{name} is not set: {purpose}"));
    }
    value
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A file or folder of golden values.
pub fn golden(name: &str) -> PathBuf {
    root().join("tests/golden").join(name)
}

/// A folder of real data sets: below `$QUERYWRIGHT_SHARED`, else below `shared` beside the repository. None, with the
/// reason printed, where it is absent.
pub fn data(name: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("QUERYWRIGHT_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let folder = shared.join("data").join(name);
    if !folder.is_dir() {
        skipped(format!("there is no {}", folder.display()));
        return None;
    }
    Some(folder)
}

/// The pretrained model that tests run on, fetched once a process; `QUERYWRIGHT_TEST_MODEL` names another copy. None,
/// with the reason printed, where no registry answers.
#[cfg(feature = "model")]
pub fn model() -> Option<PathBuf> {
    static FETCHED: Fetched = Fetched::new();
    fetched(&FETCHED, "smollm2-135m", "QUERYWRIGHT_TEST_MODEL")
}

/// The pretrained sentence encoder that tests run on, as [`model`]; `QUERYWRIGHT_TEST_ENCODER` names another copy.
#[cfg(feature = "model")]
pub fn encoder() -> Option<PathBuf> {
    static FETCHED: Fetched = Fetched::new();
    fetched(&FETCHED, "all-minilm-l6-v2", "QUERYWRIGHT_TEST_ENCODER")
}

#[cfg(feature = "model")]
type Fetched = std::sync::OnceLock<Result<PathBuf, String>>;

#[cfg(feature = "model")]
fn fetched(once: &Fetched, name: &str, variable: &str) -> Option<PathBuf> {
    use querywright_sources::{PullOptions, model};

    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let fetch = || model(name, &PullOptions::default()).map_err(|error| error.to_string());
    once.get_or_init(fetch).clone().inspect_err(|reason| skipped(reason)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_test_prints_one_line_with_its_name_and_its_whole_reason() {
        let thread = std::thread::current();
        let said = line(thread.name().unwrap(), "no registry\nanswers");
        let own = "tests::a_skipped_test_prints_one_line_with_its_name_and_its_whole_reason";
        assert_eq!(said, format!("test skipped: {own}: no registry answers\n"));
    }

    #[test]
    fn golden_values_lie_where_they_are_looked_for() {
        assert!(golden("bm25.json").is_file() && root().join("Cargo.toml").is_file());
    }
}
