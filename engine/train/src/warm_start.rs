//! Supervised steps before GRPO, on rewrites that a search found: the warm start.
//!
//! A small policy that may write anything rarely samples what earns something, and then there is nothing to learn from.
//! But the judgements of the training queries say which documents are relevant, and retrieval costs microseconds: so
//! better rewrites are [searched for](search), and the first steps of a run raise their likelihood. No other model
//! writes any of them. GRPO goes on from there.

mod search;

use std::collections::HashMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::config::{TrainConfig, WarmStartConfig};
use super::epochs::places;
use super::learner::{Rollout, RolloutBatch, Sample};
use super::materials::{Labelled, Materials};
use super::rollout::RelevanceFeedback;
use super::schedule::{Schedule, ScheduleConfig};
use querywright_data::catalog::Output;
use querywright_data::metrics::Measure;
use querywright_types::{Error, Observe, Result, Rewrite};
use search::Search;

/// The learning rates of a run: those of the warm start, then those of GRPO.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rates {
    warm: Schedule,
    warm_steps: u64,
    grpo: Schedule,
}

impl Rates {
    /// Those of `max_steps` steps.
    pub(super) fn new(warm: &WarmStartConfig, grpo: &ScheduleConfig, max_steps: u64) -> Result<Self> {
        Ok(Self {
            // One more: the last rate of a schedule is 0, and its step would change nothing.
            warm: Schedule::new(&warm.schedule(), warm.steps.saturating_add(1))?,
            warm_steps: warm.steps,
            grpo: Schedule::new(grpo, max_steps.saturating_sub(warm.steps))?,
        })
    }

    /// That of a step, counted from 0.
    pub(super) fn rate(&self, step: u64) -> f64 {
        match step.checked_sub(self.warm_steps) {
            Some(step) => self.grpo.rate(step),
            // The first step of a schedule with warm-up has the rate 0, and would change nothing.
            None => self.warm.rate(step + 1),
        }
    }
}

/// A request with the completion that it should get.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Target {
    /// The query's place in the training set.
    #[serde(skip)]
    pub(super) query: usize,
    pub(super) query_id: String,
    #[serde(rename = "query")]
    pub(super) text: String,
    /// What the model should write; empty for nothing.
    pub(super) target: String,
    /// Words that help by themselves, each with its gain.
    pub(super) singles: Vec<(String, f64)>,
    /// What the measure is without it, and with it.
    pub(super) before: f64,
    pub(super) after: f64,
}

/// The examples of a warm start.
#[derive(Debug, Clone)]
pub(super) struct WarmStart {
    targets: Vec<Target>,
    batch_size: usize,
    seed: u64,
}

impl WarmStart {
    /// The file of the examples in the folder of a run.
    const FILE: &str = "warm_start.jsonl";

    /// What a run learns from: what the file in `folder` says, which is written when the run begins and read when it is resumed.
    /// So the examples stay although the retriever may fail for others then. `measure` has the retrieval depth with it.
    ///
    /// # Errors
    /// A prompt that cannot be made, or a file that cannot be written.
    pub(super) fn of(
        config: &TrainConfig,
        (materials, originals): (&Materials, &[Rewrite]),
        feedback: &RelevanceFeedback,
        (measure, depth): (Measure, usize),
        (folder, resumed): (&Path, bool),
        observer: &dyn Observe,
    ) -> Result<Self> {
        let (run, seed) = (&config.train, config.train.seed);
        let read = || Self::read(folder, &materials.train, config.warm_start.batch_size, seed);
        if resumed {
            return read();
        }
        let search = Search {
            config: &config.warm_start,
            materials,
            originals,
            feedback,
            task: config.prompt.task,
            mode: config.prompt.mode,
            measure,
            depth,
            max_tokens: config.sampling.max_completion_length,
            retries: run.retries,
            seed,
        };
        let found = Self::new(search.run(observer)?, config.warm_start.batch_size, seed);
        found.write(folder)?;
        let (count, gain) = found.summary();
        observer.note(&format!("{count} rewrites found that hold, by {gain:+.3} {measure} on average"));
        read()
    }

    /// `targets` in steps of `batch_size`.
    fn new(targets: Vec<Target>, batch_size: usize, seed: u64) -> Self {
        Self { targets, batch_size, seed }
    }

    /// Whether nothing was found to learn from.
    pub(super) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// How many examples there are, and what they gain on average.
    fn summary(&self) -> (usize, f64) {
        let gain: f64 = self.targets.iter().map(|t| t.after - t.before).sum();
        (self.targets.len(), gain / self.targets.len().max(1) as f64)
    }

    /// Writes the examples into the folder of a run, one JSON object a line.
    fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        let path = folder.join(Self::FILE);
        let mut text = String::new();
        for target in &self.targets {
            let line = serde_json::to_string(target).map_err(|e| Error::write(&path, e.into()))?;
            text.push_str(&line);
            text.push('\n');
        }
        Output::open(path)?.write(text.as_bytes())
    }

    /// The examples that a run wrote when it began.
    ///
    /// # Errors
    /// When they cannot be read, or are those of other queries.
    fn read(folder: &Path, train: &[Labelled], batch_size: usize, seed: u64) -> Result<Self> {
        let path = folder.join(Self::FILE);
        let text = std::fs::read_to_string(&path).map_err(|e| Error::read(&path, e))?;
        let places: HashMap<&str, usize> =
            train.iter().enumerate().map(|(place, (query, _))| (query.id.as_str(), place)).collect();
        let refused = |line: usize, found: String| {
            let remedy = "it is the run's own file: restore it, or begin the run anew in another output_dir";
            Error::argument(format!("{}: line {}", path.display(), line + 1), found, remedy)
        };
        let target = |(number, line): (usize, &str)| {
            let mut target: Target = serde_json::from_str(line).map_err(|e| refused(number, e.to_string()))?;
            let place = places.get(target.query_id.as_str());
            let unknown = || refused(number, format!("no training query is called \"{}\"", target.query_id));
            target.query = *place.ok_or_else(unknown)?;
            Ok(target)
        };
        Ok(Self::new(text.lines().enumerate().map(target).collect::<Result<_>>()?, batch_size, seed))
    }

    /// The examples of a step, counted from 0.
    fn of_step(&self, step: u64) -> Vec<&Target> {
        let places = places(step, self.targets.len(), self.batch_size, self.seed);
        places.into_iter().filter_map(|place| self.targets.get(place)).collect()
    }

    /// A step's examples as the learner takes them: completions that were not sampled, each with an advantage of 1, so
    /// that at an importance ratio of 1 the policy gradient is the gradient of their log-likelihood. With them comes how
    /// many were left out because their first search failed.
    pub(super) fn batch(&self, materials: &Materials, step: u64) -> Result<(RolloutBatch, usize)> {
        let (mut rollouts, mut faults) = (Vec::with_capacity(self.batch_size), 0);
        for target in self.of_step(step) {
            let Some((query, _)) = materials.train.get(target.query) else {
                return Err(Error::bug("train::warm_start", format!("no training query {}", target.query)));
            };
            let prompt = match materials.encoder.prompt_tokens(query, 0) {
                // A first search that fails costs its own example.
                Err(error) if error.is_fault() => {
                    faults += 1;
                    continue;
                }
                prompt => prompt?,
            };
            // What a grammar does not allow was not searched for, but candidates may depend on more than the query.
            let Some(tokens) = materials.encoder.encode_answer(&target.target, prompt.grammar.as_ref())? else {
                continue;
            };
            let mut samples = vec![Sample::given(tokens, 1.0)];
            let total: f64 = target.singles.iter().map(|(_, gain)| gain).sum();
            for (word, gain) in &target.singles {
                if let Some(mut tokens) = materials.encoder.encode_answer(word, prompt.grammar.as_ref())? {
                    // What comes after it is left open.
                    tokens.pop();
                    samples.push(Sample::given(tokens, (SINGLES * gain / total) as f32));
                }
            }
            rollouts.push(Rollout { prompt: prompt.tokens, grammar: prompt.grammar, samples });
        }
        Ok((RolloutBatch { rollouts, tape: None }, faults))
    }
}

/// The weight of all words that help by themselves, beside the rewrite.
const SINGLES: f64 = 2.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::{Learner, LearnerConfig};
    use crate::loss::{LossConfig, LossType};
    use crate::optimizer::AdamW;
    use crate::rollout::fixture::Fixture;

    fn target(query: usize, text: &str) -> Target {
        Target {
            query,
            query_id: format!("q{query}"),
            text: String::new(),
            target: text.to_owned(),
            singles: Vec::new(),
            before: 0.0,
            after: 1.0,
        }
    }

    #[test]
    fn every_example_comes_once_before_one_comes_again_and_in_another_order() {
        let targets = (0..5).map(|query| target(query, "kettle")).collect();
        let warm = WarmStart::new(targets, 2, 7);
        let seen: Vec<usize> = (0..5).flat_map(|step| warm.of_step(step)).map(|t| t.query).collect();
        let (first, second) = seen.split_at(5);
        for around in [first, second] {
            let mut sorted = around.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4], "{seen:?}");
        }
        assert_ne!(first, second);
        let again: Vec<usize> = warm.of_step(3).iter().map(|t| t.query).collect();
        assert_eq!(again, seen[6..8], "a step does not depend on those before it");
        assert_eq!(WarmStart::new(vec![target(0, "x")], 16, 0).of_step(9).len(), 1);
    }

    #[test]
    fn the_rates_of_grpo_begin_after_the_warm_start() {
        let config = WarmStartConfig { steps: 10, learning_rate: 1.0, ..Default::default() };
        let grpo = ScheduleConfig { learning_rate: 2.0, ..Default::default() };
        let rates = Rates::new(&config, &grpo, 14).unwrap();
        let all: Vec<f64> = (0..14).map(|step| rates.rate(step)).collect();
        assert!(all[..10].iter().all(|rate| *rate > 0.0) && all[1] == 1.0, "{all:?}");
        assert!(all[1..10].is_sorted_by(|a, b| a >= b), "{all:?}");
        let one = Rates::new(&WarmStartConfig { steps: 1, ..config }, &grpo, 2).unwrap();
        assert_eq!(one.rate(0), 1.0, "a single step learns");
        assert_eq!(all[10..], [2.0, 1.5, 1.0, 0.5]);
        let none = Rates::new(&WarmStartConfig::default(), &grpo, 4).unwrap();
        assert_eq!((0..4).map(|step| none.rate(step)).collect::<Vec<_>>(), [2.0, 1.5, 1.0, 0.5]);
    }

    #[test]
    fn examples_are_read_back_as_they_were_written_and_a_file_that_was_changed_is_refused_by_its_line() {
        let (fixture, folder) = (Fixture::new(), tempfile::tempdir().unwrap());
        let train = &fixture.materials.train;
        let mut written = target(2, "dome tent");
        written.singles = vec![("tent".to_owned(), 0.1 + 0.2)];
        WarmStart::new(vec![target(0, "kettle"), written], 2, 7).write(folder.path()).unwrap();
        let read = || WarmStart::read(folder.path(), train, 2, 7);
        let found = read().unwrap();
        assert_eq!(
            found.targets.iter().map(|t| (t.query, t.target.as_str())).collect::<Vec<_>>(),
            [(0, "kettle"), (2, "dome tent")]
        );
        let path = folder.path().join(WarmStart::FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"q2\"", "\"q9\"")).unwrap();
        let said = read().unwrap_err().to_string();
        assert!(said.contains("line 2") && said.contains("\"q9\""), "{said}");
        std::fs::remove_file(&path).unwrap();
        assert!(read().is_err());
    }

    #[test]
    fn supervised_steps_raise_the_likelihood_of_their_examples() {
        let fixture = Fixture::new();
        let (mut adapter, m) = (fixture.adapter(), &fixture.materials);
        let warm = WarmStart::new(vec![target(0, "kettle steel"), target(1, "lantern")], 2, 0);
        let config = LearnerConfig {
            loss: LossConfig { loss_type: LossType::Dapo, ..Default::default() },
            temperature: 1.0,
            max_grad_norm: 1.0,
            num_iterations: 1,
            term_credit_coef: 0.0,
            rank_credit: None,
            micro_batch_tokens: None,
        };
        let mut optimizer = AdamW::new(fixture.config.optimizer);
        let learner = Learner { decoder: &m.decoder, prefix: m.encoder.prefix(), config: &config };
        let mut losses = Vec::new();
        for step in 0..8 {
            let (batch, faults) = warm.batch(m, step).unwrap();
            assert_eq!((batch.rollouts.len(), faults), (2, 0));
            losses.push(-learner.learn(&mut adapter, &mut optimizer, 1e-2, vec![batch]).unwrap().loss.logp);
        }
        let (first, last) = (losses[0], losses[7]);
        assert!((3.0..8.0).contains(&first), "a random model of bytes: ln 256 is 5.5, {losses:?}");
        assert!(last < first - 0.3, "{losses:?}");
    }

    #[test]
    fn an_example_that_the_grammar_does_not_allow_is_left_out() {
        let fixture = Fixture::restricted(&["lantern"]);
        let warm = WarmStart::new(vec![target(0, "kettle"), target(1, "lantern"), target(2, "")], 3, 0);
        let (batch, _) = warm.batch(&fixture.materials, 0).unwrap();
        assert_eq!(batch.rollouts.len(), 2, "the lantern, and nothing");
    }
}
