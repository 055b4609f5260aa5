//! A stack keeps its promises whatever fails behind it: a rewrite that is late, wrong or broken costs a search nothing
//! but that rewrite.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use querywright::catalog::{Catalog, CatalogBuilder};
use querywright::error::{Error, Fault, FaultKind, Result};
use querywright::retrieve::{Bm25, Bm25Config};
use querywright::stack::{Answer, Stack, StackBuilder, TraceOutcome};
use querywright::types::{Deadline, Query, Ranking, Request, Retriever, RetrieverCard, Rewrite, Rewriter};

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

    fn retrieve(&self, requests: &[Request]) -> Vec<Result<Ranking, Fault>> {
        let one = |request: &Request| match (self.fails)(&request.text) {
            true => Err(Fault { retriever: "bm25".into(), kind: FaultKind::Network, detail: "the line is cut".into() }),
            false => self.inner.search(request),
        };
        requests.iter().map(one).collect()
    }
}

fn ids(answer: &Answer) -> Vec<&str> {
    answer.hits.iter().map(|hit| hit.id.as_str()).collect()
}

/// The original query was searched for, and the trace says why.
fn fell_back(answer: &Answer, reason: &str) {
    assert_eq!(answer.trace.searched, Rewrite::plain(answer.trace.query.clone()));
    match &answer.trace.outcome {
        TraceOutcome::FellBack(why) => assert!(why.contains(reason), "\"{why}\" should say \"{reason}\""),
        other => panic!("{other:?} where it should have fallen back"),
    }
}

#[test]
fn a_rewrite_is_searched_for_and_the_trace_tells_it() {
    let answer = stack().rewriter(By(to_lamp)).deadline(SOON).build().unwrap().search("see at night", 5).unwrap();
    assert_eq!(ids(&answer), ["lamp"]);
    assert_eq!((answer.hits[0].title.as_str(), answer.trace.query.as_str()), ("reading lamp", "see at night"));
    assert_eq!((&answer.trace.outcome, &answer.trace.searched), (&TraceOutcome::Rewritten, &Rewrite::plain("lamp")));
    assert_eq!((answer.trace.rewriter.as_deref(), answer.trace.retriever.as_str()), (Some("by closure"), "bm25"));
}

#[test]
fn without_a_rewriter_the_original_query_is_searched_for() {
    let answer = stack().build().unwrap().search("mat", 5).unwrap();
    assert_eq!(answer.trace.outcome, TraceOutcome::Original);
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
    assert!(start.elapsed() >= DEADLINE && start.elapsed() < SOON, "{:?}", start.elapsed());
    fell_back(&answer, "deadline of 100ms");
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
    let stack = stack().rewriter(rewriter).deadline(DEADLINE).build().unwrap();
    fell_back(&stack.search("mat one", 5).unwrap(), "deadline");
    fell_back(&stack.search("mat two", 5).unwrap(), "deadline");
    let start = Instant::now();
    fell_back(&stack.search("mat three", 5).unwrap(), "deadline");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(calls.load(Ordering::SeqCst), 1, "nothing else was begun");
    gate.wait();
    // What nobody waits for any more is not rewritten: the second query's time was up when its turn came.
    let start = Instant::now();
    let answer = loop {
        let answer = stack.search("mat four", 5).unwrap();
        if answer.trace.outcome == TraceOutcome::Rewritten || start.elapsed() > SOON {
            break answer;
        }
    };
    assert_eq!(answer.trace.outcome, TraceOutcome::Rewritten);
    assert_eq!(ids(&answer), ["lamp"]);
}

#[test]
fn a_rewrite_that_fails_falls_back_with_its_reason() {
    let broken = || By(|_: &Query| Err(Error::Format("the tag <answer> is missing".into())));
    for builder in [stack(), stack().deadline(SOON)] {
        let answer = builder.rewriter(broken()).build().unwrap().search("mat", 5).unwrap();
        fell_back(&answer, "the tag <answer> is missing");
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
    fell_back(&stack().rewriter(Empty).build().unwrap().search("mat", 5).unwrap(), "no answer");
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
            fell_back(&stack.search("mat", 5).unwrap(), "panicked");
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
    fell_back(&answer, "the line is cut");
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
    let outcome = |text: &str| stack.search(text, 5).unwrap().trace.outcome;
    assert_eq!((outcome("one"), outcome("one"), outcome("two")), {
        (TraceOutcome::Rewritten, TraceOutcome::Cached, TraceOutcome::Rewritten)
    });
    assert_eq!(outcome("three"), TraceOutcome::Rewritten);
    assert_eq!((outcome("two"), outcome("one")), (TraceOutcome::Cached, TraceOutcome::Rewritten));
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    // Another history is another query.
    let with_history = Query { history: vec![0], ..Query::text("one") };
    assert_eq!(stack.search_query(&with_history, 5).unwrap().trace.outcome, TraceOutcome::Rewritten);
}

#[test]
fn a_failed_rewrite_is_tried_again_the_next_time() {
    let calls = AtomicUsize::new(0);
    let rewriter = By(move |query: &Query| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Err(Error::Format("not today".into())),
        _ => to_lamp(query),
    });
    let stack = stack().rewriter(rewriter).cache(8).build().unwrap();
    fell_back(&stack.search("mat", 5).unwrap(), "not today");
    assert_eq!(stack.search("mat", 5).unwrap().trace.outcome, TraceOutcome::Rewritten);
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
    let query = Query { history: vec![had], ..Query::text("woven mat") };
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
        let rewritten = answer.trace.outcome == TraceOutcome::Rewritten;
        assert!(rewritten || matches!(answer.trace.outcome, TraceOutcome::FellBack(_)));
        assert_eq!(ids(&answer).contains(&"lamp"), rewritten);
        *outcomes.entry(rewritten).or_default() += 1;
    }
    assert!(outcomes.contains_key(&true), "{outcomes:?}");
}

#[test]
fn what_makes_no_stack_or_no_search_is_refused_by_name() {
    let refused = |builder: StackBuilder| builder.build().err().expect("refused").to_string();
    let catalog = catalog();
    let none = refused(Stack::builder().retriever(bm25(&catalog)));
    assert!(none.contains("catalog") && none.contains(".catalog(…)"), "{none}");
    let none = refused(Stack::builder().catalog(catalog));
    assert!(none.contains(".retriever(…)"), "{none}");
    let threads = refused(stack().rewriter(By(to_lamp)).deadline(SOON).rewrite_threads(0));
    assert!(threads.contains("rewrite_threads") && threads.contains("at least 1"), "{threads}");
    let zero = stack().build().unwrap().search("mat", 0).unwrap_err().to_string();
    assert!(zero.contains('k') && zero.contains("found 0") && zero.contains("at least 1"), "{zero}");
}
