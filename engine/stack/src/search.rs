//! Serving single queries.

use std::time::{Duration, Instant};

use querywright_types::{
    Deadline, DocumentName, Documents, Error, Fault, FaultKind, Ordinal, Query, Ranking, Request, Result, Retriever,
    Rewrite, Rewriter, retrieve,
};

use crate::StackBuilder;
use crate::fusion::reciprocal_rank_fusion;
use crate::rewriting::{Begun, Rewriting};
use crate::trace::{Answer, FurtherRewrite, NamedHit, Trace, TraceOutcome};

/// A rewriter in front of a retriever. Cheap to share behind an `Arc`; safe to call from many threads.
pub struct Stack {
    pub(crate) documents: Option<Box<dyn Documents>>,
    pub(crate) retriever: Box<dyn Retriever>,
    /// The first one, and those whose rewrites are fused with its.
    pub(crate) rewriters: Vec<Rewriting>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) reserve: Duration,
    pub(crate) fuse_original: bool,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack")
            .field("retriever", self.retriever.card())
            .field("rewriter", &self.rewriter().map(|r| r.name()))
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// What one search may ask for.
///
/// ```
/// # use querywright_stack::SearchOptions;
/// let options = SearchOptions::new(20).exclude([7]).deadline(std::time::Duration::from_millis(50));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SearchOptions {
    /// How many hits at most.
    pub k: usize,
    /// Documents that must not appear, beside those of the query's history.
    pub exclude: Vec<Ordinal>,
    /// How long this request may take. Default: what the stack allows.
    pub deadline: Option<Duration>,
}

impl SearchOptions {
    /// Asks for at most `k` hits.
    pub fn new(k: usize) -> Self {
        Self { k, exclude: Vec::new(), deadline: None }
    }

    /// Leaves out documents.
    pub fn exclude(mut self, documents: impl IntoIterator<Item = Ordinal>) -> Self {
        self.exclude.extend(documents);
        self
    }

    /// Sets how long this request may take, where the stack was built with a deadline: no longer than that one.
    pub fn deadline(mut self, allowed: Duration) -> Self {
        self.deadline = Some(allowed);
        self
    }
}

impl Stack {
    /// Starts the settings of a stack.
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }

    /// The `k` best documents for a text.
    ///
    /// # Errors
    /// Those of [`search_with`](Self::search_with).
    pub fn search(&self, text: &str, k: usize) -> Result<Answer> {
        self.search_with(&Query::text(text), &SearchOptions::new(k))
    }

    /// The `k` best documents for a query with a history, whose items are left out.
    ///
    /// # Errors
    /// Those of [`search_with`](Self::search_with).
    pub fn search_query(&self, query: &Query, k: usize) -> Result<Answer> {
        self.search_with(query, &SearchOptions::new(k))
    }

    /// The best documents for a query. For an [empty](Query::is_empty) one neither the rewriter nor the retriever is
    /// asked: there are no hits, and the outcome says so.
    ///
    /// # Errors
    /// When `k` is 0, or the retriever fails for the original query too, or names a document that nobody knows.
    pub fn search_with(&self, query: &Query, options: &SearchOptions) -> Result<Answer> {
        if options.k == 0 {
            return Err(Error::argument("k", "found 0", "ask for at least 1 hit"));
        }
        if query.is_empty() {
            return Ok(self.nothing(query));
        }
        let deadline = self.deadline_of(options);
        let start = Instant::now();
        // A request with a short deadline of its own keeps half of it for the rewrite.
        let reserve = deadline.left().map_or(self.reserve, |left| self.reserve.min(left / 2));
        let Rewritten { mut searched, mut outcome, mut also } = self.rewrite(query, deadline.earlier(reserve));
        let rewrite_ms = milliseconds(start);
        let start = Instant::now();
        let original = Rewrite::plain(query.text.clone());
        let find = |texts: &[&Rewrite]| self.named(&self.rank(query, texts, options, deadline)?);
        let further = also.iter().filter(|one| one.outcome.fallback().is_none()).map(|one| &one.searched);
        let texts: Vec<&Rewrite> = [&searched].into_iter().chain(further).collect();
        let hits = match find(&texts) {
            Ok(hits) => hits,
            Err(error) if texts.iter().all(|text| **text == original) => return Err(error),
            Err(error) => {
                let tried = also.iter_mut().filter(|one| one.outcome.fallback().is_none());
                tried.for_each(|one| one.fall_back(&original, &error));
                outcome = TraceOutcome::FellBack(error);
                searched = original;
                find(&[&searched])?
            }
        };
        let first = searched.order.as_ref().map(|order| self.ids(&order.first)).unwrap_or_default();
        let trace = Trace {
            query: query.text.clone(),
            searched,
            first,
            outcome,
            also,
            rewriter: self.rewriter().map(|r| r.name().to_owned()),
            retriever: self.retriever.card().name.clone(),
            rewrite_ms,
            retrieve_ms: milliseconds(start),
        };
        Ok(Answer { hits, trace })
    }

    /// What would be searched for, without a search: the trace of a request that ends behind its rewrite.
    pub fn rewrite_with(&self, query: &Query, options: &SearchOptions) -> Trace {
        if query.is_empty() {
            return self.nothing(query).trace;
        }
        let start = Instant::now();
        let Rewritten { searched, outcome, also } = self.rewrite(query, self.deadline_of(options));
        let first = searched.order.as_ref().map(|order| self.ids(&order.first)).unwrap_or_default();
        Trace { searched, first, outcome, also, rewrite_ms: milliseconds(start), ..self.nothing(query).trace }
    }

    /// What it searches.
    pub fn retriever(&self) -> &dyn Retriever {
        self.retriever.as_ref()
    }

    /// What rewrites, where something does: the first, where there are several.
    pub fn rewriter(&self) -> Option<&dyn Rewriter> {
        self.rewriters().next()
    }

    /// All that rewrites.
    pub fn rewriters(&self) -> impl Iterator<Item = &dyn Rewriter> {
        self.rewriters.iter().map(|one| one.rewriter.as_ref())
    }

    /// The answer to a query that asks nothing.
    fn nothing(&self, query: &Query) -> Answer {
        let trace = Trace {
            query: query.text.clone(),
            searched: Rewrite::plain(String::new()),
            first: Vec::new(),
            outcome: TraceOutcome::Empty,
            also: Vec::new(),
            rewriter: self.rewriter().map(|r| r.name().to_owned()),
            retriever: self.retriever.card().name.clone(),
            rewrite_ms: 0.0,
            retrieve_ms: 0.0,
        };
        Answer { hits: Vec::new(), trace }
    }

    /// The request's deadline: its own or the stack's, whichever is earlier.
    fn deadline_of(&self, options: &SearchOptions) -> Deadline {
        let after = |allowed: Option<Duration>| allowed.map_or(Deadline::NONE, Deadline::after);
        after(self.deadline).min(after(options.deadline))
    }

    /// The rewrites of all rewriters, which are asked at once.
    fn rewrite(&self, query: &Query, deadline: Deadline) -> Rewritten {
        let begun: Vec<Begun> = self.rewriters.iter().map(|one| one.begin(query, deadline)).collect();
        let mut made = self.rewriters.iter().zip(begun).map(|(one, begun)| (one, one.end(begun, query)));
        let (searched, outcome) = match made.next() {
            Some((_, first)) => first,
            None => (Rewrite::plain(query.text.clone()), TraceOutcome::Original),
        };
        let further = |(one, (searched, outcome)): (&Rewriting, _)| {
            let rewriter = one.rewriter.name().to_owned();
            FurtherRewrite { rewriter, searched, outcome }
        };
        Rewritten { searched, outcome, also: made.map(further).collect() }
    }

    fn rank(&self, query: &Query, texts: &[&Rewrite], options: &SearchOptions, deadline: Deadline) -> Result<Ranking> {
        let original = Rewrite::plain(query.text.clone());
        let fused = self.fuse_original && texts.iter().any(|text| **text != original);
        let mut distinct: Vec<&Rewrite> = Vec::with_capacity(texts.len() + 1);
        for text in texts.iter().copied().chain(fused.then_some(&original)) {
            if !distinct.contains(&text) {
                distinct.push(text);
            }
        }
        let request = |text: &Rewrite| {
            let mut request = Request::new(query, text, options.k);
            request.exclude.extend(&options.exclude);
            request
        };
        let requests: Vec<Request> = distinct.into_iter().map(request).collect();
        let rankings = retrieve(&self.retriever, &requests, deadline).into_iter().collect::<Result<Vec<_>, _>>()?;
        match <[Ranking; 1]>::try_from(rankings) {
            Ok([ranking]) => Ok(ranking),
            Err(rankings) => Ok(reciprocal_rank_fusion(&rankings, options.k)),
        }
    }

    /// The hits under their own names: the catalogue's where there is one, else the retriever's.
    fn named(&self, ranking: &Ranking) -> Result<Vec<NamedHit>> {
        let hits = ranking.hits.iter().map(|hit| {
            let Some(name) = self.name(hit.doc) else {
                let detail = match self.documents {
                    Some(_) => format!("it gave document {}, which the catalogue does not have", hit.doc),
                    None => format!("it gave document {} and no name for it, and the stack has no catalogue", hit.doc),
                };
                return Err(Fault::new(self.retriever.card().name.as_str(), FaultKind::Contract, detail).into());
            };
            Ok(NamedHit { id: name.id, title: name.title, score: hit.score })
        });
        hits.collect()
    }

    fn name(&self, document: Ordinal) -> Option<DocumentName> {
        match &self.documents {
            Some(documents) => documents.document(document),
            None => self.retriever.document(document),
        }
    }

    /// The ids of those documents that somebody knows.
    fn ids(&self, documents: &[Ordinal]) -> Vec<String> {
        documents.iter().filter_map(|document| Some(self.name(*document)?.id)).collect()
    }
}

/// What will be searched for.
struct Rewritten {
    searched: Rewrite,
    outcome: TraceOutcome,
    also: Vec<FurtherRewrite>,
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use querywright_types::{Hit, Kept, Order, RetrieverCard};

    /// Names document 0 alone, and finds document 1 for "one".
    struct Half(RetrieverCard);

    impl Retriever for Half {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            let doc = |request: &Request| Ordinal::from(request.text == "one");
            requests.iter().map(|r| Ok(Ranking { hits: vec![Hit { doc: doc(r), score: 1.0 }] })).collect()
        }

        fn document(&self, document: Ordinal) -> Option<DocumentName> {
            (document == 0).then(|| DocumentName::new("zero", ""))
        }
    }

    /// Rewrites everything to "one".
    struct One;

    impl Rewriter for One {
        fn name(&self) -> &str {
            "one"
        }

        fn rewrite(&self, queries: &[Query], _: Deadline) -> Vec<Result<Rewrite>> {
            queries.iter().map(|_| Ok(Rewrite::plain("one"))).collect()
        }
    }

    /// Is not sure of anything.
    struct Unsure;

    impl Rewriter for Unsure {
        fn name(&self) -> &str {
            "unsure"
        }

        fn rewrite(&self, queries: &[Query], _: Deadline) -> Vec<Result<Rewrite>> {
            let base = |query: &Query| Rewrite::plain(format!("{} zero", query.text));
            queries.iter().map(|q| Ok(base(q).with_confidence(-2.0).with_kept(Kept::LowConfidence))).collect()
        }
    }

    #[test]
    fn a_query_that_its_rewriter_left_as_it_is_says_so_by_a_code_and_is_no_fallback() {
        let half = Half(RetrieverCard::new("half", "0"));
        let stack = Stack::builder().retriever(half).rewriter(Unsure).cache(2).build().unwrap();
        for _ in 0..2 {
            let Answer { trace, .. } = stack.search("two", 3).unwrap();
            assert_eq!((trace.searched.text.as_str(), trace.outcome.fallback().is_none()), ("two zero", true));
            let outcome = serde_json::to_value(&trace.outcome).unwrap();
            assert_eq!(outcome, serde_json::json!({ "kind": "kept", "code": "low_confidence" }), "cached or not");
        }
    }

    #[test]
    fn a_rewrite_that_finds_what_nobody_can_name_falls_back_to_the_original() {
        let stack = Stack::builder().retriever(Half(RetrieverCard::new("half", "0"))).rewriter(One).build().unwrap();
        let answer = stack.search("two", 3).unwrap();
        assert_eq!((answer.hits[0].id.as_str(), answer.trace.searched.text.as_str()), ("zero", "two"));
        assert_eq!(answer.trace.outcome.fallback().map(Error::code), Some("contract"));
        assert_eq!(stack.search("one", 3).unwrap_err().code(), "contract");
    }

    /// Finds the documents whose numbers stand in the text, in that order.
    struct Numbered(RetrieverCard);

    impl Retriever for Numbered {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            let hit = |doc: &str| Hit { doc: doc.parse().unwrap(), score: 1.0 };
            let one = |request: &Request| match request.text.contains("broken") {
                true => Err(Fault::new("numbered", FaultKind::Network, "reset")),
                false => Ok(Ranking { hits: request.text.split(' ').map(hit).collect() }),
            };
            requests.iter().map(one).collect()
        }

        fn document(&self, document: Ordinal) -> Option<DocumentName> {
            Some(DocumentName::new(document.to_string(), ""))
        }
    }

    /// Says something else, or fails, after a while.
    struct Says(&'static str, u64);

    impl Rewriter for Says {
        fn name(&self) -> &str {
            self.0
        }

        fn rewrite(&self, queries: &[Query], _: Deadline) -> Vec<Result<Rewrite>> {
            std::thread::sleep(Duration::from_millis(self.1));
            let one = || match self.0 {
                "fails" => Err(Error::Format("none".into())),
                text => Ok(Rewrite::plain(text)),
            };
            queries.iter().map(|_| one()).collect()
        }
    }

    #[test]
    fn rewrites_of_several_rewriters_are_fused_and_one_that_is_late_or_fails_is_left_out() {
        let numbered = || Numbered(RetrieverCard::new("numbered", "0"));
        let ids = |answer: &Answer| answer.hits.iter().map(|hit| hit.id.clone()).collect::<Vec<_>>().join(" ");
        let kinds = |trace: &Trace| trace.also.iter().map(|one| one.outcome.kind()).collect::<Vec<_>>();
        let stack = Stack::builder().retriever(numbered()).rewriter(Says("1 2", 0)).also(Says("3 2", 0));
        let stack = stack.also(Says("fails", 0)).also(Says("1 2", 0)).fuse_original(true).build().unwrap();
        let answer = stack.search("4 2", 4).unwrap();
        // By hand: 2 is the second of three rankings; the equal rewrites count once; what failed does not count.
        assert_eq!(ids(&answer), "2 1 3 4");
        assert_eq!(kinds(&answer.trace), ["rewritten", "fell_back", "rewritten"]);
        assert_eq!((answer.trace.outcome.kind(), answer.trace.searched.text.as_str()), ("rewritten", "1 2"));

        // They are asked at once, and each has the whole time. One after the other would take 1.5 seconds.
        let begun = Instant::now();
        let stack = Stack::builder().retriever(numbered()).deadline(Duration::from_secs(8)).cache(9);
        let stack = stack.rewriter(Says("1", 500)).also(Says("2", 500)).also(Says("3", 500)).build().unwrap();
        assert_eq!(ids(&stack.search("4", 4).unwrap()), "1 2 3");
        assert!(begun.elapsed() < Duration::from_millis(1400), "{:?}", begun.elapsed());
        assert_eq!(kinds(&stack.search("4", 4).unwrap().trace), ["cached", "cached"]);
        let stack =
            Stack::builder().retriever(numbered()).deadline(Duration::from_secs(4)).reserve(Duration::from_secs(3));
        let late = stack.rewriter(Says("9", 4000)).also(Says("1 2", 0)).build().unwrap().search("4", 4).unwrap();
        assert_eq!((ids(&late).as_str(), late.trace.outcome.kind()), ("1 4 2", "fell_back"));

        // Where one cannot be searched for, the query is, as it came.
        let stack = Stack::builder().retriever(numbered()).rewriter(Says("1", 0)).also(Says("broken", 0));
        let stack = stack.also(Says("fails", 0)).build().unwrap();
        let answer = stack.search("4", 4).unwrap();
        assert_eq!((ids(&answer).as_str(), kinds(&answer.trace)), ("4", vec!["fell_back", "fell_back"]));
        let codes = answer.trace.also.iter().map(|one| one.outcome.fallback().unwrap().code());
        assert_eq!(codes.collect::<Vec<_>>(), ["network", "format"]);
        assert_eq!(answer.trace.also[0].searched.text, "4");
        assert!(Stack::builder().retriever(numbered()).also(Says("1", 0)).build().is_err());
    }

    /// Finds documents 0, 1, 2, …, and names them.
    struct Counting(RetrieverCard);

    impl Retriever for Counting {
        fn card(&self) -> &RetrieverCard {
            &self.0
        }

        fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
            let hits = |request: &Request| (0..request.k.min(9) as u32).map(|doc| Hit { doc, score: 1.0 }).collect();
            requests.iter().map(|request| Ok(Ranking { hits: hits(request) })).collect()
        }

        fn document(&self, document: Ordinal) -> Option<DocumentName> {
            Some(DocumentName::new(format!("d{document}"), ""))
        }
    }

    /// Puts the fourth document first, and after it one that is not there.
    struct Reorders;

    impl Rewriter for Reorders {
        fn name(&self) -> &str {
            "reorders"
        }

        fn rewrite(&self, queries: &[Query], deadline: Deadline) -> Vec<Result<Rewrite>> {
            let order = Order::new(vec![3, 99], 5);
            let one = |query: &Query| match query.text.as_str() {
                "slow" => Err(Error::Format("none".into())),
                text => Ok(Rewrite::plain(text).with_order(order.clone())),
            };
            queries.iter().map(|query| deadline.check().and_then(|()| one(query))).collect()
        }
    }

    #[test]
    fn a_new_order_is_searched_for_traced_by_ids_and_cached_and_a_fallback_keeps_the_first_one() {
        let counting = Counting(RetrieverCard::new("counting", "0").with_documents(200));
        let stack = Stack::builder().retriever(counting).rewriter(Reorders).cache(4).build().unwrap();
        let ids = |answer: &Answer| answer.hits.iter().map(|hit| hit.id.clone()).collect::<Vec<_>>();
        for kind in ["rewritten", "cached"] {
            let answer = stack.search("tea", 2).unwrap();
            assert_eq!((ids(&answer), answer.trace.outcome.kind()), (vec!["d3".into(), "d0".into()], kind));
            let told = serde_json::to_value(&answer.trace).unwrap();
            assert_eq!(told["first"], serde_json::json!(["d3", "d99"]));
        }
        let answer = stack.search("slow", 2).unwrap();
        assert_eq!((ids(&answer), answer.trace.first.len()), (vec!["d0".into(), "d1".into()], 0));
        assert!(serde_json::to_value(&answer.trace).unwrap().get("first").is_none());
    }
}
