use std::time::Instant;

use serde_json::{Value, json};

use super::*;

#[test]
fn a_search_says_what_it_found_and_what_happened_on_the_way() {
    let shop = shop();
    let answer = shop.client.post("/v1/search", &json!({ "query": "mat", "k": 3, "exclude": ["d1"] }));
    let object = answer.json();
    assert_eq!((answer.status, object["hits"].as_array().unwrap().len()), (200, 3));
    assert_eq!((&object["hits"][0]["id"], &object["hits"][1]["id"]), (&json!("d0"), &json!("d2")));
    assert_eq!(object["trace"]["searched"]["text"], "mat lamp");
    assert_eq!(object["trace"]["outcome"]["kind"], "rewritten");
    assert!(object["took_ms"].is_number());
    let again = shop.client.post("/v1/search", &json!({ "query": "mat" })).json();
    assert_eq!(again["trace"]["outcome"]["kind"], "cached");
    let original = shop.client.post("/v1/search", &json!({ "query": "mat", "rewriter": "original" })).json();
    assert_eq!(
        (&original["trace"]["searched"]["text"], original["hits"].as_array().unwrap().len()),
        (&json!("mat"), 10)
    );
    let empty = shop.client.post("/v1/search", &json!({ "query": " " })).json();
    assert_eq!((&empty["trace"]["outcome"]["kind"], &empty["hits"]), (&json!("empty"), &json!([])));
}

#[test]
fn several_queries_keep_their_order_and_one_that_fails_fails_alone() {
    let shop = shop();
    let body = json!({ "queries": ["a", "broken", "b", "panic"], "rewriter": "original", "engine": "other" });
    let answer = shop.client.post("/v1/search", &body);
    let answers = answer.json()["answers"].as_array().unwrap().clone();
    assert_eq!((answer.status, answers.len()), (200, 4));
    assert_eq!((&answers[0]["trace"]["query"], &answers[2]["trace"]["query"]), (&json!("a"), &json!("b")));
    assert_eq!((&answers[1]["error"]["code"], &answers[3]["error"]["code"]), (&json!("network"), &json!("bug")));
    let rewritten = shop.client.post("/v1/rewrite", &json!({ "queries": ["a", "b"] })).json();
    assert_eq!(rewritten["traces"][1]["searched"]["text"], "b lamp");
    let one = shop.client.post("/v1/rewrite", &json!({ "query": "a" })).json();
    assert_eq!(one["trace"]["outcome"]["kind"], "cached");
}

#[test]
fn what_fails_inside_is_told_by_a_code_and_a_fixed_sentence_and_logged_without_the_query() {
    let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = lines.clone();
    let service = Service::new(config()).unwrap().engine(engine("shop"));
    let shop = run(service.log_to(move |line| kept.lock().unwrap().push(line.to_owned())));
    let body = json!({ "query": "broken", "rewriter": "original" });
    let answer = shop.client.send("POST", "/v1/search", "x-request-id: mine-1\r\n", body.to_string().as_bytes());
    assert_eq!((answer.status, answer.error().0.as_str()), (502, "network"));
    assert!(!answer.body.contains("10.0.0.7") && !answer.body.contains("key=abc"), "{}", answer.body);
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
    let panic = shop.client.post("/v1/search", &json!({ "query": "panic", "rewriter": "original" }));
    assert_eq!((panic.status, panic.error().0.as_str()), (500, "bug"));
    assert!(panic.header("x-request-id").unwrap().starts_with("req-"));
    let log = lines.lock().unwrap().join("\n");
    assert!(log.contains("request mine-1") && log.contains("10.0.0.7") && !log.contains("\"broken\""), "{log}");
}

#[test]
fn a_request_that_cannot_be_used_is_refused_by_the_part_that_is_wrong() {
    let shop = shop();
    let long = "x".repeat(9000);
    let cases: Vec<(Value, u16, &str)> = vec![
        (json!({}), 400, "query"),
        (json!({ "query": "a", "queries": ["b"] }), 400, "queries"),
        (json!({ "queries": [] }), 400, "queries"),
        (json!({ "queries": vec!["a"; 101] }), 400, "queries"),
        (json!({ "query": "a", "k": 0 }), 400, "k"),
        (json!({ "query": "a", "k": 1001 }), 400, "k"),
        (json!({ "query": "a", "k": -1 }), 400, "body"),
        (json!({ "query": "a", "k": 1e9 }), 400, "body"),
        (json!({ "query": 3 }), 400, "body"),
        (json!({ "qeury": "a" }), 400, "body"),
        (json!({ "query": long }), 400, "query"),
        (json!({ "query": "a", "turns": [long] }), 400, "query"),
        (json!({ "query": "a", "history": ["d1"] }), 400, "history"),
        (json!({ "query": "a", "exclude": ["nobody"] }), 400, "exclude"),
        (json!({ "query": "a", "explain": true }), 400, "explain"),
        (json!({ "query": "a", "deadline_ms": 0 }), 400, "deadline_ms"),
        (json!({ "query": "a", "rewriter": "addds" }), 404, "rewriter"),
        (json!({ "query": "a", "engine": "shopp" }), 404, "engine"),
        (json!(["query"]), 400, "body"),
        (json!(null), 400, "body"),
    ];
    for (body, status, part) in cases {
        let answer = shop.client.post("/v1/search", &body);
        let shown = body.to_string().chars().take(80).collect::<String>();
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (status, &json!(part)),
            "{shown}: {}",
            answer.body
        );
        let (_, message) = answer.error();
        assert!(!message.contains("struct") && !message.contains("usize"), "{message}");
    }
    let near = shop.client.post("/v1/search", &json!({ "query": "a", "rewriter": "addds" })).error().1;
    assert!(near.contains("did you mean adds?") && near.contains("original"), "{near}");
}

#[test]
fn a_deadline_is_kept_whatever_the_retriever_does_and_a_shorter_one_may_be_asked_for() {
    let late = |service: Service, more: Value, least: Duration| {
        let shop = run(service.engine(engine("shop")).log_to(|_| {}));
        let mut body = json!({ "query": "sleep 6000", "rewriter": "original" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let begun = Instant::now();
        let answer = shop.client.post("/v1/search", &body);
        let took = begun.elapsed();
        assert_eq!((answer.status, answer.error().0.as_str()), (504, "deadline"));
        assert!(took >= least && took < Duration::from_secs(5), "{took:?}");
    };
    let (short, asked) = (Duration::from_millis(300), Duration::from_millis(60));
    late(Service::new(ServerConfig { deadline_ms: 300, ..config() }).unwrap(), json!({}), short);
    late(Service::new(config()).unwrap(), json!({ "deadline_ms": 60 }), asked);
}

#[test]
fn a_search_that_names_no_number_gets_the_configured_one() {
    let three = run(Service::new(ServerConfig { k: 3, ..config() }).unwrap().engine(engine("shop")));
    let hits = |body: Value| three.client.post("/v1/search", &body).json()["hits"].as_array().unwrap().len();
    assert_eq!((hits(json!({ "query": "a" })), hits(json!({ "query": "a", "k": 5 }))), (3, 5));
    let mut config = config();
    config.limits.k = 5;
    assert!(Service::new(config).unwrap_err().to_string().contains("limits.k is 5"));
}
