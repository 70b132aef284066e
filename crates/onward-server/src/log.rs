//! What an operator should see: a line on stderr, without keys, payloads, owners or tokens.
//!
//! JSON for machines, text for a terminal. Control characters are escaped in both, so that a line stays a line.

use std::collections::HashMap;
use std::error::Error as _;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use onward::Code;
use onward::time::{Clock, Moment};
use parking_lot::Mutex;
use serde::Serialize;

use crate::call::Call;
use crate::refusal::Refusal;

/// How often a failure of the same kind on the same route is logged; those in between are counted.
const REPEAT: Duration = Duration::from_secs(60);

/// How much matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is broken.
    Error,
    /// Something should be looked at.
    Warn,
    /// Something happened.
    #[default]
    Info,
    /// Each request.
    Debug,
}

impl Level {
    /// Every level, the gravest first.
    pub(crate) const ALL: [Level; 4] = [Level::Error, Level::Warn, Level::Info, Level::Debug];

    /// Returns its name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What a line is about: the server itself, a request that was answered, what an operator did.
const TARGETS: [&str; 3] = [SERVER, REQUEST, ADMIN];
const SERVER: &str = "onward::server";
const REQUEST: &str = "onward::request";
const ADMIN: &str = "onward::admin";

/// How much must matter for a line to be written, by target: `info`, or `warn,onward::request=debug`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels([Level; TARGETS.len()]);

impl Levels {
    fn of(self, target: &str) -> Level {
        TARGETS.iter().zip(self.0).find(|(name, _)| **name == target).map_or(Level::default(), |(_, level)| level)
    }
}

impl std::str::FromStr for Levels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("error, warn, info or debug, and TARGET=LEVEL for {}", TARGETS.join(", "));
        let level = |text: &str| Level::ALL.into_iter().find(|level| level.word() == text).ok_or_else(wanted);
        let mut words = text.split(',').map(str::trim);
        let first = words.next().unwrap_or_default();
        let mut levels = Self([level(first)?; TARGETS.len()]);
        for word in words {
            let (target, word) = word.split_once('=').ok_or_else(wanted)?;
            let place = TARGETS.iter().zip(&mut levels.0).find(|(name, _)| **name == target.trim());
            *place.ok_or_else(wanted)?.1 = level(word.trim())?;
        }
        Ok(levels)
    }
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Lines that matter less are left out.
    pub levels: Levels,
    /// How lines look.
    pub format: Format,
}

static OPTIONS: OnceLock<LogOptions> = OnceLock::new();

/// Sets what this process logs; the first call decides.
pub(crate) fn install(options: LogOptions) {
    let format = match options.format {
        Format::Auto if std::io::stderr().is_terminal() => Format::Text,
        Format::Auto => Format::Json,
        format => format,
    };
    let _ = OPTIONS.set(LogOptions { format, ..options });
}

fn options() -> LogOptions {
    OPTIONS.get().copied().unwrap_or(LogOptions { levels: Levels::default(), format: Format::Json })
}

/// Tells whether a line of this level about this target is written.
fn says(target: &str, level: Level) -> bool {
    options().levels.of(target) >= level
}

/// One line. Members that are absent are left out.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Line<'a> {
    ts: String,
    level: &'static str,
    target: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(flatten)]
    pub(crate) request: About<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressed: Option<u64>,
}

/// Which request a line is about.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct About<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) effect: Option<onward_api::Effect>,
}

impl Line<'_> {
    fn new(level: Level, message: &str) -> Self {
        let ts = Clock::system().wall().to_string();
        Line { ts, level: level.word(), target: SERVER, message: plain(message), ..Line::default() }
    }
}

/// Logs a request that was answered, for whoever wants to see each.
pub(crate) fn answered(about: About<'_>) {
    if says(REQUEST, Level::Debug) {
        write(&Line { target: REQUEST, request: about, ..Line::new(Level::Debug, "request") });
    }
}

/// Logs a refusal that is the server's fault; one of a kind and route a minute, with the number of those that were left out.
pub(crate) fn failed(about: About<'_>, refusal: &Refusal) {
    static REPEATS: LazyLock<Mutex<Repeats>> = LazyLock::new(Mutex::default);
    let problem = &refusal.problem;
    let route = about.route.unwrap_or_default().to_owned();
    let held = REPEATS.lock().take((problem.code, route), Clock::system().now());
    let Some(suppressed) = held else { return };
    let mut causes = Vec::new();
    let mut cause = refusal.cause.as_ref().and_then(|error| error.source());
    while let Some(error) = cause.take().filter(|_| causes.len() < 8) {
        causes.push(plain(&error.to_string()));
        cause = error.source();
    }
    let line = Line::new(Level::Error, &problem.detail);
    write(&Line {
        request: About { effect: Some(problem.effect), ..about },
        code: Some(problem.code),
        causes,
        suppressed: Some(suppressed).filter(|count| *count > 0),
        ..line
    });
}

/// Logs what an operator did, and why. Who calls from this very process has no log.
pub(crate) fn acted(call: &Call, act: &str, reason: &str) {
    if !call.state.is_embedded() && says(ADMIN, Level::Info) {
        let request = About { request_id: Some(&call.id), token_id: Some(call.caller.scope()), ..About::default() };
        write(&Line { target: ADMIN, reason: Some(plain(reason)), request, ..Line::new(Level::Info, act) });
    }
}

/// Logs something that should be looked at.
pub(crate) fn warn(message: &str) {
    if says(SERVER, Level::Warn) {
        write(&Line::new(Level::Warn, message));
    }
}

/// Logs something that happened.
pub(crate) fn info(message: &str) {
    if says(SERVER, Level::Info) {
        write(&Line::new(Level::Info, message));
    }
}

/// When a failure of each kind was told last, and how many since. Both halves of the key come from closed sets.
#[derive(Debug, Default)]
struct Repeats(HashMap<(Code, String), (Moment, u64)>);

impl Repeats {
    /// Returns how many were left out since the last line; `None` to leave out this one too.
    fn take(&mut self, kind: (Code, String), now: Moment) -> Option<u64> {
        match self.0.get_mut(&kind) {
            Some((told, left_out)) if now.since(*told) < REPEAT => {
                *left_out += 1;
                None
            }
            Some(known) => Some(std::mem::replace(known, (now, 0)).1),
            None => {
                self.0.insert(kind, (now, 0));
                Some(0)
            }
        }
    }
}

fn write(line: &Line<'_>) {
    let text = match options().format {
        Format::Text => spell(line),
        Format::Auto | Format::Json => serde_json::to_string(line).unwrap_or_default(),
    };
    // A log that cannot be written is no reason to fail.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Spells a line for people.
fn spell(line: &Line<'_>) -> String {
    let mut out = format!("{} {:5} {}", line.ts, line.level, line.message);
    if let Ok(serde_json::Value::Object(members)) = serde_json::to_value(line) {
        for (name, value) in members.iter().filter(|(name, _)| !matches!(name.as_str(), "ts" | "level" | "target" | "message")) {
            // Writing to a String cannot fail.
            let _ = match value.as_str() {
                Some(text) => write!(out, " {name}={text}"),
                None => write!(out, " {name}={value}"),
            };
        }
    }
    out
}

/// Escapes what a terminal or a reader of lines would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line_and_absent_members_are_left_out() {
        let about = About { route: Some("/v1/commit"), status: Some(503), ms: Some(1.5), ..About::default() };
        let line = Line { request: about, ..Line::new(Level::Warn, "a\nb\u{1b}[31m\u{9b}c") };
        let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&line).unwrap()).unwrap();
        assert_eq!(json["message"], "a\\nb\\u{1b}[31m\\u{9b}c");
        assert_eq!((&json["level"], &json["status"], &json["route"]), (&"warn".into(), &503.into(), &"/v1/commit".into()));
        assert!(json.get("code").is_none() && json.get("request_id").is_none());
        let text = spell(&line);
        assert!(text.contains(" warn  a\\nb") && text.contains("status=503") && !text.contains(char::is_control), "{text}");
    }

    #[test]
    fn a_level_is_of_all_targets_or_of_one() {
        let levels: Levels = "warn, onward::request = debug".parse().unwrap();
        assert_eq!((levels.of(SERVER), levels.of(REQUEST), levels.of(ADMIN)), (Level::Warn, Level::Debug, Level::Warn));
        assert_eq!("info".parse(), Ok(Levels::default()));
        for bad in ["", "loud", "onward::request=debug", "info,debug", "info,onward::store=debug", "info,", "info,onward::request=loud"] {
            assert!(bad.parse::<Levels>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_failure_that_repeats_is_told_once_a_minute_with_a_count() {
        let (mut repeats, clock) = (Repeats::default(), Clock::manual());
        let kind = |code| (code, "/v1/commit".to_owned());
        assert_eq!(repeats.take(kind(Code::Unavailable), clock.now()), Some(0));
        assert_eq!(repeats.take(kind(Code::Unavailable), clock.now()), None);
        assert_eq!(repeats.take(kind(Code::Internal), clock.now()), Some(0), "another kind has its own minute");
        clock.advance(Duration::from_secs(59));
        assert_eq!(repeats.take(kind(Code::Unavailable), clock.now()), None);
        clock.advance(Duration::from_secs(1));
        assert_eq!(repeats.take(kind(Code::Unavailable), clock.now()), Some(2));
    }
}
