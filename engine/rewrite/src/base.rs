//! The tuned base: how a request becomes a query without a model.
//!
//! A retriever of fields and operators can be asked for the same words in many ways: in one field more than in another,
//! side by side, all of them together, with words of the documents that a first search finds, for a history with more
//! weight on what came last. Which of these pays is a handful of numbers that a search over training queries finds in
//! seconds. The result is a rewriter of its own, and what a language model's words are added to.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use crate::joined::uncut;
use crate::neighbours::NeighboursConfig;
use querywright_text::boolean::{can_name, escaped};
use querywright_types::{Deadline, Error, Output, Query, QueryLanguage, Result, RetrieverCard, Rewrite, Rewriter};
use serde::{Deserialize, Serialize};

/// Words that pseudo-relevance feedback finds for a query, the best first, each with its share; shares sum to 1. The
/// numbers are how many documents are taken to be relevant, and how many words they give.
pub type Feedback = Arc<dyn Fn(&Query, &FeedbackConfig) -> Result<Vec<(String, f64)>> + Send + Sync>;

/// Pseudo-relevance feedback in a base.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeedbackConfig {
    /// The weight of all feedback words together, relative to the request's. (1 - λ) / λ in RM3's terms. Default 0: none.
    pub weight: f32,
    /// How many documents are taken to be relevant. Default 10.
    pub docs: usize,
    /// How many words they give. Default 10.
    pub terms: usize,
}

impl Default for FeedbackConfig {
    fn default() -> Self {
        Self { weight: 0.0, docs: 10, terms: 10 }
    }
}

/// How a request becomes a query without a model. The default is the raw query. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BaseConfig {
    /// The weight of the request's words wherever they stand in a document. Default 1.
    pub contents: f32,
    /// The weight of the request's words where two neighbours stand side by side. Default 0.
    pub phrases: f32,
    /// An extra weight of the request's words in documents that hold all of them. Default 0.
    pub all_words: f32,
    /// How many items of a history count, the last ones. 0 (the default): all.
    pub history: usize,
    /// How much less an item of a history counts than the one after it, from above 0 to 1. Default 1: as much.
    pub history_decay: f32,
    /// The weights of the request's words in single fields. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, f32>,
    /// Pseudo-relevance feedback. Default: none.
    pub feedback: FeedbackConfig,
    /// Words of what was relevant to judged queries that are like the request. Default: none.
    #[serde(skip_serializing_if = "NeighboursConfig::is_off")]
    pub neighbours: NeighboursConfig,
}

impl Default for BaseConfig {
    fn default() -> Self {
        Self {
            contents: 1.0,
            phrases: 0.0,
            all_words: 0.0,
            history: 0,
            history_decay: 1.0,
            fields: BTreeMap::new(),
            feedback: FeedbackConfig::default(),
            neighbours: NeighboursConfig::default(),
        }
    }
}

impl BaseConfig {
    /// Whether this asks for the words as they came.
    pub fn is_raw(&self) -> bool {
        let weightless = self.fields.values().all(|weight| *weight == 0.0);
        let plain = self.phrases == 0.0 && self.all_words == 0.0 && self.feedback.weight == 0.0 && weightless;
        plain && self.neighbours.is_off() && self.history == 0 && self.history_decay == 1.0
    }

    /// Checks every number, and that the retriever can be asked like this.
    ///
    /// # Errors
    /// [`Error::Argument`] names the key (`base.phrases`), its value and what would be right.
    pub fn validate(&self, card: &RetrieverCard) -> Result<()> {
        let named = self.fields.iter().map(|(name, weight)| (format!("base.fields.{name}"), *weight));
        let weights = [
            ("base.contents".to_owned(), self.contents),
            ("base.phrases".to_owned(), self.phrases),
            ("base.all_words".to_owned(), self.all_words),
            ("base.feedback.weight".to_owned(), self.feedback.weight),
            ("base.neighbours.weight".to_owned(), self.neighbours.weight),
        ];
        for (key, weight) in weights.into_iter().chain(named) {
            if !(0.0..=100.0).contains(&weight) {
                return Err(Error::argument(key, weight.to_string(), "give a number from 0 to 100"));
            }
        }
        if !(self.history_decay > 0.0 && self.history_decay <= 1.0) {
            let found = self.history_decay.to_string();
            return Err(Error::argument("base.history_decay", found, "give a number above 0 and at most 1"));
        }
        if let Some(field) = self.fields.keys().find(|name| !card.fields.contains(name)) {
            let remedy = format!("the retriever {} has the fields {}", card.name, card.fields.join(", "));
            return Err(Error::argument("base.fields", format!("\"{field}\""), remedy));
        }
        if let Some(field) = self.fields.keys().find(|name| !can_name(name, &card.fields)) {
            let found = format!("\"{field}\", which no query of the Boolean language can name");
            return Err(Error::argument("base.fields", found, "leave it out, or rename it in the corpus"));
        }
        if [self.feedback.docs, self.feedback.terms].contains(&0) {
            let found = format!("{} docs, {} terms", self.feedback.docs, self.feedback.terms);
            return Err(Error::argument("base.feedback", found, "give at least 1; a weight of 0 switches it off"));
        }
        if self.neighbours.terms == 0 {
            let remedy = "give at least 1; a weight of 0 switches it off";
            return Err(Error::argument("base.neighbours.terms", "0", remedy));
        }
        // Says so where the file was never read.
        self.neighbours.words(&Query::default())?;
        if self.contents == 0.0 && self.fields.values().all(|weight| *weight == 0.0) {
            return Err(Error::argument("base.contents", "0, without a field", "give one of them a weight"));
        }
        if !self.is_raw() && !card.languages.contains(&QueryLanguage::Boolean) {
            let found = format!("the retriever {} does not read the Boolean language", card.name);
            return Err(Error::argument("base", found, "leave the base out for this retriever"));
        }
        Ok(())
    }

    /// The query for the retriever. `feedback` holds words with their shares, as [`Feedback`] gives them, and `neighbours`
    /// those of [`NeighboursConfig::words`].
    ///
    /// `(words)^contents title:(words)^… ("two neighbours")^phrases (+all +words)^all_words word^…`
    ///
    /// Words of both come first where a query has more terms than are searched for. The oldest items of a history are
    /// then what is left out.
    pub fn compose(&self, query: &Query, feedback: &[(String, f64)], neighbours: &[(String, f64)]) -> Rewrite {
        if self.is_raw() {
            return Rewrite::plain(query.text.clone());
        }
        let mut parts = Parts::default();
        let mut words = 0.0;
        for (line, weight) in self.lines(query) {
            let line = escaped(line);
            if !line.is_empty() {
                words += f64::from(weight) * line.split(' ').count() as f64;
                self.write_line(&line, weight, &mut parts);
            }
        }
        if parts.0.is_empty() {
            return Rewrite::plain(query.text.clone());
        }
        let mut added = Parts::default();
        for (from, weight) in [(feedback, self.feedback.weight), (neighbours, self.neighbours.weight)] {
            for (word, share) in from {
                added.push(word, (f64::from(weight) * words * share) as f32);
            }
        }
        Rewrite::new(uncut(&parts.0, &added.0), QueryLanguage::Boolean)
    }

    /// As [`compose`](Self::compose), with words from a source of feedback and of neighbours where they have a weight.
    ///
    /// # Errors
    /// Those of the source and of [`NeighboursConfig::words`], and [`Error::Argument`] where feedback has a weight and there is no source.
    pub fn query(&self, query: &Query, feedback: Option<&Feedback>) -> Result<Rewrite> {
        let words = match feedback {
            _ if self.feedback.weight == 0.0 => Vec::new(),
            Some(feedback) => feedback(query, &self.feedback)?,
            None => {
                let remedy = "give the prompter or Tuned a source of feedback, such as the words of Rm3";
                return Err(Error::argument("base.feedback.weight", self.feedback.weight.to_string(), remedy));
            }
        };
        Ok(self.compose(query, &words, &self.neighbours.words(query)?))
    }

    /// Reads what stands in a file of its own beside the one with these settings, in `folder`.
    ///
    /// # Errors
    /// Those of [`NeighboursConfig::load`].
    pub fn load(&mut self, folder: &Path) -> Result<()> {
        self.neighbours.load(folder)
    }

    /// Writes what stands in a file of its own into the folder of the file with these settings. Write it first.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Argument`] where it was never read.
    pub fn write_files(&self, folder: &Path) -> Result<()> {
        match self.neighbours.read()? {
            Some(known) => Output::open(folder.join(known.file_name()))?.write(known.file()),
            None => Ok(()),
        }
    }

    /// The parts of a request with their weights: its text, or the titles of its history, the last one first.
    fn lines<'q>(&self, query: &'q Query) -> Vec<(&'q str, f32)> {
        if query.history.is_empty() {
            return vec![(query.text.as_str(), 1.0)];
        }
        let most = if self.history == 0 { usize::MAX } else { self.history };
        let weight = |back: usize| self.history_decay.powi(i32::try_from(back).unwrap_or(i32::MAX));
        let weighed = query.text.lines().rev().enumerate().map(|(back, line)| (line, weight(back)));
        weighed.take(most).filter(|(_, weight)| *weight > 1e-3).collect()
    }

    fn write_line(&self, line: &str, weight: f32, parts: &mut Parts) {
        parts.push(&format!("({line})"), self.contents * weight);
        for (field, own) in &self.fields {
            parts.push(&format!("{field}:({line})"), own * weight);
        }
        let words: Vec<&str> = line.split(' ').collect();
        if words.len() > 1 && self.phrases > 0.0 {
            let neighbours: Vec<String> = words.windows(2).map(|pair| format!("\"{}\"", pair.join(" "))).collect();
            parts.push(&format!("({})", neighbours.join(" ")), self.phrases * weight);
        }
        if words.len() > 1 && self.all_words > 0.0 {
            parts.push(&format!("(+{})", words.join(" +")), self.all_words * weight);
        }
    }
}

/// The clauses of a query, those without a weight left out.
#[derive(Default)]
struct Parts(String);

impl Parts {
    fn push(&mut self, clause: &str, weight: f32) {
        // Five digits are more than the ranking needs and are still read by people.
        let weight = (f64::from(weight) * 1e5).round() / 1e5;
        if weight > 0.0 {
            let space = if self.0.is_empty() { "" } else { " " };
            // Writing to a String does not fail.
            let _ = match weight {
                1.0 => write!(self.0, "{space}{clause}"),
                _ => write!(self.0, "{space}{clause}^{weight}"),
            };
        }
    }
}

/// A base as a rewriter.
#[derive(Clone)]
pub struct Tuned {
    config: BaseConfig,
    feedback: Option<Feedback>,
}

impl std::fmt::Debug for Tuned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tuned").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Tuned {
    /// A base for the retriever of `card`. `feedback` is what `config.feedback` asks for.
    ///
    /// # Errors
    /// Those of [`BaseConfig::validate`].
    pub fn new(config: BaseConfig, card: &RetrieverCard, feedback: Option<Feedback>) -> Result<Self> {
        config.validate(card)?;
        Ok(Self { config, feedback })
    }

    /// The settings.
    pub fn config(&self) -> &BaseConfig {
        &self.config
    }
}

impl Rewriter for Tuned {
    fn name(&self) -> &str {
        "tuned"
    }

    fn rewrite(&self, queries: &[Query], deadline: Deadline) -> Vec<Result<Rewrite>> {
        queries
            .iter()
            .map(|query| deadline.check().and_then(|()| self.config.query(query, self.feedback.as_ref())))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> RetrieverCard {
        RetrieverCard::new("bm25", "0").with_languages([QueryLanguage::Boolean]).with_fields(["title", "tags"])
    }

    fn config() -> BaseConfig {
        BaseConfig {
            fields: [("title".to_owned(), 0.5)].into(),
            phrases: 0.25,
            all_words: 0.1,
            ..BaseConfig::default()
        }
    }

    #[test]
    fn the_default_is_the_raw_query() {
        let query = Query::text("Tea AND (kettle");
        assert_eq!(BaseConfig::default().compose(&query, &[], &[]), Rewrite::plain("Tea AND (kettle"));
        assert!(BaseConfig::default().validate(&RetrieverCard::new("plain", "0")).is_ok());
    }

    #[test]
    fn words_are_asked_for_in_fields_side_by_side_and_together() {
        let text = config().compose(&Query::text("big tea: (kettle\""), &[], &[]).text;
        let want =
            "(big tea kettle) title:(big tea kettle)^0.5 (\"big tea\" \"tea kettle\")^0.25 (+big +tea +kettle)^0.1";
        assert_eq!(text, want);
        assert_eq!(config().compose(&Query::text("kettle"), &[], &[]).text, "(kettle) title:(kettle)^0.5");
        assert_eq!(config().compose(&Query::text("?!"), &[], &[]), Rewrite::plain("?!"), "nothing to compose");
    }

    #[test]
    fn feedback_weighs_as_much_as_it_says_beside_all_words_of_the_request() {
        let base = BaseConfig { feedback: FeedbackConfig { weight: 0.5, ..Default::default() }, ..Default::default() };
        let words = [("pot".to_owned(), 0.75), ("lid".to_owned(), 0.25)];
        assert_eq!(base.compose(&Query::text("tea kettle"), &words, &[]).text, "(tea kettle) pot^0.75 lid^0.25");
    }

    #[test]
    fn feedback_words_are_searched_for_however_long_the_request_is() {
        let base = BaseConfig { feedback: FeedbackConfig { weight: 0.5, ..Default::default() }, ..Default::default() };
        let compose = |count: usize| {
            let request: Vec<String> = (0..count).map(|n| format!("w{n}")).collect();
            base.compose(&Query::text(request.join(" ")), &[("pot".to_owned(), 1.0)], &[]).text
        };
        assert!(compose(1000).ends_with(") pot^500"));
        assert!(compose(1100).starts_with("pot^550 (w0 "));
    }

    #[test]
    fn the_last_items_of_a_history_count_most() {
        let base = BaseConfig { history: 2, history_decay: 0.5, ..BaseConfig::default() };
        let query = Query::text("red lamp\nblue mat\ngreen pot").with_history([1, 2, 3]);
        assert_eq!(base.compose(&query, &[], &[]).text, "(green pot) (blue mat)^0.5");
    }

    #[test]
    fn what_has_no_meaning_is_refused_by_its_key() {
        let refused = |base: BaseConfig| base.validate(&card()).unwrap_err().to_string();
        assert!(refused(BaseConfig { phrases: f32::NAN, ..config() }).contains("base.phrases"));
        assert!(refused(BaseConfig { history_decay: 0.0, ..config() }).contains("base.history_decay"));
        assert!(refused(BaseConfig { fields: [("brand".to_owned(), 1.0)].into(), ..config() }).contains("title, tags"));
        assert!(refused(BaseConfig { contents: 0.0, ..BaseConfig::default() }).contains("base.contents"));
        let spaced = card().with_fields(["release year"]);
        let base = BaseConfig { fields: [("release year".to_owned(), 1.0)].into(), ..BaseConfig::default() };
        assert!(base.validate(&spaced).unwrap_err().to_string().contains("can name"));
        let none = FeedbackConfig { docs: 0, ..FeedbackConfig::default() };
        assert!(refused(BaseConfig { feedback: none, ..config() }).contains("base.feedback"));
        let plain = RetrieverCard::new("plain", "0").with_fields(["title"]);
        assert!(config().validate(&plain).unwrap_err().to_string().contains("Boolean"));
        let feedback = FeedbackConfig { weight: 1.0, ..FeedbackConfig::default() };
        let tuned = Tuned::new(BaseConfig { feedback, ..config() }, &card(), None).unwrap();
        let found = tuned.rewrite(&[Query::text("tea")], Deadline::NONE).remove(0);
        assert!(found.unwrap_err().to_string().contains("base.feedback.weight"), "feedback without a source");
    }
}
