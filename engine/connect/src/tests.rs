//! Against local servers that say what the engines' documentation says, and against a real PostgreSQL.

mod elastic;
mod postgres;
mod solr;

use std::collections::HashMap;
use std::time::Duration;

use querywright_testing::fake_server::{FakeServer, Response};
use querywright_types::{Deadline, Fault, FaultKind, QueryLanguage, Ranking, Request, Result, Retriever, retrieve};
use serde_json::{Value, json};

use crate::{ConnectConfig, Connected};

/// A configuration as a user writes it.
fn config(kind: &str, url: &str, more: &str) -> ConnectConfig {
    let text = format!(
        "kind = \"{kind}\"\nurl = \"{url}\"\nindex = \"shop\"\nfields = {{ text = 1.0, title = 2.5 }}\n{more}\n"
    );
    toml::from_str(&text).unwrap_or_else(|e| panic!("{e}"))
}

fn server(path: &str, response: Response) -> FakeServer {
    FakeServer::start(HashMap::from([(path.to_owned(), response)]))
}

fn boolean(text: &str, k: usize) -> Request {
    Request::plain(text, k).with_language(QueryLanguage::Boolean)
}

/// What is found, by ids.
fn ids(connected: &Connected, ranking: &Result<Ranking, Fault>) -> Vec<String> {
    let hits = &ranking.as_ref().unwrap_or_else(|fault| panic!("{fault}")).hits;
    hits.iter().map(|hit| connected.document(hit.doc).unwrap().id).collect()
}

fn kind(ranking: &Result<Ranking, Fault>) -> FaultKind {
    ranking.as_ref().unwrap_err().kind
}

#[test]
fn what_cannot_be_a_configuration_is_refused_by_its_key() {
    let good = config("elasticsearch", "http://127.0.0.1:9", "");
    assert!(Connected::new(&good).is_ok());
    let refused = |change: &dyn Fn(&mut ConnectConfig), key: &str| {
        let mut config = good.clone();
        change(&mut config);
        let error = Connected::new(&config).unwrap_err().to_string();
        assert!(error.contains(key), "{key}: {error}");
    };
    refused(&|c| c.url = "localhost:9200".into(), "connect.url");
    refused(&|c| c.index = "a/_all".into(), "connect.index");
    refused(&|c| c.index = "_all".into(), "connect.index");
    refused(&|c| c.fields.clear(), "connect.fields");
    refused(&|c| _ = c.fields.insert("text".into(), f64::NAN), "connect.fields");
    refused(&|c| c.parallel = 0, "connect.parallel");
    refused(&|c| c.timeout_seconds = -1.0, "connect.timeout_seconds");
    refused(&|c| c.timeout_seconds = 1e18, "connect.timeout_seconds");
    refused(&|c| c.url = "http://localhost:9200/?pretty".into(), "connect.url");
    refused(&|c| c.text_search = "german".into(), "connect.text_search");
    refused(&|c| c.body = Some("{\"query\": 1}".into()), "connect.body");
    refused(&|c| c.body = Some("[\"$query\"]".into()), "connect.body");
    refused(&|c| _ = c.parameters.insert("a".into(), "b".into()), "connect.parameters");
    refused(&|c| c.authorization_env = Some("QUERYWRIGHT_NO_SUCH_VARIABLE".into()), "QUERYWRIGHT_NO_SUCH_VARIABLE");
    let quickwit = config("quickwit", "http://127.0.0.1:9", "");
    assert!(Connected::new(&quickwit).unwrap_err().to_string().contains("connect.id"));
    let postgres = config("postgres", "http://127.0.0.1:9", "");
    assert!(Connected::new(&postgres).unwrap_err().to_string().contains("postgres://"));
    let unknown = "kind = \"elasticsearch\"\nurl = \"http://a\"\nindex = \"a\"\nfields = {}\nindx = 1\n";
    assert!(toml::from_str::<ConnectConfig>(unknown).is_err());
}

#[test]
fn the_card_says_what_may_be_asked_and_its_digest_what_decides_the_answers() {
    let card = |more: &str| {
        let config = config("opensearch", "http://127.0.0.1:9", more);
        Connected::new(&config).unwrap().card().clone()
    };
    let one = card("content = \"kitchen ware\"\nversion = \"march\"");
    assert_eq!(
        (one.name.as_str(), one.content.as_str(), one.version.as_str()),
        ("opensearch", "kitchen ware", "march")
    );
    assert_eq!(one.fields, ["text", "title"]);
    assert_eq!(one.languages, [QueryLanguage::Boolean, QueryLanguage::Plain]);
    assert_ne!(one.digest, card("content = \"kitchen ware\"\nversion = \"april\"").digest);
    assert_eq!(one.digest, card("parallel = 3\ntimeout_seconds = 1\nversion = \"march\"").digest);

    let mut secret = config("postgres", "postgres://user:pass@host/a?password=pass&application_name=b", "");
    let plain = config("postgres", "postgres://host/a?application_name=b", "");
    let other = config("postgres", "postgres://host/a?application_name=c", "");
    assert_ne!(Connected::new(&other).unwrap().card().digest, Connected::new(&plain).unwrap().card().digest);
    assert_eq!(Connected::new(&secret).unwrap().card().digest, Connected::new(&plain).unwrap().card().digest);
    assert!(!format!("{secret:?}").contains("pass"));
    secret.url = "user:pass@host".into();
    assert!(!Connected::new(&secret).unwrap_err().to_string().contains("pass"));
}
