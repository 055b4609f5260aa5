//! Calls every host interface and reports the result, for the host's tests.
//!
//! The text of the request chooses the interface: `log`, `embed`, `artifact:NAME`, or a URL. The answer is always a
//! fault with the result as its text.

use querywright_plugin::host::{self, Level, Method};
use querywright_plugin::{Card, Document, Fault, Hit, QueryLanguage, Recommender, Request, card};

/// The plugin.
#[derive(Default)]
pub struct Greedy;

impl Recommender for Greedy {
    fn card() -> Card {
        card("greedy", "0.1.0", QueryLanguage::Plain)
    }

    fn load(&mut self, _: Vec<Document>) -> Result<(), Fault> {
        Ok(())
    }

    fn recommend(&mut self, request: &Request) -> Result<Vec<Hit>, Fault> {
        let said = match request.text.as_str() {
            "log" => {
                host::log(Level::Warn, "a line\u{1b}[2J\nand another");
                "done".to_owned()
            }
            "embed" => format!("{:?}", host::embed(&["a text".to_owned()])),
            text => match text.strip_prefix("artifact:") {
                Some(name) => format!("{:?}", host::artifact(name).map(|bytes| bytes.len())),
                None => {
                    let sent = host::Request {
                        method: Method::Get,
                        url: text.to_owned(),
                        headers: Vec::new(),
                        body: Vec::new(),
                        timeout_ms: 500,
                    };
                    match host::send(&sent) {
                        Ok(answer) => format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)),
                        Err(error) => format!("{error:?}"),
                    }
                }
            },
        };
        Err(Fault::Internal(said))
    }
}

querywright_plugin::register!(Greedy);
