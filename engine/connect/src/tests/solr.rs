use super::*;

#[test]
fn a_search_is_a_call_in_solrs_syntax_in_which_no_word_is_an_operator() {
    let answer = json!({
        "responseHeader": { "status": 0, "QTime": 1 },
        "response": { "numFound": 2, "start": 0, "docs": [
            { "id": "d1", "title": ["steel kettle"], "score": 2.0 }, { "id": "d2", "title": ["wool"], "score": 1.0 }
        ] }
    });
    let fake = server("/solr/shop/select", Response::ok(answer.to_string()));
    let more = "title = \"title\"\nparallel = 1\n[parameters]\nfq = \"in_stock:true\"";
    let connected = Connected::new(&config("solr", &format!("{}/solr", fake.address), more)).unwrap();
    let requests =
        [Request::plain("cheap OR (kettle: -5)", 5), boolean("kettle^2 title:\"steel \\ pot\" AND NOT text:wool*", 5)];
    let rankings = retrieve(&connected, &requests, Deadline::after(Duration::from_secs(9)));
    assert_eq!(ids(&connected, &rankings[1]), ["d1", "d2"]);
    assert_eq!(connected.document(0).unwrap().title, "steel kettle");
    let seen: Vec<Value> = fake.seen().iter().map(|seen| serde_json::from_str(&seen.body).unwrap()).collect();
    let parameters = &seen[0]["params"];
    assert_eq!(seen[0]["query"], "cheap or \\(kettle\\: \\-5\\)");
    assert_eq!((&parameters["defType"], &parameters["qf"]), (&json!("edismax"), &json!("text^1 title^2.5")));
    assert_eq!((&parameters["fq"], &seen[0]["limit"]), (&json!("in_stock:true"), &json!(5)));
    assert!(parameters["timeAllowed"].as_u64().unwrap() <= 9000);
    assert_eq!(seen[1]["params"]["defType"], "lucene");
    let query = seen[1]["query"].as_str().unwrap();
    assert!(query.starts_with("((text:(kettle)^2 title:(kettle)^5) "), "{query}");
    assert!(query.contains("+title:\"steel \\\\ pot\"^1") && query.contains("-text:(wool\\*)^1"), "{query}");
}

#[test]
fn a_partial_answer_and_one_that_cannot_be_read_are_faults() {
    for (body, right) in [
        (json!({ "responseHeader": { "partialResults": true }, "response": { "docs": [] } }), FaultKind::Timeout),
        (json!({ "response": {} }), FaultKind::Parse),
        (json!({ "response": { "docs": [{ "score": 1.0 }] } }), FaultKind::Parse),
    ] {
        let fake = server("/shop/select", Response::ok(body.to_string()));
        let connected = Connected::new(&config("solr", &fake.address, "")).unwrap();
        assert_eq!(kind(&retrieve(&connected, &[Request::plain("a", 1)], Deadline::NONE)[0]), right, "{body}");
    }
}
