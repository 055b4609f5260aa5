//! The second stage: a completion from relevance feedback takes the place of a sampled one, where it earns more.

use super::super::advantage::Counterfactual;
use super::super::reward::Reward;
use super::relevance_feedback::Form;
use super::{Sampler, ScoredCompletion, ScoredGroup, Scores, Unscored};
use querywright_model::{Completion, Finish};
use querywright_rewrite::Reading;
use querywright_types::{Error, Result};

/// What the stage changed.
#[derive(Debug, Default)]
pub(super) struct Injected {
    /// Places of the groups whose last completion was replaced.
    pub(super) groups: Vec<usize>,
    /// Requests that the environment failed for good.
    pub(super) faults: usize,
}

/// A rewrite that relevance feedback proposes.
struct Proposal {
    text: String,
    reading: Reading,
}

impl Sampler<'_> {
    /// Replaces the last completion of each group by the best one from relevance feedback, where that earns more than
    /// all of the group by `train.inject_margin` (with 0: at least as much).
    pub(super) fn inject(&self, groups: &mut [ScoredGroup<'_>]) -> Result<Injected> {
        let proposed = self.proposals(groups)?;
        let unscored = groups.iter().zip(&proposed).map(|(group, proposals)| Unscored {
            labelled: group.labelled,
            original: group.original,
            rewrites: proposals.iter().map(|p| p.reading.rewarded()).collect(),
        });
        let Scores { groups: earned, faults } = self.score(&unscored.collect::<Vec<_>>());
        let mut injected = Injected { groups: Vec::new(), faults };
        for (place, ((group, proposals), earned)) in groups.iter_mut().zip(proposed).zip(earned).enumerate() {
            let reached = group.completions.iter().filter_map(ScoredCompletion::value);
            let reached = reached.fold(f32::NEG_INFINITY, f32::max);
            let Some((index, reward)) = best(&earned, reached, self.config.train.inject_margin) else { continue };
            let Some(proposal) = proposals.into_iter().nth(index) else {
                let found = format!("{} rewards for fewer proposals", earned.len());
                return Err(Error::bug("train::rollout::inject", found));
            };
            let grammar = group.prompt.grammar.as_ref();
            let Some(tokens) = self.materials.encoder.encode_answer(&proposal.text, grammar)? else { continue };
            if tokens.len() > self.config.sampling.max_completion_length {
                continue;
            }
            let Some(last) = group.completions.last_mut() else {
                return Err(Error::bug("train::rollout::inject", format!("group {place} has no completion")));
            };
            *last = injected_completion(proposal, tokens, reward.clone());
            injected.groups.push(place);
        }
        Ok(injected)
    }

    /// What relevance feedback proposes for each group; nothing where it is switched off.
    ///
    /// Where the answers to a prompt are restricted, only of words that are allowed: another one has no
    /// probability under the policy, which could not learn it. Its words are not allowed on top, because they come from
    /// the judgements: an answer without judgements may not have them.
    fn proposals(&self, groups: &[ScoredGroup<'_>]) -> Result<Vec<Vec<Proposal>>> {
        let Some(feedback) = self.feedback else { return Ok(groups.iter().map(|_| Vec::new()).collect()) };
        let m = self.materials;
        let form = Form {
            task: self.config.prompt.task,
            mode: self.config.prompt.mode,
            language: m.encoder.prompter().language(),
            fresh: self.config.train.inject_words,
        };
        let of_group = |group: &ScoredGroup<'_>| -> Result<Vec<Proposal>> {
            let grammar = group.prompt.grammar.as_ref();
            let writable = |text: &str| -> Result<bool> {
                Ok(grammar.is_none() || m.encoder.encode_answer(text, grammar)?.is_some())
            };
            let mut texts = Vec::new();
            // Phrases have quotes, which no grammar of words allows.
            for text in feedback.proposals(&m.catalog, group.labelled, form, &writable)? {
                if writable(&text)? {
                    texts.push(text);
                }
            }
            let proposal = |text: String| {
                let reading = m.encoder.read(group.original, &format!(" {text}"));
                Proposal { text, reading }
            };
            Ok(texts.into_iter().map(proposal).collect())
        };
        groups.iter().map(of_group).collect()
    }
}

/// The proposal to inject into a group whose best completion earned `reached`; none where no proposal earns `margin`
/// more. A longer proposal must earn `margin` more than a shorter one, and shorter ones come first. A proposal on which
/// the environment failed has no reward and does not compete.
fn best(earned: &[Option<Reward>], reached: f32, margin: f32) -> Option<(usize, &Reward)> {
    let mut best: Option<(usize, &Reward)> = None;
    for (index, reward) in earned.iter().enumerate() {
        let Some(reward) = reward.as_ref().filter(|r| !r.value.is_infinite()) else { continue };
        if best.map_or(reward.value >= reached + margin, |(_, earlier)| reward.value > earlier.value + margin) {
            best = Some((index, reward));
        }
    }
    best
}

/// The policy did not sample it: NaN in place of the sampler's numbers tells the learner to compute its own.
fn injected_completion(proposal: Proposal, tokens: Vec<u32>, reward: Reward) -> ScoredCompletion {
    let unknown = vec![f32::NAN; tokens.len()];
    let completion = Completion {
        tokens,
        log_probabilities: unknown.clone(),
        entropies: unknown,
        text: format!(" {}", proposal.text),
        finish: Finish::Stop,
    };
    ScoredCompletion {
        completion,
        reading: proposal.reading,
        reward: Some(reward),
        counterfactual: Counterfactual::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    fn rewards(values: &[Option<f32>]) -> Vec<Option<Reward>> {
        values.iter().map(|v| v.map(|value| Reward { value, parts: Default::default() })).collect()
    }

    fn chosen(values: &[Option<f32>], reached: f32, margin: f32) -> Option<usize> {
        best(&rewards(values), reached, margin).map(|(index, _)| index)
    }

    #[test]
    fn a_proposal_must_earn_the_margin_more_than_the_group_and_than_a_shorter_one() {
        assert_eq!(chosen(&[Some(0.51), Some(0.5)], 0.5, 0.02), None);
        assert_eq!(chosen(&[Some(0.6), Some(0.61)], 0.5, 0.02), Some(0), "the shorter of nearly equals");
        assert_eq!(chosen(&[Some(0.6), Some(0.7)], 0.5, 0.02), Some(1));
        assert_eq!(chosen(&[Some(0.5), Some(0.5)], 0.5, 0.0), Some(0), "with 0 as much is enough");
    }

    #[test]
    fn a_proposal_without_a_reward_never_wins_and_a_group_without_rewards_takes_any() {
        assert_eq!(chosen(&[None, Some(0.0)], f32::NEG_INFINITY, 0.02), Some(1));
        assert_eq!(chosen(&[None, None], f32::NEG_INFINITY, 0.02), None);
        assert_eq!(chosen(&[], 0.0, 0.0), None);
    }

    #[test]
    fn the_last_completion_of_a_group_that_found_nothing_is_replaced() {
        let fixture = Fixture::new();
        let sampler = fixture.sampler();
        let mut groups = [fixture.group(0, &[("zzz", 0.0), ("yyy", 0.0)]), fixture.group(1, &[("lantern", 1.0); 2])];
        let injected = sampler.inject(&mut groups).unwrap();
        assert_eq!((injected.groups, injected.faults), (vec![0], 0), "the other group earns all there is");
        let [first, last] = &groups[0].completions[..] else { panic!("two completions") };
        assert_eq!(first.completion.text, " zzz");
        assert!(last.completion.text.contains("kettle"), "{:?}", last.completion.text);
        assert!(last.value() > Some(0.0) && last.completion.finish == Finish::Stop);
        assert_eq!(last.completion.log_probabilities.len(), last.completion.tokens.len());
        assert!(last.completion.log_probabilities.iter().all(|p| p.is_nan()));
        assert!(groups[1].completions.iter().all(|c| c.completion.text == " lantern"));
    }

    #[test]
    fn a_proposal_longer_than_a_completion_may_be_is_left_out() {
        let mut fixture = Fixture::new();
        fixture.config.sampling.max_completion_length = 2;
        let mut groups = [fixture.group(0, &[("zzz", 0.0)])];
        assert!(fixture.sampler().inject(&mut groups).unwrap().groups.is_empty());
        assert_eq!(groups[0].completions[0].completion.text, " zzz");
    }

    #[test]
    fn a_proposal_of_words_that_may_not_be_written_is_left_out_and_one_that_may_is_learned_from_within_the_grammar() {
        let mut fixture = Fixture::restricted(&["lantern", "zzz"]);
        let mut groups = [fixture.group(0, &[("zzz", 0.0)]), fixture.group(1, &[("zzz", 0.0)])];
        assert_eq!(fixture.sampler().inject(&mut groups).unwrap().groups, [1], "only the lantern may be written");
        assert_eq!(groups[0].completions[0].completion.text, " zzz");
        let injected = &groups[1].completions[0].completion;
        assert_eq!(injected.text, " lantern");
        let decoded = fixture.materials.tokenizer.decode(&injected.tokens).unwrap();
        assert_eq!(decoded, " lantern\n");
        fixture.config.sampling.max_completion_length = injected.tokens.len() - 1;
        let mut groups = [fixture.group(1, &[("zzz", 0.0)])];
        assert!(fixture.sampler().inject(&mut groups).unwrap().groups.is_empty());
    }

    #[test]
    fn without_relevance_feedback_nothing_is_retrieved_and_nothing_changes() {
        let fixture = Fixture::failing();
        let sampler = Sampler { feedback: None, ..fixture.sampler() };
        let mut groups = [fixture.group(0, &[("zzz", 0.0)])];
        let injected = sampler.inject(&mut groups).unwrap();
        assert_eq!((injected.groups.len(), injected.faults), (0, 0));
        let with = fixture.sampler().inject(&mut groups).unwrap();
        assert!(with.groups.is_empty() && with.faults > 0, "proposals on which the retriever fails are not injected");
    }
}
