//! The table of routes: what exists, and what is named in the design but not built.

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{Request, State as Shared};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use http::{Method, StatusCode, header};
use onward::Code;

use crate::call::bad_path;
use crate::ops::{cache, chains, commit, info, locks, objects, watch};
use crate::refusal::Refusal;
use crate::run::{closes, new_id, run};
use crate::state::State;

/// Who may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Whoever shows a token.
    Token,
    /// Everybody.
    Open,
}

macro_rules! routes {
    ($($path:literal { $($method:ident $gate:ident $op:path),+ $(,)? })+) => {
        /// Every route with its methods; `{*name}` is the rest of the path. HEAD is there wherever GET is.
        pub const ROUTES: &[(&str, &[&str])] = &[$(($path, &[$(stringify!($method)),+]),)+];

        fn built() -> Router<State> {
            let mut router = Router::new();
            $(
                let mut methods = MethodRouter::new();
                $(
                    let op = |Shared(state): Shared<State>, request: Request| run(state, request, $path, Gate::$gate, $op);
                    methods = methods.merge(on(filter(stringify!($method)), op));
                )+
                router = router.route($path, methods);
            )+
            router
        }
    };
}

routes! {
    "/v1/objects/{kind}/{*name}" { GET Token objects::get, PUT Token objects::put, PATCH Token objects::patch, DELETE Token objects::delete }
    "/v1/objects/{kind}" { GET Token objects::list }
    "/v1/commit" { POST Token commit::commit }
    "/v1/watch" { GET Token watch::watch }
    "/v1/locks/{*key}" { POST Token locks::acquire, PUT Token locks::renew, DELETE Token locks::release, GET Token locks::status }
    "/v1/locks" { POST Token locks::renew_many }
    "/v1/cache/{namespace}/{*key}" { GET Token cache::begin, PUT Token cache::fill, DELETE Token cache::invalidate }
    "/v1/cache/{namespace}" { GET Token cache::stats, POST Token cache::operate, DELETE Token cache::flush }
    "/v1/chains" { GET Token chains::list }
    "/v1/chains/{chain}" { GET Token chains::head }
    "/v1/chains/{chain}/entries" { GET Token chains::query, POST Token chains::append }
    "/v1/chains/{chain}/entries/{seq}" { GET Token chains::get }
    "/v1/chains/{chain}/verify" { POST Token chains::verify }
    "/v1/info" { GET Token info::info }
    "/v1/admin/doctor" { GET Token info::doctor }
    "/livez" { GET Open info::livez }
    "/readyz" { GET Open info::readyz }
    "/metrics" { GET Token info::metrics }
    "/openapi.json" { GET Open info::openapi }
    "/docs" { GET Open info::docs }
}

/// Builds the whole surface as a tower service.
pub fn router(state: State) -> Router {
    built().method_not_allowed_fallback(wrong_method).fallback(no_route).with_state(state)
}

fn filter(method: &str) -> MethodFilter {
    match method {
        // axum answers HEAD wherever GET is.
        "GET" => MethodFilter::GET,
        "PUT" => MethodFilter::PUT,
        "POST" => MethodFilter::POST,
        "PATCH" => MethodFilter::PATCH,
        _ => MethodFilter::DELETE,
    }
}

/// Parts of the design that are not built: the route says so instead of denying that it exists (C9).
fn is_designed(path: &str) -> bool {
    let mut segments = path.split('/').skip(1);
    let (version, part, third, fourth) = (segments.next(), segments.next(), segments.next(), segments.next());
    match (version, part, third) {
        (Some("v1"), Some("admin"), Some(_)) => true,
        (Some("v1"), Some("chains"), Some(_)) => {
            let later = ["segments", "checkpoint", "proofs", "export", "holds", "redactions", "keys", "operations", "heal"];
            fourth.is_some_and(|word| later.contains(&word))
        }
        (Some("ui"), _, _) => true,
        _ => false,
    }
}

async fn no_route(Shared(state): Shared<State>, request: Request) -> Response {
    let path = request.uri().path();
    let refusal = if is_designed(path) {
        not_built()
    } else if path.starts_with("/v1/") && path.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) {
        bad_path()
    } else {
        Refusal::new(Code::NotFound, "no such route")
    };
    finish(&state, &request, refusal)
}

async fn wrong_method(Shared(state): Shared<State>, request: Request) -> Response {
    let refusal = if *request.method() == Method::GET && request.uri().path() == "/v1/locks" {
        not_built()
    } else {
        Refusal::new(Code::MethodNotAllowed, "this route does not take this method")
    };
    finish(&state, &request, refusal)
}

fn not_built() -> Refusal {
    Refusal::new(Code::Unsupported, "this server does not do that yet")
}

fn finish(state: &State, request: &Request, refusal: Refusal) -> Response {
    let mut response = refusal.into_response(&new_id());
    if response.status() == StatusCode::NOT_IMPLEMENTED {
        response.headers_mut().remove(header::ALLOW);
    }
    if !request.body().is_end_stream() {
        closes(&mut response);
    }
    state.metrics().request(request.method(), "none", response.status(), std::time::Duration::ZERO);
    response
}
