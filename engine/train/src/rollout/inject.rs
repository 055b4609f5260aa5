//! The second stage: a completion from relevance feedback takes the place of a sampled one, where it earns more.

use super::super::advantage::Baseline;
use super::super::reward::Reward;
use super::relevance_feedback::Form;
use super::{Origin, Sampler, ScoredCompletion, ScoredGroup, Scores, Unscored, Written, best_order};
use querywright_rewrite::{Mode, Reading};
use querywright_types::{Error, Result};

/// A rewrite that relevance feedback proposes.
struct Proposal {
    /// As a completion: with a space before the first word.
    text: String,
    reading: Reading,
}

impl Sampler<'_> {
    /// Replaces the last completion of each group by the best one from relevance feedback, where that earns more than
    /// all of the group by `train.inject_margin` (with 0: at least as much), and with `train.inject_over_base` more than
    /// the query without a model. Returns how many requests the environment failed for good.
    pub(super) fn inject(&self, groups: &mut [ScoredGroup<'_>]) -> Result<usize> {
        let proposed = self.proposals(groups)?;
        let unscored = groups.iter().zip(&proposed).map(|(group, proposals)| Unscored {
            labelled: group.labelled,
            original: group.original,
            rewrites: proposals.iter().map(|p| Written::of(&p.reading)).collect(),
        });
        let Scores { groups: earned, faults } = self.score(&unscored.collect::<Vec<_>>());
        let margin = self.config.train.inject_margin;
        for (place, ((group, proposals), earned)) in groups.iter_mut().zip(proposed).zip(earned).enumerate() {
            let reached = group.reached();
            let over_base = group.base.filter(|_| self.config.train.inject_over_base);
            let (proposal, reward) = match best(&earned, reached.max(over_base.unwrap_or(reached)), margin) {
                Some((index, reward)) => {
                    let Some(proposal) = proposals.into_iter().nth(index) else {
                        let found = format!("{} rewards for fewer proposals", earned.len());
                        return Err(Error::bug("train::rollout::inject", found));
                    };
                    (proposal, reward.clone())
                }
                None => match over_base.filter(|base| *base >= reached + margin && self.may_inject_nothing(group)) {
                    Some(base) => (self.nothing(group)?, Reward { value: base, parts: Default::default() }),
                    None => continue,
                },
            };
            let grammar = group.prompt.grammar.as_ref();
            let Some(tokens) = self.materials.encoder.encode_answer(proposal.text.trim(), grammar)? else { continue };
            if tokens.len() > self.config.sampling.max_completion_length {
                continue;
            }
            let Some(last) = group.completions.last_mut() else {
                return Err(Error::bug("train::rollout::inject", format!("group {place} has no completion")));
            };
            *last = ScoredCompletion::foreign(Origin::Injected, (proposal.text, tokens), proposal.reading, reward);
        }
        Ok(faults)
    }

    /// Whether no word is an answer that can be learned from: where words are restricted. Against the base its advantage
    /// would be 0.
    fn may_inject_nothing(&self, group: &ScoredGroup<'_>) -> bool {
        self.feedback.is_some() && group.prompt.grammar.is_some() && self.config.train.baseline == Baseline::Group
    }

    /// The answer that leaves the query what it is without a model: no word, or the first of the choices.
    fn nothing(&self, group: &ScoredGroup<'_>) -> Result<Proposal> {
        let encoder = &self.materials.encoder;
        let text = encoder.prompter().choices().first().map_or_else(String::new, |same| format!(" {same}"));
        let reading = encoder.read(&group.labelled.0, group.original, &text)?;
        Ok(Proposal { text, reading })
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
            let (query, prompter) = (&group.labelled.0, m.encoder.prompter());
            let grammar = group.prompt.grammar.as_ref();
            let writable = |text: &str| -> Result<bool> {
                Ok(grammar.is_none() || m.encoder.encode_answer(text, grammar)?.is_some())
            };
            let texts = match prompter.choices() {
                [] if form.mode == Mode::Rerank => match best_order(prompter, group.labelled, group.original) {
                    Ok(order) => order.into_iter().collect(),
                    // A search that fails has no proposal; its own group failed before.
                    Err(error) if error.is_fault() => Vec::new(),
                    Err(error) => return Err(error),
                },
                [] => feedback.proposals(&m.catalog, group.labelled, form, &writable)?,
                // Each of the choices is one: the best for this query.
                names => names.to_vec(),
            };
            let mut proposals = Vec::with_capacity(texts.len());
            for text in texts.iter().map(|text| prompter.answer(text)) {
                // Phrases have quotes, which no grammar of words allows.
                if writable(&text)? {
                    let text = format!(" {text}");
                    let reading = m.encoder.read(query, group.original, &text)?;
                    proposals.push(Proposal { text, reading });
                }
            }
            Ok(proposals)
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

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    /// The places of the groups in which a completion was injected, and the faults.
    fn inject(sampler: &Sampler<'_>, groups: &mut [ScoredGroup<'_>]) -> (Vec<usize>, usize) {
        let faults = sampler.inject(groups).unwrap();
        let injected = |group: &ScoredGroup<'_>| group.completions.iter().any(|c| c.origin == Origin::Injected);
        ((0..groups.len()).filter(|place| injected(&groups[*place])).collect(), faults)
    }

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
        assert_eq!(inject(&sampler, &mut groups), (vec![0], 0), "the other group earns all there is");
        let [first, last] = &groups[0].completions[..] else { panic!("two completions") };
        assert_eq!(first.completion.text, " zzz");
        assert!(last.completion.text.contains("kettle"), "{:?}", last.completion.text);
        assert!(last.value() > Some(0.0) && last.completion.finish == querywright_model::Finish::Stop);
        assert_eq!(last.completion.log_probabilities.len(), last.completion.tokens.len());
        assert!(last.completion.log_probabilities.iter().all(|p| p.is_nan()));
        assert!(groups[1].completions.iter().all(|c| c.completion.text == " lantern"));
    }

    #[test]
    fn a_proposal_longer_than_a_completion_may_be_is_left_out() {
        let mut fixture = Fixture::new();
        fixture.config.sampling.max_completion_length = 2;
        let mut groups = [fixture.group(0, &[("zzz", 0.0)])];
        assert!(inject(&fixture.sampler(), &mut groups).0.is_empty());
        assert_eq!(groups[0].completions[0].completion.text, " zzz");
    }

    #[test]
    fn a_proposal_of_words_that_may_not_be_written_is_left_out_and_one_that_may_is_learned_from_within_the_grammar() {
        let mut fixture = Fixture::restricted(&["lantern", "zzz"]);
        let mut groups = [fixture.group(0, &[("zzz", 0.0)]), fixture.group(1, &[("zzz", 0.0)])];
        assert_eq!(inject(&fixture.sampler(), &mut groups).0, [1], "only the lantern may be written");
        assert_eq!(groups[0].completions[0].completion.text, " zzz");
        let injected = &groups[1].completions[0].completion;
        assert_eq!(injected.text, " lantern");
        let decoded = fixture.materials.tokenizer.decode(&injected.tokens).unwrap();
        assert_eq!(decoded, " lantern\n");
        fixture.config.sampling.max_completion_length = injected.tokens.len() - 1;
        let mut groups = [fixture.group(1, &[("zzz", 0.0)])];
        assert!(inject(&fixture.sampler(), &mut groups).0.is_empty());
    }

    #[test]
    fn the_best_choice_is_injected_where_a_group_missed_it() {
        let fixture = Fixture::choosing();
        let mut groups = [fixture.group(0, &[("same", 0.6)]), fixture.group(0, &[("last", 1.0)])];
        assert_eq!(inject(&fixture.sampler(), &mut groups).0, [0]);
        let injected = &groups[0].completions[0];
        assert_eq!((injected.completion.text.as_str(), injected.value()), (" last", Some(1.0)));
        assert_eq!(fixture.materials.tokenizer.decode(&injected.completion.tokens).unwrap(), " last\n");
        assert_eq!(injected.reading.rewrite.as_ref().unwrap().text, "(lantern)");
    }

    #[test]
    fn the_choice_that_leaves_the_query_is_injected_where_only_that_beats_the_group() {
        let mut fixture = Fixture::choosing();
        fixture.config.train.inject_over_base = true;
        let mut groups = [fixture.group(0, &[("last", 0.0)])];
        groups[0].base = Some(1.5);
        assert_eq!(inject(&fixture.sampler(), &mut groups).0, [0]);
        let injected = &groups[0].completions[0];
        assert_eq!((injected.completion.text.as_str(), injected.value()), (" same", Some(1.5)));
    }

    #[test]
    fn without_relevance_feedback_nothing_is_retrieved_and_nothing_changes() {
        let fixture = Fixture::failing();
        let sampler = Sampler { feedback: None, ..fixture.sampler() };
        let mut groups = [fixture.group(0, &[("zzz", 0.0)])];
        assert_eq!(inject(&sampler, &mut groups), (vec![], 0));
        let (places, faults) = inject(&fixture.sampler(), &mut groups);
        assert!(places.is_empty() && faults > 0, "proposals on which the retriever fails are not injected");
    }

    #[test]
    fn over_the_base_words_that_earn_less_than_the_query_itself_are_not_injected() {
        let mut fixture = Fixture::new();
        let group = |fixture: &Fixture, base: f32| {
            let mut group = fixture.group(0, &[("zzz", 0.0), ("yyy", 0.0)]);
            group.base = Some(base);
            // The words of relevance feedback earn 1.
            inject(&fixture.sampler(), &mut [group]).0
        };
        assert_eq!(group(&fixture, 1.0), [0], "without the key the group alone is asked");
        fixture.config.train.inject_over_base = true;
        assert!(group(&fixture, 1.0).is_empty());
        assert_eq!(group(&fixture, 0.5), [0]);
    }

    #[test]
    fn over_the_base_nothing_is_injected_where_it_earns_most_and_is_an_answer() {
        let mut fixture = Fixture::restricted(&["zzz"]);
        fixture.config.train.inject_over_base = true;
        let groups = |fixture: &Fixture| {
            let mut group = fixture.group(0, &[("zzz", 0.0), ("zzz zzz", 0.0)]);
            group.base = Some(0.5);
            let (places, faults) = inject(&fixture.sampler(), std::slice::from_mut(&mut group));
            assert_eq!(faults, 0);
            let last = group.completions.last().unwrap();
            (places, last.completion.text.clone(), last.value(), last.reading.rewrite.clone().map(|r| r.text))
        };
        let request = "boil water".to_owned();
        assert_eq!(groups(&fixture), (vec![0], String::new(), Some(0.5), Some(request)));
        fixture.config.train.baseline = Baseline::Base;
        assert!(groups(&fixture).0.is_empty(), "against the base it would teach nothing");
        let mut free = Fixture::new();
        free.config.train.inject_over_base = true;
        free.config.train.inject_words = 0;
        let mut group = free.group(0, &[("zzz", 0.0)]);
        group.base = Some(1.0);
        assert!(inject(&free.sampler(), &mut [group]).0.is_empty(), "where words are free, no word is a broken format");
    }
}
