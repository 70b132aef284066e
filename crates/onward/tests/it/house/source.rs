//! Reads the project's own files: which there are, what of them is code, and which rooms a file names.

use std::path::{Path, PathBuf};

/// A text file of the project: its path from the root, and what it says.
pub(super) struct Source {
    pub(super) path: String,
    pub(super) text: String,
}

/// The root of the workspace.
pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Every text file of the project, in order of its path; build results and version control are left out.
pub(super) fn project() -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git" | "data" | "__pycache__") {
                    folders.push(path);
                }
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
                if path != ".git" {
                    found.push(Source { path, text });
                }
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Tells whether a file is production code: in a `src` folder, and neither tests nor the tools for tests.
pub(super) fn is_production(path: &str) -> bool {
    path.starts_with("crates/")
        && path.contains("/src/")
        && path.ends_with(".rs")
        && !path.ends_with("/tests.rs")
        && !path.contains("/tests/")
        && !path.starts_with("crates/onward/src/testing/")
}

/// Returns the code of a file: comments and literals are blanked, the test module at its end is cut, lines stay where they were.
pub(super) fn code(text: &str) -> String {
    let text = match text.find("#[cfg(test)]\nmod tests {") {
        Some(at) => &text[..at],
        None => text,
    };
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let end = match chars[i] {
            '/' if chars.get(i + 1) == Some(&'/') => find(&chars, i, |at| chars[at] == '\n'),
            '/' if chars.get(i + 1) == Some(&'*') => find(&chars, i + 2, |at| chars[at] == '/' && chars[at - 1] == '*') + 1,
            'r' if raw_hashes(&chars, i).is_some() => {
                let hashes = raw_hashes(&chars, i).unwrap();
                let closes = |at: usize| chars[at] == '"' && (1..=hashes).all(|n| chars.get(at + n) == Some(&'#'));
                find(&chars, i + hashes + 2, closes) + hashes + 1
            }
            '"' => quoted(&chars, i),
            '\'' if chars.get(i + 1) == Some(&'\\') || chars.get(i + 2) == Some(&'\'') => quoted(&chars, i),
            _ => {
                out.push(chars[i]);
                i += 1;
                continue;
            }
        };
        let end = end.min(chars.len());
        out.extend(chars[i..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        i = end;
    }
    out
}

fn find(chars: &[char], from: usize, is_it: impl Fn(usize) -> bool) -> usize {
    (from..chars.len()).find(|at| is_it(*at)).unwrap_or(chars.len())
}

/// How many `#` open the raw string at `i`, if one begins there.
fn raw_hashes(chars: &[char], i: usize) -> Option<usize> {
    if i > 0 && (chars[i - 1].is_alphanumeric() && chars[i - 1] != 'b' || chars[i - 1] == '_') {
        return None;
    }
    let hashes = chars[i + 1..].iter().take_while(|c| **c == '#').count();
    (chars.get(i + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// Where the literal ends that opens at `i`.
fn quoted(chars: &[char], i: usize) -> usize {
    let mut at = i + 1;
    while at < chars.len() && chars[at] != chars[i] {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Returns the first names after `crate` that a file of the library uses, however the path is written, with their lines.
///
/// `module` is the path of the file's module, such as `["engine", "sqlite", "commit"]`; a `super` that climbs to the root counts too.
pub(super) fn named(module: &[&str], code: &str) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for (at, word) in words(code) {
        let mut rest = &code[at + word.len()..];
        let base = match word {
            "crate" => Vec::new(),
            "super" if !code[..at].ends_with("super::") => {
                let mut base = module.to_vec();
                base.pop();
                while let Some(more) = rest.strip_prefix("::super") {
                    base.pop();
                    rest = more;
                }
                base
            }
            _ => continue,
        };
        let Some(rest) = rest.strip_prefix("::") else { continue };
        let line = code[..at].matches('\n').count() + 1;
        for tail in branches(rest) {
            let mut path: Vec<String> = base.iter().map(|name| (*name).to_owned()).collect();
            path.extend(tail);
            found.push((line, path));
        }
    }
    found
}

fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices("crate::")
        .chain(code.match_indices("super::"))
        .filter(move |(at, _)| !code[..*at].ends_with(is_word))
        .map(|(at, found)| (at, &found[..5]))
}

/// The paths of what follows `crate::`: one, or one for each branch of a group. Two names deep is all that anybody asks for.
fn branches(rest: &str) -> Vec<Vec<String>> {
    let Some(group) = rest.strip_prefix('{') else {
        return vec![path(rest)];
    };
    let mut depth = 1;
    let mut branch = String::new();
    let mut found = Vec::new();
    for c in group.chars() {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        if depth == 0 {
            break;
        }
        if c == ',' && depth == 1 {
            found.push(path(&std::mem::take(&mut branch)));
        } else {
            branch.push(c);
        }
    }
    found.push(path(&branch));
    found.retain(|path| !path.is_empty());
    found
}

fn path(text: &str) -> Vec<String> {
    let end = text.trim_start().find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.trim_start().len());
    text.trim_start()[..end].split("::").filter(|name| !name.is_empty()).take(3).map(str::to_owned).collect()
}
