//! Whether a plugin keeps the contract, and what it costs.

mod awkward;

use std::time::Instant;

use super::engine::Metering;
use super::inspect::Inspection;
use super::limits::Limits;
use super::options::{PluginOptions, Reuse};
use super::retriever::{Plugin, RequestCost};
use querywright_data::catalog::Catalog;
use querywright_types::{Deadline, Error, Fault, QueryLanguage, Ranking, Request, Result, Retriever, RetrieverCard};

/// What a check found.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct CheckReport {
    /// Whether every item passed.
    pub passed: bool,
    /// The plugin's card.
    pub card: RetrieverCard,
    /// What the component file holds.
    pub component: Inspection,
    /// The rules that were checked.
    pub items: Vec<CheckItem>,
    /// What it costs.
    pub cost: CheckCost,
    /// What it may use by its manifest and the grant, for comparison with the cost.
    pub limits: Limits,
}

/// One rule that was checked.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct CheckItem {
    /// What a plugin must do.
    pub rule: &'static str,
    /// Number of requests that it was checked with.
    pub requests: usize,
    /// The first violation; none if there is none.
    pub failure: Option<String>,
}

/// What a plugin costs, over the ordinary requests.
#[derive(Debug, Clone, serde::Serialize)]
#[non_exhaustive]
pub struct CheckCost {
    /// Seconds from the component's bytes to the first answer: loading the catalogue, snapshot, compilation.
    pub prepare_seconds: f64,
    /// Microseconds to start an instance: the median and the 99th percentile.
    pub start_us: [f64; 2],
    /// Microseconds of a request on an instance that is reused, including the copies in and out of the sandbox: the
    /// median and the 99th percentile.
    pub request_us: [f64; 2],
    /// Fuel of a request: the median and the 99th percentile.
    pub fuel: [f64; 2],
    /// MiB of linear memory of an instance after a request: the largest.
    pub memory_mib: f64,
}

/// Requests that the rules about k are checked with.
const SIZED: usize = 20;
/// Requests that the rule about exclusions is checked with.
const EXCLUDING: usize = 50;
/// Hits of an ordinary request.
const K: usize = 10;

/// Checks a component: loads it three times, and asks it ordinary requests (`texts`), awkward ones, and the ordinary
/// ones in other ways.
///
/// # Errors
/// Those of [`Plugin::from_bytes`], if it cannot be loaded at all.
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
        Plugin::from_bytes(name, bytes, catalog, options, &())
    };
    let begun = Instant::now();
    let plugin = load(Metering::Clock, Reuse::UntilFault)?.for_one_caller();
    let ordinary: Vec<Request> = texts.iter().map(|text| request(&plugin, catalog, text)).collect();
    drop(ordinary.first().map(|first| plugin.retrieve(std::slice::from_ref(first), Deadline::NONE)));
    let prepare_seconds = begun.elapsed().as_secs_f64();

    let answers = one_by_one(&plugin, &ordinary)?;
    let mut rules = Rules { plugin: &plugin, catalog, ordinary: &ordinary, answers: &answers, items: Vec::new() };
    rules.check_answers();
    rules.check_awkward_texts()?;
    rules.check_k()?;
    rules.check_exclusions()?;
    rules.check_order()?;
    let counted = [load(Metering::Fuel, Reuse::EachSearch)?, load(Metering::Fuel, Reuse::EachSearch)?];
    rules.check_reloading(&counted)?;

    let items = rules.items;
    Ok(CheckReport {
        passed: items.iter().all(|item| item.failure.is_none()),
        card: plugin.card().clone(),
        component,
        items,
        cost: cost(prepare_seconds, &plugin, &counted[0], &ordinary),
        limits: plugin.capabilities().limits,
    })
}

/// An ordinary request. A plugin that reads histories gets one, since it has no hits without.
fn request(plugin: &Plugin, catalog: &Catalog, text: &str) -> Request {
    let card = plugin.card();
    Request::plain(text, K)
        .with_language(card.languages.first().copied().unwrap_or(QueryLanguage::Plain))
        .with_history(if card.reads_history { (0..catalog.len().min(3) as u32).collect() } else { Vec::new() })
}

type Answers = Vec<Result<Ranking, Fault>>;

/// The rules of the contract, checked one after the other.
struct Rules<'a> {
    plugin: &'a Plugin,
    catalog: &'a Catalog,
    ordinary: &'a [Request],
    /// The answers to the ordinary requests, each alone.
    answers: &'a Answers,
    items: Vec<CheckItem>,
}

impl Rules<'_> {
    fn report(&mut self, rule: &'static str, requests: usize, failure: Option<String>) {
        self.items.push(CheckItem { rule, requests, failure });
    }

    fn check_answers(&mut self) {
        let (count, answers) = (self.ordinary.len(), self.answers);
        let failure = first_fault(self.ordinary, answers);
        self.report("answers ordinary requests within the contract", count, failure);
        // A plugin that ranks by histories may have no hits for a text alone. Faults were reported above.
        if !self.plugin.card().reads_history && answers.iter().any(Result::is_ok) {
            let any = answers.iter().flatten().any(|ranking| !ranking.hits.is_empty());
            let failure = || "every ranking was empty: give it data that it can rank".to_owned();
            self.report("finds something for some of them", count, (!any).then(failure));
        }
    }

    fn check_awkward_texts(&mut self) -> Result<()> {
        let mut requests = Vec::new();
        for text in awkward::texts() {
            for language in [QueryLanguage::Plain, QueryLanguage::Boolean, QueryLanguage::Natural] {
                requests.push(request(self.plugin, self.catalog, &text).with_language(language));
            }
        }
        self.check_faults("answers awkward text: no text is a failure", &requests)
    }

    fn check_k(&mut self) -> Result<()> {
        let all = self.catalog.len();
        let mut requests = Vec::new();
        for request in self.ordinary.iter().take(SIZED) {
            requests.extend([1, all, all + 1].map(|k| request.clone().with_k(k)));
        }
        self.check_faults("keeps to k, however small or large", &requests)
    }

    fn check_exclusions(&mut self) -> Result<()> {
        let mut requests = Vec::new();
        for (request, answer) in self.ordinary.iter().zip(self.answers).take(EXCLUDING) {
            let found: Vec<u32> = answer.iter().flat_map(|ranking| &ranking.hits).map(|hit| hit.doc).collect();
            requests.push(request.clone().with_exclude(found));
        }
        self.check_faults("leaves out what is excluded", &requests)
    }

    fn check_order(&mut self) -> Result<()> {
        let count = self.ordinary.len();
        let together = retrieve(self.plugin, self.ordinary)?;
        let failure = first_difference(self.ordinary, self.answers, &together);
        self.report("answers a batch as it answers each alone", count, failure);
        let mut reversed = self.ordinary.to_vec();
        reversed.reverse();
        let mut again = one_by_one(self.plugin, &reversed)?;
        again.reverse();
        let failure = first_difference(self.ordinary, self.answers, &again);
        self.report("forgets what it was asked before", count, failure);
        Ok(())
    }

    fn check_reloading(&mut self, counted: &[Plugin; 2]) -> Result<()> {
        let count = self.ordinary.len();
        let [one, two] = counted.each_ref().map(|plugin| retrieve(plugin, self.ordinary));
        let (one, two) = (one?, two?);
        let failure = first_difference(self.ordinary, &one, &two);
        self.report("answers the same when it is loaded again", count, failure);
        let failure = first_difference(self.ordinary, &one, self.answers);
        self.report("answers the same with fuel as with a clock", count, failure);
        Ok(())
    }

    fn check_faults(&mut self, rule: &'static str, requests: &[Request]) -> Result<()> {
        let failure = first_fault(requests, &one_by_one(self.plugin, requests)?);
        self.report(rule, requests.len(), failure);
        Ok(())
    }
}

/// Times the ordinary requests on reused instances of `plugin`, and measures each on a fresh instance of `counted`.
fn cost(prepare_seconds: f64, plugin: &Plugin, counted: &Plugin, ordinary: &[Request]) -> CheckCost {
    let mut request_us = Vec::with_capacity(ordinary.len());
    for request in ordinary {
        let begun = Instant::now();
        drop(plugin.retrieve(std::slice::from_ref(request), Deadline::NONE));
        request_us.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    let fresh: Vec<RequestCost> = ordinary.iter().filter_map(|request| counted.measure(request)).collect();
    CheckCost {
        prepare_seconds,
        start_us: percentiles(fresh.iter().map(|cost| cost.start_us).collect()),
        request_us: percentiles(request_us),
        fuel: percentiles(fresh.iter().map(|cost| cost.fuel as f64).collect()),
        memory_mib: fresh.iter().map(|cost| cost.memory).max().unwrap_or(0) as f64 / f64::from(1 << 20),
    }
}

/// The median and the 99th percentile.
fn percentiles(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [0.5, 0.99].map(|q| values.get((values.len() as f64 * q) as usize).or(values.last()).copied().unwrap_or(f64::NAN))
}

/// One answer to each request, in one call.
fn retrieve(plugin: &Plugin, requests: &[Request]) -> Result<Answers> {
    let answers = plugin.retrieve(requests, Deadline::NONE);
    if answers.len() == requests.len() {
        return Ok(answers);
    }
    Err(Error::bug("plugin check", format!("{} answers to {} requests", answers.len(), requests.len())))
}

/// One answer to each request, each in a call of its own.
fn one_by_one(plugin: &Plugin, requests: &[Request]) -> Result<Answers> {
    let mut answers = Vec::with_capacity(requests.len());
    for request in requests {
        answers.extend(retrieve(plugin, std::slice::from_ref(request))?);
    }
    Ok(answers)
}

/// A request on one line.
fn shown(request: &Request) -> String {
    let text: String = request.text.chars().take(40).collect();
    let rest = if text.len() < request.text.len() { "…" } else { "" };
    format!("{text:?}{rest} ({:?}, k = {})", request.language, request.k)
}

/// The first fault, with its request.
fn first_fault(requests: &[Request], answers: &Answers) -> Option<String> {
    let mut failed =
        requests.iter().zip(answers).filter_map(|(request, answer)| Some((request, answer.as_ref().err()?)));
    failed.next().map(|(request, fault)| format!("{}: {fault}", shown(request)))
}

/// The first request that has two different answers.
fn first_difference(requests: &[Request], one: &Answers, two: &Answers) -> Option<String> {
    let place = one.iter().zip(two).position(|(one, two)| one != two)?;
    let show = |answer: &Result<Ranking, Fault>| match answer {
        Ok(ranking) => format!("{:?}", ranking.hits.iter().take(3).collect::<Vec<_>>()),
        Err(fault) => fault.to_string(),
    };
    Some(format!("{}: first {}, then {}", shown(&requests[place]), show(&one[place]), show(&two[place])))
}
