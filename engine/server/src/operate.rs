//! What operators ask for: whether it lives, what it has done, what it serves, and what it should serve instead.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

use querywright_types::{Error, Load};

use crate::error::ApiError;
use crate::openai;
use crate::request::Call;
use crate::service::{Loaded, Loader, Service};

/// How long an adapter or an engine may take to open.
const OPENING: Duration = Duration::from_secs(3600);
const NO_LOADER: &str = "this server opens nothing while it runs; start it with `adapters` in its configuration";

pub(crate) fn page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, include_str!("../assets/page.html")).into_response()
}

pub(crate) fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("../assets/openapi.json")).into_response()
}

pub(crate) fn health() -> Response {
    Json(json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") })).into_response()
}

/// Whether requests should be sent here: not any more once the server was told to stop.
pub(crate) fn ready(call: &Call) -> Result<Response, ApiError> {
    match call.service.is_ready() {
        true => Ok(Json(json!({ "status": "ready" })).into_response()),
        false => Err(ApiError::busy(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping", 5)),
    }
}

pub(crate) fn metrics(call: &Call) -> Result<Response, ApiError> {
    let service = &call.service;
    let stacks = service.engines().into_iter().flat_map(|engine| engine.stacks());
    // What is asked beside others has a stack of its own, too.
    let loads = stacks.filter_map(|(_, stack)| stack.rewriter()?.load());
    #[cfg(feature = "model")]
    let loads = loads.chain(service.models().into_values().map(|model| model.load()));
    let load = loads.fold(Load::default(), Load::and);
    let text = service.metrics.text(service.admission.load(), load);
    let text = text.map_err(|e| ApiError::of_inside(&Error::bug("server::metrics", e.to_string())))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// What is served.
pub(crate) fn engines(call: &Call) -> Response {
    let one = |engine: &std::sync::Arc<crate::Engine>| {
        let card = engine.stack(Some(crate::engine::ORIGINAL)).ok().map(|(_, stack)| {
            let card = stack.retriever().card();
            json!({ "name": card.name, "version": card.version, "digest": card.digest, "documents": card.documents })
        });
        json!({
            "name": engine.name(),
            "default_rewriter": engine.default_rewriter(),
            "rewriters": engine.rewriters(),
            "retriever": card,
        })
    };
    let engines: Vec<_> = call.service.engines().iter().map(one).collect();
    Json(json!({ "engines": engines })).into_response()
}

/// Opens an engine anew beside the one that serves, and puts it in its place.
pub(crate) async fn reload(call: Call) -> Result<Response, ApiError> {
    let name = call.name_behind(ENGINES)?;
    let open = |loader: &dyn Loader, name: &str, adapters: &[(String, String)]| loader.engine(name, adapters);
    exchange(&call, &name, "opened", open).await
}

/// Adds and deletes documents: an engine with them is opened beside the one that serves, and put in its place.
pub(crate) async fn documents(call: Call) -> Result<Response, ApiError> {
    let name = call.name_behind(ENGINES)?;
    // Of what is JSON no string holds a line end.
    let _: serde::de::IgnoredAny = call.json()?;
    let change = call.text()?.replace(['\n', '\r'], " ");
    let open =
        move |loader: &dyn Loader, name: &str, adapters: &[(String, String)]| loader.documents(name, &change, adapters);
    exchange(&call, &name, "changed documents of", open).await
}

const ENGINES: &str = "/v1/engines/";

/// Puts an engine that is opened now in the place of the one of its name.
async fn exchange(
    call: &Call,
    name: &str,
    what: &str,
    open: impl FnOnce(&dyn Loader, &str, &[(String, String)]) -> querywright_types::Result<(crate::Engine, Vec<Loaded>)>
    + Send
    + 'static,
) -> Result<Response, ApiError> {
    call.service.find_engine(Some(name))?;
    let _one = call.service.changing.lock().await;
    let (service, wanted, adapters) = (call.service.clone(), name.to_owned(), call.service.remembered(name));
    let names: Vec<String> = adapters.iter().map(|(name, _)| name.clone()).collect();
    let open = move || loader(&service).map(|loader| open(loader, &wanted, &adapters));
    let (engine, loaded) = call.blocking(OPENING, open).await??.map_err(|error| for_administrator(&error))?;
    if loaded.len() != names.len() {
        let found = format!("the loader gave {} adapters of {}", loaded.len(), names.len());
        return Err(ApiError::of_inside(&Error::bug("server::operate", found)));
    }
    for (name, loaded) in names.iter().zip(loaded) {
        put(&call.service, &engine, name, loaded);
    }
    let documents = engine.documents();
    call.service.set_engine(engine);
    call.service.log(&format!("request {}: {} {what} the engine {name}", call.id, call.caller));
    Ok(Json(json!({ "status": "ok", "engine": name, "documents": documents })).into_response())
}

/// The body of vLLM's `/v1/load_lora_adapter`, and the engine that gets the adapter as a rewriter.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadAdapter {
    lora_name: String,
    lora_path: String,
    #[serde(default)]
    load_inplace: bool,
    engine: Option<String>,
}

pub(crate) async fn load_adapter(call: Call) -> Result<Response, ApiError> {
    let LoadAdapter { lora_name, lora_path, load_inplace, engine } = call.json()?;
    if lora_name.is_empty() || lora_name.len() > 200 || lora_name.chars().any(char::is_control) {
        return Err(ApiError::bad("lora_name", "give a name of 1 to 200 bytes without control characters"));
    }
    let _one = call.service.changing.lock().await;
    let engine = call.service.find_engine(engine.as_deref())?;
    let known = engine.rewriters().contains(&lora_name) || has_model(&call.service, &lora_name);
    let loaded = was_loaded(&call.service, &engine, &lora_name);
    if known && !(load_inplace && loaded) {
        let remedy = match loaded {
            true => "unload it first, or set load_inplace to put this one in its place",
            false => "it is part of the configuration, or another engine's; choose another name",
        };
        return Err(ApiError::bad("lora_name", format!("there is a {lora_name:?} already; {remedy}")));
    }
    let (service, wanted, path) =
        (call.service.clone(), (engine.name().to_owned(), lora_name.clone()), lora_path.clone());
    let open = move || loader(&service).map(|loader| loader.adapter(&wanted.0, &wanted.1, &path));
    let loaded = call.blocking(OPENING, open).await??.map_err(|error| for_administrator(&error))?;
    put(&call.service, &engine, &lora_name, loaded);
    call.service.remember(engine.name(), &lora_name, Some(&lora_path));
    call.service.log(&format!("request {}: {} loaded the adapter {lora_name:?}", call.id, call.caller));
    Ok(Json(json!({ "status": "ok", "lora_name": lora_name })).into_response())
}

#[cfg_attr(not(feature = "model"), expect(unused_variables))]
fn put(service: &Service, engine: &crate::Engine, name: &str, loaded: Loaded) {
    if let Some(stack) = loaded.stack {
        engine.set_rewriter(name, stack);
    }
    #[cfg(feature = "model")]
    if let Some(model) = loaded.model {
        service.set_model(name.to_owned(), Some(model));
    }
}

/// Whether a model or an encoder has the name.
fn has_model(service: &Service, name: &str) -> bool {
    openai::names(service).iter().any(|known| known == name)
}

/// The body of vLLM's `/v1/unload_lora_adapter`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnloadAdapter {
    lora_name: String,
    engine: Option<String>,
}

pub(crate) async fn unload_adapter(call: Call) -> Result<Response, ApiError> {
    let UnloadAdapter { lora_name, engine } = call.json()?;
    let _one = call.service.changing.lock().await;
    let engine = call.service.find_engine(engine.as_deref())?;
    if !was_loaded(&call.service, &engine, &lora_name) {
        if engine.rewriters().contains(&lora_name) || has_model(&call.service, &lora_name) {
            return Err(ApiError::bad("lora_name", "it is part of the configuration, and stays"));
        }
        return Err(ApiError::unknown("adapter", &lora_name, "GET /v1/engines lists the rewriters"));
    }
    engine.remove_rewriter(&lora_name);
    call.service.remember(engine.name(), &lora_name, None);
    #[cfg(feature = "model")]
    call.service.set_model(lora_name.clone(), None);
    call.service.log(&format!("request {}: {} unloaded the adapter {lora_name:?}", call.id, call.caller));
    Ok(Json(json!({ "status": "ok", "lora_name": lora_name })).into_response())
}

fn was_loaded(service: &Service, engine: &crate::Engine, name: &str) -> bool {
    service.remembered(engine.name()).iter().any(|(loaded, _)| loaded == name)
}

fn loader(service: &Service) -> Result<&dyn Loader, ApiError> {
    service.loader.as_deref().ok_or_else(|| ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", NO_LOADER))
}

/// An administrator reads the whole error: they named the file.
fn for_administrator(error: &Error) -> ApiError {
    let status = match error {
        Error::Bug { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    let mut told = ApiError::new(status, error.code(), error.to_string());
    told.inside = Some(error.to_string());
    told
}
