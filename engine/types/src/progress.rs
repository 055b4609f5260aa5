//! One shape for progress: whatever takes a while tells an [`Observe`] how far it is.

/// How far a stage of some work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// What is being done, for a person: "loading layers", the name of a file.
    pub stage: &'a str,
    /// How much of it is done, in the stage's own unit: queries, layers, documents, bytes.
    pub done: u64,
    /// How much there is in all; none where nobody knows, as when a stage begins.
    pub total: Option<u64>,
}

impl<'a> Progress<'a> {
    /// `done` of `total`.
    pub fn new(stage: &'a str, done: u64, total: u64) -> Self {
        Self { stage, done, total: Some(total) }
    }

    /// The start of a stage of unknown length.
    pub fn begun(stage: &'a str) -> Self {
        Self { stage, done: 0, total: None }
    }
}

/// Is told about work while it goes on. Neither method should take long: the work waits for it.
///
/// `()` ignores everything, and a closure over [`Progress`] is told about progress alone.
///
/// ```
/// use querywright_types::{Observe, Progress};
///
/// fn work(observer: &dyn Observe) {
///     observer.progress(Progress::new("counting", 1, 2));
/// }
///
/// work(&());
/// work(&|progress: Progress<'_>| println!("{}: {}", progress.stage, progress.done));
/// ```
pub trait Observe {
    /// More of a stage is done. Default: ignored.
    fn progress(&self, progress: Progress<'_>) {
        let _ = progress;
    }

    /// A sentence that a person would want to read. Default: ignored.
    fn note(&self, text: &str) {
        let _ = text;
    }
}

impl Observe for () {}

impl<F: Fn(Progress<'_>)> Observe for F {
    fn progress(&self, progress: Progress<'_>) {
        self(progress);
    }
}
