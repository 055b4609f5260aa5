//! The server over real connections on this machine.

mod client;
mod hostile;
mod operating;
mod runs;
mod searching;
#[cfg(feature = "otel")]
mod traces;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use querywright_stack::Stack;
use querywright_types::{
    Deadline, DocumentName, Fault, FaultKind, Hit, Query, Ranking, Request, Result, Retriever, RetrieverCard, Rewrite,
    Rewriter,
};

use crate::{Engine, Server, ServerConfig, Service, Stop};
use client::Client;

/// Finds as many documents as it is asked for, `d0` first. Some words make it do other things.
struct Counting {
    card: RetrieverCard,
    /// What its first document is called.
    first: &'static str,
}

fn counting(first: &'static str) -> Counting {
    Counting { card: RetrieverCard::new("counting", "0").with_documents(2000), first }
}

impl Retriever for Counting {
    fn card(&self) -> &RetrieverCard {
        &self.card
    }

    fn retrieve(&self, requests: &[Request], _: Deadline) -> Vec<Result<Ranking, Fault>> {
        let one = |request: &Request| match request.text.as_str() {
            "panic" => panic!("on purpose"),
            "broken" => Err(Fault::new("counting", FaultKind::Network, "http://10.0.0.7 said key=abc")),
            text => {
                // A retriever that does not care for deadlines.
                if let Some(ms) = text.strip_prefix("sleep ") {
                    std::thread::sleep(Duration::from_millis(ms.parse().unwrap()));
                }
                let hit = |doc| Hit { doc, score: 1.0 / (1 + doc) as f32 };
                let excluded = |doc: &u32| !request.exclude.contains(doc);
                Ok(Ranking { hits: (0..2000).filter(excluded).take(request.k).map(hit).collect() })
            }
        };
        requests.iter().map(one).collect()
    }

    fn document(&self, document: u32) -> Option<DocumentName> {
        let id = if document == 0 { self.first.to_owned() } else { format!("d{document}") };
        (document < 2000).then(|| DocumentName::new(id, format!("title {document}")))
    }
}

/// Writes a word behind everything.
struct Adds(&'static str);

impl Rewriter for Adds {
    fn name(&self) -> &str {
        self.0
    }

    fn rewrite(&self, queries: &[Query], _: Deadline) -> Vec<Result<Rewrite>> {
        queries.iter().map(|query| Ok(Rewrite::plain(format!("{} {}", query.text, self.0)))).collect()
    }
}

/// Long enough for a machine that is busy with other tests.
const DEADLINE: Duration = Duration::from_secs(10);

fn original(first: &'static str) -> Stack {
    Stack::builder().retriever(counting(first)).deadline(DEADLINE).build().unwrap()
}

fn adding(word: &'static str) -> Stack {
    Stack::builder().retriever(counting("d0")).rewriter(Adds(word)).deadline(DEADLINE).cache(100).build().unwrap()
}

fn engine(name: &str) -> Engine {
    Engine::new(name, original("d0")).rewriter("adds", adding("lamp")).ordinals(|id| id.strip_prefix('d')?.parse().ok())
}

fn config() -> ServerConfig {
    let mut config = ServerConfig { listen: "127.0.0.1:0".parse().unwrap(), ..ServerConfig::default() };
    config.deadline_ms = DEADLINE.as_millis() as u64;
    config
}

/// A server on a thread, stopped when it is dropped.
struct Running {
    client: Client,
    service: Arc<Service>,
    stop: Stop,
    thread: Option<JoinHandle<Result<()>>>,
}

fn run(service: Service) -> Running {
    let server = Server::bind(service).unwrap();
    let (client, stop, service) = (Client::new(server.address().unwrap()), server.stop(), server.service().clone());
    Running { client, service, stop, thread: Some(std::thread::spawn(move || server.run())) }
}

impl Running {
    /// Waits for its end.
    fn end(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

fn shop() -> Running {
    run(Service::new(config()).unwrap().engine(engine("shop")).engine(engine("other")).log_to(|_| {}))
}
