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
    matches!(name, "memory" | "sqlite")
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

/// Where time, sleep and chance may be drawn from the system.
const HOMES: &[(&str, &[&str])] = &[
    ("crates/onward/src/time.rs", &["SystemTime::now", "Instant::now", "clock_gettime", "Utc::now", "Zoned::now"]),
    ("crates/onward/src/retry.rs", &["tokio::time", "thread::sleep"]),
    ("crates/onward/src/random.rs", &["getrandom::", "Uuid::new_v4", "Uuid::now_v7", "rand::"]),
];

/// Finds clocks, sleeps and generators outside their module.
pub(super) fn strays(sources: &[Source]) -> Vec<String> {
    search(sources, |path, code| {
        let foreign = HOMES.iter().filter(|(home, _)| *home != path);
        foreign.flat_map(|(_, words)| words.iter()).flat_map(|word| hits(code, word)).collect()
    })
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
        let marks = [format!("fn {name}("), format!("def {name}("), format!("fn {name}<")];
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
