//! Apache Solr: `select` of the JSON request API, one search a call, in the syntax of the extended DisMax parser for plain words and of
//! the standard parser for Boolean queries.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use querywright_text::boolean::{Clause, Group};
use querywright_types::{Deadline, FaultKind, Result};

use crate::config::ConnectConfig;
use crate::connected::{Asked, Engine, Found, finite};
use crate::elastic::words;
use crate::http::{Call, Failure, Http, quoted};

pub(crate) struct Solr {
    http: Http,
    path: String,
    fields: Vec<(String, f64)>,
    id: String,
    title: Option<String>,
    parameters: Vec<(String, String)>,
}

impl Solr {
    pub(crate) fn new(config: &ConnectConfig) -> Result<Self> {
        Ok(Self {
            http: Http::new(config)?,
            path: format!("/{}/select", utf8_percent_encode(&config.index, NON_ALPHANUMERIC)),
            fields: config.fields.iter().map(|(name, weight)| (name.clone(), *weight)).collect(),
            id: config.id.clone().unwrap_or_else(|| "id".to_owned()),
            title: config.title.clone(),
            parameters: config.parameters.clone().into_iter().collect(),
        })
    }

    fn call(&self, asked: &Asked<'_>, deadline: Deadline) -> Call {
        let returned: Vec<&str> = [self.id.as_str(), "score"].into_iter().chain(self.title.as_deref()).collect();
        let (query, parser) = match &asked.query {
            Some(group) => (self.group(group), "lucene"),
            None => (escaped(asked.text), "edismax"),
        };
        let weighted: Vec<String> = self.fields.iter().map(|(name, weight)| format!("{name}^{weight}")).collect();
        let mut parameters = json!({ "defType": parser, "qf": weighted.join(" "), "q.op": "OR", "mm": "0" });
        for (name, value) in &self.parameters {
            parameters[name.as_str()] = json!(value);
        }
        if let Some(left) = deadline.left() {
            parameters["timeAllowed"] = json!(left.as_millis().max(1) as u64);
        }
        let body = json!({ "query": query, "limit": asked.k, "fields": returned, "params": parameters });
        Call { path: self.path.clone(), content_type: "application/json", body: body.to_string() }
    }

    fn group(&self, group: &Group<'_>) -> String {
        let signed = |sign: &'static str, clauses: &[Clause<'_>]| {
            clauses.iter().map(|clause| format!("{sign}{}", self.clause(clause))).collect::<Vec<_>>()
        };
        let parts = [signed("+", &group.must), signed("", &group.should), signed("-", &group.must_not)].concat();
        format!("({})^{}", parts.join(" "), finite(f64::from(group.boost)))
    }

    fn clause(&self, clause: &Clause<'_>) -> String {
        let in_field = |name: &str, text: &str, phrase: bool, boost: f64| match (phrase, finite(boost)) {
            (true, boost) => format!("{name}:\"{}\"^{boost}", in_quotes(text)),
            (false, boost) => format!("{name}:({})^{boost}", escaped(text)),
        };
        match clause {
            Clause::Group(group) => self.group(group),
            Clause::Words { field: Some(field), text, phrase, boost } => {
                let name = self.fields.get(*field).map_or("", |(name, _)| name.as_str());
                in_field(name, text, *phrase, f64::from(*boost))
            }
            Clause::Words { field: None, text, phrase, boost } => {
                let each =
                    self.fields.iter().map(|(name, weight)| in_field(name, text, *phrase, weight * f64::from(*boost)));
                format!("({})", each.collect::<Vec<_>>().join(" "))
            }
        }
    }

    fn ranking(&self, body: &[u8]) -> Result<Vec<Found>, Failure> {
        let unreadable = |what: String| (FaultKind::Parse, what);
        let answer: Value =
            serde_json::from_slice(body).map_err(|_| unreadable(format!("no JSON: {}", quoted(body))))?;
        if answer["responseHeader"]["partialResults"] == true {
            return Err((FaultKind::Timeout, "the engine stopped at its time limit".to_owned()));
        }
        let found = answer["response"]["docs"].as_array();
        let found = found.ok_or_else(|| unreadable("an answer without documents".to_owned()))?;
        let one = |document: &Value| {
            let id = document.get(&self.id).map(words).filter(|id| !id.is_empty())?;
            let title = self.title.as_ref().and_then(|name| document.get(name)).map(words).unwrap_or_default();
            Some(Found { id, title, score: document["score"].as_f64()? as f32 })
        };
        found.iter().map(|d| one(d).ok_or_else(|| unreadable("a document without id or score".to_owned()))).collect()
    }
}

impl Engine for Solr {
    fn at_once(&self) -> usize {
        1
    }

    fn search(&self, asked: &[Asked<'_>], deadline: Deadline) -> Vec<Result<Vec<Found>, Failure>> {
        let one = |asked: &Asked<'_>| {
            let body = self.http.call(&self.call(asked, deadline), deadline)?;
            self.ranking(&body)
        };
        asked.iter().map(one).collect()
    }
}

/// Words whose signs mean nothing to either parser. Its operators in words mean something in upper case alone.
fn escaped(text: &str) -> String {
    let word = |word: &str| match word {
        "AND" | "OR" | "NOT" => word.to_lowercase(),
        word => word.chars().flat_map(|c| escape(c, "+-&|!(){}[]^\"~*?:\\/")).collect(),
    };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// A phrase's words.
fn in_quotes(text: &str) -> String {
    text.chars().flat_map(|c| escape(c, "\"\\")).collect()
}

fn escape(c: char, special: &str) -> impl Iterator<Item = char> {
    special.contains(c).then_some('\\').into_iter().chain([c])
}
