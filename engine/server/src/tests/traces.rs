use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use serde_json::json;

use super::*;
use crate::Traces;

/// Takes one request and gives its head and its body.
fn collector(listener: TcpListener) -> std::thread::JoinHandle<(String, Vec<u8>)> {
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let head = head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        reader.into_inner().write_all(answer).unwrap();
        (head, body)
    })
}

#[test]
fn a_request_is_a_span_of_its_callers_trace_with_its_rewrite_and_its_retrieval_and_quotes_no_query() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let collector = collector(listener);
    let service = Service::new(config()).unwrap().engine(engine("shop")).log_to(|_| {});
    let mut shop = run(service.traces(Traces::to(&endpoint).unwrap()));
    let caller = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let body = json!({ "query": "very secret words" }).to_string();
    assert_eq!(shop.client.send("POST", "/v1/search", caller, body.as_bytes()).status, 200);
    // Spans that wait are sent when the server ends.
    shop.end();
    drop(shop);
    let (head, body) = collector.join().unwrap();
    assert!(head.starts_with("post /v1/traces http/1.1") && head.contains("application/x-protobuf"), "{head}");
    let holds = |part: &[u8]| body.windows(part.len()).any(|window| window == part);
    for part in
        ["POST /v1/search", "rewrite", "retrieve", "querywright.outcome", "rewritten", "http.route", "querywright"]
    {
        assert!(holds(part.as_bytes()), "{part}");
    }
    let trace = [0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c];
    assert!(holds(&trace) && holds(&[0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]));
    assert!(!holds(b"secret"));
}

#[test]
fn a_collector_that_is_not_there_costs_no_request_and_what_is_no_address_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    drop(listener);
    let service = Service::new(config()).unwrap().engine(engine("shop")).log_to(|_| {});
    let shop = run(service.traces(Traces::to(&endpoint).unwrap()));
    for _ in 0..50 {
        assert_eq!(shop.client.post("/v1/search", &json!({ "query": "a" })).status, 200);
    }
    assert!(Traces::to("no address at all").is_err_and(|e| e.to_string().contains("http://127.0.0.1:4318")));
}
