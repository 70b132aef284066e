//! The HTTP/JSON surface of Onward. It translates and holds no rules: a handler parses, authenticates, makes one call on the library
//! and spells the answer.
//!
//! Owns: the listener and its bounds, tokens, problem+json, event streams, metrics, and the folders of a development server. Refuses:
//! retry loops, lock tables, value caches, and every engine by name. Crash-only: nothing here must outlive a request.
//!
//! [`router`] is the whole surface as a tower service: behind a [`Server`], or called in process with a [`State::embedded`] and no
//! socket at all. [`Dev`] opens a development server with zero configuration.

mod auth;
mod body;
mod call;
mod chores;
mod config;
mod cursor;
mod dev;
mod docs;
mod download;
mod expiry;
mod json;
mod listen;
mod log;
mod metrics;
mod nearest;
mod notify;
mod ops;
mod orders;
mod query;
mod reach;
mod refusal;
mod routes;
mod run;
mod serve;
mod spelled;
mod sse;
mod start;
mod state;
mod table;
mod tls;
mod wait;

pub use auth::{Least, NotARole, NotAScope, Role, Scope, Token};
pub use config::{ConfigError, Configuration, ListedToken, Origin, Origins, Rate, Settings, Shown, Shutdown, Sources, TlsFiles};
pub use dev::{Dev, DevOptions, Ready, Running, running};
pub use listen::{Drained, Server};
pub use log::{Format, Level, LogOptions};
pub use metrics::{METRICS, Metrics};
pub use orders::Orders;
pub use routes::{ROUTES, router};
pub use serve::{Reach, Serve, Serving, check};
pub use start::StartError;
pub use state::{Limits, State, Timeouts};
pub use table::{Metric, MetricKind};
