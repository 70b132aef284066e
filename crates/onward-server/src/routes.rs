//! The table of routes: what exists, and what is named in the design but not built.

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{Request, State as Shared};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use onward::Code;

use crate::auth::{Least, Role};
use crate::call::bad_path;
use crate::ops::{admin, cache, chains, commit, info, locks, objects, personal, proofs, segments, tokens, transfer, verify, watch};
use crate::refusal::Refusal;
use crate::run::{At, closes, new_id, run};
use crate::state::State;

/// A route: its path, and its methods with who may use each at least.
type Route = (&'static str, &'static [(&'static str, Least)]);

macro_rules! routes {
    (@least Open) => { Least::Open };
    (@least $role:ident) => { Least::Role(Role::$role) };
    ($($path:literal { $($method:ident $least:ident $op:path),+ $(,)? })+) => {
        /// Every route with its methods and who may use each; `{*name}` is the rest of the path. HEAD is there wherever GET is.
        pub const ROUTES: &[Route] = &[$(($path, &[$((stringify!($method), routes!(@least $least))),+]),)+];

        fn built() -> Router<State> {
            let mut router = Router::new();
            $(
                let mut methods = MethodRouter::new();
                $(
                    let op = |Shared(state): Shared<State>, request: Request| run(state, request, At { route: $path, least: routes!(@least $least), operation: stringify!($op) }, $op);
                    methods = methods.merge(on(filter(stringify!($method)), op));
                )+
                router = router.route($path, methods);
            )+
            router
        }
    };
}

// Who may use a route stands in front of its operation: V, W, O, A as in the design. A route without it does not compile.
routes! {
    "/v1/objects/{kind}/{*name}" { GET Viewer objects::get, PUT Writer objects::put, PATCH Writer objects::patch, DELETE Writer objects::delete }
    "/v1/objects/{kind}" { GET Viewer objects::list }
    "/v1/objects" { GET Viewer transfer::export, POST Writer transfer::import }
    "/v1/commit" { POST Writer commit::commit }
    "/v1/watch" { GET Viewer watch::watch }
    "/v1/locks/{*key}" { POST Writer locks::acquire, PUT Writer locks::renew, DELETE Writer locks::release, GET Viewer locks::status }
    "/v1/locks" { GET Viewer locks::list, POST Writer locks::renew_many }
    "/v1/admin/lock-switch" { GET Operator locks::locking, PUT Operator locks::switch }
    "/v1/cache/{namespace}/{*key}" { GET Viewer cache::begin, PUT Writer cache::fill, DELETE Writer cache::invalidate }
    "/v1/cache/{namespace}" { GET Viewer cache::stats, POST Writer cache::operate, DELETE Operator cache::flush }
    "/v1/chains" { GET Viewer chains::list }
    "/v1/chains/{chain}" { GET Viewer chains::head }
    "/v1/chains/{chain}/entries" { GET Viewer chains::query, POST Writer chains::append }
    "/v1/chains/{chain}/entries/{seq}" { GET Viewer chains::get }
    "/v1/chains/{chain}/entries/{seq}/personal" { GET Admin personal::get }
    "/v1/chains/{chain}/redactions" { POST Admin personal::redact }
    "/v1/chains/{chain}/export" { GET Viewer chains::export }
    "/v1/chains/{chain}/checkpoint" { GET Viewer proofs::checkpoint }
    "/v1/chains/{chain}/proofs" { GET Viewer proofs::proofs }
    "/v1/chains/{chain}/segments" { GET Viewer segments::list, POST Operator segments::seal }
    "/v1/chains/{chain}/segments/{from}" { GET Viewer segments::get }
    "/v1/chains/{chain}/segments/{from}/archive" { POST Operator segments::archive }
    "/v1/chains/{chain}/segments/{from}/restore" { POST Operator segments::restore }
    "/v1/chains/{chain}/segments/{from}/purge" { POST Admin segments::purge }
    "/v1/chains/{chain}/heal" { POST Operator segments::heal }
    "/v1/chains/{chain}/holds" { GET Viewer segments::holds, POST Operator segments::hold }
    "/v1/chains/{chain}/holds/{id}" { DELETE Operator segments::release }
    "/v1/chains/{chain}/verify" { POST Viewer verify::verify }
    "/v1/info" { GET Viewer info::info }
    "/v1/admin/compact" { POST Operator admin::compact }
    "/v1/admin/maintain" { POST Admin admin::maintain }
    "/v1/admin/check" { GET Operator admin::check }
    "/v1/admin/backup" { GET Admin admin::backup }
    "/v1/admin/doctor" { GET Operator info::doctor }
    "/v1/admin/tokens" { GET Admin tokens::list, POST Admin tokens::create }
    "/v1/admin/tokens/{id}" { GET Admin tokens::get, DELETE Admin tokens::revoke }
    "/livez" { GET Open info::livez }
    "/readyz" { GET Open info::readyz }
    "/metrics" { GET Viewer info::metrics }
    "/openapi.json" { GET Open info::openapi }
    "/docs" { GET Open info::docs }
}

/// Builds the whole surface as a tower service.
pub fn router(state: State) -> Router {
    built().method_not_allowed_fallback(wrong_method).fallback(no_route).with_state(state)
}

/// Builds what an address for the metrics alone serves: `/metrics`, to everybody.
pub(crate) fn open_metrics(state: State) -> Router {
    let scrape = |Shared(state): Shared<State>| async move {
        info::exposition(&state).await.unwrap_or_else(|refusal| refusal.into_response(&new_id()))
    };
    Router::new()
        .route("/metrics", on(MethodFilter::GET, scrape))
        .method_not_allowed_fallback(wrong_method)
        .fallback(no_route)
        .with_state(state)
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
            let later = ["keys", "operations"];
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
    let refusal = Refusal::new(Code::MethodNotAllowed, "this route does not take this method");
    finish(&state, &request, refusal)
}

fn not_built() -> Refusal {
    Refusal::new(Code::Unsupported, "this server does not do that yet")
}

fn finish(state: &State, request: &Request, refusal: Refusal) -> Response {
    let mut response = refusal.into_response(&new_id());
    if !request.body().is_end_stream() {
        closes(&mut response);
    }
    state.metrics().request(request.method(), "none", response.status(), std::time::Duration::ZERO);
    response
}
