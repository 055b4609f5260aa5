use super::*;

/// An answer of `_msearch` as the reference shows it, with one search that failed.
fn answer() -> Value {
    let hit = |id: &str, score: f64, title: &str| json!({ "_index": "shop", "_id": id, "_score": score, "_source": { "title": title } });
    let hits = |hits: Value| {
        json!({ "took": 1, "timed_out": false, "_shards": { "total": 1, "successful": 1, "skipped": 0, "failed": 0 },
                "hits": { "max_score": 2.5, "hits": hits }, "status": 200 })
    };
    let error = json!({
        "error": { "root_cause": [], "type": "index_not_found_exception", "reason": "no such index [shop]" },
        "status": 404
    });
    let late = json!({ "took": 9, "timed_out": true, "_shards": { "total": 2, "failed": 0 }, "hits": { "hits": [] }, "status": 200 });
    let broken = json!({ "took": 9, "timed_out": false, "_shards": { "total": 2, "failed": 1 }, "hits": { "hits": [] }, "status": 200 });
    let first = hits(json!([hit("d1", 2.5, "steel kettle"), hit("d2", 1.5, "wool"), hit("d3", 0.5, "lantern")]));
    json!({ "took": 3, "responses": [first, error, hits(json!([])), late, broken] })
}

#[test]
fn a_batch_is_one_call_each_answer_stands_for_itself_and_what_is_excluded_is_taken_out() {
    let fake = server("/_msearch", Response::ok(answer().to_string()));
    let config = config("elasticsearch", &fake.address, "title = \"title\"");
    let connected = Connected::new(&config).unwrap().with_ids(["d9", "d1", "d2", "d3"].map(str::to_owned));
    assert_eq!(connected.card().documents, Some(4));
    let first = connected.ordinal("d1").unwrap();
    assert_eq!(first, 1);
    let requests = [
        boolean("kettle^2 title:\"steel pot\" AND NOT (wool OR text:felt^0.5)", 2).with_exclude([first]),
        Request::plain("AND \"quoted\" (words", 3),
        boolean("NOT kettle", 1),
        Request::plain("a", 1),
        Request::plain("b", 1),
    ];
    let deadline = Deadline::after(Duration::from_secs(30));
    let rankings = retrieve(&connected, &requests, deadline);
    assert_eq!(ids(&connected, &rankings[0]), ["d2", "d3"]);
    assert_eq!(connected.document(rankings[0].as_ref().unwrap().hits[0].doc).unwrap().title, "wool");
    assert_eq!((kind(&rankings[1]), rankings[2].as_ref().unwrap().hits.len()), (FaultKind::Refused, 0));
    assert!(rankings[1].as_ref().unwrap_err().detail.contains("no such index"));
    assert_eq!((kind(&rankings[3]), kind(&rankings[4])), (FaultKind::Timeout, FaultKind::Index));

    let strange = Connected::new(&config).unwrap().with_ids(["d1".to_owned()]);
    let refused = retrieve(&strange, &requests, deadline).remove(0).unwrap_err();
    assert!(refused.kind == FaultKind::Contract && refused.detail.contains("\"d2\""), "{refused}");

    let seen = fake.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen[0].headers.iter().any(|line| line.eq_ignore_ascii_case("content-type: application/x-ndjson")));
    let lines: Vec<Value> = seen[0].body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 10);
    assert!(lines.iter().step_by(2).all(|header| *header == json!({ "index": "shop" })));
    let any = |text: &str, kind: &str, boost: f64| json!({ "multi_match": { "query": text, "fields": ["text^1", "title^2.5"], "type": kind, "boost": boost } });
    let search = &lines[1];
    let right = json!({ "bool": {
        "should": [
            any("kettle", "most_fields", 2.0),
            { "bool": {
                "must": [{ "match_phrase": { "title": { "query": "steel pot", "boost": 1.0 } } }],
                "must_not": [{ "bool": {
                    "should": [any("wool", "most_fields", 1.0), { "match": { "text": { "query": "felt", "boost": 0.5 } } }],
                    "boost": 1.0,
                } }],
                "boost": 1.0,
            } },
        ],
        "boost": 1.0,
    } });
    assert_eq!(search["query"], right, "{}", search["query"]);
    assert_eq!((&search["size"], &search["_source"]), (&json!(3), &json!(["title"])));
    assert!(search["timeout"].as_str().unwrap().ends_with("ms"));
    assert_eq!(lines[3]["query"], any("AND \"quoted\" (words", "most_fields", 1.0), "plain words are words");
    assert_eq!(lines[5]["query"], any("NOT kettle", "most_fields", 1.0), "nothing but NOT is searched for as words");
}

#[test]
fn a_body_of_the_users_own_is_filled_in_and_quickwit_is_asked_where_it_answers() {
    let answer = json!({ "responses": [{ "hits": { "hits": [{ "_id": "", "_score": null, "sort": [1.5], "_source": { "sku": 7 } }] } }] });
    let fake = server("/api/v1/_elastic/_msearch", Response::ok(answer.to_string()));
    let body =
        r#"{"query":{"function_score":{"query":"$query","boost_mode":"sum"}},"size":"$k","rescore":["$text",1]}"#;
    let mut config = config("quickwit", &format!("{}/", fake.address), "id = \"sku\"");
    config.body = Some(body.to_owned());
    let connected = Connected::new(&config).unwrap();
    let rankings = retrieve(&connected, &[Request::plain("tea \"$k\"", 4)], Deadline::after(Duration::from_secs(30)));
    assert_eq!(ids(&connected, &rankings[0]), ["7"]);
    let search: Value = serde_json::from_str(fake.seen()[0].body.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&search["size"], &search["rescore"]), (&json!(4), &json!(["tea \"$k\"", 1])));
    assert_eq!(search["query"]["function_score"]["query"]["multi_match"]["query"], "tea \"$k\"");
    assert!(search.get("timeout").is_none() && search["sort"][0].get("_score").is_some());
}

#[test]
fn what_may_succeed_the_next_time_is_sent_again_within_its_budget_and_garbage_is_never_a_ranking() {
    let ask = |response: Response, ms: u64| {
        let fake = server("/_msearch", response);
        let connected = Connected::new(&config("elasticsearch", &fake.address, "")).unwrap();
        let begun = std::time::Instant::now();
        let ranking =
            retrieve(&connected, &[Request::plain("a", 1)], Deadline::after(Duration::from_millis(ms))).remove(0);
        (kind(&ranking), fake.seen().len(), begun.elapsed())
    };
    let whole = answer().to_string();
    let cut = Response { cut_at: Some(20), ..Response::ok(whole.clone()) };
    let slow = Response { delay: Duration::from_secs(5), ..Response::ok(whole.clone()) };
    assert_eq!(ask(Response::status(503, "{}"), 20_000).0, FaultKind::Network);
    assert_eq!(ask(Response::status(503, "{}"), 20_000).1, 3);
    assert_eq!(ask(Response::status(429, "busy"), 20_000).0, FaultKind::Overloaded);
    assert_eq!(ask(cut, 20_000).0, FaultKind::Network);
    let (kind, calls, took) = ask(slow, 300);
    assert!(kind == FaultKind::Timeout && calls == 1 && took < Duration::from_secs(2), "{took:?}");
    for (body, right) in [
        ("", FaultKind::Parse),
        ("<html>", FaultKind::Parse),
        ("{\"responses\":[]}", FaultKind::Contract),
        (whole.as_str(), FaultKind::Contract),
        ("{\"responses\":[{}]}", FaultKind::Parse),
        (
            "{\"responses\":[{\"hits\":{\"hits\":[{\"_id\":\"a\",\"_score\":null,\"sort\":[\"b\"]}]}}]}",
            FaultKind::Parse,
        ),
        ("{\"responses\":[{\"hits\":{\"hits\":[{\"_id\":\"a\",\"_score\":1e300}]}}]}", FaultKind::Contract),
    ] {
        let (kind, calls, _) = ask(Response::ok(body), 20_000);
        assert_eq!((kind, calls), (right, 1), "{body}");
    }
    let (kind, calls, _) = ask(Response::status(401, "who are you"), 20_000);
    assert_eq!((kind, calls), (FaultKind::Refused, 1));
}

#[test]
fn an_engine_that_is_down_is_not_asked_three_times_as_often() {
    let fake = server("/_msearch", Response::status(503, "{}"));
    let connected = Connected::new(&config("elasticsearch", &fake.address, "parallel = 1")).unwrap();
    for _ in 0..12 {
        assert!(retrieve(&connected, &[Request::plain("a", 1)], Deadline::NONE)[0].is_err());
    }
    // Ten retries were saved up, and none was earned.
    assert_eq!(fake.seen().len(), 12 + 10);
}
