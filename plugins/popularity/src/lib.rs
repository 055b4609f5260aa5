//! The most popular items of a recent window: the same list for everybody, and a baseline for every recommender.
//!
//! A plugin sees the catalogue, not the users. So the interactions come from one of two fields of the documents:
//!
//! - `interactions`: the times at which users interacted with the item, in Unix seconds, separated by spaces. Each may
//!   have a session: `1700000000 ann@1700000300`. The score is the number of times within the window.
//! - `popularity`: a count that was made before. Read only if no document has `interactions`.
//!
//! The artifact `window-days` holds the length of the window in days, as text (`30` or `0.5`). Without it all
//! interactions count. The window ends with the latest interaction of the catalogue: the sandbox has no clock, and the
//! same catalogue must always have the same ranking. Items without an interaction in the window are not recommended.
//! The text and the history of a request are not read. Items that the user already has are left out if the request
//! excludes them.

use querywright_plugin::host::{self, ArtifactError};
use querywright_plugin::{Card, Document, Fault, Hit, QueryLanguage, Recommender, Request, card, rank};

/// The artifact that holds the length of the window in days.
pub const WINDOW: &str = "window-days";

const SECONDS_OF_A_DAY: f64 = 86_400.0;

/// Items by their number of interactions.
#[derive(Default)]
pub struct Popularity {
    /// Items, each with the time of one interaction.
    times: Vec<(u32, i64)>,
    /// Items with the count of the field `popularity`.
    counted: Vec<(u32, f32)>,
    /// After `commit`: all items with a score above 0, best first.
    best: Vec<Hit>,
}

impl Popularity {
    /// Counts the interactions of the last `window_days` days before the latest one; all of them without a window.
    pub fn count(&mut self, window_days: Option<f64>) {
        let (mut times, counted) = (std::mem::take(&mut self.times), std::mem::take(&mut self.counted));
        let scores = match times.iter().map(|(_, time)| *time).max() {
            None => counted,
            Some(latest) => {
                if let Some(days) = window_days {
                    times.retain(|(_, time)| latest.abs_diff(*time) as f64 <= days * SECONDS_OF_A_DAY);
                }
                // Documents come in the order of their ordinals, so the times of an item are adjacent.
                times.chunk_by(|a, b| a.0 == b.0).map(|chunk| (chunk[0].0, chunk.len() as f32)).collect()
            }
        };
        let everything = Request::plain("", u32::MAX);
        self.best = rank(scores, &everything);
    }
}

impl Recommender for Popularity {
    fn card() -> Card {
        card("popularity", env!("CARGO_PKG_VERSION"), QueryLanguage::Plain)
    }

    fn load(&mut self, documents: Vec<Document>) -> Result<(), Fault> {
        for document in documents {
            for word in document.field("interactions").unwrap_or_default().split_whitespace() {
                let time = word.rsplit('@').next().unwrap_or(word);
                let time = time.parse().map_err(|_| unusable(&document, "interactions", word, "Unix seconds"))?;
                self.times.push((document.item, time));
            }
            if let Some(text) = document.field("popularity").map(str::trim).filter(|text| !text.is_empty()) {
                let count = text.parse().ok().filter(|count: &f32| count.is_finite() && *count >= 0.0);
                let count = count.ok_or_else(|| unusable(&document, "popularity", text, "a number of 0 or more"))?;
                self.counted.push((document.item, count));
            }
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        let window = match host::artifact(WINDOW) {
            Ok(bytes) => Some(days(&bytes)?),
            Err(ArtifactError::Unknown) => None,
            Err(error) => return Err(Fault::Internal(format!("artifact {WINDOW}: {error:?}"))),
        };
        self.count(window);
        Ok(())
    }

    fn recommend(&mut self, request: &Request) -> Result<Vec<Hit>, Fault> {
        let mut excluded = request.exclude.clone();
        excluded.sort_unstable();
        let wanted = self.best.iter().filter(|hit| excluded.binary_search(&hit.item).is_err());
        Ok(wanted.take(request.k as usize).copied().collect())
    }
}

/// Parses the artifact with the length of the window.
///
/// # Errors
/// If it is not a number above 0.
pub fn days(bytes: &[u8]) -> Result<f64, Fault> {
    let days = str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok());
    days.filter(|days: &f64| days.is_finite() && *days > 0.0)
        .ok_or_else(|| Fault::Unreadable(format!("artifact {WINDOW} must hold a number of days above 0, such as 30")))
}

fn unusable(document: &Document, field: &str, found: &str, wanted: &str) -> Fault {
    Fault::Invalid(format!("document {}: {field} must be {wanted}, and holds \"{found}\"", document.id))
}

querywright_plugin::register!(Popularity);
