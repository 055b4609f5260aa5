//! What a file gives to learn from: completions of training queries, one for a supervised step, two for a preference.

use std::collections::HashMap;
use std::path::Path;

use crate::config::{Method, TrainConfig};
use crate::epochs::places;
use crate::learner::{Rollout, RolloutBatch, Sample};
use crate::materials::Materials;
use querywright_data::catalog::{GivenPreference, GivenQuery, GivenRewrite};
use querywright_types::{Error, Observe, Query, QueryLanguage, Result};

/// The examples of a file, and their order.
#[derive(Debug)]
pub(crate) struct Examples {
    examples: Vec<Example>,
    batch_size: usize,
    seed: u64,
}

/// A training query with what the file has for it.
#[derive(Debug, Clone, PartialEq)]
struct Example {
    /// The query's place in the training set.
    query: usize,
    /// One, or a better and a worse one.
    answers: Vec<GivenAnswer>,
}

#[derive(Debug, Clone, PartialEq)]
struct GivenAnswer {
    text: String,
    thought: Option<String>,
}

/// A line of the file: its number, its query, and what it has for it.
struct Given {
    line: u64,
    query: GivenQuery,
    answers: Vec<GivenAnswer>,
}

/// What is raised, and what is lowered.
const WEIGHTS: [f32; 2] = [1.0, -1.0];

/// Where the training query is that a line is for: by its id, else by its words.
fn places_of(materials: &Materials) -> impl Fn(&GivenQuery) -> Option<usize> + '_ {
    let (mut by_id, mut by_text) = (HashMap::new(), HashMap::new());
    for (place, (query, _)) in materials.train.iter().enumerate() {
        by_id.insert(query.id.as_str(), place);
        by_text.entry(query.text.trim()).or_insert(place);
    }
    move |query: &GivenQuery| {
        let known = query.id.as_deref().and_then(|id| by_id.get(id));
        known.or_else(|| by_text.get(query.text.as_deref()?)).copied()
    }
}

/// Refuses a line that names a query by its id and gives other words for it.
fn check_words(path: &Path, line: u64, query: &GivenQuery, asked: &Query) -> Result<()> {
    // Rows that somebody numbered are no ids of ours.
    let own = query.id.as_deref() == Some(asked.id.as_str()) && query.id != query.text;
    if own && query.text.as_deref().is_some_and(|text| text != asked.text.trim()) {
        let found = format!("the query {} has other words in the data set", asked.id);
        let remedy = "name the query by its words or by its id alone, or correct the id";
        return Err(Error::data(path, Some(line), found, remedy));
    }
    Ok(())
}

/// What became of the lines that are not learned from, as the end of a sentence.
fn left_out<const N: usize>(reasons: [(usize, String); N]) -> String {
    reasons.into_iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("; {count} {why}")).collect()
}

impl Examples {
    /// Those of the file that the run's method learns from; none where it learns from no file.
    ///
    /// # Errors
    /// Those of the file; [`Error::Data`] where nothing in it can be learned from.
    pub(crate) fn of(config: &TrainConfig, materials: &Materials, observer: &dyn Observe) -> Result<Option<Self>> {
        let Some(path) = config.pairs_file() else { return Ok(None) };
        let answer = |text, thought| GivenAnswer { text, thought };
        let (given, batch_size): (Vec<Given>, usize) = match config.train.method {
            Method::Dpo => {
                let given = GivenPreference::read(&path)?.into_iter().map(|pair| Given {
                    line: pair.line,
                    query: pair.query,
                    answers: vec![answer(pair.chosen, None), answer(pair.rejected, None)],
                });
                (given.collect(), config.dpo.batch_size)
            }
            _ => {
                let given = GivenRewrite::read(&path)?;
                let asked = materials.encoder.prompter().language();
                let foreign = |pair: &&GivenRewrite| pair.language == QueryLanguage::Boolean && pair.language != asked;
                if let Some(pair) = given.iter().find(foreign) {
                    let found = format!("it is written in the Boolean language, and prompts ask for {asked:?}");
                    let remedy = "set prompt.language = \"boolean\", or write plain words";
                    return Err(Error::data(&path, Some(pair.line), found, remedy));
                }
                let given = given.into_iter().map(|pair| Given {
                    line: pair.line,
                    query: pair.query,
                    answers: vec![answer(pair.rewrite, pair.thought)],
                });
                (given.collect(), config.sft.batch_size)
            }
        };
        let longest = config.sampling.max_completion_length;
        let examples = Self { examples: Vec::new(), batch_size, seed: config.train.seed };
        examples.filled(&path, given, materials, longest, observer).map(Some)
    }

    /// With the lines that can be learned from; says how many those are, and what became of the others.
    fn filled(
        mut self,
        path: &Path,
        given: Vec<Given>,
        materials: &Materials,
        longest: usize,
        observer: &dyn Observe,
    ) -> Result<Self> {
        let place = places_of(materials);
        let (mut elsewhere, mut long, mut forbidden) = (0usize, 0usize, 0usize);
        let first = given.first().and_then(|given| given.query.names().next().map(str::to_owned)).unwrap_or_default();
        let mut queries = std::collections::HashSet::new();
        for Given { line, query, answers } in given {
            let Some(place) = place(&query) else {
                elsewhere += 1;
                continue;
            };
            let Some((asked, _)) = materials.train.get(place) else {
                return Err(Error::bug("train::examples", format!("no training query {place}")));
            };
            check_words(path, line, &query, asked)?;
            let grammar = match materials.encoder.is_restricted().then(|| materials.encoder.prompt_tokens(asked, 0)) {
                None => None,
                // It is asked again when it is learned from, and then counted.
                Some(Err(error)) if error.is_fault() => None,
                Some(prompt) => prompt?.grammar,
            };
            let encode = |answer: &GivenAnswer| {
                materials.encoder.encode_completion(&answer.text, answer.thought.as_deref(), grammar.as_ref())
            };
            let tokens =
                answers.iter().map(encode).collect::<Result<Option<Vec<_>>>>().map_err(|error| match error {
                    Error::Argument { found, remedy, .. } => Error::data(path, Some(line), found, remedy),
                    error => error,
                })?;
            match tokens {
                None => forbidden += 1,
                Some(tokens) if tokens.iter().any(|tokens| tokens.len() > longest) => long += 1,
                Some(_) => {
                    queries.insert(place);
                    self.examples.push(Example { query: place, answers });
                }
            }
        }
        let what = left_out([
            (elsewhere, "lines are for other queries".to_owned()),
            (long, format!("are longer than sampling.max_completion_length = {longest} and are left out")),
            (forbidden, "have words that prompt.vocabulary does not allow and are left out".to_owned()),
        ]);
        if self.examples.is_empty() {
            let found = format!("nothing in it can be learned from (the first line is for \"{first}\"){what}");
            let remedy =
                "name training queries by their ids or their words, and write answers as the model is to write them";
            return Err(Error::data(path, None, found, remedy));
        }
        let (count, queries, all) = (self.examples.len(), queries.len(), materials.train.len());
        observer.note(&format!("{count} examples for {queries} of {all} training queries in {}{what}", path.display()));
        Ok(self)
    }

    /// The examples of a step, counted from 0, as the learner takes them: completions that were not sampled, with an
    /// advantage of 1, and of -1 for the worse one of a pair. With them comes how many were left out because their first
    /// search failed.
    pub(crate) fn batch(&self, materials: &Materials, step: u64) -> Result<(RolloutBatch, usize)> {
        let (mut rollouts, mut faults) = (Vec::with_capacity(self.batch_size), 0);
        for place in places(step, self.examples.len(), self.batch_size, self.seed) {
            let example = self.examples.get(place);
            let Some((example, (query, _))) = example.and_then(|e| Some((e, materials.train.get(e.query)?))) else {
                return Err(Error::bug("train::examples", format!("no example {place}")));
            };
            let prompt = match materials.encoder.prompt_tokens(query, 0) {
                // A first search that fails costs its own example.
                Err(error) if error.is_fault() => {
                    faults += 1;
                    continue;
                }
                prompt => prompt?,
            };
            let encode = |answer: &GivenAnswer| {
                let grammar = prompt.grammar.as_ref();
                materials.encoder.encode_completion(&answer.text, answer.thought.as_deref(), grammar)
            };
            let tokens: Option<Vec<Vec<u32>>> = example.answers.iter().map(encode).collect::<Result<_>>()?;
            // What the grammar does not allow cannot be made likelier. Where the file was read, the first search failed.
            let Some(tokens) = tokens else {
                faults += 1;
                continue;
            };
            let samples: Vec<Sample> =
                tokens.into_iter().zip(WEIGHTS).map(|(t, weight)| Sample::given(t, weight)).collect();
            rollouts.push(Rollout { prompt: prompt.tokens, grammar: prompt.grammar, samples });
        }
        Ok((RolloutBatch { rollouts, tape: None }, faults))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::fixture::Fixture;
    use std::cell::RefCell;

    #[derive(Default)]
    struct Notes(RefCell<Vec<String>>);

    impl Observe for Notes {
        fn note(&self, text: &str) {
            self.0.borrow_mut().push(text.to_owned());
        }
    }

    fn examples(fixture: &mut Fixture, method: Method, text: &str) -> Result<(Examples, Vec<String>)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.tsv");
        std::fs::write(&path, text).unwrap();
        fixture.config.train.method = method;
        (fixture.config.sft.pairs, fixture.config.dpo.pairs) = (Some(path.clone()), Some(path));
        let notes = Notes::default();
        let found = Examples::of(&fixture.config, &fixture.materials, &notes)?;
        Ok((found.unwrap(), notes.0.into_inner()))
    }

    #[test]
    fn lines_are_matched_by_id_or_by_words_and_what_is_left_out_is_counted() {
        let mut fixture = Fixture::new();
        let text = "q0\tkettle\nsee at night\tlantern\nq1\tsolar\nq9\tx\nq2\ta tent that has far too many letters\n";
        let (found, notes) = examples(&mut fixture, Method::Sft, text).unwrap();
        assert_eq!(found.examples.iter().map(|e| e.query).collect::<Vec<_>>(), [0, 1, 1]);
        let note = &notes[0];
        for part in ["3 examples for 2 of 3 training queries", "1 lines are for other", "1 are longer", "= 24"] {
            assert!(note.contains(part), "{note}");
        }
        let error = examples(&mut fixture, Method::Sft, "q9\tx\n").unwrap_err().to_string();
        assert!(error.contains("nothing in it can be learned from (the first line is for \"q9\")"), "{error}");
        let error = examples(&mut fixture, Method::Sft, "q0\n").unwrap_err().to_string();
        assert!(error.contains("pairs.tsv:1: there is no tab"), "{error}");
        let error = examples(&mut fixture, Method::Dpo, "q0\tx\n").unwrap_err().to_string();
        assert!(error.contains("pairs.tsv:1: 2 columns"), "{error}");
    }

    #[test]
    fn a_step_has_the_answers_in_the_model_s_tokens_the_worse_one_of_a_pair_with_a_negative_weight() {
        let mut fixture = Fixture::new();
        let (found, _) = examples(&mut fixture, Method::Dpo, "q0\tkettle\tzzz\nq1\tlantern\tyyy\n").unwrap();
        let (batch, faults) = found.batch(&fixture.materials, 0).unwrap();
        assert_eq!((batch.rollouts.len(), faults), (2, 0));
        let encoder = &fixture.materials.encoder;
        for rollout in &batch.rollouts {
            assert_eq!(rollout.samples.iter().map(|s| s.advantage).collect::<Vec<_>>(), WEIGHTS);
            let chosen = &rollout.samples[0].tokens;
            let right = ["kettle", "lantern"].map(|text| encoder.encode_answer(text, None).unwrap().unwrap());
            assert!(right.contains(chosen) && rollout.samples.iter().all(Sample::is_off_policy));
        }
        // A grammar that does not allow one of the two takes the pair.
        let mut restricted = Fixture::restricted(&["kettle", "zzz", "lantern"]);
        let (found, _) = examples(&mut restricted, Method::Dpo, "q0\tkettle\tzzz\nq1\tlantern\tyyy\n").unwrap();
        assert_eq!(found.batch(&restricted.materials, 0).unwrap().0.rollouts.len(), 1);
    }
}
