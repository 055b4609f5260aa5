//! The first stage: completions are sampled, read and scored.

use super::super::advantage::Counterfactual;
use super::super::materials::Labelled;
use super::super::reward::Reward;
use super::{Origin, Sampler, ScoredCompletion, ScoredGroup, Scores, Unscored, Written};
use querywright_model::{
    Adapter, Completion, GenerateOptions, PromptTokens, Tape, generate, generate_recorded, prefix,
};
use querywright_rewrite::Reading;
use querywright_types::{Deadline, Error, Query, Result, Rewrite};

/// What a round of sampling gave.
pub(super) struct Collected<'a> {
    /// One group a query that could be asked, in the order asked for.
    pub(super) groups: Vec<ScoredGroup<'a>>,
    /// The recorded forward pass; none where it did not fit into `train.tape_mib`.
    pub(super) tape: Option<Tape>,
    /// Requests that the environment failed for good.
    pub(super) faults: usize,
}

/// Queries with their prompts.
struct Asked<'a> {
    queries: Vec<usize>,
    labelled: Vec<(&'a Labelled, &'a Rewrite)>,
    prompts: Vec<PromptTokens>,
    /// Queries that are left out.
    faults: usize,
}

impl<'a> Sampler<'a> {
    /// Samples `num_generations` completions for each of `queries` and scores them. A query whose first search failed has no
    /// group.
    pub(super) fn collect(
        &self,
        queries: &[usize],
        adapter: &Adapter,
        step: u64,
        recorded: usize,
    ) -> Result<Collected<'a>> {
        let m = self.materials;
        let Asked { queries, labelled, prompts, faults: unasked } = self.ask(queries, step)?;
        if prompts.is_empty() {
            return Ok(Collected { groups: Vec::new(), tape: None, faults: unasked });
        }
        let (completions, tape) = self.generate(&prompts, adapter, recorded)?;
        if completions.len() != prompts.len() {
            let found = format!("{} groups for {} prompts", completions.len(), prompts.len());
            return Err(Error::bug("train::rollout::collect", found));
        }
        let readings: Vec<Vec<Reading>> = completions
            .iter()
            .zip(&labelled)
            .map(|(group, ((query, _), original))| {
                group.iter().map(|c| m.encoder.read(query, original, &c.text)).collect::<Result<Vec<_>>>()
            })
            .collect::<Result<_>>()?;
        // What the query earns without a model is asked for behind its completions.
        let base = |original| self.config.needs_base().then_some(Written { rewrite: Some(original), generated: 0 });
        let unscored = labelled.iter().zip(&readings).map(|((labelled, original), group)| Unscored {
            labelled,
            original,
            rewrites: group.iter().map(Written::of).chain(base(*original)).collect(),
        });
        let Scores { groups: mut rewards, faults } = self.score(&unscored.collect::<Vec<_>>());
        let base = |rewards: &mut Vec<Option<Reward>>| match self.config.needs_base() {
            true => rewards.pop().flatten().map(|reward| reward.value),
            false => None,
        };
        let bases: Vec<Option<f32>> = rewards.iter_mut().map(base).collect();
        let scored = completions.into_iter().zip(readings).zip(rewards).map(|((completions, readings), rewards)| {
            let scored = completions.into_iter().zip(readings).zip(rewards);
            scored
                .map(|((completion, reading), reward)| ScoredCompletion {
                    origin: Origin::Sampled,
                    completion,
                    reading,
                    reward,
                    counterfactual: Counterfactual::default(),
                })
                .collect()
        });
        let scored: Vec<Vec<ScoredCompletion>> = scored.collect();
        let asked = queries.into_iter().zip(labelled).zip(prompts).zip(bases);
        let groups = asked.zip(scored).map(|((((query, (labelled, original)), prompt), base), completions)| {
            ScoredGroup { query, labelled, original, base, prompt, completions }
        });
        Ok(Collected { groups: groups.collect(), tape, faults: faults + unasked })
    }

    /// The prompts of queries. One whose first search the environment failed for good is left out and counted.
    fn ask(&self, queries: &[usize], step: u64) -> Result<Asked<'a>> {
        let mut asked = Asked { queries: Vec::new(), labelled: Vec::new(), prompts: Vec::new(), faults: 0 };
        for index in queries {
            let (Some(known), Some(original)) = (self.materials.train.get(*index), self.originals.get(*index)) else {
                return Err(Error::bug("train::rollout::collect", format!("no training query has the number {index}")));
            };
            // A query is sampled once a step, so step and query make a stream of their own.
            match self.prompt(&known.0, step << 32 | *index as u64)? {
                Some(prompt) => {
                    asked.queries.push(*index);
                    asked.labelled.push((known, original));
                    asked.prompts.push(prompt);
                }
                None => asked.faults += 1,
            }
        }
        Ok(asked)
    }

    /// The prompt of a query, with what a first search proposes; none where the environment failed that search for good.
    fn prompt(&self, query: &Query, stream: u64) -> Result<Option<PromptTokens>> {
        for _ in 0..=self.config.train.retries {
            match self.materials.encoder.prompt_tokens(query, stream) {
                Ok(prompt) => return Ok(Some(prompt)),
                Err(error) if error.is_fault() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Completions of the prompts; recorded, where the tape has room for them.
    fn generate(
        &self,
        prompts: &[PromptTokens],
        adapter: &Adapter,
        recorded: usize,
    ) -> Result<(Vec<Vec<Completion>>, Option<Tape>)> {
        let m = self.materials;
        let options = GenerateOptions {
            sampling: &self.config.sampling,
            completions: self.config.train.num_generations,
            stop: m.encoder.stop(),
            seed: self.config.train.seed,
            deadline: Deadline::NONE,
        };
        let room = self.config.train.tape_mib.saturating_mul(1 << 20).saturating_sub(recorded);
        if m.decoder.records(m.encoder.prefix().len(), prompts, &options, room) {
            let (decoder, tokenizer, shared) = (&m.decoder, &m.tokenizer, m.encoder.prefix());
            return generate_recorded(decoder, tokenizer, shared, prompts, adapter.deltas(), &options);
        }
        let shared = prefix(&m.decoder, m.encoder.prefix(), adapter.deltas())?;
        Ok((generate(&m.decoder, &m.tokenizer, &shared, prompts, adapter.deltas(), &options)?, None))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;
    use querywright_rewrite::{PromptConfig, Vocabulary};
    use querywright_types::{Fault, FaultKind};

    fn texts(group: &ScoredGroup<'_>) -> Vec<String> {
        group.completions.iter().map(|c| c.completion.text.clone()).collect()
    }

    #[test]
    fn every_query_gets_its_group_of_scored_completions_in_the_order_asked_for() {
        let fixture = Fixture::new();
        let got = fixture.sampler().collect(&[2, 0], &fixture.adapter(), 1, 0).unwrap();
        assert_eq!(got.groups.iter().map(|g| g.query).collect::<Vec<_>>(), [2, 0]);
        for group in &got.groups {
            assert_eq!(group.completions.len(), fixture.config.train.num_generations);
            assert!(group.completions.iter().all(|c| c.reward.is_some() && c.counterfactual.terms.is_empty()));
            assert_eq!(group.labelled, &fixture.materials.train[group.query]);
        }
        assert!(got.faults == 0 && got.tape.is_some());
    }

    #[test]
    fn a_query_gets_the_same_completions_alone_and_in_a_batch_and_others_in_the_next_step() {
        let fixture = Fixture::new();
        let (sampler, adapter) = (fixture.sampler(), fixture.adapter());
        let batch = sampler.collect(&[0, 1], &adapter, 1, 0).unwrap();
        let alone = sampler.collect(&[1], &adapter, 1, 0).unwrap();
        assert_eq!(texts(&batch.groups[1]), texts(&alone.groups[0]));
        let later = sampler.collect(&[1], &adapter, 2, 0).unwrap();
        assert_ne!(texts(&later.groups[0]), texts(&alone.groups[0]));
    }

    #[test]
    fn restricted_completions_have_allowed_words_only_and_saying_nothing_earns_what_the_raw_query_earns() {
        const WORDS: &[&str] = &["lantern", "kettle"];
        let mut fixture = Fixture::restricted(WORDS);
        fixture.config.train.num_generations = 16;
        let got = fixture.sampler().collect(&[0, 1, 2], &fixture.adapter(), 1, 0).unwrap();
        let mut nothing = 0;
        for group in &got.groups {
            let request = &group.labelled.0.text;
            for c in &group.completions {
                let text = &c.completion.text;
                let allowed = |word: &str| WORDS.contains(&word) || request.split(' ').any(|own| own == word);
                assert!(text.split_whitespace().all(allowed), "{text:?}");
                assert!(c.reading.broken.is_none() && c.reward.is_some());
                if text.is_empty() {
                    nothing += 1;
                    assert_eq!(&c.reading.rewrite.as_ref().unwrap().text, request);
                }
            }
        }
        assert!(nothing > 0, "a policy that knows nothing sometimes says nothing");
    }

    /// The words of the request, turned round.
    fn turned(query: &Query) -> Result<Vec<String>> {
        Ok(query.text.split(' ').rev().map(|word| word.chars().rev().collect()).collect())
    }

    #[test]
    fn prompts_with_candidates_are_in_training_what_they_are_in_serving_with_what_was_kept() {
        for vocabulary in [Vocabulary::Free, Vocabulary::Feedback] {
            let prompt = PromptConfig { vocabulary, candidates: 2, ..Fixture::new().config.prompt };
            let fixture = Fixture::new().prompted(prompt, turned);
            let mut rollouts = fixture.sampler().sample(&[2, 0, 1], &fixture.adapter(), 1, 0).unwrap();
            let learned = rollouts.batches(&fixture.materials.decoder).unwrap().remove(0).rollouts;
            let folder = tempfile::tempdir().unwrap();
            fixture.config.serving_prompt().write(folder.path()).unwrap();
            let kept = PromptConfig::read(folder.path()).unwrap().unwrap();
            let serving = fixture.encoder(&kept, turned);
            assert_eq!(serving.prefix(), fixture.materials.encoder.prefix());
            for (rollout, query) in learned.iter().zip([2, 0, 1]) {
                let (query, _) = &fixture.materials.train[query];
                let asked = serving.prompt_tokens(query, 7).unwrap();
                assert_eq!(asked.tokens, rollout.prompt, "what is learned from");
                assert_eq!(asked.grammar.is_some(), rollout.grammar.is_some());
                let words = turned(query).unwrap();
                let text = fixture.materials.tokenizer.decode(&asked.tokens).unwrap();
                assert!(text.contains(&format!("\nWords: {}\nSearch:", words[..2].join(", "))), "{text}");
            }
        }
    }

    #[test]
    fn a_query_whose_first_search_fails_is_left_out_and_counted_and_another_error_ends_the_run() {
        let prompt = PromptConfig { candidates: 2, ..Fixture::new().config.prompt };
        let down = |query: &Query| match query.text.as_str() {
            "boil water" => Err(Fault::new("bm25", FaultKind::Network, "down").into()),
            _ => turned(query),
        };
        let fixture = Fixture::new().prompted(prompt.clone(), down);
        let (sampler, adapter) = (fixture.sampler(), fixture.adapter());
        let got = sampler.collect(&[2, 0, 1], &adapter, 1, 0).unwrap();
        assert_eq!(got.groups.iter().map(|g| g.query).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(got.faults, 1);
        let whole = Fixture::new().prompted(prompt.clone(), turned);
        let same = whole.sampler().collect(&[2, 1], &adapter, 1, 0).unwrap();
        assert_eq!(texts(&got.groups[1]), texts(&same.groups[1]));
        let mut none = sampler.sample(&[0], &adapter, 1, 0).unwrap();
        assert_eq!((none.groups.len(), none.faults), (0, 1));
        assert!(none.batches(&fixture.materials.decoder).unwrap().is_empty());
        let broken = Fixture::new().prompted(prompt, |_: &Query| Err(Error::argument("index", "gone", "build it")));
        assert!(broken.sampler().collect(&[1], &adapter, 1, 0).err().unwrap().to_string().starts_with("index"));
    }

    #[test]
    fn what_a_query_earns_without_a_model_is_asked_where_a_setting_needs_it_and_from_the_base_where_there_is_one() {
        let mut fixture = Fixture::new();
        let bases = |fixture: &Fixture| -> Vec<Option<f32>> {
            let got = fixture.sampler().collect(&[0, 1], &fixture.adapter(), 1, 0).unwrap();
            assert!(got.groups.iter().all(|g| g.completions.len() == 2));
            got.groups.iter().map(|g| g.base).collect()
        };
        assert_eq!(bases(&fixture), [None, None]);
        fixture.config.train.baseline = crate::advantage::Baseline::Base;
        assert_eq!(bases(&fixture), [Some(0.0), Some(0.0)], "the queries' own words find nothing");
        fixture.set_original(0, "kettle");
        assert_eq!(bases(&fixture), [Some(1.0), Some(0.0)]);
        // It is written by nobody, so its terms cost nothing.
        fixture.set_reward(|reward| reward.term_cost = 0.25);
        assert_eq!(bases(&fixture), [Some(1.0), Some(0.0)]);
        let mut failing = Fixture::failing();
        failing.config.train.replay = 1;
        assert_eq!(bases(&failing), [None, None]);
    }

    #[test]
    fn a_policy_that_chooses_names_one_of_the_choices_and_earns_what_that_finds() {
        let mut fixture = Fixture::choosing();
        fixture.config.train.num_generations = 24;
        let got = fixture.sampler().collect(&[0], &fixture.adapter(), 1, 0).unwrap();
        let mut seen = std::collections::BTreeMap::new();
        for c in &got.groups[0].completions {
            let text = c.reading.rewrite.as_ref().unwrap().text.as_str();
            let want = if c.completion.text == " last" { "(lantern)" } else { "kettle\nlantern" };
            assert!(text == want && c.reading.broken.is_none() && c.reading.terms.is_empty(), "{c:?}");
            seen.insert(c.completion.text.clone(), c.value().unwrap());
        }
        assert_eq!(seen.keys().collect::<Vec<_>>(), [" last", " same"]);
        assert!(seen[" last"] > seen[" same"], "{seen:?}");
        assert!(got.tape.is_some(), "masks are recorded as any");
    }

    #[test]
    fn a_tape_without_room_records_nothing_and_samples_the_same() {
        let mut fixture = Fixture::new();
        let adapter = fixture.adapter();
        let recorded = texts(&fixture.sampler().collect(&[0], &adapter, 1, 0).unwrap().groups[0]);
        fixture.config.train.tape_mib = 0;
        let bare = fixture.sampler().collect(&[0], &adapter, 1, 0).unwrap();
        assert!(bare.tape.is_none());
        assert_eq!(texts(&bare.groups[0]), recorded);
    }

    #[test]
    fn a_retriever_that_fails_leaves_completions_without_a_reward() {
        let fixture = Fixture::failing();
        let got = fixture.sampler().collect(&[0], &fixture.adapter(), 1, 0).unwrap();
        let kept = got.groups[0].completions.iter().filter(|c| c.reading.broken.is_none());
        assert!(kept.clone().count() > 0 && got.faults > 0, "the test must meet requests");
        assert!(kept.clone().all(|c| c.reward.is_none()));
    }

    #[test]
    fn a_query_outside_the_training_set_is_a_bug() {
        let fixture = Fixture::new();
        let error = fixture.sampler().collect(&[99], &fixture.adapter(), 1, 0).err().unwrap();
        assert!(error.to_string().contains("99"), "{error}");
    }
}
