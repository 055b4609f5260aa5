//! The third stage: what each term of a rewrite contributed, from the reward of the rewrite without it, or of the rewrite
//! that ends before it.

use std::ops::Range;

use super::super::advantage::{Counterfactual, CounterfactualTerm};
use super::{Sampler, ScoredCompletion, ScoredGroup, Scores, Unscored, Written};
use querywright_model::Tokenizer;
use querywright_rewrite::{Reading, TermReading};
use querywright_types::Result;

impl Sampler<'_> {
    /// Fills in the counterfactuals of all completions, by one more batch of retrievals; nothing where neither
    /// `train.term_credit_coef` nor `train.rank_credit` asks for them. Returns how many requests the environment failed for
    /// good.
    pub(super) fn credit(&self, groups: &mut [ScoredGroup<'_>]) -> Result<usize> {
        let by_rank = self.config.train.rank_credit;
        if self.config.train.term_credit_coef == 0.0 && !by_rank {
            return Ok(0);
        }
        let others: fn(&Reading) -> Vec<Written<'_>> = if by_rank { beginnings } else { without_terms };
        let unscored = groups.iter().map(|group| Unscored {
            original: group.original,
            labelled: group.labelled,
            rewrites: group.completions.iter().flat_map(|c| others(&c.reading)).collect(),
        });
        let Scores { groups: rewards, faults } = self.score(&unscored.collect::<Vec<_>>());
        for (group, rewards) in groups.iter_mut().zip(rewards) {
            let mut rewards = rewards.into_iter().map(|reward| reward.map(|reward| reward.value));
            for completion in &mut group.completions {
                let (count, none) = (others(&completion.reading).len(), completion.reading.terms.is_empty());
                // Before the first term stands what the query is without a model.
                let first = (by_rank && !none).then_some(group.base);
                let own = first.into_iter().chain(rewards.by_ref().take(count));
                let mut found = counterfactual(&self.materials.tokenizer, completion, own)?;
                // Without a term all of it is one item: nothing, or a broken format.
                found.terms.extend((by_rank && none).then(|| CounterfactualTerm {
                    tokens: std::iter::once(0..completion.completion.tokens.len()).collect(),
                    reward_without: group.base,
                }));
                completion.counterfactual = found;
            }
        }
        Ok(faults)
    }
}

/// The rewrites that end before each of a completion's terms but the first.
fn beginnings(reading: &Reading) -> Vec<Written<'_>> {
    let mut generated = 0;
    let earlier = reading.terms.iter().zip(reading.terms.iter().skip(1));
    earlier
        .map(|(before, term)| {
            generated += before.generated;
            Written { rewrite: Some(&term.before), generated }
        })
        .collect()
}

/// The rewrites without each of a completion's terms.
fn without_terms(reading: &Reading) -> Vec<Written<'_>> {
    let generated = |term: &TermReading| reading.generated.saturating_sub(term.generated);
    reading.terms.iter().map(|term| Written { rewrite: Some(&term.without), generated: generated(term) }).collect()
}

/// A completion's terms, each with the reward of the rewrite without it, or of the one that ends before it.
fn counterfactual(
    tokenizer: &Tokenizer,
    completion: &ScoredCompletion,
    without: impl Iterator<Item = Option<f32>>,
) -> Result<Counterfactual> {
    let ends = token_ends(tokenizer, &completion.completion.tokens)?;
    let terms = completion.reading.terms.iter().zip(without).map(|(term, reward)| CounterfactualTerm {
        tokens: vec![tokens_of(&ends, &term.span)],
        reward_without: reward,
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

    /// A fixture with credit rank by rank, where the first query earns this without a model.
    fn by_rank(mut fixture: Fixture) -> Fixture {
        fixture.config.train.rank_credit = true;
        fixture
    }

    #[test]
    fn rank_by_rank_a_term_is_worth_what_comes_from_it_on_and_the_first_one_what_the_query_earns_without_a_model() {
        let fixture = by_rank(Fixture::new());
        let mut groups = [fixture.group(0, &[("zzz kettle yyy", 1.0), ("zzz", 0.0)])];
        groups[0].base = Some(0.25);
        assert_eq!(fixture.sampler().credit(&mut groups).unwrap(), 0);
        let found = &groups[0].completions[0].counterfactual;
        // Before the first stands the query, then a word that finds nothing, then the one that finds the kettle.
        let before: Vec<Option<f32>> = found.terms.iter().map(|t| t.reward_without).collect();
        assert_eq!((found.reward, before), (Some(1.0), vec![Some(0.25), Some(0.0), Some(1.0)]));
        let spelled = spelled(&fixture, &groups[0].completions[0]);
        assert_eq!(spelled, ["zzz", "kettle", "yyy"]);
        let other = &groups[0].completions[1].counterfactual;
        assert_eq!(other.terms.iter().map(|t| t.reward_without).collect::<Vec<_>>(), [Some(0.25)]);
    }

    #[test]
    fn rank_by_rank_the_words_before_a_term_cost_what_they_cost() {
        let mut fixture = by_rank(Fixture::new());
        fixture.set_reward(|reward| reward.term_cost = 0.125);
        let mut groups = [fixture.group(0, &[("zzz yyy kettle", 0.625)])];
        groups[0].base = Some(0.0);
        fixture.sampler().credit(&mut groups).unwrap();
        let found = &groups[0].completions[0].counterfactual;
        let before: Vec<Option<f32>> = found.terms.iter().map(|t| t.reward_without).collect();
        assert_eq!(before, [Some(0.0), Some(-0.125), Some(-0.25)]);
    }

    #[test]
    fn rank_by_rank_nothing_is_one_item_and_what_fails_is_unknown() {
        let fixture = by_rank(Fixture::restricted(&["kettle", "zzz"]));
        let mut groups = [fixture.group(0, &[("", 0.0), ("kettle", 1.0)])];
        groups[0].base = Some(0.5);
        fixture.sampler().credit(&mut groups).unwrap();
        let nothing = &groups[0].completions[0];
        let tokens = std::iter::once(0..nothing.completion.tokens.len()).collect();
        let whole = CounterfactualTerm { tokens, reward_without: Some(0.5) };
        assert_eq!(nothing.counterfactual.terms, [whole]);
        let failing = by_rank(Fixture::failing());
        let mut groups = [failing.group(0, &[("kettle zzz", 1.0)])];
        assert_eq!(failing.sampler().credit(&mut groups).unwrap(), 1);
        let found = &groups[0].completions[0].counterfactual;
        assert!(
            found.terms.iter().all(|t| t.reward_without.is_none()),
            "neither the query nor the first word is known"
        );
    }

    #[test]
    fn a_coefficient_of_zero_retrieves_nothing() {
        let fixture = Fixture::failing();
        let mut groups = [fixture.group(0, &[("kettle zzz", 1.0)])];
        assert_eq!(fixture.sampler().credit(&mut groups).unwrap(), 0);
        assert_eq!(groups[0].completions[0].counterfactual, Counterfactual::default());
    }
}
