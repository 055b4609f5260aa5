//! The third stage: what each term of a rewrite contributed, from the reward of the rewrite without it.

use std::ops::Range;

use super::super::advantage::{Counterfactual, CounterfactualTerm};
use super::super::reward::Reward;
use super::{Sampler, ScoredCompletion, ScoredGroup, Scores, Unscored};
use querywright_model::Tokenizer;
use querywright_types::Result;

impl Sampler<'_> {
    /// Fills in the counterfactuals of all completions, by one more batch of retrievals; nothing where
    /// `train.term_credit_coef` is 0. Returns how many requests the environment failed for good.
    pub(super) fn credit(&self, groups: &mut [ScoredGroup<'_>]) -> Result<usize> {
        if self.config.train.term_credit_coef == 0.0 {
            return Ok(0);
        }
        let without_terms = groups.iter().map(|group| Unscored {
            original: group.original,
            labelled: group.labelled,
            rewrites: group.completions.iter().flat_map(|c| &c.reading.terms).map(|t| Some(&t.without)).collect(),
        });
        let Scores { groups: rewards, faults } = self.score(&without_terms.collect::<Vec<_>>());
        for (group, rewards) in groups.iter_mut().zip(rewards) {
            let mut rewards = rewards.into_iter();
            for completion in &mut group.completions {
                let own = rewards.by_ref().take(completion.reading.terms.len());
                completion.counterfactual = counterfactual(&self.materials.tokenizer, completion, own)?;
            }
        }
        Ok(faults)
    }
}

/// A completion's terms, each with the reward of the rewrite without it.
fn counterfactual(
    tokenizer: &Tokenizer,
    completion: &ScoredCompletion,
    without: impl Iterator<Item = Option<Reward>>,
) -> Result<Counterfactual> {
    let ends = token_ends(tokenizer, &completion.completion.tokens)?;
    let terms = completion.reading.terms.iter().zip(without).map(|(term, reward)| CounterfactualTerm {
        tokens: vec![tokens_of(&ends, &term.span)],
        reward_without: reward.map(|r| r.value),
    });
    Ok(Counterfactual { reward: completion.value(), terms: terms.collect() })
}

/// The byte at which each token's text ends in the completion's text.
fn token_ends(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<Vec<usize>> {
    (1..=tokens.len()).map(|n| tokenizer.decode(&tokens[..n]).map(|t| t.len())).collect()
}

/// The tokens that overlap a span of bytes.
fn tokens_of(ends: &[usize], span: &Range<usize>) -> Range<usize> {
    let first = ends.iter().position(|end| *end > span.start).unwrap_or(ends.len());
    let last = ends.iter().position(|end| *end >= span.end).map_or(ends.len(), |i| i + 1);
    first..last.max(first)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn a_term_is_spelled_by_every_token_that_overlaps_it() {
        let ends = [3, 5, 9, 10];
        assert_eq!(tokens_of(&ends, &(0..3)), 0..1);
        assert_eq!(tokens_of(&ends, &(4..6)), 1..3);
        assert_eq!(tokens_of(&ends, &(3..10)), 1..4);
        assert_eq!(tokens_of(&ends, &(12..14)), 4..4);
    }

    #[test]
    fn a_rewrite_earns_nothing_without_the_term_that_found_the_document() {
        let mut fixture = Fixture::new();
        fixture.config.train.term_credit_coef = 0.5;
        let mut groups = [fixture.group(0, &[("kettle zzz", 1.0)])];
        assert_eq!(fixture.sampler().credit(&mut groups).unwrap(), 0);
        let completion = &groups[0].completions[0];
        let found = &completion.counterfactual;
        assert_eq!(found.reward, Some(1.0));
        assert_eq!(found.terms.iter().map(|t| t.reward_without).collect::<Vec<_>>(), [Some(0.0), Some(1.0)]);
        let spelled = |term: &CounterfactualTerm| {
            let tokens = &completion.completion.tokens[term.tokens[0].clone()];
            fixture.materials.tokenizer.decode(tokens).unwrap()
        };
        assert_eq!(found.terms.iter().map(spelled).collect::<Vec<_>>(), ["kettle", "zzz"]);
    }

    #[test]
    fn a_failed_retrieval_leaves_a_term_without_credit_and_is_counted() {
        let mut fixture = Fixture::failing();
        fixture.config.train.term_credit_coef = 0.5;
        let mut groups = [fixture.group(0, &[("kettle zzz", 1.0)])];
        assert_eq!(fixture.sampler().credit(&mut groups).unwrap(), 2);
        assert!(groups[0].completions[0].counterfactual.terms.iter().all(|t| t.reward_without.is_none()));
    }

    #[test]
    fn a_coefficient_of_zero_retrieves_nothing() {
        let fixture = Fixture::failing();
        let mut groups = [fixture.group(0, &[("kettle zzz", 1.0)])];
        assert_eq!(fixture.sampler().credit(&mut groups).unwrap(), 0);
        assert_eq!(groups[0].completions[0].counterfactual, Counterfactual::default());
    }
}
