//! Searches for rewrites that find more, with the judgements of the training queries.
//!
//! For each query, words are added one after the other, each time the one that adds most to the measure. What labels
//! choose for one query is mostly noise of the labels, so a rewrite is kept only where it holds elsewhere:
//!
//! - where a query has [`ENOUGH`] relevant documents or more, half of them choose the words (the others are left out of
//!   those rankings), and as many of the words are kept as serve the other half best;
//! - where it has fewer, a word is kept if it helps another query as well, or is one of the query's own.
//!
//! Which words are tried, all relevant documents say: what they share comes first.

use std::collections::HashMap;

use rayon::prelude::*;

use super::Target;
use crate::config::WarmStartConfig;
use crate::epochs::permutation;
use crate::materials::{Labelled, Materials};
use crate::rollout::{Form, RelevanceFeedback, best_order};
use querywright_data::metrics::Measure;
use querywright_rewrite::{Mode, Task};
use querywright_types::{Deadline, Error, Judgements, Observe, Progress, Ranking, Request, Result, Rewrite, retrieve};

/// Relevant documents of which half can confirm what the other half chose.
const ENOUGH: usize = 4;
/// The share of the best gain that is as good.
const NEARLY: f64 = 0.75;
/// Queries that are searched for at once.
const BATCH: usize = 128;

/// A search over the training queries of a run.
pub(crate) struct Search<'a> {
    pub(crate) config: &'a WarmStartConfig,
    pub(crate) materials: &'a Materials,
    /// What each training query is without a model.
    pub(crate) originals: &'a [Rewrite],
    pub(crate) feedback: &'a RelevanceFeedback,
    pub(crate) task: Task,
    pub(crate) mode: Mode,
    pub(crate) measure: Measure,
    /// How many documents are retrieved.
    pub(crate) depth: usize,
    /// Tokens of an answer, at most.
    pub(crate) max_tokens: usize,
    /// Times that a request is sent again after a fault of the retriever.
    pub(crate) retries: usize,
    pub(crate) seed: u64,
}

/// Half of a query's judgements, with the relevant documents of the other half.
struct Half {
    judgements: Judgements,
    other: Vec<u32>,
}

/// A query on its way through the search.
struct State<'a> {
    query: usize,
    labelled: &'a Labelled,
    original: &'a Rewrite,
    /// What chooses, and what confirms.
    chooses: Half,
    confirms: Option<Half>,
    /// Words and phrases to be tried.
    words: Vec<String>,
    chosen: Vec<String>,
    /// Words that help by themselves, each with its gain.
    singles: Vec<(String, f64)>,
    before: f64,
    after: f64,
    done: bool,
    /// Whether the retriever failed for what the query is without a model.
    failed: bool,
}

/// A rewrite to be measured on half of a query's judgements. No text: what the query is without a model.
struct Probe<'a> {
    state: &'a State<'a>,
    half: &'a Half,
    text: Option<String>,
}

impl<'a> Search<'a> {
    /// The examples that were found, in the order of the queries.
    ///
    /// # Errors
    /// A prompt that cannot be made. Queries on which the retriever fails have no example.
    pub(crate) fn run(&self, observer: &dyn Observe) -> Result<Vec<Target>> {
        let count = self.materials.train.len();
        let mut chosen = permutation(count, self.seed, u64::MAX);
        chosen.truncate(self.config.max_queries);
        chosen.sort_unstable();
        if self.mode == Mode::Rerank {
            return self.orders(&chosen, observer);
        }
        let (all, mut done) = (chosen.len() as u64, 0);
        let mut found = Vec::new();
        for queries in chosen.chunks(BATCH) {
            let mut states = queries.iter().map(|query| self.state(*query)).collect::<Result<Vec<_>>>()?;
            self.add_words(&mut states)?;
            self.confirm(&mut states)?;
            found.extend(states);
            done += queries.len() as u64;
            observer.progress(Progress::new("searching for better rewrites", done, all));
        }
        let asked = found.len();
        found.retain(|state| !state.failed);
        let mut states = self.retain(found)?;
        if states.len() < asked {
            let failed = asked - states.len();
            observer
                .note(&format!("the retriever failed for {failed} training queries; there are no examples of them"));
        }
        self.measure_kept(&mut states)?;
        Ok(self.targets(states))
    }

    /// The best orders of candidates that gain enough. What is relevant is not noise of a search over words, so all judgements
    /// choose and none need confirm. A query that the retriever fails has no example.
    fn orders(&self, queries: &[usize], observer: &dyn Observe) -> Result<Vec<Target>> {
        let (all, prompter) = (queries.len() as u64, self.materials.encoder.prompter());
        let mut found = Vec::with_capacity(queries.len());
        let (mut done, mut failed) = (0, 0);
        for queries in queries.chunks(BATCH) {
            let mut states = Vec::with_capacity(queries.len());
            for query in queries {
                let (labelled, original) = self.labelled(*query)?;
                let order = match best_order(prompter, labelled, original) {
                    Err(error) if error.is_fault() => continue,
                    order => order?,
                };
                let chooses = Half { judgements: labelled.1.clone(), other: Vec::new() };
                let mut state = State::new(*query, (labelled, original), (chooses, None), Vec::new());
                state.chosen = order.iter().flat_map(|order| order.split(' ')).map(str::to_owned).collect();
                states.push(state);
            }
            let raw = states.iter().map(|state| Probe { state, half: &state.chooses, text: None });
            let raw = self.measure(&raw.collect::<Vec<_>>())?;
            let scored = states.into_iter().zip(raw);
            let scored = scored.filter_map(|(state, score)| Some(State { before: score?, ..state })).collect();
            let mut states = self.fitting(scored)?;
            failed += queries.len() - states.len();
            done += queries.len() as u64;
            self.measure_kept(&mut states)?;
            found.extend(states);
            observer.progress(Progress::new("putting candidates into their best order", done, all));
        }
        if failed > 0 {
            observer
                .note(&format!("the retriever failed for {failed} training queries; there are no examples of them"));
        }
        Ok(self.targets(found))
    }

    /// Drops the last labels of orders that have too many tokens. Queries whose first search fails are left out.
    fn fitting(&self, states: Vec<State<'a>>) -> Result<Vec<State<'a>>> {
        let encoder = &self.materials.encoder;
        let mut kept = Vec::with_capacity(states.len());
        for mut state in states {
            let prompt = match encoder.prompt_tokens(&state.labelled.0, 0) {
                Err(error) if error.is_fault() => continue,
                prompt => prompt?,
            };
            let fits = |labels: &[String]| -> Result<bool> {
                let tokens = encoder.encode_answer(&labels.join(" "), prompt.grammar.as_ref())?;
                Ok(tokens.is_some_and(|tokens| tokens.len() <= self.max_tokens))
            };
            while !state.chosen.is_empty() && !fits(&state.chosen)? {
                state.chosen.pop();
            }
            kept.push(state);
        }
        Ok(kept)
    }

    fn labelled(&self, query: usize) -> Result<(&'a Labelled, &'a Rewrite)> {
        match (self.materials.train.get(query), self.originals.get(query)) {
            (Some(labelled), Some(original)) => Ok((labelled, original)),
            _ => Err(Error::bug("train::warm_start", format!("no training query has the number {query}"))),
        }
    }

    fn state(&self, query: usize) -> Result<State<'a>> {
        let (labelled, original) = self.labelled(query)?;
        let m = self.materials;
        let language = m.encoder.prompter().language();
        let form = Form { task: self.task, mode: self.mode, language, fresh: self.config.candidates };
        let words = self.feedback.candidates(&m.catalog, labelled, form)?;
        Ok(State::new(query, (labelled, original), halves(&labelled.1), words))
    }

    /// Adds to each query's words the best one, as long as there is one that adds enough.
    fn add_words(&self, states: &mut [State<'a>]) -> Result<()> {
        let raw = states.iter().map(|state| Probe { state, half: &state.chooses, text: None });
        let raw = self.measure(&raw.collect::<Vec<_>>())?;
        for (state, score) in states.iter_mut().zip(raw) {
            (state.failed, state.done) = (score.is_none(), score.is_none());
            state.before = score.unwrap_or_default();
            state.after = state.before;
        }
        for _ in 0..self.config.max_words {
            let mut probes = Vec::new();
            for state in states.iter().filter(|state| !state.done) {
                probes.extend(state.words.iter().map(|word| Probe {
                    state,
                    half: &state.chooses,
                    text: Some(state.with(word)),
                }));
            }
            if probes.is_empty() {
                break;
            }
            let mut scores = self.measure(&probes)?.into_iter();
            for state in states.iter_mut().filter(|state| !state.done) {
                let scores: Vec<Option<f64>> = scores.by_ref().take(state.words.len()).collect();
                state.take_best(&scores, self.config.margin);
            }
        }
        Ok(())
    }

    /// Keeps of each query's words what serves the judgements that did not choose them: as many of the first ones as serve
    /// these best, and the single words that help them.
    fn confirm(&self, states: &mut [State<'a>]) -> Result<()> {
        let mut probes = Vec::new();
        for state in states.iter() {
            let Some(half) = &state.confirms else { continue };
            let texts = (1..=state.chosen.len()).map(|count| state.first(count));
            let texts = texts.chain(state.singles.iter().map(|(word, _)| word.clone())).map(Some);
            probes.extend(std::iter::once(None).chain(texts).map(|text| Probe { state, half, text }));
        }
        let mut scores = self.measure(&probes)?.into_iter();
        for state in states.iter_mut().filter(|state| state.confirms.is_some()) {
            let before = scores.next().flatten();
            let together: Vec<Option<f64>> = scores.by_ref().take(state.chosen.len()).collect();
            let alone: Vec<Option<f64>> = scores.by_ref().take(state.singles.len()).collect();
            state.hold(before, &together, &alone, self.config.margin);
        }
        Ok(())
    }

    /// Measures what is left of each query's words, and keeps it where it still helps.
    fn measure_kept(&self, states: &mut [State<'a>]) -> Result<()> {
        for states in states.chunks_mut(BATCH) {
            let probe = |state| {
                let text = Some(State::first(state, state.chosen.len()));
                Probe { state, half: state.confirms.as_ref().unwrap_or(&state.chooses), text }
            };
            let probes: Vec<Probe<'_>> = states.iter().filter(|state| !state.chosen.is_empty()).map(probe).collect();
            let mut scores = self.measure(&probes)?.into_iter();
            for state in states.iter_mut().filter(|state| !state.chosen.is_empty()) {
                match scores.next().flatten().filter(|score| *score >= state.before + self.config.margin) {
                    Some(score) => state.after = score,
                    None => state.chosen.clear(),
                }
            }
        }
        Ok(())
    }

    /// The measure of each probe; none where the retriever failed or the answer is none.
    fn measure(&self, probes: &[Probe<'_>]) -> Result<Vec<Option<f64>>> {
        let encoder = &self.materials.encoder;
        let request = |probe: &Probe<'_>| -> Result<Option<Request>> {
            let (query, original) = (&probe.state.labelled.0, probe.state.original);
            let mut request = match &probe.text {
                None => Request::new(query, original, self.depth),
                Some(text) => {
                    let answer = encoder.prompter().answer(text);
                    let reading = encoder.read(query, original, &format!(" {answer}"))?;
                    let Some(rewrite) = reading.rewarded() else { return Ok(None) };
                    Request::new(query, rewrite, self.depth)
                }
            };
            request.exclude.extend(probe.half.other.iter().filter(|doc| !query.history.contains(doc)));
            Ok(Some(request))
        };
        let requests: Vec<Option<Request>> = probes.par_iter().map(request).collect::<Result<_>>()?;
        let asked: Vec<Request> = requests.iter().flatten().cloned().collect();
        let mut rankings = self.rankings(&asked).into_iter();
        let mut scores = Vec::with_capacity(probes.len());
        for (probe, request) in probes.iter().zip(&requests) {
            let ranking = request.as_ref().and_then(|_| rankings.next()).flatten();
            let docs = ranking.map(|ranking| ranking.hits.iter().map(|hit| hit.doc).collect::<Vec<u32>>());
            scores.push(docs.map(|docs| self.measure.score(&docs, &probe.half.judgements)));
        }
        Ok(scores)
    }

    /// Rankings of requests; none where the retriever failed each time.
    fn rankings(&self, requests: &[Request]) -> Vec<Option<Ranking>> {
        let ask = |requests: &[Request]| {
            let rankings = retrieve(self.materials.retriever.as_ref(), requests, Deadline::NONE);
            rankings.into_iter().map(Result::ok).collect::<Vec<Option<Ranking>>>()
        };
        let mut rankings = ask(requests);
        for _ in 0..self.retries {
            let failed: Vec<usize> = (0..requests.len()).filter(|i| matches!(rankings.get(*i), Some(None))).collect();
            if failed.is_empty() {
                break;
            }
            let again: Vec<Request> = failed.iter().filter_map(|i| requests.get(*i).cloned()).collect();
            for (place, ranking) in failed.into_iter().zip(ask(&again)) {
                if let Some(answer) = rankings.get_mut(place) {
                    *answer = ranking;
                }
            }
        }
        rankings
    }

    /// Drops words that helped one query alone, where no other judgements confirm them, and what may not be written or is
    /// too long. Queries whose first search fails are left out.
    fn retain(&self, states: Vec<State<'a>>) -> Result<Vec<State<'a>>> {
        let mut helped: HashMap<String, usize> = HashMap::new();
        for (word, _) in states.iter().flat_map(|state| &state.singles) {
            *helped.entry(word.clone()).or_default() += 1;
        }
        let encoder = &self.materials.encoder;
        let mut kept = Vec::with_capacity(states.len());
        for mut state in states {
            if state.confirms.is_none() {
                let own = state.own_words();
                let holds = |word: &String| own.contains(word) || helped.get(word).is_some_and(|count| *count > 1);
                state.chosen.retain(holds);
                state.singles.retain(|(word, _)| holds(word));
            }
            let prompt = match encoder.prompt_tokens(&state.labelled.0, 0) {
                Err(error) if error.is_fault() => continue,
                prompt => prompt?,
            };
            let mut words: Vec<String> = Vec::new();
            for word in std::mem::take(&mut state.chosen) {
                words.push(word);
                let answer = encoder.prompter().answer(&words.join(" "));
                let tokens = encoder.encode_answer(&answer, prompt.grammar.as_ref())?;
                if tokens.is_none_or(|tokens| tokens.len() > self.max_tokens) {
                    words.pop();
                }
            }
            state.chosen = RelevanceFeedback::in_order(&self.materials.catalog, &state.labelled.1, &words);
            kept.push(state);
        }
        Ok(kept)
    }

    /// The examples: rewrites that help, and some queries for which there is none where nothing is an answer.
    fn targets(&self, states: Vec<State<'a>>) -> Vec<Target> {
        let prompter = self.materials.encoder.prompter();
        let target = |state: State<'a>| {
            let singles = state.singles.iter().filter(|_| !state.chosen.is_empty());
            Target {
                query: state.query,
                query_id: state.labelled.0.id.clone(),
                text: state.labelled.0.text.clone(),
                target: prompter.answer(&state.first(state.chosen.len())),
                singles: singles.map(|(word, gain)| (prompter.answer(word), *gain)).collect(),
                before: state.before,
                after: if state.chosen.is_empty() { state.before } else { state.after },
            }
        };
        let (nothing, mut targets): (Vec<Target>, Vec<Target>) =
            states.into_iter().map(target).partition(|target| target.target.is_empty());
        if self.materials.encoder.is_restricted() {
            let most = (targets.len() as f64 * self.config.nothing) as usize;
            let order = permutation(nothing.len(), self.seed, u64::MAX - 1);
            let mut places: Vec<usize> = order.into_iter().take(most).collect();
            places.sort_unstable();
            targets.extend(places.into_iter().filter_map(|place| nothing.get(place).cloned()));
            targets.sort_by_key(|target| target.query);
        }
        targets
    }
}

impl<'a> State<'a> {
    fn new(
        query: usize,
        (labelled, original): (&'a Labelled, &'a Rewrite),
        (chooses, confirms): (Half, Option<Half>),
        words: Vec<String>,
    ) -> Self {
        Self {
            query,
            labelled,
            original,
            chooses,
            confirms,
            words,
            chosen: Vec::new(),
            singles: Vec::new(),
            before: 0.0,
            after: 0.0,
            done: false,
            failed: false,
        }
    }

    fn with(&self, word: &str) -> String {
        self.chosen.iter().map(String::as_str).chain([word]).collect::<Vec<_>>().join(" ")
    }

    fn first(&self, count: usize) -> String {
        self.chosen.iter().take(count).map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// Keeps what other judgements than those that chose it confirm: `before` without a word, `together` with the first 1,
    /// 2, … chosen ones, `alone` with each single one.
    fn hold(&mut self, before: Option<f64>, together: &[Option<f64>], alone: &[Option<f64>], margin: f64) {
        let Some(before) = before else {
            self.chosen.clear();
            self.singles.clear();
            return;
        };
        let (mut kept, mut best) = (0, before);
        for (count, score) in together.iter().enumerate() {
            if let Some(score) = score.filter(|score| *score >= best + margin) {
                (kept, best) = (count + 1, score);
            }
        }
        self.chosen.truncate(kept);
        (self.before, self.after) = (before, best);
        let gain = |score: &Option<f64>| score.map(|score| score - before).filter(|gain| *gain > margin);
        let gains = self.singles.iter().zip(alone).filter_map(|((word, _), score)| Some((word.clone(), gain(score)?)));
        self.singles = gains.collect();
    }

    fn own_words(&self) -> Vec<String> {
        let text = self.labelled.0.text.to_lowercase();
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    /// Moves a word to the chosen ones, where one adds at least `margin`: the first that adds [`NEARLY`] as much as the
    /// best one. Words stand in the order of how many relevant documents hold them, and what the best of them has more
    /// than one that nearly all hold is mostly the order of a few documents.
    fn take_best(&mut self, scores: &[Option<f64>], margin: f64) {
        if self.chosen.is_empty() {
            let gain = |score: &Option<f64>| score.map(|score| score - self.after).filter(|gain| *gain > margin);
            let gains = self.words.iter().zip(scores).filter_map(|(word, score)| Some((word.clone(), gain(score)?)));
            self.singles = gains.collect();
        }
        let most = scores.iter().flatten().fold(f64::NEG_INFINITY, |most, score| most.max(*score));
        let gain = most - self.after;
        let enough = |score: &Option<f64>| score.is_some_and(|score| score - self.after >= NEARLY * gain);
        match scores.iter().position(enough).filter(|_| gain > 0.0 && gain >= margin) {
            Some(place) => {
                self.chosen.push(self.words.remove(place));
                self.after = scores.get(place).copied().flatten().unwrap_or(self.after);
            }
            None => self.done = true,
        }
    }
}

/// The judgements that choose, and those that confirm, where there are enough relevant documents. Those that are not
/// relevant stand in both.
fn halves(judgements: &Judgements) -> (Half, Option<Half>) {
    let relevant: Vec<u32> = judgements.iter().filter(|(_, grade)| *grade > 0).map(|(doc, _)| doc).collect();
    if relevant.len() < ENOUGH {
        return (Half { judgements: judgements.clone(), other: Vec::new() }, None);
    }
    // By turns in the order of the documents, which says nothing of how they are ranked.
    let half = |odd: bool| {
        let is_other = |doc: u32| relevant.binary_search(&doc).is_ok_and(|place| (place % 2 == 1) != odd);
        let kept = judgements.iter().filter(|(doc, _)| !is_other(*doc)).collect();
        let other = relevant.iter().copied().filter(|doc| is_other(*doc)).collect();
        Half { judgements: Judgements::new(kept), other }
    };
    (half(false), Some(half(true)))
}

#[cfg(test)]
mod tests;
