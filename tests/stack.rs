//! A stack keeps its promises whatever fails behind it: a rewrite that is late, wrong or broken costs a search nothing
//! but that rewrite.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use querywright::catalog::{Catalog, CatalogBuilder};
use querywright::error::{Error, Fault, FaultKind, Result};
use querywright::retrieve::{Bm25, Bm25Config};
use querywright::stack::{Answer, SearchOptions, Stack, StackBuilder, TraceOutcome};
use querywright::types::{
    Deadline, DocumentName, Hit, Ordinal, Query, Ranking, Request, Retriever, RetrieverCard, Rewrite, Rewriter,
};

const DEADLINE: Duration = Duration::from_millis(100);
/// Machines that test are busy: what the deadline promises is checked with this margin.
const SOON: Duration = Duration::from_millis(1000);

fn catalog() -> Arc<Catalog> {
    let mut builder = CatalogBuilder::new();
    for (id, title) in [("mat", "anti fatigue mat"), ("lamp", "reading lamp"), ("rug", "woven mat rug")] {
        builder.push(id, [("title", title)]).unwrap();
    }
    Arc::new(builder.finish())
}

fn bm25(catalog: &Arc<Catalog>) -> Bm25 {
    Bm25::in_memory(catalog.clone(), Bm25Config::default()).unwrap()
}

fn stack() -> StackBuilder {
    let catalog = catalog();
    Stack::builder().catalog(catalog.clone()).retriever(bm25(&catalog))
}

/// A rewriter that is one closure.
struct By<F>(F);

impl<F: Fn(&Query) -> Result<Rewrite> + Send + Sync> Rewriter for By<F> {
    fn name(&self) -> &str {
        "by closure"
    }

    fn rewrite(&self, queries: &[Query], _: Deadline) -> Vec<Result<Rewrite>> {
        queries.iter().map(&self.0).collect()
    }
}

fn to_lamp(_: &Query) -> Result<Rewrite> {
    Ok(Rewrite::plain("lamp"))
}

/// A retriever that fails for some texts.
struct Fails {
    inner: Bm25,
    fails: fn(&str) -> bool,
}

impl Retriever for Fails {
    fn card(&self) -> &RetrieverCard {
        self.inner.card()
    }

    fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
        let one = |request: &Request| match (self.fails)(&request.text) {
            true => Err(Fault::new("bm25", FaultKind::Network, "the line is cut")),
            false => self.inner.search(request),
        };
        requests.iter().map(one).collect()
    }
}

fn ids(answer: &Answer) -> Vec<&str> {
    answer.hits.iter().map(|hit| hit.id.as_str()).collect()
}

/// The original query was searched for, and the trace says why, in words and as a code; to the outside, in words that quote
/// nobody.
fn fell_back(answer: &Answer, code: &str, reason: &str) {
    assert_eq!(answer.trace.searched, Rewrite::plain(answer.trace.query.clone()));
    let Some(error) = answer.trace.outcome.fallback() else {
        panic!("{:?} where it should have fallen back", answer.trace.outcome)
    };
    let why = error.to_string();
    assert!(why.contains(reason), "\"{why}\" should say \"{reason}\"");
    assert_eq!(error.code(), code, "{why}");
    let json = serde_json::to_value(&answer.trace.outcome).unwrap();
    assert_eq!(json, serde_json::json!({ "kind": "fell_back", "code": code, "reason": error.summary() }));
}

fn rewritten(answer: &Answer) -> bool {
    answer.trace.outcome.kind() == "rewritten"
}

#[test]
fn a_rewrite_is_searched_for_and_the_trace_tells_it() {
    let answer = stack().rewriter(By(to_lamp)).deadline(SOON).build().unwrap().search("see at night", 5).unwrap();
    assert_eq!(ids(&answer), ["lamp"]);
    assert_eq!((answer.hits[0].title.as_str(), answer.trace.query.as_str()), ("reading lamp", "see at night"));
    assert_eq!((answer.trace.outcome.kind(), &answer.trace.searched), ("rewritten", &Rewrite::plain("lamp")));
    assert_eq!((answer.trace.rewriter.as_deref(), answer.trace.retriever.as_str()), (Some("by closure"), "bm25"));
}

#[test]
fn without_a_rewriter_the_original_query_is_searched_for() {
    let answer = stack().build().unwrap().search("mat", 5).unwrap();
    assert!(matches!(answer.trace.outcome, TraceOutcome::Original));
    assert_eq!(answer.hits.len(), 2);
}

#[test]
fn a_rewrite_that_comes_late_is_not_waited_for() {
    let sleeper = By(|query: &Query| {
        std::thread::sleep(Duration::from_secs(4));
        to_lamp(query)
    });
    let stack = stack().rewriter(sleeper).deadline(DEADLINE).build().unwrap();
    let start = Instant::now();
    let answer = stack.search("mat", 5).unwrap();
    // A quarter of the 100 ms is kept for retrieval.
    assert!(start.elapsed() >= DEADLINE * 3 / 4 && start.elapsed() < SOON, "{:?}", start.elapsed());
    fell_back(&answer, "deadline", "deadline of 75ms");
    assert_eq!(answer.hits.len(), 2);
}

#[test]
fn a_full_queue_falls_back_at_once_and_a_free_one_rewrites_again() {
    // The one thread waits in the first rewrite until the test lets go; the second query waits in the queue.
    let gate = Arc::new(Barrier::new(2));
    let calls = Arc::new(AtomicUsize::new(0));
    let rewriter = {
        let (gate, calls) = (gate.clone(), calls.clone());
        By(move |query: &Query| {
            if calls.fetch_add(1, Ordering::SeqCst) == 0 {
                gate.wait();
            }
            to_lamp(query)
        })
    };
    let stack = stack().rewriter(rewriter).deadline(DEADLINE).rewrite_threads(1).build().unwrap();
    fell_back(&stack.search("mat one", 5).unwrap(), "deadline", "deadline");
    fell_back(&stack.search("mat two", 5).unwrap(), "deadline", "deadline");
    let start = Instant::now();
    fell_back(&stack.search("mat three", 5).unwrap(), "overloaded", "the queue is full");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(calls.load(Ordering::SeqCst), 1, "nothing else was begun");
    gate.wait();
    // What nobody waits for any more is not rewritten: the second query's time was up when its turn came.
    let start = Instant::now();
    let answer = loop {
        let answer = stack.search("mat four", 5).unwrap();
        if rewritten(&answer) || start.elapsed() > SOON {
            break answer;
        }
    };
    assert!(rewritten(&answer));
    assert_eq!(ids(&answer), ["lamp"]);
}

#[test]
fn a_rewrite_that_fails_falls_back_with_its_reason() {
    let broken = || By(|_: &Query| Err(Error::Format("the tag <answer> is missing".into())));
    for builder in [stack(), stack().deadline(SOON)] {
        let answer = builder.rewriter(broken()).build().unwrap().search("mat", 5).unwrap();
        fell_back(&answer, "format", "the tag <answer> is missing");
        assert_eq!(answer.hits.len(), 2);
    }
}

#[test]
fn a_rewriter_that_gives_no_answer_falls_back() {
    struct Empty;
    impl Rewriter for Empty {
        fn name(&self) -> &str {
            "empty"
        }

        fn rewrite(&self, _: &[Query], _: Deadline) -> Vec<Result<Rewrite>> {
            Vec::new()
        }
    }
    fell_back(&stack().rewriter(Empty).build().unwrap().search("mat", 5).unwrap(), "rewriter", "no answer");
}

#[test]
fn a_rewriter_that_panics_costs_its_own_query_alone() {
    for builder in [stack(), stack().deadline(SOON)] {
        let moody = By(|query: &Query| match query.text.as_str() {
            "mat" => std::panic::resume_unwind(Box::new("a bug")),
            _ => to_lamp(query),
        });
        let stack = builder.rewriter(moody).build().unwrap();
        for _ in 0..3 {
            fell_back(&stack.search("mat", 5).unwrap(), "rewriter", "panicked");
        }
        assert_eq!(ids(&stack.search("see at night", 5).unwrap()), ["lamp"]);
    }
}

#[test]
fn a_rewrite_that_the_retriever_fails_for_falls_back_to_the_original() {
    let catalog = catalog();
    let retriever = Fails { inner: bm25(&catalog), fails: |text| text == "lamp" };
    let stack = Stack::builder().catalog(catalog).retriever(retriever).rewriter(By(to_lamp)).build().unwrap();
    let answer = stack.search("mat", 5).unwrap();
    fell_back(&answer, "network", "the line is cut");
    assert_eq!(answer.hits.len(), 2);
}

#[test]
fn a_retriever_that_fails_for_the_original_too_is_a_fault() {
    let catalog = catalog();
    for rewriter in [None, Some(By(to_lamp as fn(&Query) -> Result<Rewrite>))] {
        let retriever = Fails { inner: bm25(&catalog), fails: |_| true };
        let mut builder = Stack::builder().catalog(catalog.clone()).retriever(retriever);
        if let Some(rewriter) = rewriter {
            builder = builder.rewriter(rewriter);
        }
        let error = builder.build().unwrap().search("mat", 5).unwrap_err();
        assert!(error.is_fault() && error.to_string().contains("the line is cut"), "{error}");
    }
}

#[test]
fn a_rewrite_made_before_is_taken_from_the_cache_until_newer_ones_push_it_out() {
    let calls = Arc::new(AtomicUsize::new(0));
    let rewriter = {
        let calls = calls.clone();
        By(move |query: &Query| {
            calls.fetch_add(1, Ordering::SeqCst);
            to_lamp(query)
        })
    };
    let stack = stack().rewriter(rewriter).cache(2).build().unwrap();
    let outcome = |text: &str| stack.search(text, 5).unwrap().trace.outcome.kind();
    assert_eq!((outcome("one"), outcome("one"), outcome("two")), { ("rewritten", "cached", "rewritten") });
    assert_eq!(outcome("three"), "rewritten");
    assert_eq!((outcome("two"), outcome("one")), ("cached", "rewritten"));
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    // Another history is another query.
    let with_history = Query::text("one").with_history([0]);
    assert!(rewritten(&stack.search_query(&with_history, 5).unwrap()));
}

#[test]
fn a_failed_rewrite_is_tried_again_the_next_time() {
    let calls = AtomicUsize::new(0);
    let rewriter = By(move |query: &Query| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Err(Error::Format("not today".into())),
        _ => to_lamp(query),
    });
    let stack = stack().rewriter(rewriter).cache(8).build().unwrap();
    fell_back(&stack.search("mat", 5).unwrap(), "format", "not today");
    assert!(rewritten(&stack.search("mat", 5).unwrap()));
}

#[test]
fn fusing_keeps_what_either_text_finds() {
    let plain = stack().rewriter(By(to_lamp)).build().unwrap().search("woven rug", 5).unwrap();
    assert_eq!(ids(&plain), ["lamp"]);
    let fused = stack().rewriter(By(to_lamp)).fuse_original(true).build().unwrap().search("woven rug", 5).unwrap();
    let mut both = ids(&fused);
    both.sort_unstable();
    assert_eq!(both, ["lamp", "rug"]);
    assert_eq!(fused.trace.searched, Rewrite::plain("lamp"));
    let one = stack().rewriter(By(to_lamp)).fuse_original(true).build().unwrap().search("woven rug", 1).unwrap();
    assert_eq!(one.hits.len(), 1, "no more hits than were asked for");
}

#[test]
fn items_of_the_history_never_appear() {
    let catalog = catalog();
    let had = catalog.ordinal("mat").unwrap();
    let query = Query::text("woven mat").with_history([had]);
    let to_mat = || By(|_: &Query| Ok(Rewrite::plain("anti fatigue mat lamp")));
    for builder in [stack(), stack().rewriter(to_mat()), stack().rewriter(to_mat()).fuse_original(true)] {
        let answer = builder.build().unwrap().search_query(&query, 5).unwrap();
        assert!(!answer.hits.is_empty() && !ids(&answer).contains(&"mat"), "{:?}", ids(&answer));
    }
}

#[test]
fn many_threads_may_search_one_stack() {
    let stack = Arc::new(stack().rewriter(By(to_lamp)).deadline(SOON).rewrite_threads(2).cache(4).build().unwrap());
    let mut outcomes: HashMap<bool, usize> = HashMap::new();
    let searches: Vec<_> = (0..8)
        .map(|i| {
            let stack = stack.clone();
            std::thread::spawn(move || stack.search(&format!("mat {i}"), 5).unwrap())
        })
        .collect();
    for search in searches {
        let answer = search.join().unwrap();
        let rewritten = rewritten(&answer);
        assert!(rewritten || answer.trace.outcome.fallback().is_some());
        assert_eq!(ids(&answer).contains(&"lamp"), rewritten);
        *outcomes.entry(rewritten).or_default() += 1;
    }
    assert!(outcomes.contains_key(&true), "{outcomes:?}");
}

#[test]
fn what_makes_no_stack_or_no_search_is_refused_by_name() {
    let refused = |builder: StackBuilder| builder.build().unwrap_err().to_string();
    let catalog = catalog();
    let none = refused(Stack::builder().catalog(catalog));
    assert!(none.contains(".retriever(…)"), "{none}");
    let reserve = refused(stack().rewriter(By(to_lamp)).deadline(DEADLINE).reserve(DEADLINE));
    assert!(reserve.contains("reserve: found 100ms") && reserve.contains("less than the deadline"), "{reserve}");
    let threads = refused(stack().rewriter(By(to_lamp)).deadline(SOON).rewrite_threads(0));
    assert!(threads.contains("rewrite_threads") && threads.contains("at least 1"), "{threads}");
    let zero = stack().build().unwrap().search("mat", 0).unwrap_err().to_string();
    assert!(zero.contains('k') && zero.contains("found 0") && zero.contains("at least 1"), "{zero}");
}

/// A remote engine, as far as the stack sees: it names its hits itself, and does what it is told with a request.
struct Remote {
    card: RetrieverCard,
    answer: fn(&Request, Deadline) -> Result<Vec<Ordinal>, Fault>,
}

impl Remote {
    fn new(answer: fn(&Request, Deadline) -> Result<Vec<Ordinal>, Fault>) -> Self {
        Self { card: RetrieverCard::new("remote", "1"), answer }
    }
}

impl Retriever for Remote {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    fn retrieve(&self, requests: &[Request], deadline: Deadline) -> Vec<Result<Ranking, Fault>> {
        let hits = |docs: Vec<Ordinal>| Ranking { hits: docs.into_iter().map(|doc| Hit { doc, score: 1.0 }).collect() };
        requests.iter().map(|request| (self.answer)(request, deadline).map(hits)).collect()
    }

    fn document(&self, document: Ordinal) -> Option<DocumentName> {
        (document < 100).then(|| DocumentName::new(format!("r{document}"), ""))
    }
}

#[test]
fn without_a_catalogue_the_retriever_names_its_hits_itself() {
    let stack = Stack::builder().retriever(Remote::new(|_, _| Ok(vec![7, 3]))).build().unwrap();
    assert_eq!(ids(&stack.search("x", 5).unwrap()), ["r7", "r3"]);
    let stack = Stack::builder().retriever(Remote::new(|_, _| Ok(vec![7, 100]))).build().unwrap();
    let error = stack.search("x", 5).unwrap_err();
    assert!(error.code() == "contract" && error.to_string().contains("document 100 and no name for it"), "{error}");
}

#[test]
fn the_retriever_gets_the_deadline_of_the_whole_request() {
    let remote = || {
        Remote::new(|_, deadline| match deadline.left() {
            Some(left) if left <= DEADLINE => Ok(vec![1]),
            Some(_) => Ok(vec![2]),
            None => Ok(vec![3]),
        })
    };
    let slow = || {
        By(|_: &Query| {
            std::thread::sleep(DEADLINE * 4);
            Ok(Rewrite::plain("late"))
        })
    };
    let found = |builder: StackBuilder, options: &SearchOptions| {
        let answer = builder.build().unwrap().search_with(&Query::text("x"), options).unwrap();
        (ids(&answer)[0].to_owned(), answer.trace.outcome.kind())
    };
    let options = SearchOptions::new(1);
    assert_eq!(found(Stack::builder().retriever(remote()), &options), ("r3".into(), "original"));
    // After the rewrite's time is over the retriever has what was kept for it.
    let builder = Stack::builder().retriever(remote()).rewriter(slow()).deadline(DEADLINE * 2).reserve(DEADLINE);
    assert_eq!(found(builder, &options), ("r1".into(), "fell_back"));
    // A request may have less time than the stack allows, and never more.
    let stack = || Stack::builder().retriever(remote()).deadline(SOON * 10);
    assert_eq!(found(stack(), &options.clone().deadline(DEADLINE)), ("r1".into(), "original"));
    assert_eq!(found(stack(), &options.deadline(Duration::MAX)), ("r2".into(), "original"));
}

#[test]
fn a_retriever_that_lets_the_deadline_pass_is_a_fault_of_time() {
    let late = Remote::new(|_, deadline| {
        std::thread::sleep(DEADLINE);
        deadline.check_for("remote").map(|()| vec![1])
    });
    let error = Stack::builder().retriever(late).deadline(DEADLINE / 2).build().unwrap().search("x", 1).unwrap_err();
    assert!(error.is_deadline() && error.code() == "timeout", "{error}");
}

#[test]
fn an_answer_that_breaks_the_contract_never_reaches_the_searcher() {
    for (answer, part) in [
        ((|_, _| Ok(vec![1, 1])) as fn(&Request, Deadline) -> Result<Vec<Ordinal>, Fault>, "document 1 twice"),
        (|_, _| Ok(vec![0, 1, 2, 3, 4, 5]), "6 hits where at most 5"),
        (|_, _| Ok(vec![9]), "document 9, which was excluded"),
    ] {
        let stack = Stack::builder().retriever(Remote::new(answer)).build().unwrap();
        let error = stack.search_with(&Query::text("x"), &SearchOptions::new(5).exclude([9])).unwrap_err();
        assert!(error.code() == "contract" && error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_retriever_and_a_rewriter_may_be_shared() {
    let catalog = catalog();
    let retriever: Arc<dyn Retriever> = Arc::new(bm25(&catalog));
    let rewriter: Arc<dyn Rewriter> = Arc::new(By(to_lamp));
    let stack = || Stack::builder().catalog(catalog.clone()).retriever(retriever.clone()).rewriter(rewriter.clone());
    for stack in [stack().build().unwrap(), stack().build().unwrap()] {
        assert_eq!(ids(&stack.search("see at night", 5).unwrap()), ["lamp"]);
    }
}
