//! Item-to-item co-visitation: what other users visited after the items of the history, recent sessions first.
//!
//! A session is a list of items in the order of time. Each pair of an item i and a later item j, at most [`REACH`]
//! steps apart, adds to `w(i, j)`
//!
//! ```text
//! 1 / steps * 2^(-age of j in days / HALF_LIFE_DAYS)
//! ```
//!
//! where the age is the time before the latest of all interactions (the sandbox has no clock). Then
//! `p(i, j) = w(i, j) / sum over j of w(i, j)`, of which the [`NEIGHBOURS`] largest of each i are kept. The score of j
//! is the sum of `FADING^n * p(i, j)` over the last [`REACH`] items i of the request's history, with n = 0 for the
//! newest. The text of a request is not read. An empty history has no hits.
//!
//! Sessions come from two sources, which may be combined:
//!
//! - The field `interactions` of each document, such as `ann@1700000300 bob@1700000400`: session, @, Unix seconds.
//!   Times without a session are ignored.
//! - The artifact `sessions.tsv`, with one interaction on each line: session, tab, the item's id in the catalogue, tab,
//!   Unix seconds. Items that the catalogue does not have are ignored.

mod matrix;

use std::collections::HashMap;

use querywright_plugin::host::{self, ArtifactError};
use querywright_plugin::{Card, Document, Fault, Hit, QueryLanguage, Recommender, Request, card, rank};

use matrix::Matrix;

/// Most steps between two items of a session that count as a pair, and most items of a history that are read.
pub const REACH: usize = 10;
/// Days after which the weight of an interaction has halved.
pub const HALF_LIFE_DAYS: f64 = 30.0;
/// Followers that are kept for each item.
pub const NEIGHBOURS: usize = 100;
/// The weight of an item of the history, relative to the item after it.
pub const FADING: f64 = 0.8;
/// The artifact with sessions.
pub const SESSIONS: &str = "sessions.tsv";

const SECONDS_OF_A_DAY: f64 = 86_400.0;

/// An item of a session.
struct Interaction {
    /// The number of the session, in the order of first mention.
    session: u32,
    time: i64,
    item: u32,
}

/// Items by the items that precede them.
#[derive(Default)]
pub struct Covisit {
    ordinals: HashMap<String, u32>,
    sessions: HashMap<String, u32>,
    interactions: Vec<Interaction>,
    followers: Matrix,
}

impl Covisit {
    /// Reads the file of sessions.
    ///
    /// # Errors
    /// [`Fault::Unreadable`] with the number of a line that cannot be read.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let unreadable = |line: usize, why: &str| Fault::Unreadable(format!("{SESSIONS}, line {}: {why}", line + 1));
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = str::from_utf8(line).map_err(|_| unreadable(number, "it is not UTF-8"))?;
            let line = line.trim_end_matches('\r');
            if line.is_empty() {
                continue;
            }
            let mut cells = line.split('\t');
            let (Some(session), Some(id), Some(time), None) = (cells.next(), cells.next(), cells.next(), cells.next())
            else {
                return Err(unreadable(number, "write session, item and time, separated by tabs"));
            };
            let time = time.parse().map_err(|_| unreadable(number, "the time must be Unix seconds"))?;
            if let Some(&item) = self.ordinals.get(id) {
                self.add(session, item, time);
            }
        }
        Ok(())
    }

    fn add(&mut self, session: &str, item: u32, time: i64) {
        let next = self.sessions.len() as u32;
        let session = match self.sessions.get(session) {
            Some(known) => *known,
            None => *self.sessions.entry(session.to_owned()).or_insert(next),
        };
        self.interactions.push(Interaction { session, time, item });
    }

    /// Counts which item follows which.
    pub fn count(&mut self) {
        let mut interactions = std::mem::take(&mut self.interactions);
        // Equal times are ordered by item, so that the order of lines has no effect.
        interactions.sort_unstable_by_key(|i| (i.session, i.time, i.item));
        let latest = interactions.iter().map(|i| i.time).max().unwrap_or_default();
        let mut pairs = Vec::new();
        for session in interactions.chunk_by(|a, b| a.session == b.session) {
            for (place, later) in session.iter().enumerate() {
                let age = latest.abs_diff(later.time) as f64 / SECONDS_OF_A_DAY;
                let recency = (-age / HALF_LIFE_DAYS).exp2();
                for (steps, earlier) in (1..=REACH).zip(session[..place].iter().rev()) {
                    if earlier.item != later.item {
                        pairs.push((earlier.item, later.item, recency / steps as f64));
                    }
                }
            }
        }
        self.followers = Matrix::of(pairs, NEIGHBOURS);
        (self.ordinals, self.sessions) = Default::default();
    }
}

impl Recommender for Covisit {
    fn card() -> Card {
        Card { reads_history: true, ..card("covisit", env!("CARGO_PKG_VERSION"), QueryLanguage::Plain) }
    }

    fn load(&mut self, documents: Vec<Document>) -> Result<(), Fault> {
        for document in documents {
            for word in document.field("interactions").unwrap_or_default().split_whitespace() {
                let Some((session, time)) = word.rsplit_once('@') else { continue };
                let time = time.parse().map_err(|_| {
                    Fault::Invalid(format!(
                        "document {}: interactions holds \"{word}\", not session@seconds",
                        document.id
                    ))
                })?;
                self.add(session, document.item, time);
            }
            self.ordinals.insert(document.id, document.item);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Fault> {
        match host::artifact(SESSIONS) {
            Ok(bytes) => self.read(&bytes)?,
            Err(ArtifactError::Unknown) => {}
            Err(error) => return Err(Fault::Internal(format!("artifact {SESSIONS}: {error:?}"))),
        }
        self.count();
        Ok(())
    }

    fn recommend(&mut self, request: &Request) -> Result<Vec<Hit>, Fault> {
        // Summed in double precision in the order of the history, so that the same request has the same scores.
        let mut scores: HashMap<u32, f64> = HashMap::new();
        let mut weight = 1.0;
        for item in request.history.iter().rev().take(REACH) {
            for (follower, share) in self.followers.row(*item) {
                *scores.entry(follower).or_default() += weight * f64::from(share);
            }
            weight *= FADING;
        }
        Ok(rank(scores.into_iter().map(|(item, score)| (item, score as f32)), request))
    }
}

querywright_plugin::register!(Covisit);
