//! The third stage: what each term of a rewrite contributed, from the reward of the rewrite without it.

use std::ops::Range;

use super::super::advantage::{Counterfactual, CounterfactualTerm};
use super::super::reward::Reward;
use super::{Sampler, ScoredCompletion, ScoredGroup, Scores, Unscored, Written};
use querywright_model::Tokenizer;
use querywright_rewrite::{Reading, TermReading};
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
            rewrites: group.completions.iter().flat_map(|c| without_terms(&c.reading)).collect(),
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

/// The rewrites without each of a completion's terms.
fn without_terms(reading: &Reading) -> impl Iterator<Item = Written<'_>> {
    let generated = |term: &TermReading| reading.generated.saturating_sub(term.generated);
    reading.terms.iter().map(move |term| Written { rewrite: Some(&term.without), generated: generated(term) })
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

/// The byte at which each token's text ends in the completion's text. A token that ends within a character counts as if
/// it had one byte of it: what is decoded of the beginning of a character is another character.
fn token_ends(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<Vec<usize>> {
    let whole = tokenizer.decode(tokens)?;
    let end = |n: usize| -> Result<usize> {
        let text = tokenizer.decode(&tokens[..n])?;
        let common = text.bytes().zip(whole.bytes()).take_while(|(a, b)| a == b).count();
        let common = (0..=common).rev().find(|at| whole.is_char_boundary(*at)).unwrap_or(0);
        Ok(if common < text.len() { (common + 1).min(whole.len()) } else { common })
    };
    (1..=tokens.len()).map(end).collect()
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

    /// What the tokens of each of a completion's terms spell.
    fn spelled(fixture: &Fixture, completion: &ScoredCompletion) -> Vec<String> {
        let tokenizer = &fixture.materials.tokenizer;
        let of_term =
            |term: &CounterfactualTerm| tokenizer.decode(&completion.completion.tokens[term.tokens[0].clone()]);
        completion.counterfactual.terms.iter().map(|term| of_term(term).unwrap()).collect()
    }

    #[test]
    fn every_word_of_a_restricted_completion_is_credited_over_exactly_its_own_tokens() {
        const WORDS: &[&str] = &["kettle", "kettles", "zzz", "caf\u{e9}", "\u{e9}t\u{e9}", "\u{6c34}\u{7dda}"];
        let mut fixture = Fixture::restricted(WORDS);
        fixture.config.train.term_credit_coef = 0.5;
        let (first, second) = ("kettle caf\u{e9} \u{e9}t\u{e9} zzz", "\u{6c34}\u{7dda} kettles \u{e9}t\u{e9}");
        let mut groups = [fixture.group(0, &[(first, 1.0), (second, 0.0), ("", 0.0)])];
        assert_eq!(fixture.sampler().credit(&mut groups).unwrap(), 0);
        let [one, two, nothing] = &groups[0].completions[..] else { panic!("three completions") };
        assert!(one.completion.tokens.len() > 4, "words of several tokens");
        for (completion, text) in [(one, first), (two, second)] {
            assert_eq!(spelled(&fixture, completion), text.split(' ').collect::<Vec<_>>());
        }
        let rewards: Vec<Option<f32>> = one.counterfactual.terms.iter().map(|t| t.reward_without).collect();
        assert_eq!(rewards, [Some(0.0), Some(1.0), Some(1.0), Some(1.0)]);
        assert!(nothing.counterfactual.terms.is_empty(), "no word, no credit");
    }

    #[test]
    fn a_word_that_a_restricted_completion_was_cut_off_in_has_no_credit() {
        let mut fixture = Fixture::restricted(&["kettle", "zzz"]);
        fixture.config.train.term_credit_coef = 0.5;
        let mut groups = [fixture.group(0, &[("zzz kettle zzz", 1.0)])];
        let (query, original) = (&groups[0].labelled.0, groups[0].original);
        let completion = &mut groups[0].completions[0];
        // Cut within the last word: its text has whole words only, its tokens have all that was sampled.
        completion.completion.tokens.truncate(completion.completion.tokens.len() - 2);
        completion.completion.text = " zzz kettle".into();
        completion.reading = fixture.materials.encoder.read(query, original, " zzz kettle").unwrap();
        fixture.sampler().credit(&mut groups).unwrap();
        let completion = &groups[0].completions[0];
        assert_eq!(spelled(&fixture, completion), ["zzz", "kettle"]);
        let last = completion.counterfactual.terms[1].tokens[0].end;
        assert!(last < completion.completion.tokens.len(), "what was begun belongs to no term");
    }

    #[test]
    fn a_term_that_changes_nothing_costs_what_a_term_costs() {
        let mut fixture = Fixture::new();
        fixture.config.train.term_credit_coef = 0.5;
        fixture.set_reward(|reward| reward.term_cost = 0.125);
        let mut groups = [fixture.group(0, &[("kettle zzz", 0.75)])];
        fixture.sampler().credit(&mut groups).unwrap();
        let found = &groups[0].completions[0].counterfactual;
        let rewards: Vec<Option<f32>> = found.terms.iter().map(|t| t.reward_without).collect();
        assert_eq!(rewards, [Some(-0.125), Some(0.875)], "without the useless one the reward is higher");
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
