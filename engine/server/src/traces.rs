//! Traces for OpenTelemetry: a span a request, and below it one for each rewrite and each retrieval.
//!
//! Names are those of OpenTelemetry's conventions for HTTP servers; ours begin with `querywright.`. No attribute quotes what
//! was asked for. Spans are sent by a thread of the SDK's; where they cannot be sent they are lost, and nobody waits.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::http::{HeaderMap, StatusCode};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use querywright_stack::Trace;
use querywright_types::{Error, Result};

use crate::routes::Route;

/// Either says where spans go.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// How long sending may take.
const SENDING: Duration = Duration::from_secs(10);
/// Bytes of a collector's answer that are read.
const LONGEST_ANSWER: u64 = 1 << 20;

/// Where spans go: nowhere by default.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// To where `OTEL_EXPORTER_OTLP_ENDPOINT` says, or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, by OTLP over HTTP; nowhere
    /// without either, or with `OTEL_SDK_DISABLED=true`. `OTEL_SERVICE_NAME` (default: querywright), `OTEL_TRACES_SAMPLER` and
    /// the SDK's other variables count.
    ///
    /// # Errors
    /// [`Error::Argument`] for an endpoint that is no address.
    pub fn from_environment() -> Result<Self> {
        let set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let disabled = std::env::var("OTEL_SDK_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        match ENDPOINTS.iter().find(|name| set(name)) {
            Some(name) if !disabled => Self::exporting(None, name),
            _ => Ok(Self::default()),
        }
    }

    /// To an endpoint of OTLP over HTTP, such as `http://127.0.0.1:4318/v1/traces`.
    ///
    /// # Errors
    /// [`Error::Argument`] for what is no address.
    pub fn to(endpoint: &str) -> Result<Self> {
        Self::exporting(Some(endpoint), "endpoint")
    }

    fn exporting(endpoint: Option<&str>, named: &str) -> Result<Self> {
        let refused = |found: String| Error::argument(named, found, "give an address such as http://127.0.0.1:4318");
        let client = querywright_http::client().map_err(refused)?.timeout_global(Some(SENDING)).build();
        let mut exporter = SpanExporter::builder().with_http().with_http_client(Client(client.into()));
        if let Some(endpoint) = endpoint {
            exporter = exporter.with_endpoint(endpoint);
        }
        let exporter = exporter.build().map_err(|e| refused(e.to_string()))?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("querywright");
        }
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build());
        Ok(Self(Some(provider.build())))
    }

    /// A request's span, below that of its caller.
    pub(crate) fn begin(&self, route: &Route, headers: &HeaderMap, id: &str) -> Span {
        let Some(provider) = &self.0 else { return Span(None) };
        let tracer = provider.tracer("querywright");
        let method = if route.get { "GET" } else { "POST" };
        let attributes = vec![
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", route.path),
            KeyValue::new("querywright.request.id", id.to_owned()),
        ];
        let builder = tracer.span_builder(format!("{method} {}", route.path)).with_kind(SpanKind::Server);
        let parent = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
        let span = builder.with_attributes(attributes).start_with_context(&tracer, &parent);
        Span(Some((tracer, Context::new().with_span(span))))
    }
}

/// A request's span, where spans are exported.
#[derive(Debug, Clone)]
pub(crate) struct Span(Option<(SdkTracer, Context)>);

impl Span {
    /// A query was rewritten and searched for, or rewritten alone.
    pub(crate) fn searched(&self, trace: &Trace) {
        let Some((tracer, context)) = &self.0 else { return };
        let ended = SystemTime::now();
        let before =
            |end: SystemTime, ms: f64| end.checked_sub(Duration::from_secs_f64(ms.max(0.0) / 1e3)).unwrap_or(end);
        let rewritten = before(ended, trace.retrieve_ms);
        let child = |name: &'static str, from, to, attributes| {
            let builder = tracer.span_builder(name).with_start_time(from).with_attributes(attributes);
            let mut span = builder.start_with_context(tracer, context);
            opentelemetry::trace::Span::end_with_timestamp(&mut span, to);
        };
        let mut attributes = vec![KeyValue::new("querywright.outcome", trace.outcome.kind())];
        attributes.extend(trace.outcome.fallback().map(|why| KeyValue::new("querywright.fallback", why.code())));
        child("rewrite", before(rewritten, trace.rewrite_ms), rewritten, attributes);
        if trace.retrieve_ms > 0.0 {
            let retriever = KeyValue::new("querywright.retriever", trace.retriever.clone());
            child("retrieve", rewritten, ended, vec![retriever]);
        }
    }

    /// The request was answered.
    pub(crate) fn end(&self, status: StatusCode) {
        let Some((_, context)) = &self.0 else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

/// The client of all connections to other machines.
#[derive(Debug)]
struct Client(ureq::Agent);

#[async_trait]
impl HttpClient for Client {
    /// On the exporter's own thread, which waits for nothing else.
    async fn send_bytes(&self, request: Request<Bytes>) -> std::result::Result<Response<Bytes>, HttpError> {
        let (parts, mut body) = self.0.run(request.map(|bytes| bytes.to_vec()))?.into_parts();
        let bytes = body.with_config().limit(LONGEST_ANSWER).read_to_vec()?;
        Ok(Response::from_parts(parts, bytes.into()))
    }
}
