use std::io::{Read, Write};
use std::time::Instant;

use serde_json::json;

use super::*;

/// As [`shop`], with limits that a test reaches.
fn tight() -> Running {
    let mut config = config();
    config.limits.read_ms = 300;
    config.limits.body_bytes = 10_000;
    config.limits.concurrent = 2;
    config.limits.waiting = 2;
    run(Service::new(config).unwrap().engine(engine("shop")).log_to(|_| {}))
}

/// The server still answers.
fn lives(shop: &Running) {
    let answer = shop.client.post("/v1/search", &json!({ "query": "after", "k": 1 }));
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn bodies_that_are_no_request_get_a_sentence_and_never_a_5xx() {
    let shop = tight();
    let deep = format!("{{\"query\": {}1{}}}", "[".repeat(4000), "]".repeat(4000));
    let bodies: Vec<Vec<u8>> = vec![
        deep.into_bytes(),
        b"{\"query\": \"\xff\xfe\"}".to_vec(),
        b"{\"query\": \"\\ud800\"}".to_vec(),
        b"{\"query\": \"a\", \"query\": \"b\"}".to_vec(),
        b"{\"k\": 99999999999999999999999999999, \"query\": \"a\"}".to_vec(),
        b"{\"query\": \"a\"".to_vec(),
        b"\xef\xbb\xbf{\"query\": \"a\"}".to_vec(),
        b"query=a".to_vec(),
        b"\0".to_vec(),
        vec![b'x'; 9999],
    ];
    for body in bodies {
        for path in ["/v1/search", "/v1/rewrite", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"] {
            let answer = shop.client.send("POST", path, "content-type: application/json\r\n", &body);
            assert_eq!(answer.status, 400, "{path} {:?}: {}", String::from_utf8_lossy(&body).get(..60), answer.body);
            assert!(answer.error().1.contains("body"), "{}", answer.body);
        }
    }
    let large = shop.client.send("POST", "/v1/search", "", &vec![b' '; 10_001]);
    assert_eq!((large.status, large.error().0.as_str()), (413, "too_large"));
    // Of unknown length.
    let chunk = format!("{:x}\r\n{}\r\n", 8000, " ".repeat(8000)).repeat(3) + "0\r\n\r\n";
    let head = "POST /v1/search HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    assert!(shop.client.raw((head.to_owned() + &chunk).as_bytes()).starts_with("HTTP/1.1 413"));
    lives(&shop);
}

#[test]
fn paths_and_methods_that_are_not_there_are_named() {
    let shop = tight();
    let none = shop.client.get("/v1/serach");
    assert_eq!((none.status, none.error().0.as_str()), (404, "not_found"));
    assert!(none.error().1.contains("/openapi.json"));
    for (method, path) in [
        ("GET", "/v1/search"),
        ("DELETE", "/v1/models"),
        ("PUT", "/health"),
        ("POST", "/metrics"),
        ("POST", "/v1/models/x"),
    ] {
        let other = shop.client.send(method, path, "", b"");
        assert_eq!((other.status, other.error().0.as_str()), (405, "method_not_allowed"), "{method} {path}");
    }
    assert_eq!(shop.client.get("/v1/models/%ff").status, 400);
    for path in ["/../etc/passwd", "/%2e%2e/", "//", "/v1/search/../search"] {
        assert_eq!(shop.client.get(path).status, 404, "{path}");
    }
    assert_eq!(shop.client.get("/").status, 200);
    lives(&shop);
}

#[test]
fn a_request_that_two_servers_would_read_differently_is_refused() {
    let shop = tight();
    let body = "{\"query\": \"a\"}";
    let length = body.len();
    for (head, what) in [
        (format!("content-length: {length}\r\ncontent-length: 3\r\n"), "two lengths"),
        (format!("content-length: {length}, 3\r\n"), "two lengths in one"),
        (format!("content-length: +{length}\r\n"), "a sign"),
        ("transfer-encoding: chunked, identity\r\n".to_owned(), "chunks that do not come last"),
        ("transfer-encoding: xchunked\r\n".to_owned(), "an unknown coding"),
        ("transfer-encoding : chunked\r\n".to_owned(), "a blank before the colon"),
        (format!("content-length: {length}\r\n folded: x\r\n"), "a folded line"),
        ("content-length: -1\r\n".to_owned(), "a negative length"),
        ("x\0y: z\r\n".to_owned(), "a zero byte"),
    ] {
        let request = format!("POST /v1/search HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{head}\r\n{body}");
        let answer = shop.client.raw(request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 4") || answer.is_empty(), "{what}: {answer}");
        assert!(!answer.contains("\"hits\""), "{what}: {answer}");
    }
    // With both a length and chunks the chunks count, and what follows them is no second request.
    let both = "POST /v1/search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = shop.client.raw(both.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    lives(&shop);
}

#[test]
fn who_sends_slowly_is_sent_away_and_holds_nobody_up() {
    let shop = tight();
    // Heads and bodies that never end.
    let halves: [&[u8]; 3] = [
        b"GET /heal",
        b"POST /v1/search HTTP/1.1\r\nhost: localhost\r\nx-a: b\r\n",
        b"POST /v1/search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{\"query\"",
    ];
    let mut slow: Vec<_> = (0..60)
        .map(|n| {
            let mut stream = shop.client.connect();
            stream.write_all(halves[n % 3]).unwrap();
            stream
        })
        .collect();
    let begun = Instant::now();
    lives(&shop);
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
    for stream in &mut slow {
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    lives(&shop);
}

#[test]
fn more_than_can_wait_is_told_to_come_back_and_many_idle_connections_cost_nothing() {
    let shop = tight();
    let idle: Vec<_> = (0..500).map(|_| shop.client.connect()).collect();
    let sleeping =
        |client: &Client| client.post("/v1/search", &json!({ "query": "sleep 300", "rewriter": "original" }));
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12).map(|_| scope.spawn(|| sleeping(&shop.client))).collect();
        let answers = threads.into_iter().map(|thread| thread.join().unwrap());
        answers
            .map(|answer| {
                if answer.status == 503 {
                    assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
                    assert_eq!(answer.error().0, "overloaded");
                }
                answer.status
            })
            .collect()
    });
    let of = |status: u16| answers.iter().filter(|found| **found == status).count();
    assert!(of(200) >= 2 && of(503) >= 6, "{answers:?}");
    assert!(answers.iter().all(|status| [200, 503, 504].contains(status)), "{answers:?}");
    drop(idle);
    lives(&shop);
}

#[test]
fn without_keys_a_page_of_somebody_else_gets_nothing() {
    let shop = tight();
    let body = b"{\"query\": \"a\"}";
    let port = shop.client.address.port();
    let ask = |host: &str, more: &str| {
        let length = body.len();
        let head = format!(
            "POST /v1/search HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}content-length: {length}\r\n\r\n"
        );
        shop.client.raw(&[head.as_bytes(), body].concat())
    };
    for (host, more, right) in [
        (format!("127.0.0.1:{port}"), String::new(), "200"),
        (format!("[::1]:{port}"), String::new(), "200"),
        (format!("LocalHost:{port}"), format!("origin: http://LocalHost:{port}\r\n"), "200"),
        (format!("localhost:{port}"), "origin: https://elsewhere.example\r\n".to_owned(), "403"),
        (format!("localhost:{port}"), "origin: null\r\n".to_owned(), "403"),
        (format!("rebound.example:{port}"), String::new(), "403"),
        ("127.0.0.1.rebound.example".to_owned(), String::new(), "403"),
    ] {
        let answer = ask(&host, &more);
        assert!(answer.starts_with(&format!("HTTP/1.1 {right}")), "{host} {more}: {answer}");
    }
}
