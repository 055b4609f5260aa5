//! The report of a run: one HTML page that needs no other file, and its curves as a picture.

mod curves;
mod forest;
mod page;
mod plot;
mod probes;
mod scale;

use std::path::{Path, PathBuf};

use super::{Changes, Comparison, CostTable, Headroom, Probes, Sample};
use curves::Curves;
use querywright_data::catalog::Output;
use querywright_types::{Error, Result};

/// The parts of a report. An absent part leaves its section out.
///
/// ```
/// use querywright_evaluate::Report;
///
/// let report = Report { title: "A run".into(), config: Some("seed = 0".into()), ..Report::default() };
/// assert!(report.html()?.contains("seed = 0"));
/// # Ok::<(), querywright_types::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The heading of the page.
    pub title: String,
    /// A sentence under the heading: what ran on what.
    pub subtitle: String,
    /// The `metrics.jsonl` of a training run: one JSON object a line, with `step` and numbers by name.
    pub metrics: Option<PathBuf>,
    /// Systems side by side.
    pub comparison: Option<Comparison>,
    /// How many queries were improved and hurt, and which most.
    pub changes: Option<Changes>,
    /// How much of what the model could write was reached.
    pub headroom: Option<Headroom>,
    /// What the systems do to please the measure.
    pub probes: Option<Probes>,
    /// What training cost.
    pub cost: Option<CostTable>,
    /// A sample of rewrites.
    pub samples: Vec<Sample>,
    /// The configuration, as text.
    pub config: Option<String>,
    /// Names with values that identify the run: versions, digests, the machine.
    pub versions: Vec<(String, String)>,
}

impl Report {
    /// The page: HTML with its style and its plots inside, in light and dark.
    ///
    /// # Errors
    /// When `metrics` cannot be read or holds a line that is not metrics.
    pub fn html(&self) -> Result<String> {
        page::page(self, &self.curves()?)
    }

    /// Writes `index.html` and, where there are metrics, `curves.svg` into `folder`, which is made where it is missing.
    /// Returns the path of the page. A page that was there stays until the new one is whole.
    ///
    /// # Errors
    /// Those of [`html`](Self::html), and when a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let curves = self.curves()?;
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        let save = |name: &str, text: String| {
            let path = folder.join(name);
            Output::open(&path)?.write(text.as_bytes())?;
            Ok(path)
        };
        if let Some(picture) = curves.picture() {
            save("curves.svg", picture)?;
        }
        save("index.html", page::page(self, &curves)?)
    }

    fn curves(&self) -> Result<Curves> {
        self.metrics.as_deref().map_or_else(|| Ok(Curves::default()), Curves::read)
    }
}

#[cfg(test)]
mod tests;
