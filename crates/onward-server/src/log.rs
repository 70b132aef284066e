//! What an operator should see: a line of JSON on stderr, without keys, payloads or secrets.

use std::error::Error as _;
use std::io::Write as _;

use onward::time::Clock;
use serde_json::json;

use crate::call::Call;
use crate::refusal::Refusal;

/// Logs a refusal that is the server's fault.
pub(crate) fn failed(route: &str, request_id: &str, refusal: &Refusal) {
    let problem = &refusal.problem;
    let mut causes = Vec::new();
    let mut cause = refusal.cause.as_ref().and_then(|error| error.source());
    while let Some(error) = cause.take().filter(|_| causes.len() < 8) {
        causes.push(error.to_string());
        cause = error.source();
    }
    line(&json!({
        "ts": Clock::system().wall(), "level": "error", "target": "onward::server", "message": problem.detail, "code": problem.code,
        "effect": problem.effect, "route": route, "status": problem.status, "request_id": request_id, "causes": causes,
    }));
}

/// Logs what an operator did, and why. Who calls from this very process has no log.
pub(crate) fn acted(call: &Call, act: &str, reason: &str) {
    if !call.state.is_embedded() {
        line(&json!({
            "ts": Clock::system().wall(), "level": "info", "target": "onward::admin", "message": act, "reason": reason,
            "token": call.caller.scope(), "request_id": &*call.id,
        }));
    }
}

/// Logs something else that an operator should see.
pub(crate) fn warn(message: &str) {
    line(&json!({"ts": Clock::system().wall(), "level": "warn", "target": "onward::server", "message": message}));
}

fn line(value: &serde_json::Value) {
    // A log that cannot be written is no reason to fail.
    let _ = writeln!(std::io::stderr().lock(), "{value}");
}
