//! The plugin with an engine of a few lines that answers from memory.

use std::collections::VecDeque;

use querywright_plugin::host::{HttpError, Request as Sent, Response};
use querywright_plugin::{Document, Fault, Hit, QueryLanguage, Recommender, Request};
use remote::{Host, Remote, Send, Settings};
use serde_json::{Value, json};

const TEXTS: [&str; 5] = ["tea pot", "coffee pot", "tea tea kettle", "chair", "pot pot pot of tea"];

/// Counts words. Refuses a Boolean query with an open bracket, as an engine does. Has one document more than the
/// catalogue.
#[derive(Default)]
struct Engine {
    sent: Vec<Value>,
    /// Responses that are sent first, instead of computed ones.
    prepared: VecDeque<Result<Response, HttpError>>,
}

fn response(status: u16, body: &str) -> Response {
    Response { status, headers: Vec::new(), body: body.as_bytes().to_vec() }
}

fn count(text: &str, query: &str) -> usize {
    query.split_whitespace().map(|word| text.split(' ').filter(|w| *w == word).count()).sum()
}

impl Send for Engine {
    fn send(&mut self, request: &Sent) -> Result<Response, HttpError> {
        assert_eq!(request.url, "http://localhost:9200/x/_search");
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        self.sent.push(body.clone());
        if let Some(prepared) = self.prepared.pop_front() {
            return prepared;
        }
        let wrapped = &body["query"]["bool"];
        let query = if wrapped.is_null() { &body["query"] } else { &wrapped["must"][0] };
        let excluded: Vec<&str> = match wrapped["must_not"][0]["ids"]["values"].as_array() {
            Some(ids) => ids.iter().map(|id| id.as_str().unwrap()).collect(),
            None => Vec::new(),
        };
        if query["query_string"]["query"].as_str().is_some_and(|text| text.contains('(')) {
            return Ok(response(400, "{\"error\": \"parse_exception\"}"));
        }
        let words = query["query_string"]["query"].as_str().or(query["multi_match"]["query"].as_str()).unwrap();
        let texts = TEXTS.iter().chain([&"tea tea tea tea"]).enumerate();
        let mut hits: Vec<(String, usize)> =
            texts.map(|(item, text)| (format!("d{item}"), count(text, words))).collect();
        hits.retain(|(id, score)| *score > 0 && !excluded.contains(&id.as_str()));
        hits.sort_by_key(|(_, score)| std::cmp::Reverse(*score));
        hits.truncate(body["size"].as_u64().unwrap() as usize);
        let hits: Vec<Value> = hits.iter().map(|(id, score)| json!({"_id": id, "_score": score})).collect();
        Ok(response(200, &json!({"timed_out": false, "_shards": {"failed": 0}, "hits": {"hits": hits}}).to_string()))
    }
}

/// An engine that the test can inspect after the plugin has used it.
#[derive(Default)]
struct Shared;

thread_local! {
    static ENGINE: std::cell::RefCell<Engine> = std::cell::RefCell::default();
}

impl Send for Shared {
    fn send(&mut self, request: &Sent) -> Result<Response, HttpError> {
        ENGINE.with_borrow_mut(|engine| engine.send(request))
    }
}

fn plugin() -> Remote<Shared> {
    let mut plugin = Remote::<Shared>::default();
    let documents = (0..).zip(TEXTS).map(|(item, text)| Document::new(item, &format!("d{item}"), &[("text", text)]));
    plugin.load(documents.collect()).unwrap();
    plugin.configure(br#"{"url": "http://localhost:9200/x/_search", "fields": ["text^2"]}"#).unwrap();
    plugin
}

fn pairs(hits: Result<Vec<Hit>, Fault>) -> Vec<(u32, f32)> {
    hits.unwrap().iter().map(|hit| (hit.item, hit.score)).collect()
}

#[test]
fn rankings_are_the_engines_without_items_that_are_excluded_or_not_in_the_catalogue() {
    let mut plugin = plugin();
    // By hand: tea and pot in d0 1+1, d1 0+1, d2 2+0, d4 1+3; d5 is unknown here.
    let all = [(4, 4.0), (0, 2.0), (2, 2.0), (1, 1.0)];
    assert_eq!(pairs(plugin.recommend(&Request::plain("tea pot", 10))), all);
    let without = Request { exclude: vec![4, 2, 77], ..Request::plain("tea pot", 10) };
    assert_eq!(pairs(plugin.recommend(&without)), [(0, 2.0), (1, 1.0)]);
    assert_eq!(pairs(plugin.recommend(&Request::plain("nothing", 10))), []);
    assert_eq!(pairs(plugin.recommend(&Request::plain("  ", 10))), []);
    ENGINE.with_borrow(|engine| {
        assert_eq!(engine.sent.len(), 3, "an empty text is not sent");
        assert_eq!(engine.sent[0]["query"]["multi_match"]["fields"], json!(["text^2"]));
        assert_eq!(engine.sent[0]["size"], 10);
    });
}

#[test]
fn a_boolean_query_that_the_engine_refuses_is_sent_as_plain_words() {
    let mut plugin = plugin();
    let boolean = |text: &str| Request { language: QueryLanguage::Boolean, ..Request::plain(text, 10) };
    assert_eq!(pairs(plugin.recommend(&boolean("chair"))), [(3, 1.0)]);
    assert_eq!(pairs(plugin.recommend(&boolean("( chair"))), [(3, 1.0)]);
    ENGINE.with_borrow(|engine| {
        let kinds: Vec<_> = engine.sent.iter().map(|body| body["query"]["query_string"].is_object()).collect();
        assert_eq!(kinds, [true, true, false]);
    });
}

#[test]
fn an_incomplete_or_failed_response_is_a_fault_of_its_kind() {
    type Is = fn(&Fault) -> bool;
    let cases: [(Result<Response, HttpError>, Is); 11] = [
        (Err(HttpError::Denied), |f| matches!(f, Fault::Denied(what) if what == "http")),
        (Err(HttpError::Timeout), |f| matches!(f, Fault::Timeout)),
        (Err(HttpError::Network("gone".into())), |f| matches!(f, Fault::Network(_))),
        (Err(HttpError::TooLarge), |f| matches!(f, Fault::Internal(why) if why.contains("host_bytes"))),
        (Ok(response(503, "")), |f| matches!(f, Fault::Network(_))),
        (Ok(response(504, "")), |f| matches!(f, Fault::Timeout)),
        (Ok(response(401, "no key")), |f| matches!(f, Fault::Internal(why) if why.contains("no key"))),
        (Ok(response(200, "{\"hits\": {\"hits\": [")), |f| matches!(f, Fault::Unreadable(_))),
        (Ok(response(200, "{\"hits\": {\"hits\": [{\"_id\": \"d0\"}]}}")), |f| matches!(f, Fault::Unreadable(_))),
        (Ok(response(200, "{\"timed_out\": true, \"hits\": {\"hits\": []}}")), |f| matches!(f, Fault::Timeout)),
        (Ok(response(200, "{\"_shards\": {\"failed\": 2}}")), |f| matches!(f, Fault::Network(_))),
    ];
    let mut plugin = plugin();
    for (nth, (prepared, is)) in cases.into_iter().enumerate() {
        ENGINE.with_borrow_mut(|engine| engine.prepared.push_back(prepared));
        let fault = plugin.recommend(&Request::plain("tea", 3)).unwrap_err();
        assert!(is(&fault), "case {nth}: {fault:?}");
    }
}

#[test]
fn settings_that_cannot_be_used_are_named() {
    let defaults = Settings::parse(br#"{"url": "http://h/x/_search"}"#).unwrap();
    assert_eq!((defaults.timeout_ms, defaults.fields.len()), (1_000, 0));
    for (json, named) in [
        ("[]", "JSON object"),
        ("{}", "url"),
        (r#"{"url": 1}"#, "url"),
        (r#"{"url": "u", "fields": "title"}"#, "fields"),
        (r#"{"url": "u", "headers": {"a": 1}}"#, "headers"),
        (r#"{"url": "u", "timeout_ms": 0}"#, "timeout_ms"),
        (r#"{"url": "u", "feilds": []}"#, "feilds"),
    ] {
        let result = Settings::parse(json.as_bytes());
        assert!(matches!(&result, Err(Fault::Unreadable(why)) if why.contains(named)), "{json}: {result:?}");
    }
    assert!(matches!(Remote::<Host>::default().commit(), Err(Fault::Denied(what)) if what == "artifact remote.json"));
}
