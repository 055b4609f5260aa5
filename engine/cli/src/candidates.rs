//! What the first search of a query gives a model: words or titles to choose from, and feedback.

use std::sync::Arc;

use anyhow::Result;
use querywright::catalog::Catalog;
use querywright::retrieve::{FollowerWords, Rm3, Rm3Config};
use querywright::rewrite::{Candidates, Feedback, NeighboursConfig, PromptConfig, Task};
use querywright::types::{Deadline, Ordinal, Query, Request, Retriever, Rewrite, retrieve};

use crate::first_pass::FirstPass;
use crate::ranker::Ranker;

/// Words of the best documents that a model may choose from, where `prompt.vocabulary` is `feedback`.
const WORDS: usize = 24;

/// Feedback words of RM3 over the native index.
pub fn feedback(ranker: &Ranker) -> Result<Feedback> {
    let (index, first) = (ranker.index()?, ranker.first.clone());
    Ok(Arc::new(move |query, config| {
        let config = Rm3Config { fb_docs: config.docs, fb_terms: config.terms, ..Rm3Config::default() };
        let rm3 = Rm3::new(index.clone(), config)?.sharing(first.searches());
        first.timed(|| rm3.terms(query))
    }))
}

/// The words that RM3 weighs most over the native index, before them those of similar judged queries where the base has
/// some, for next items those of the titles of what followed: as many as a model may choose from, and as a prompt shows.
pub fn words(ranker: &Ranker, prompt: &PromptConfig) -> Result<Arc<dyn Candidates>> {
    let config = Rm3Config { fb_terms: WORDS.max(prompt.candidates), ..Rm3Config::default() };
    let first = ranker.first.clone();
    let (count, rm3) = (config.fb_terms, Rm3::new(ranker.index()?, config)?.sharing(first.searches()));
    let next = ranker.followed.as_ref().filter(|_| prompt.task == Task::Recommend);
    let next = next.map(|followed| FollowerWords::new(followed.followers.clone(), ranker.catalog.clone()));
    let judged = prompt.base.as_ref().map(|base| base.neighbours.clone()).unwrap_or_default();
    if next.is_none() && judged.is_off() {
        return Ok(Arc::new(move |query: &Query| first.timed(|| rm3.words(query))));
    }
    // Words of the titles of what followed, or as many of similar judged queries as leave half of the room; where these
    // are few, those of RM3 fill up.
    let judged = NeighboursConfig { terms: count.div_ceil(2), ..judged };
    let find = move |query: &Query| -> querywright::Result<Vec<String>> {
        let known = match &next {
            Some(next) => next.words(query, count),
            None => judged.words(query)?,
        };
        let mut words: Vec<String> = known.into_iter().map(|word| word.0).collect();
        if words.len() < count {
            let others: Vec<String> = rm3.words(query)?.into_iter().filter(|word| !words.contains(word)).collect();
            words.extend(others);
            words.truncate(count);
        }
        Ok(words)
    };
    Ok(Arc::new(move |query: &Query| first.timed(|| find(query))))
}

/// What prompts show: words, or titles of items for next items.
pub fn candidates(ranker: &Ranker, prompt: &PromptConfig) -> Result<Arc<dyn Candidates>> {
    if prompt.task != Task::Recommend {
        return words(ranker, prompt);
    }
    let followed = ranker.followed.as_ref().map(|followed| followed.learned.clone());
    Ok(Arc::new(NextTitles::new(ranker, followed, prompt.candidates)))
}

/// Titles of items that followed those of the history in training, then of what the retriever finds for its titles.
struct NextTitles {
    catalog: Arc<Catalog>,
    followed: Option<Arc<dyn Retriever>>,
    retriever: Arc<dyn Retriever>,
    first: FirstPass,
    count: usize,
}

impl NextTitles {
    fn new(ranker: &Ranker, followed: Option<Arc<dyn Retriever>>, count: usize) -> Self {
        let (catalog, retriever, first) = (ranker.catalog.clone(), ranker.retriever.clone(), ranker.first.clone());
        Self { catalog, followed, retriever, first, count }
    }

    fn find(&self, query: &Query, deadline: Deadline) -> querywright::Result<Vec<String>> {
        let title = |item: Ordinal| self.catalog.document(item).title();
        let mut asked = query.text.clone();
        if asked.trim().is_empty() {
            let known = query.history.iter().filter(|item| (**item as usize) < self.catalog.len());
            asked = known.map(|item| title(*item)).collect::<Vec<_>>().join("\n");
        }
        let request = Request::new(query, &Rewrite::plain(asked), self.count);
        let mut titles: Vec<String> = Vec::with_capacity(self.count);
        for retriever in self.followed.iter().chain([&self.retriever]) {
            if titles.len() >= self.count {
                break;
            }
            for ranking in retrieve(retriever.as_ref(), std::slice::from_ref(&request), deadline) {
                for title in ranking?.hits.iter().map(|hit| title(hit.doc)) {
                    if !title.trim().is_empty() && !titles.iter().any(|known| known == title) {
                        titles.push(title.to_owned());
                    }
                }
            }
        }
        Ok(titles)
    }
}

impl Candidates for NextTitles {
    fn propose(&self, query: &Query, deadline: Deadline) -> querywright::Result<Vec<String>> {
        deadline.check()?;
        self.first.timed(|| self.find(query, deadline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bm25;
    use querywright::catalog::CatalogBuilder;
    use querywright::retrieve::Bm25Config;
    use querywright::rewrite::{BaseConfig, JudgedWords, Neighbours};
    use querywright::types::{Fault, FaultKind, Ranking, RetrieverCard};
    use std::time::Duration;

    /// Answers every request alike.
    struct Fixed(RetrieverCard, Result<Vec<Ordinal>, FaultKind>);

    impl Retriever for Fixed {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            let hit = |doc: &Ordinal| querywright::types::Hit { doc: *doc, score: 1.0 };
            let ranking = |request: &Request| match &self.1 {
                Ok(docs) => Ok(Ranking { hits: docs.iter().take(request.k).map(hit).collect() }),
                Err(kind) => Err(Fault::new("fixed", *kind, "down")),
            };
            requests.iter().map(ranking).collect()
        }
    }

    fn ranker() -> Ranker {
        let mut builder = CatalogBuilder::new();
        for (n, title) in ["steel kettle", "copper kettle", "wool blanket", "", "tea pot", "tea pot"].iter().enumerate()
        {
            builder.push(&format!("d{n}"), [("title", *title)]).unwrap();
        }
        // A word of every tenth document expands no query.
        for n in 6..30 {
            builder.push(&format!("d{n}"), [("title", "other things")]).unwrap();
        }
        let catalog = Arc::new(builder.finish());
        let index = bm25::index(&catalog, Bm25Config::default(), None).unwrap();
        Ranker::new(catalog, index.clone(), Some(index))
    }

    /// Titles where this is what followed.
    fn titles_after(ranker: &Ranker, followed: Result<Vec<Ordinal>, FaultKind>, count: usize) -> NextTitles {
        let card = RetrieverCard::new("fixed", "0").with_documents(ranker.catalog.len());
        NextTitles::new(ranker, Some(Arc::new(Fixed(card, followed))), count)
    }

    fn prompt(candidates: usize) -> PromptConfig {
        PromptConfig { task: Task::Recommend, candidates, ..PromptConfig::default() }
    }

    #[test]
    fn next_titles_are_those_that_followed_and_then_those_that_a_first_search_finds() {
        let query = Query::text("steel kettle").with_history([0]);
        let ranker = ranker();
        let titles = |followed: &[Ordinal], count| {
            titles_after(&ranker, Ok(followed.to_vec()), count).propose(&query, Deadline::NONE).unwrap()
        };
        assert_eq!(titles(&[2, 3, 4, 5], 4), ["wool blanket", "tea pot", "copper kettle"], "each once, with a title");
        assert_eq!(titles(&[2, 3, 4, 5], 1), ["wool blanket"]);
        assert!(ranker.first.spent().is_some());
        assert_eq!(titles(&[], 4), ["copper kettle"], "nothing followed");
        let without_text = Query::text("").with_history([0, 99]);
        let found = candidates(&ranker, &prompt(4)).unwrap();
        assert_eq!(found.propose(&without_text, Deadline::NONE).unwrap(), ["copper kettle"]);
    }

    #[test]
    fn a_first_search_that_fails_or_is_late_is_a_typed_error() {
        let ranker = ranker();
        let (query, source) = (Query::text("kettle"), titles_after(&ranker, Err(FaultKind::Network), 2));
        let error = source.propose(&query, Deadline::NONE).unwrap_err();
        assert!(matches!(&error, querywright::Error::Fault(fault) if fault.kind == FaultKind::Network), "{error}");
        let past = Deadline::after(Duration::ZERO);
        assert!(source.propose(&query, past).unwrap_err().is_deadline());
        let words = candidates(&ranker, &PromptConfig { task: Task::Search, ..prompt(2) }).unwrap();
        assert!(words.propose(&query, past).unwrap_err().is_deadline());
        assert!(words.propose(&query, Deadline::NONE).unwrap().contains(&"copper".to_owned()));
    }

    #[test]
    fn words_of_similar_judged_queries_are_candidates_before_those_of_a_first_search() {
        let ranker = ranker();
        let judged = |words: &[&str]| {
            let words = words.iter().map(|word| ((*word).to_owned(), 1.0)).collect();
            Neighbours::new(vec![JudgedWords { id: "q1".into(), text: "boil water".into(), words }]).unwrap()
        };
        let neighbours = NeighboursConfig::new(Arc::new(judged(&["cordless", "kettle"])), 0.5, 20);
        let base = Some(BaseConfig { neighbours, ..BaseConfig::default() });
        let prompt = PromptConfig { task: Task::Search, base, ..prompt(3) };
        let found = words(&ranker, &prompt).unwrap().propose(&Query::text("boil copper"), Deadline::NONE).unwrap();
        assert_eq!(found, ["cordless", "kettle", "copper"]);
        let found = words(&ranker, &prompt).unwrap().propose(&Query::text("copper"), Deadline::NONE).unwrap();
        assert_eq!(found, ["copper", "kettle"], "like no judged query");
    }

    #[test]
    fn no_first_search_takes_no_time_and_feedback_shares_the_one_of_the_candidates() {
        let ranker = ranker();
        assert_eq!(ranker.first.spent(), None);
        let (index, again) = (ranker.index().unwrap(), ranker.index().unwrap());
        assert!(Arc::ptr_eq(&index, &again));
        let feedback = feedback(&ranker).unwrap();
        let shares = feedback(&Query::text("kettle"), &BaseConfig::default().feedback).unwrap();
        let alone = Rm3::new(index, Rm3Config::default()).unwrap().terms(&Query::text("kettle")).unwrap();
        assert_eq!(shares, alone);
        assert!(ranker.first.spent().is_some());
    }
}
