//! What Prometheus reads. Every label has a fixed set of values: a caller adds no series.

use std::time::Duration;

use axum::http::StatusCode;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use querywright_stack::Trace;
use querywright_types::{Error, Load};

type Labels = Vec<(&'static str, &'static str)>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// Seconds.
const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// The metrics of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    request_seconds: Histograms,
    search_seconds: Histograms,
    rewrite_seconds: Histograms,
    fallbacks: Family<Labels, Counter>,
    failures: Family<Labels, Counter>,
    tokens: Family<Labels, Counter>,
    requests_load: Family<Labels, Gauge>,
    model_load: Family<Labels, Gauge>,
    batches: Batches,
}

/// The batches of all models, as they were counted where they ran.
#[derive(Debug, Clone, Default)]
struct Batches(Arc<Mutex<Load>>);

impl Collector for Batches {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let load = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let end = |most: usize| if most == usize::MAX { f64::INFINITY } else { most as f64 };
        let buckets: Vec<(f64, u64)> = Load::BATCH_SIZES.into_iter().map(end).zip(load.passes).collect();
        let help = "Requests that took part in a pass of a model";
        let mut histogram = encoder.encode_descriptor("batch_size", help, None, MetricType::Histogram)?;
        histogram.encode_histogram::<NoLabelSet>(load.steps as f64, load.passes.iter().sum(), &buckets, None)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let families = |histograms: fn() -> Histogram| Histograms::new_with_constructor(histograms);
        let mut metrics = Self {
            registry: Registry::with_prefix("querywright"),
            requests: Family::default(),
            request_seconds: families(histogram),
            search_seconds: families(histogram),
            rewrite_seconds: families(histogram),
            fallbacks: Family::default(),
            failures: Family::default(),
            tokens: Family::default(),
            requests_load: Family::default(),
            model_load: Family::default(),
            batches: Batches::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("requests", "Requests by route and status", metrics.requests.clone());
        registry.register("request_seconds", "Whole requests by route", metrics.request_seconds.clone());
        registry.register("search_seconds", "Searches by what became of the rewrite", metrics.search_seconds.clone());
        registry.register("rewrite_seconds", "Rewrites by what became of them", metrics.rewrite_seconds.clone());
        registry.register("fallbacks", "Queries searched for as they came, by reason", metrics.fallbacks.clone());
        registry.register("failures", "Searches without an answer, by reason", metrics.failures.clone());
        registry.register("tokens", "Tokens of OpenAI's endpoints", metrics.tokens.clone());
        registry.register("request_load", "Requests that wait and that are worked on", metrics.requests_load.clone());
        registry.register("model_load", "What waits for models, and their batches", metrics.model_load.clone());
        registry.register_collector(Box::new(metrics.batches.clone()));
        metrics
    }
}

impl Metrics {
    /// A request was answered.
    pub(crate) fn answered(&self, route: &'static str, status: StatusCode, took: Duration) {
        self.requests.get_or_create(&vec![("route", route), ("status", class(status))]).inc();
        self.request_seconds.get_or_create(&vec![("route", route)]).observe(took.as_secs_f64());
    }

    /// A query was rewritten and, where `took` says how long, searched for.
    pub(crate) fn searched(&self, trace: &Trace, took: Option<Duration>) {
        let outcome = vec![("outcome", trace.outcome.kind())];
        self.rewrite_seconds.get_or_create(&outcome).observe(trace.rewrite_ms / 1e3);
        if let Some(took) = took {
            self.search_seconds.get_or_create(&outcome).observe(took.as_secs_f64());
        }
        let outcomes = std::iter::once(&trace.outcome).chain(trace.also.iter().map(|one| &one.outcome));
        for error in outcomes.filter_map(|outcome| outcome.fallback()) {
            self.fallbacks.get_or_create(&vec![("reason", error.code())]).inc();
        }
    }

    /// A query got no answer.
    pub(crate) fn failed(&self, error: &Error) {
        self.failures.get_or_create(&vec![("reason", error.code())]).inc();
    }

    /// Tokens of a prompt and of its completions.
    #[cfg(any(feature = "model", feature = "dense"))]
    pub(crate) fn used(&self, prompt: usize, completions: usize) {
        self.tokens.get_or_create(&vec![("kind", "prompt")]).inc_by(prompt as u64);
        self.tokens.get_or_create(&vec![("kind", "completion")]).inc_by(completions as u64);
    }

    /// All metrics as text, with the loads of this moment: of requests, and of models together.
    pub(crate) fn text(&self, requests: (usize, usize), models: Load) -> Result<String, std::fmt::Error> {
        let set = |family: &Family<Labels, Gauge>, state, value: usize| {
            family.get_or_create(&vec![("state", state)]).set(value as i64);
        };
        set(&self.requests_load, "waiting", requests.0);
        set(&self.requests_load, "running", requests.1);
        set(&self.model_load, "waiting", models.waiting);
        set(&self.model_load, "running", models.running);
        *self.batches.0.lock().unwrap_or_else(PoisonError::into_inner) = models;
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A status as a label: the statuses that this server has.
fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200..=299 => "2xx",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        408 => "408",
        413 => "413",
        429 => "429",
        502 => "502",
        503 => "503",
        504 => "504",
        other if other < 500 => "4xx",
        _ => "5xx",
    }
}
