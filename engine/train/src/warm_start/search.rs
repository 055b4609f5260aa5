//! Searches for rewrites that find more, with the judgements of the training queries.
//!
//! For each query, words are added one after the other, each time the one that adds most to the measure. What labels
//! choose for one query is mostly noise of the labels, so a rewrite is kept only where it holds elsewhere:
//!
//! - where a query has [`ENOUGH`] relevant documents or more, half of them choose the words (the others are left out of
//!   those rankings), and as many of the words are kept as serve the other half best;
//! - where it has fewer, a word is kept if it was chosen for another query as well.

use std::collections::HashMap;

use rayon::prelude::*;

use super::{Target, WarmStartConfig};
use crate::materials::{Labelled, Materials};
use crate::rollout::{Form, RelevanceFeedback};
use querywright_data::metrics::Measure;
use querywright_rewrite::{Mode, Task};
use querywright_types::{Deadline, Error, Judgements, Observe, Progress, Request, Result, Rewrite, retrieve};

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
        let mut chosen = super::permutation(count, self.seed, u64::MAX);
        chosen.truncate(self.config.max_queries);
        chosen.sort_unstable();
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
        self.targets(found)
    }

    fn state(&self, query: usize) -> Result<State<'a>> {
        let (Some(labelled), Some(original)) = (self.materials.train.get(query), self.originals.get(query)) else {
            return Err(Error::bug("train::warm_start", format!("no training query has the number {query}")));
        };
        let (chooses, confirms) = halves(&labelled.1);
        let m = self.materials;
        let language = m.encoder.prompter().language();
        let form = Form { task: self.task, mode: self.mode, language, fresh: self.config.candidates };
        // All relevant documents say what is tried first: what they share. The rankings of half of them choose.
        let words = self.feedback.candidates(&m.catalog, labelled, form)?;
        let (chosen, singles, before, after) = (Vec::new(), Vec::new(), 0.0, 0.0);
        Ok(State { query, labelled, original, chooses, confirms, words, chosen, singles, before, after, done: false })
    }

    /// Adds to each query's words the best one, as long as there is one that adds enough.
    fn add_words(&self, states: &mut [State<'a>]) -> Result<()> {
        let raw = states.iter().map(|state| Probe { state, half: &state.chooses, text: None });
        let raw = self.measure(&raw.collect::<Vec<_>>())?;
        for (state, score) in states.iter_mut().zip(raw) {
            state.done = score.is_none();
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

    /// Keeps as many of each query's words as serve the judgements best that did not choose them.
    fn confirm(&self, states: &mut [State<'a>]) -> Result<()> {
        let mut probes = Vec::new();
        for state in states.iter() {
            let Some(half) = &state.confirms else { continue };
            let texts = (1..=state.chosen.len()).map(|count| Some(state.first(count)));
            probes.extend(std::iter::once(None).chain(texts).map(|text| Probe { state, half, text }));
        }
        let mut scores = self.measure(&probes)?.into_iter();
        for state in states.iter_mut().filter(|state| state.confirms.is_some()) {
            let scores: Vec<Option<f64>> = scores.by_ref().take(state.chosen.len() + 1).collect();
            let Some(before) = scores.first().copied().flatten() else {
                state.chosen.clear();
                continue;
            };
            let (mut kept, mut best) = (0, before);
            for (count, score) in scores.iter().enumerate().skip(1) {
                if let Some(score) = score.filter(|score| *score >= best + self.config.margin) {
                    (kept, best) = (count, score);
                }
            }
            state.chosen.truncate(kept);
            (state.before, state.after) = (before, best);
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
        let mut rankings = retrieve(self.materials.retriever.as_ref(), &asked, Deadline::NONE).into_iter();
        let mut scores = Vec::with_capacity(probes.len());
        for (probe, request) in probes.iter().zip(&requests) {
            let ranking = request.as_ref().and_then(|_| rankings.next()).and_then(Result::ok);
            let docs = ranking.map(|ranking| ranking.hits.iter().map(|hit| hit.doc).collect::<Vec<u32>>());
            scores.push(docs.map(|docs| self.measure.score(&docs, &probe.half.judgements)));
        }
        Ok(scores)
    }

    /// The examples: words that hold, where a model may write them and they are not too long.
    fn targets(&self, mut states: Vec<State<'a>>) -> Result<Vec<Target>> {
        let mut chosen: HashMap<String, usize> = HashMap::new();
        for (word, _) in states.iter().flat_map(|state| &state.singles) {
            *chosen.entry(word.clone()).or_default() += 1;
        }
        for state in states.iter_mut().filter(|state| state.confirms.is_none()) {
            let own = state.own_words();
            let holds = |word: &String| own.contains(word) || chosen.get(word).is_some_and(|count| *count > 1);
            state.chosen.retain(holds);
            state.singles.retain(|(word, _)| holds(word));
        }
        let m = self.materials;
        let answer = |text: &str| m.encoder.prompter().answer(text);
        let (mut targets, mut nothing) = (Vec::new(), Vec::new());
        for mut state in states {
            let (query, judgements) = state.labelled;
            let prompt = m.encoder.prompt_tokens(query, 0)?;
            let grammar = prompt.grammar.as_ref();
            let mut kept: Vec<String> = Vec::new();
            for word in std::mem::take(&mut state.chosen) {
                kept.push(word);
                let tokens = m.encoder.encode_answer(&answer(&kept.join(" ")), grammar)?;
                if tokens.is_none_or(|tokens| tokens.len() > self.max_tokens) {
                    kept.pop();
                }
            }
            let target = Target {
                query: state.query,
                query_id: query.id.clone(),
                text: query.text.clone(),
                target: answer(&RelevanceFeedback::in_order(&m.catalog, judgements, &kept).join(" ")),
                before: state.before,
                singles: state.singles.iter().map(|(word, gain)| (answer(word), *gain)).collect(),
                after: if kept.is_empty() { state.before } else { state.after },
            };
            match kept.is_empty() {
                true => nothing.push(target),
                false => targets.push(target),
            }
        }
        if m.encoder.is_restricted() {
            let most = (targets.len() as f64 * self.config.nothing) as usize;
            let order = super::permutation(nothing.len(), self.seed, u64::MAX - 1);
            let mut places: Vec<usize> = order.into_iter().take(most).collect();
            places.sort_unstable();
            targets.extend(places.into_iter().filter_map(|place| nothing.get(place).cloned()));
            targets.sort_by_key(|target| target.query);
        }
        Ok(targets)
    }
}

impl State<'_> {
    fn with(&self, word: &str) -> String {
        self.chosen.iter().map(String::as_str).chain([word]).collect::<Vec<_>>().join(" ")
    }

    fn first(&self, count: usize) -> String {
        self.chosen.iter().take(count).map(String::as_str).collect::<Vec<_>>().join(" ")
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
mod tests {
    use super::*;
    use crate::rollout::fixture::Fixture;
    use querywright_data::catalog::CatalogBuilder;
    use querywright_retrieve::{Bm25, Bm25Config};
    use querywright_rewrite::PromptConfig;
    use querywright_types::Query;
    use std::sync::Arc;

    /// What is found for queries over documents, each query with the places of its relevant documents.
    fn found(documents: &[&str], queries: &[(&str, &[u32])], restricted_to: &'static [&str]) -> Vec<Target> {
        let fixture = if restricted_to.is_empty() { Fixture::new() } else { Fixture::restricted(restricted_to) };
        found_by(fixture, documents, queries)
    }

    /// The same, by the prompts of a fixture.
    fn found_by(mut fixture: Fixture, documents: &[&str], queries: &[(&str, &[u32])]) -> Vec<Target> {
        let mut builder = CatalogBuilder::new();
        for (i, text) in documents.iter().enumerate() {
            builder.push(&format!("d{i}"), [("title", *text)]).unwrap();
        }
        let m = &mut fixture.materials;
        m.catalog = Arc::new(builder.finish());
        m.retriever = Arc::new(Bm25::in_memory(m.catalog.clone(), Bm25Config::default()).unwrap());
        let labelled = queries.iter().enumerate().map(|(i, (text, relevant))| {
            let judgements = relevant.iter().map(|doc| (*doc, 1)).collect();
            (Query::new(format!("q{i}"), *text), Judgements::new(judgements))
        });
        m.train = labelled.collect();
        let (originals, feedback) = (m.originals().unwrap(), RelevanceFeedback::new(&m.catalog));
        let search = Search {
            config: &WarmStartConfig { nothing: 1.0, ..Default::default() },
            materials: m,
            originals: &originals,
            feedback: &feedback,
            task: Task::Search,
            mode: fixture.config.prompt.mode,
            measure: "nDCG@10".parse().unwrap(),
            depth: 10,
            max_tokens: 24,
            seed: 0,
        };
        search.run(&()).unwrap()
    }

    fn texts(targets: &[Target]) -> Vec<(usize, &str)> {
        targets.iter().map(|t| (t.query, t.target.as_str())).collect()
    }

    const SHOP: [&str; 4] = ["steel kettle", "solar lantern", "dome tent", "garden hose"];

    #[test]
    fn a_word_is_kept_that_finds_more_for_two_queries_and_one_that_does_for_one_alone_is_not() {
        let queries: [(&str, &[u32]); 3] = [("boil water", &[0]), ("hot tea", &[0]), ("see at night", &[1])];
        let targets = found(&SHOP, &queries, &[]);
        assert_eq!(texts(&targets), [(0, "kettle"), (1, "kettle")]);
        assert_eq!((targets[0].before, targets[0].after), (0.0, 1.0));
    }

    #[test]
    fn in_the_mode_keywords_a_list_with_commas_is_found() {
        let prompt = PromptConfig { mode: Mode::Keywords, ..Fixture::new().config.prompt };
        let fixture = Fixture::new().prompted(prompt, |_: &Query| Ok(Vec::new()));
        let queries: [(&str, &[u32]); 2] = [("boil water", &[0, 1]), ("hot tea", &[0, 1])];
        let targets = found_by(fixture, &SHOP, &queries);
        assert_eq!(texts(&targets), [(0, "kettle, lantern"), (1, "kettle, lantern")]);
    }

    #[test]
    fn a_word_that_serves_half_of_the_relevant_documents_alone_is_not_kept() {
        // d0 and d2 choose, d1 and d3 confirm.
        let shared = ["anorak red", "anorak blue", "anorak red", "anorak blue", "socks", "hat", "belt", "scarf"];
        let relevant: &[u32] = &[0, 1, 2, 3];
        assert_eq!(texts(&found(&shared, &[("rain", relevant)], &[])), [(0, "anorak")], "it holds on the other half");
        let apart = ["red", "blue", "red", "green", "socks", "hat", "belt", "scarf"];
        assert!(found(&apart, &[("rain", relevant)], &[]).is_empty());
    }

    #[test]
    fn where_nothing_is_an_answer_it_is_an_example_for_queries_without_a_better_rewrite() {
        let queries: [(&str, &[u32]); 3] = [("boil water", &[0]), ("hot tea", &[0]), ("garden hose", &[3])];
        let targets = found(&SHOP, &queries, &["kettle", "lantern"]);
        assert_eq!(texts(&targets), [(0, "kettle"), (1, "kettle"), (2, "")]);
        let targets = found(&SHOP, &queries, &["lantern"]);
        assert!(texts(&targets).iter().all(|(_, text)| text.is_empty()), "words that may not be written: {targets:?}");
    }

    #[test]
    fn judgements_are_halved_where_there_are_enough_and_the_irrelevant_ones_stand_in_both() {
        let few = Judgements::new(vec![(1, 1), (2, 0), (3, 1)]);
        assert!(halves(&few).1.is_none());
        let enough = Judgements::new(vec![(1, 1), (2, 0), (3, 2), (5, 1), (8, 1)]);
        let (chooses, confirms) = halves(&enough);
        let confirms = confirms.unwrap();
        let docs = |half: &Half| half.judgements.iter().map(|j| j.0).collect::<Vec<_>>();
        assert_eq!((docs(&chooses), chooses.other), (vec![1, 2, 5], vec![3, 8]));
        assert_eq!((docs(&confirms), confirms.other), (vec![2, 3, 8], vec![1, 5]));
    }

    #[test]
    fn of_words_that_add_nearly_as_much_the_first_is_taken() {
        let fixture = Fixture::new();
        let rewrite = Rewrite::plain("x");
        let (chooses, confirms) = halves(&Judgements::default());
        let mut state = State {
            query: 0,
            labelled: &fixture.materials.train[0],
            original: &rewrite,
            chooses,
            confirms,
            words: ["a", "b", "c"].map(str::to_owned).to_vec(),
            chosen: Vec::new(),
            singles: Vec::new(),
            before: 0.2,
            after: 0.2,
            done: false,
        };
        state.take_best(&[None, Some(0.52), Some(0.6)], 0.02);
        assert_eq!((state.chosen.join(" "), state.after, state.done), ("b".into(), 0.52, false));
        state.take_best(&[Some(0.53), Some(0.53)], 0.02);
        assert!(state.done && state.chosen.len() == 1, "a hundredth is not enough");
    }
}
