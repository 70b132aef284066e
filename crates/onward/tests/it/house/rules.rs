//! The rules, each from sources to breaches.

use std::collections::HashSet;

use super::source::{Source, code, is_production, named};

const LIBRARY: &str = "crates/onward/src/";

/// The rooms of the library and their floors; a room may use only what lies on a lower floor, or itself.
///
/// `model`, `error` and `time` are one knot at the ground: an error shows an object, an object bears a timestamp, and reading a
/// timestamp may fail. Of `time`, `model` may use nothing but [`Timestamp`](onward::time::Timestamp): it has no clock.
const FLOORS: &[(&str, u8)] = &[
    ("lib", 9),
    ("testing", 9),
    ("open", 8),
    ("engine", 7),
    ("guarded", 7),
    ("store", 5),
    ("audit", 5),
    ("lock", 5),
    ("cache", 5),
    ("commit", 4),
    ("retry", 3),
    ("observe", 2),
    ("random", 2),
    ("model", 1),
    ("error", 1),
    ("time", 1),
];

/// The one floor whose rooms may use each other.
const KNOT: u8 = 1;

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// The room of a path after `crate::`; what the root re-exports belongs to the room that defines it.
fn room(path: &[String]) -> &str {
    match path.first().map_or("", String::as_str) {
        "Code" | "Effect" | "Error" | "Kind" | "Refusal" | "Result" => "error",
        "Config" | "Onward" => "open",
        other => other,
    }
}

/// Finds rooms that use a room above them or beside them.
pub(super) fn rooms(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for Source { path, text } in sources.iter().filter(|source| is_production(&source.path)) {
        let Some(inside) = path.strip_prefix(LIBRARY).and_then(|path| path.strip_suffix(".rs")) else { continue };
        let module: Vec<&str> = inside.split('/').filter(|name| *name != "mod").collect();
        let own = module[0];
        let Some(own_floor) = floor(own) else {
            found.push(format!("{path}: a room that the table does not know"));
            continue;
        };
        for (line, used) in named(&module, &code(text)) {
            let room = room(&used);
            let breach = match floor(room) {
                _ if own == "lib" => false,
                // `crate::name!` or a macro's `$crate::` at the root of the library; the compiler knows them.
                None => false,
                Some(_) if room == own => {
                    own == "engine" && used.get(1).zip(module.get(1)).is_some_and(|(used, own)| is_engine(used) && used != own)
                }
                Some(_) if own == "model" && room == "time" => used.get(1).is_none_or(|name| name != "Timestamp"),
                Some(there) => there > own_floor || there == own_floor && there != KNOT,
            };
            if breach {
                found.push(format!("{path}:{line}: {own} uses {}", used.join("::")));
            }
        }
    }
    found
}

fn is_engine(name: &str) -> bool {
    matches!(name, "memory" | "postgres" | "redis" | "sqlite")
}

/// Finds ways to panic in production code.
pub(super) fn escapes(sources: &[Source]) -> Vec<String> {
    let words = [".unwrap()", ".expect(", "panic!", "todo!", "unimplemented!", "unreachable!"];
    search(sources, |_, code| words.iter().flat_map(|word| hits(code, word)).collect())
}

/// Finds Rust files above 700 lines.
pub(super) fn long(sources: &[Source]) -> Vec<String> {
    let rust = sources.iter().filter(|source| source.path.ends_with(".rs"));
    rust.map(|source| (&source.path, source.text.lines().count()))
        .filter(|(_, lines)| *lines > 700)
        .map(|(path, lines)| format!("{path}: {lines} lines"))
        .collect()
}

/// Where time, sleep and chance may be drawn from the system: one module a crate, and the longest time of a whole proof.
const HOMES: &[(&[&str], &[&str])] = &[
    (&["crates/onward/src/time.rs"], &["SystemTime::now", "Instant::now", "clock_gettime", "Utc::now", "Zoned::now"]),
    (
        &[
            "crates/onward/src/retry.rs",
            "crates/onward-api/src/client/mod.rs",
            "crates/onward-server/src/wait.rs",
            "crates/onward-cli/src/wait.rs",
        ],
        &["tokio::time::sleep", "tokio::time::timeout", "tokio::time::interval", "tokio::time::Instant", "tokio::time::{", "thread::sleep"],
    ),
    (&["crates/onward/src/random.rs"], &["getrandom::", "Uuid::new_v4", "Uuid::now_v7", "rand::"]),
];

/// Finds clocks, sleeps and generators outside their module.
pub(super) fn strays(sources: &[Source]) -> Vec<String> {
    search(sources, |path, code| {
        let foreign = HOMES.iter().filter(|(homes, _)| !homes.contains(&path));
        foreign.flat_map(|(_, words)| words.iter()).flat_map(|word| hits(code, word)).collect()
    })
}

/// Finds code of the server and the command line that names an engine: they translate, for any engine.
///
/// The proofs may: they play both sides, an attacker at the file too.
pub(super) fn engines(sources: &[Source]) -> Vec<String> {
    let may = |path: &str| path.starts_with(LIBRARY) || path.starts_with("crates/onward-cli/src/prove/");
    search(sources, |path, code| if may(path) { Vec::new() } else { hits(code, "engine::") })
}

/// Finds absolute paths of somebody's machine, in any text file.
pub(super) fn places(sources: &[Source]) -> Vec<String> {
    let words = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let mut found = Vec::new();
    for Source { path, text } in sources {
        for word in words {
            for (at, _) in text.match_indices(word) {
                if !text[..at].ends_with(|c: char| c.is_alphanumeric() || "._-/".contains(c)) {
                    found.push(format!("{path}:{}: {word}", line(text, at)));
                }
            }
        }
    }
    found
}

/// Finds files and tests that the documents name and nobody has.
///
/// A file is written as `` `crates/onward/src/time.rs` ``, a test as `` `FILE::name` `` or, where its file is plain, `` `part::name` ``.
pub(super) fn gone(sources: &[Source]) -> Vec<String> {
    let files: HashSet<&str> = sources.iter().map(|source| source.path.as_str()).collect();
    let has_fn = |file: Option<&str>, name: &str| {
        let marks = [format!("fn {name}("), format!("def {name}("), format!("fn {name}<"), format!("    {name}(onward) {{")];
        let mut among = sources.iter().filter(|source| file.is_none_or(|file| file == source.path));
        among.any(|source| marks.iter().any(|mark| source.text.contains(mark)))
    };
    let mut found = Vec::new();
    for Source { path, text } in sources.iter().filter(|source| is_map(&source.path)) {
        for (index, span) in text.split('`').enumerate().filter(|(index, _)| index % 2 == 1) {
            let (file, name) = match span.split_once("::") {
                Some((file, name)) => (file, Some(name)),
                None => (span, None),
            };
            let is_file =
                file.contains('/') && file.rsplit('/').next().is_some_and(|last| last.contains('.')) && !file.contains([' ', '*', '<']);
            let is_name = |name: &str| name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            let missing = match name {
                Some(name) if is_file => !has_fn(Some(file), name),
                Some(name) if is_name(name) => !has_fn(None, name),
                None if is_file && file.starts_with("crates/") => !files.contains(file),
                _ => false,
            };
            if missing {
                let at = text.split('`').take(index).map(|part| part.len() + 1).sum();
                found.push(format!("{path}:{}: {span}", line(text, at)));
            }
        }
    }
    found
}

/// Finds conformance cases that no macro lists: they would never run.
///
/// A case is an async function of the test tools that takes a harness; the list is what a macro repeats.
pub(super) fn unlisted(sources: &[Source]) -> Vec<String> {
    let tools: Vec<(&str, String)> = sources
        .iter()
        .filter(|source| source.path.starts_with("crates/onward/src/testing"))
        .map(|source| (source.path.as_str(), code(&source.text)))
        .collect();
    let times = |name: &str| tools.iter().map(|(_, code)| whole_words(code).filter(|word| *word == name).count()).sum::<usize>();
    let mut found = Vec::new();
    for (path, code) in &tools {
        for (at, mark) in code.match_indices("\npub async fn ") {
            let rest = &code[at + mark.len()..];
            let (Some(open), Some(close)) = (rest.find('('), rest.find(')')) else { continue };
            let name = &rest[..open];
            if rest[open..close].contains("Harness") && times(name) < 2 {
                found.push(format!("{path}:{}: {name}", line(code, at + 1)));
            }
        }
    }
    found
}

fn whole_words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

/// Finds links of documents that lead nowhere.
pub(super) fn dead_links(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for Source { path, text } in sources.iter().filter(|source| source.path.ends_with(".md")) {
        let folder = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        for (at, mark) in text.match_indices("](") {
            let rest = &text[at + mark.len()..];
            let to = rest[..rest.find(')').unwrap_or(rest.len())].split('#').next().unwrap_or_default();
            if to.is_empty() || to.contains("://") {
                continue;
            }
            let goal = format!("{folder}{}", to.trim_end_matches('/'));
            let there = |source: &Source| source.path == goal || source.path.starts_with(&format!("{goal}/"));
            if !sources.iter().any(there) {
                found.push(format!("{path}:{}: {to}", line(text, at)));
            }
        }
    }
    found
}

fn is_map(path: &str) -> bool {
    path == "ARCHITECTURE.md" || path == "CONTRIBUTING.md" || path.starts_with("docs/") && path.ends_with(".md")
}

/// Searches the code of production files.
fn search(sources: &[Source], look: impl Fn(&str, &str) -> Vec<(usize, String)>) -> Vec<String> {
    let mut found = Vec::new();
    for Source { path, text } in sources.iter().filter(|source| is_production(&source.path)) {
        found.extend(look(path, &code(text)).into_iter().map(|(line, what)| format!("{path}:{line}: {what}")));
    }
    found
}

/// Where a word stands in code, not as the end of a longer one.
fn hits(code: &str, word: &str) -> Vec<(usize, String)> {
    let inside = |at: usize| !word.starts_with('.') && code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    code.match_indices(word).filter(|(at, _)| !inside(*at)).map(|(at, _)| (line(code, at), word.to_owned())).collect()
}

fn line(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}
