use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::keys::Access;
use crate::routes::ROUTES;
use crate::{Loaded, Loader};
use querywright_types::Error;

const READ: &str = "0123456789abcdef";
const ADMIN: &str = "fedcba9876543210";

fn keyed() -> (tempfile::TempDir, ServerConfig) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::write(&path, format!("read shop {READ}\nadmin ops {ADMIN}\n")).unwrap();
    (folder, ServerConfig { keys: Some(path), ..config() })
}

#[test]
fn every_route_is_denied_without_a_key_but_those_that_tell_nothing() {
    let (_folder, config) = keyed();
    let shop = run(Service::new(config).unwrap().engine(engine("shop")).log_to(|_| {}));
    let open = ["/", "/openapi.json", "/health", "/ready"];
    for route in &ROUTES {
        let (method, path) = (if route.get { "GET" } else { "POST" }, route.path.replace("{name}", "x"));
        let status = |client: &Client| client.send(method, &path, "", b"").status;
        let expected_open = open.contains(&route.path);
        assert_eq!(route.access == Access::Open, expected_open, "{}", route.path);
        let denied = if expected_open { 200 } else { 401 };
        assert_eq!(status(&shop.client), denied, "{}", route.path);
        assert_eq!(status(&shop.client.with_key("0123456789abcdeg")), denied, "{}", route.path);
        if !expected_open {
            let reading = status(&shop.client.with_key(READ));
            assert_eq!(reading == 403, route.access == Access::Admin, "{}: {reading}", route.path);
            assert!(![401, 403].contains(&status(&shop.client.with_key(ADMIN))), "{}", route.path);
        }
    }
    let none = shop.client.get("/metrics");
    assert!(none.header("www-authenticate").is_some() && none.error().1.contains("Authorization: Bearer"));
    let other = shop.client.send("GET", "/metrics", "authorization: Basic MDEyMzQ1Njc4OWFiY2RlZg==\r\n", b"");
    assert_eq!(other.status, 401);
}

#[test]
fn the_document_describes_the_routes_that_there_are_and_nobody_listens_to_others_without_keys() {
    let document: Value = serde_json::from_str(include_str!("../../assets/openapi.json")).unwrap();
    let described: BTreeSet<(String, bool)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| (path.clone(), method == "get")))
        .collect();
    let served: BTreeSet<(String, bool)> = ROUTES.iter().map(|route| (route.path.to_owned(), route.get)).collect();
    assert_eq!(described, served);
    for route in &ROUTES {
        let method = if route.get { "get" } else { "post" };
        let security = &document["paths"][route.path][method]["security"];
        assert_eq!(security == &json!([]), route.access == Access::Open, "{}", route.path);
    }
    let everywhere = ServerConfig { listen: "0.0.0.0:0".parse().unwrap(), ..config() };
    assert!(Service::new(everywhere).unwrap_err().to_string().contains("there are no keys"));
    let (_folder, keyed) = keyed();
    assert!(Service::new(ServerConfig { listen: "0.0.0.0:0".parse().unwrap(), ..keyed }).is_ok());
}

#[test]
fn metrics_count_by_route_status_and_outcome_and_no_caller_adds_a_series() {
    let shop = shop();
    shop.client.post("/v1/search", &json!({ "query": "a" }));
    shop.client.post("/v1/search", &json!({ "query": "broken", "rewriter": "original" }));
    let text = shop.client.get("/metrics").body;
    for part in [
        "querywright_requests_total{route=\"/v1/search\",status=\"2xx\"} 1",
        "querywright_requests_total{route=\"/v1/search\",status=\"502\"} 1",
        "querywright_search_seconds_count{outcome=\"rewritten\"} 1",
        "querywright_failures_total{reason=\"network\"} 1",
        "querywright_request_load{state=\"running\"} 0",
        "querywright_model_load{state=\"waiting\"} 0",
        "querywright_batch_size_bucket{le=\"8.0\"} 0",
        "querywright_batch_size_bucket{le=\"+Inf\"} 0",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    for n in 0..20 {
        shop.client.get(&format!("/strange/{n}"));
        shop.client.get(&format!("/v1/models/{n}"));
        shop.client.post("/v1/search", &json!({ "query": n.to_string(), "rewriter": n.to_string() }));
    }
    let after = shop.client.get("/metrics").body;
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    // A status and a route that were not there before, with their buckets.
    assert!(series(&after) < series(&text) + 60, "{after}");
    assert!(!after.contains("strange"));
}

/// Opens what a test asks for, slowly.
struct Opens;

impl Loader for Opens {
    fn adapter(&self, _: &str, name: &str, path: &str) -> Result<Loaded> {
        std::thread::sleep(Duration::from_millis(30));
        match path {
            "there" => Ok(Loaded::new(adding(if name == "swapped" { "swapped" } else { "other" }))),
            _ => Err(Error::argument("lora_path", format!("{path:?} is no folder there"), "name one")),
        }
    }

    fn engine(&self, name: &str, adapters: &[(String, String)]) -> Result<(Engine, Vec<Loaded>)> {
        let loaded = adapters.iter().map(|(adapter, path)| self.adapter(name, adapter, path)).collect::<Result<_>>()?;
        Ok((Engine::new(name, original("fresh")).rewriter("adds", adding("lamp")), loaded))
    }

    fn documents(&self, name: &str, change: &str, adapters: &[(String, String)]) -> Result<(Engine, Vec<Loaded>)> {
        assert!(!change.contains('\n'));
        let change: Value =
            serde_json::from_str(change).map_err(|e| Error::argument("add", e.to_string(), "a list"))?;
        let first: &'static str = change["add"][0]["id"].as_str().unwrap().to_owned().leak();
        let (_, loaded) = self.engine(name, adapters)?;
        Ok((Engine::new(name, original(first)).rewriter("adds", adding("lamp")), loaded))
    }
}

#[test]
fn adapters_and_engines_are_exchanged_while_requests_run_and_none_is_lost() {
    let shop = run(Service::new(config()).unwrap().engine(engine("shop")).loader(Opens).log_to(|_| {}));
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let load = |extra: Value| {
        let mut body = json!({ "lora_name": "swapped", "lora_path": "there" });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        shop.client.post("/v1/load_lora_adapter", &body)
    };
    assert_eq!(load(json!({})).status, 200);
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let (client, done, answered) = (&shop.client, &done, &answered);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let query = format!("q{worker}");
                    let answer = client.post("/v1/search", &json!({ "query": query, "rewriter": "swapped" }));
                    assert_eq!(answer.status, 200, "{}", answer.body);
                    assert_eq!(answer.json()["trace"]["searched"]["text"], format!("{query} swapped"));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..5 {
            assert_eq!(load(json!({ "load_inplace": true })).status, 200);
        }
        let reloaded = shop.client.post("/v1/engines/shop/reload", &json!({}));
        done.store(true, Ordering::Relaxed);
        assert_eq!(reloaded.status, 200, "{}", reloaded.body);
    });
    assert!(answered.load(Ordering::Relaxed) > 5);
    let first = || {
        let found = shop.client.post("/v1/search", &json!({ "query": "a", "rewriter": "original", "k": 1 })).json();
        found["hits"][0]["id"].as_str().unwrap().to_owned()
    };
    assert_eq!(first(), "fresh");
    // In lines, with what would be too large for another request.
    let body = format!("{{\n \"add\": [\r\n{{\"id\": \"newest\", \"text\": \"{}\"}}]}}\n", "a b ".repeat(1 << 19));
    let changed = shop.client.send("POST", "/v1/engines/shop/documents", "", body.as_bytes());
    assert_eq!((changed.status, changed.json()["documents"].as_u64()), (200, Some(2000)), "{}", changed.body);
    assert_eq!(first(), "newest");
    let swapped = shop.client.post("/v1/search", &json!({ "query": "a", "rewriter": "swapped" }));
    assert_eq!(swapped.status, 200, "an adapter that was loaded is still there: {}", swapped.body);
    let refused = shop.client.send("POST", "/v1/engines/shop/documents", "", b"{");
    assert_eq!((refused.status, first().as_str()), (400, "newest"));
    assert_eq!(shop.client.send("POST", "/v1/engines/shop/documents", "", b"\xff").status, 400);
    // A line end within a text is no JSON, and no blank.
    let broken = shop.client.send("POST", "/v1/engines/shop/documents", "", b"{\"add\":[{\"id\":\"x\ny\"}]}");
    assert_eq!((broken.status, first().as_str()), (400, "newest"));
}

#[test]
fn loading_and_unloading_refuse_what_cannot_be() {
    let shop = run(Service::new(config()).unwrap().engine(engine("shop")).loader(Opens).log_to(|_| {}));
    let load = |name: &str, path: &str| {
        shop.client.post("/v1/load_lora_adapter", &json!({ "lora_name": name, "lora_path": path }))
    };
    assert_eq!(load("new", "there").status, 200);
    for (name, path, part) in [
        ("new", "there", "load_inplace"),
        ("adds", "there", "already"),
        ("original", "there", "original"),
        ("", "there", "1 to 200 bytes"),
        ("a\nb", "there", "control characters"),
        ("b", "../etc", "no folder there"),
    ] {
        let refused = load(name, path);
        assert_eq!(refused.status, 400, "{name}: {}", refused.body);
        assert!(refused.error().1.contains(part), "{name}: {}", refused.body);
    }
    let unload = |name: &str| shop.client.post("/v1/unload_lora_adapter", &json!({ "lora_name": name }));
    assert_eq!((unload("new").status, unload("new").status), (200, 404));
    assert_eq!((unload("original").status, unload("adds").status), (400, 400));
    assert_eq!(shop.client.post("/v1/engines/nobody/reload", &json!({})).status, 404);
    let bare = super::shop();
    let refused = bare.client.post("/v1/engines/shop/reload", &json!({}));
    assert_eq!((refused.status, refused.error().0.as_str()), (501, "not_implemented"));
    assert_eq!(bare.client.post("/v1/engines/shop/documents", &json!({})).status, 501);
}

#[test]
fn a_server_that_stops_answers_what_is_under_way_and_takes_no_more() {
    let mut shop = shop();
    let client = shop.client.clone();
    let under_way = std::thread::spawn({
        let client = client.clone();
        move || client.post("/v1/search", &json!({ "query": "sleep 250", "rewriter": "original", "k": 1 }))
    });
    // An idle connection holds nothing up.
    let mut idle = client.connect();
    idle.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    std::thread::sleep(Duration::from_millis(60));
    let begun = Instant::now();
    shop.end();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(under_way.join().unwrap().status, 200);
    assert!(!shop.service.is_ready());
    assert!(std::net::TcpStream::connect(client.address).is_err());
}
