//! Whether a plugin keeps the contract, and what it costs.

use std::time::Instant;

use super::{Inspection, Limits, Metering, Plugin, PluginOptions, Reuse};
use crate::catalog::Catalog;
use crate::error::{Fault, Result};
use crate::types::{QueryLanguage, Ranking, Request, Retriever, RetrieverCard};

/// What a check found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct CheckReport {
    /// Whether every item passed.
    pub passed: bool,
    /// What the plugin says of itself.
    pub card: RetrieverCard,
    /// What the component file holds.
    pub component: Inspection,
    /// What was tried.
    pub items: Vec<CheckItem>,
    /// What it costs.
    pub cost: CheckCost,
    /// What it may use, by its manifest and the grant: what the costs are to be held against.
    pub limits: Limits,
}

/// Something that was tried.
#[derive(Debug, Clone, serde::Serialize)]
pub struct CheckItem {
    /// What a plugin must do.
    pub rule: &'static str,
    /// Requests that it was tried with.
    pub requests: usize,
    /// The first thing that was wrong; none where all was right.
    pub failure: Option<String>,
}

/// What a plugin costs, over the ordinary requests.
#[derive(Debug, Clone, serde::Serialize)]
pub struct CheckCost {
    /// Seconds from the component's bytes to the first answer: loading the catalogue, snapshot, compilation.
    pub prepare_seconds: f64,
    /// Microseconds that a new instance takes: half of them less than this, and 99 of 100.
    pub start_us: [f64; 2],
    /// Microseconds of a request on an instance that is kept, both ways over the border included.
    pub request_us: [f64; 2],
    /// Fuel of a request.
    pub fuel: [f64; 2],
    /// MiB of linear memory of an instance after it has served.
    pub memory_mib: f64,
}

/// What one request cost on a fresh instance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) start_us: f64,
    pub(super) fuel: u64,
    pub(super) memory: u64,
}

/// Texts that nobody should send and somebody will. None of them may cause a failure.
fn awkward() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        " ",
        "\0",
        "\"",
        "\"\"",
        "(",
        ")",
        "((((",
        "AND",
        "OR OR",
        "NOT",
        "-",
        "+",
        "^",
        "a^",
        "a^-1",
        "a^1e999",
        "title:",
        "title:(",
        ":",
        "::",
        "title:title:a",
        "a AND (b OR \"c",
        "\\",
        "\u{202e}abc",
        "e\u{301}",
        "🜁 ☃",
        "ſ ﬁ Ω İ",
        "\u{feff}\u{200b}",
        "%00",
        "<script>",
        "'; --",
        "*",
        "?",
        "~",
        "a~99999999999",
        "[1 TO 2]",
        "{",
        "中文検索",
        "\r\n\t",
    ]
    .map(str::to_owned)
    .into();
    texts.push("word ".repeat(4_000));
    texts.push("x".repeat(100_000));
    texts.push("(".repeat(10_000));
    texts.push("a OR ".repeat(3_000) + "a");
    texts
}

/// Loads a component three times and asks it ordinary requests (`texts`), awkward ones, and the same ones in other ways.
///
/// # Errors
/// Where it cannot be loaded at all: those of [`Plugin::from_bytes`].
pub fn check(
    name: &str,
    bytes: &[u8],
    catalog: &Catalog,
    options: &PluginOptions,
    texts: &[String],
) -> Result<CheckReport> {
    let component = Inspection::of(name, bytes)?;
    let load = |metering, reuse| {
        let options = PluginOptions { metering, reuse, cache: None, ..options.clone() };
        Plugin::from_bytes(name, bytes, catalog, options, &|_, _| {})
    };
    let begun = Instant::now();
    let plugin = load(Metering::Clock, Reuse::UntilFault)?;
    let languages = plugin.card().languages.clone();
    // Who reads histories has nothing to say without one.
    let seen: Vec<u32> =
        if plugin.card().reads_history { (0..catalog.len().min(3) as u32).collect() } else { Vec::new() };
    let request = |text: &str, k: usize| Request {
        text: text.to_owned(),
        language: languages.first().copied().unwrap_or(QueryLanguage::Plain),
        history: seen.clone(),
        exclude: Vec::new(),
        k,
    };
    let ordinary: Vec<Request> = texts.iter().map(|text| request(text, 10)).collect();
    let first = ordinary.first().map(|first| plugin.retrieve(std::slice::from_ref(first)));
    let prepare_seconds = begun.elapsed().as_secs_f64();
    drop(first);

    let mut items = Vec::new();
    let mut tried = |rule: &'static str, requests: &[Request], failure: Option<String>| {
        items.push(CheckItem { rule, requests: requests.len(), failure });
    };
    let answers = alone(&plugin, &ordinary);
    tried("answers ordinary requests within the contract", &ordinary, faults(&ordinary, &answers));
    let any = answers.iter().flatten().any(|ranking| !ranking.hits.is_empty());
    // Who ranks by histories has nothing to say to a text alone; and where all failed, that was said already.
    if !plugin.card().reads_history && answers.iter().any(Result::is_ok) {
        let failure = || "every ranking was empty: give it data that it can rank".to_owned();
        tried("finds something for some of them", &ordinary, (!any).then(failure));
    }

    let mut odd = Vec::new();
    for text in awkward() {
        for language in [QueryLanguage::Plain, QueryLanguage::Boolean, QueryLanguage::Natural] {
            odd.push(Request { language, ..request(&text, 10) });
        }
    }
    tried("answers awkward text: no text is a failure", &odd, faults(&odd, &alone(&plugin, &odd)));

    let all = catalog.len();
    let mut sized = Vec::new();
    for text in texts.iter().take(20) {
        sized.extend([1, all, all + 1].map(|k| request(text, k)));
    }
    tried("keeps to k, however small or large", &sized, faults(&sized, &alone(&plugin, &sized)));

    let mut without = Vec::new();
    for (request, answer) in ordinary.iter().zip(&answers).take(50) {
        let found: Vec<u32> = answer.iter().flat_map(|ranking| &ranking.hits).map(|hit| hit.doc).collect();
        without.push(Request { exclude: found, ..request.clone() });
    }
    tried("leaves out what is excluded", &without, faults(&without, &alone(&plugin, &without)));

    let together = plugin.retrieve(&ordinary);
    tried("answers a batch as it answers each alone", &ordinary, differences(&ordinary, &answers, &together));
    let mut backwards = ordinary.clone();
    backwards.reverse();
    let mut again = alone(&plugin, &backwards);
    again.reverse();
    tried("forgets what it was asked before", &ordinary, differences(&ordinary, &answers, &again));

    let counted = [load(Metering::Fuel, Reuse::EachSearch)?, load(Metering::Fuel, Reuse::EachSearch)?];
    let [one, two] = counted.each_ref().map(|plugin| plugin.retrieve(&ordinary));
    tried("answers the same when it is loaded again", &ordinary, differences(&ordinary, &one, &two));
    tried("answers the same with fuel as with a clock", &ordinary, differences(&ordinary, &one, &answers));

    let mut times = Vec::with_capacity(ordinary.len());
    for request in &ordinary {
        let begun = Instant::now();
        drop(plugin.retrieve(std::slice::from_ref(request)));
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    let fresh: Vec<Measured> = ordinary.iter().filter_map(|request| counted[0].measure(request)).collect();
    let cost = CheckCost {
        prepare_seconds,
        start_us: percentiles(fresh.iter().map(|m| m.start_us).collect()),
        request_us: percentiles(times),
        fuel: percentiles(fresh.iter().map(|m| m.fuel as f64).collect()),
        memory_mib: fresh.iter().map(|m| m.memory).max().unwrap_or(0) as f64 / f64::from(1 << 20),
    };
    let passed = items.iter().all(|item| item.failure.is_none());
    let limits = plugin.capabilities().limits;
    Ok(CheckReport { passed, card: plugin.card().clone(), component, items, cost, limits })
}

/// Half of the values lie below the first, 99 of 100 below the second.
fn percentiles(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [0.5, 0.99].map(|q| values.get((values.len() as f64 * q) as usize).or(values.last()).copied().unwrap_or(f64::NAN))
}

type Answers = Vec<Result<Ranking, Fault>>;

fn alone(plugin: &Plugin, requests: &[Request]) -> Answers {
    requests.iter().flat_map(|request| plugin.retrieve(std::slice::from_ref(request))).collect()
}

/// A request's text as it may stand in a line.
fn shown(request: &Request) -> String {
    let text: String = request.text.chars().take(40).collect();
    let rest = if text.len() < request.text.len() { "…" } else { "" };
    format!("{text:?}{rest} ({:?}, k = {})", request.language, request.k)
}

/// The first fault.
fn faults(requests: &[Request], answers: &Answers) -> Option<String> {
    let mut failed =
        requests.iter().zip(answers).filter_map(|(request, answer)| Some((request, answer.as_ref().err()?)));
    failed.next().map(|(request, fault)| format!("{}: {fault}", shown(request)))
}

/// The first request that was answered in two ways.
fn differences(requests: &[Request], one: &Answers, two: &Answers) -> Option<String> {
    let place = one.iter().zip(two).position(|(one, two)| one != two)?;
    let show = |answer: &Result<Ranking, Fault>| match answer {
        Ok(ranking) => format!("{:?}", ranking.hits.iter().take(3).collect::<Vec<_>>()),
        Err(fault) => fault.to_string(),
    };
    Some(format!("{}: once {}, once {}", shown(&requests[place]), show(&one[place]), show(&two[place])))
}
