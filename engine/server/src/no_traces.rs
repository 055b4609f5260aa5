//! What stands in for traces without the feature `otel`: nothing.

use axum::http::{HeaderMap, StatusCode};

use querywright_stack::Trace;

use crate::routes::Route;

/// Nowhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traces(());

impl Traces {
    pub(crate) fn begin(&self, _: &Route, _: &HeaderMap, _: &str) -> Span {
        Span
    }
}

/// No span.
#[derive(Debug, Clone)]
pub(crate) struct Span;

impl Span {
    pub(crate) fn searched(&self, _: &Trace) {}

    pub(crate) fn end(&self, _: StatusCode) {}
}
