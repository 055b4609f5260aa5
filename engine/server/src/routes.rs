//! Every route: its path, who may use it, and what answers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};

use crate::error::ApiError;
use crate::keys::Access;
use crate::request::{self, Call};
use crate::service::Service;
use crate::{openai, operate, runs, search};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Page,
    OpenApi,
    Health,
    Ready,
    Metrics,
    Search,
    Rewrite,
    Engines,
    Reload,
    Documents,
    LoadAdapter,
    UnloadAdapter,
    Runs,
    RunMetrics,
    RunSamples,
    RunReport,
    Models,
    Model,
    Chat,
    Completions,
    Embeddings,
}

/// A route.
pub(crate) struct Route {
    pub(crate) get: bool,
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    pub(crate) endpoint: Endpoint,
}

const fn get(path: &'static str, access: Access, endpoint: Endpoint) -> Route {
    Route { get: true, path, access, endpoint }
}

const fn post(path: &'static str, access: Access, endpoint: Endpoint) -> Route {
    Route { get: false, path, access, endpoint }
}

/// All routes. What is not here is not answered.
pub(crate) const ROUTES: [Route; 21] = [
    get("/", Access::Open, Endpoint::Page),
    get("/openapi.json", Access::Open, Endpoint::OpenApi),
    get("/health", Access::Open, Endpoint::Health),
    get("/ready", Access::Open, Endpoint::Ready),
    get("/metrics", Access::Read, Endpoint::Metrics),
    post("/v1/search", Access::Read, Endpoint::Search),
    post("/v1/rewrite", Access::Read, Endpoint::Rewrite),
    get("/v1/engines", Access::Read, Endpoint::Engines),
    post("/v1/engines/{name}/reload", Access::Admin, Endpoint::Reload),
    post("/v1/engines/{name}/documents", Access::Admin, Endpoint::Documents),
    post("/v1/load_lora_adapter", Access::Admin, Endpoint::LoadAdapter),
    post("/v1/unload_lora_adapter", Access::Admin, Endpoint::UnloadAdapter),
    get("/v1/runs", Access::Read, Endpoint::Runs),
    get("/v1/runs/{name}/metrics", Access::Read, Endpoint::RunMetrics),
    get("/v1/runs/{name}/samples", Access::Read, Endpoint::RunSamples),
    get("/v1/runs/{name}/report", Access::Read, Endpoint::RunReport),
    get("/v1/models", Access::Read, Endpoint::Models),
    get("/v1/models/{name}", Access::Read, Endpoint::Model),
    post("/v1/chat/completions", Access::Read, Endpoint::Chat),
    post("/v1/completions", Access::Read, Endpoint::Completions),
    post("/v1/embeddings", Access::Read, Endpoint::Embeddings),
];

impl Service {
    /// The routes of this service, for a server of yours.
    pub fn router(self: &Arc<Self>) -> Router {
        let mut router = Router::new();
        for route in &ROUTES {
            let filter = if route.get { MethodFilter::GET } else { MethodFilter::POST };
            let handler =
                move |State(service): State<Arc<Service>>, http: Request| request::answer(route, service, http);
            router = router.route(route.path, on(filter, handler));
        }
        router.fallback(nothing_here).method_not_allowed_fallback(another_method).with_state(self.clone())
    }
}

/// Runs the handler of a route.
pub(crate) async fn handle(endpoint: Endpoint, call: Call) -> Result<Response, ApiError> {
    match endpoint {
        Endpoint::Page => Ok(operate::page()),
        Endpoint::OpenApi => Ok(operate::openapi()),
        Endpoint::Health => Ok(operate::health()),
        Endpoint::Ready => operate::ready(&call),
        Endpoint::Metrics => operate::metrics(&call),
        Endpoint::Search => search::search(call).await,
        Endpoint::Rewrite => search::rewrite(call).await,
        Endpoint::Engines => Ok(operate::engines(&call)),
        Endpoint::Reload => to_its_end(operate::reload(call)).await,
        Endpoint::Documents => to_its_end(operate::documents(call)).await,
        Endpoint::LoadAdapter => to_its_end(operate::load_adapter(call)).await,
        Endpoint::UnloadAdapter => operate::unload_adapter(call).await,
        Endpoint::Runs => runs::list(call).await,
        Endpoint::RunMetrics => runs::metrics(call).await,
        Endpoint::RunSamples => runs::samples(call).await,
        Endpoint::RunReport => runs::report(call).await,
        Endpoint::Models => Ok(openai::models(&call)),
        Endpoint::Model => openai::model(&call),
        Endpoint::Chat => openai::chat(call).await,
        Endpoint::Completions => openai::completions(call).await,
        Endpoint::Embeddings => openai::embeddings(call).await,
    }
}

/// Runs a change of what is served to its end, whether or not its caller waits for it.
async fn to_its_end(
    change: impl Future<Output = Result<Response, ApiError>> + Send + 'static,
) -> Result<Response, ApiError> {
    tokio::spawn(change).await.unwrap_or_else(|panic| {
        Err(ApiError::of_inside(&querywright_types::Error::bug(
            "server::routes",
            format!("a change panicked: {panic}"),
        )))
    })
}

async fn nothing_here(http: Request) -> Response {
    let message = format!("there is nothing at {}; GET /openapi.json lists what there is", shown(http.uri().path()));
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message).into_response()
}

async fn another_method(http: Request) -> Response {
    let right = ROUTES.iter().find(|route| is_at(route.path, http.uri().path()));
    let right = right.map_or(Method::POST, |route| if route.get { Method::GET } else { Method::POST });
    let message = format!("{} takes {right}, and this was {}", shown(http.uri().path()), http.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).into_response()
}

/// Whether a path is one of a route's.
fn is_at(route: &str, path: &str) -> bool {
    let (route, path): (Vec<&str>, Vec<&str>) = (route.split('/').collect(), path.split('/').collect());
    route.len() == path.len() && route.iter().zip(path).all(|(part, found)| *part == found || part.starts_with('{'))
}

/// A path as an error quotes it.
fn shown(path: &str) -> String {
    path.chars().take(200).collect()
}
