//! The best order of a query's candidates, by its judgements: what an ideal re-ranker would answer.

use std::cmp::Reverse;

use super::super::materials::Labelled;
use querywright_rewrite::Prompter;
use querywright_types::{Deadline, Result, Rewrite};

/// The labels of the relevant candidates, the best grade first and equal ones as they were found; the others need not be
/// named. None where no candidate is relevant, or where the first search has them in this order already.
///
/// # Errors
/// Those of [`Prompter::listed`].
pub(crate) fn best_order(prompter: &Prompter, labelled: &Labelled, original: &Rewrite) -> Result<Option<String>> {
    let (query, judgements) = labelled;
    let listed = prompter.listed(query, original, Deadline::NONE)?;
    let grades = listed.iter().map(|document| judgements.grade(*document).unwrap_or(0));
    let mut relevant: Vec<(i32, usize)> = grades.zip(0..).filter(|(grade, _)| *grade > 0).collect();
    relevant.sort_by_key(|(grade, place)| (Reverse(*grade), *place));
    if relevant.iter().map(|(_, place)| *place).eq(0..relevant.len()) {
        return Ok(None);
    }
    let labels = relevant.iter().filter_map(|(_, place)| prompter.labels().get(*place).map(String::as_str));
    let most = prompter.config().rerank.most(listed.len());
    Ok(Some(labels.take(most).collect::<Vec<_>>().join(" ")))
}

#[cfg(test)]
mod tests {
    use super::super::super::trainer::Trainer;
    use super::super::fixture::{Fixture, Unobserved};
    use super::super::{Origin, ScoredCompletion};
    use super::*;
    use querywright_model::{Adapter, SamplingConfig};
    use querywright_rewrite::{LanguageModel, Mode, PromptConfig};
    use querywright_stack::rank_all;
    use querywright_types::{Judgements, Query};

    /// The nDCG of documents 0, 1 and 2 in the order of these labels, the others behind: 2 has grade 2, 1 has grade 1.
    fn by_hand(labels: &str) -> f32 {
        let named: Vec<usize> = labels.split_whitespace().map(|label| "ABC".find(label).unwrap()).collect();
        let others = (0..3).filter(|doc| !named.contains(doc));
        let places = named.iter().copied().chain(others).enumerate();
        let dcg: f64 = places.map(|(place, doc)| doc as f64 / (place as f64 + 2.0).log2()).sum();
        (dcg / (2.0 + 1.0 / 3.0_f64.log2())) as f32
    }

    #[test]
    fn relevant_candidates_come_first_by_their_grades_and_what_is_in_order_is_left() {
        let fixture = Fixture::ordering();
        let prompter = fixture.materials.encoder.prompter();
        let order = |text: &str, grades: &[(u32, i32)]| {
            let labelled = (Query::text(text), Judgements::new(grades.to_vec()));
            best_order(prompter, &labelled, &Rewrite::plain(text)).unwrap()
        };
        // The fixture finds documents 0, 1 and 2 for "thing", in this order.
        assert_eq!(order("thing", &[(1, 1), (2, 3)]).as_deref(), Some("C B"));
        assert_eq!(order("thing", &[(2, 1), (1, 1), (0, 0)]).as_deref(), Some("B C"));
        assert_eq!(order("thing", &[(0, 2), (1, 1)]), None, "it is in order");
        assert_eq!(order("thing", &[(7, 1)]), None, "it was not found");
        assert_eq!(order("nothing", &[(1, 1)]), None);
    }

    #[test]
    fn sampled_orders_earn_what_their_permutation_is_worth_and_what_the_first_order_earns_is_the_base() {
        let mut fixture = Fixture::ordering();
        fixture.config.train.num_generations = 12;
        fixture.config.train.inject_over_base = true;
        let got = fixture.sampler().collect(&[0], &fixture.adapter(), 1, 0).unwrap();
        let [group] = &got.groups[..] else { panic!("one group") };
        let close = |value: Option<f32>, want: f32| value.is_some_and(|value| (value - want).abs() < 1e-6);
        assert!(close(group.base, by_hand("")), "{:?}", group.base);
        let mut seen = std::collections::BTreeSet::new();
        for completion in &group.completions {
            let labels = completion.completion.text.trim();
            assert!(close(completion.value(), by_hand(labels)), "{labels:?}: {:?}", completion.value());
            assert!(completion.reading.broken.is_none() && completion.reading.terms.is_empty());
            seen.insert(labels.to_owned());
        }
        assert!(seen.len() > 2 && got.tape.is_some(), "{seen:?}");
    }

    #[test]
    fn the_best_order_is_injected_where_no_completion_reaches_it() {
        let fixture = Fixture::ordering();
        let mut groups =
            [fixture.group(0, &[("A", by_hand("A")), ("B A", by_hand("B A"))]), fixture.group(0, &[("C B A", 1.0); 2])];
        assert_eq!(fixture.sampler().inject(&mut groups).unwrap(), 0);
        let last =
            |place: usize| groups[place].completions.last().map(|last| (last.origin, last.completion.text.trim()));
        assert_eq!(last(0), Some((Origin::Injected, "C B")));
        assert_eq!(last(1), Some((Origin::Sampled, "C B A")));
        let injected: Option<f32> = groups[0].completions.last().and_then(ScoredCompletion::value);
        assert_eq!(injected, Some(1.0));
    }

    #[test]
    fn a_run_learns_an_order_and_what_it_keeps_serves_it() {
        let home = tempfile::tempdir().unwrap();
        let mut fixture = Fixture::ordering();
        let settings = &mut fixture.config;
        (settings.warm_start.steps, settings.warm_start.learning_rate) = (40, 2e-2);
        settings.train.max_steps = 42;
        (settings.train.num_generations, settings.train.generation_batch_size) = (4, 4);
        (settings.train.eval_steps, settings.train.save_steps) = (0, 0);
        settings.sampling.max_completion_length = 8;
        settings.train.output_dir = home.path().join("run");
        let m = &fixture.materials;
        let outcome = Trainer::new(&fixture.config, m, false, &mut Unobserved).unwrap().run(&mut Unobserved).unwrap();
        let examples = std::fs::read_to_string(home.path().join("run/warm_start.jsonl")).unwrap();
        assert!(examples.contains("\"target\":\"C B\""), "{examples}");
        assert!((outcome.best_dev - 1.0).abs() < 1e-6, "{outcome:?}, and the first order has {}", by_hand(""));
        let prompt = PromptConfig::read(&outcome.adapter).unwrap().unwrap();
        assert_eq!((prompt.mode, prompt.candidates), (Mode::Rerank, 3));
        let adapter = Adapter::load(&outcome.adapter, m.decoder.config()).unwrap();
        let greedy = SamplingConfig::greedy(prompt.max_answer_tokens);
        let (decoder, tokenizer, encoder) = (m.decoder.clone(), m.tokenizer.clone(), m.encoder.clone());
        let model = LanguageModel::new("m", decoder, tokenizer, encoder, Some(adapter), greedy).unwrap();
        let ranked = rank_all(&model, m.retriever.as_ref(), &[&Query::text("thing")], 2, 8, &());
        let docs: Vec<u32> = ranked[0].ranking.as_ref().unwrap().hits.iter().map(|hit| hit.doc).collect();
        assert_eq!(docs, [2, 1]);
    }
}
