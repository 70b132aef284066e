//! Strict JSON: unknown and duplicate members are refused, the place is named, and what the caller wrote is never repeated.

use onward::model::limits;
use onward_api::json_depth;
use serde::de::DeserializeOwned;

use crate::nearest::nearest;
use crate::refusal::Refusal;

/// Greatest depth of a body: a payload of the greatest depth stands three levels inside.
const DEPTH: usize = limits::JSON_DEPTH + 3;

/// Reads a body.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    // An empty body is an object without members.
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    if json_depth(bytes) > DEPTH {
        return Err(Refusal::member("", format!("nests deeper than {DEPTH}")));
    }
    if let Some(at) = positional(bytes) {
        return Err(Refusal::member(pointer(bytes, at), "expected an object"));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let place = pointer(bytes, offset(bytes, error.line(), error.column()));
        Refusal::member(place, message(&error))
    })
}

/// Says what is wrong, without what the caller wrote except the names of members.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.rfind(" at line ").and_then(|end| text.get(..end)).unwrap_or(&text);
    if let Some((name, known)) = text.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        return match nearest(name, known.split('`').skip(1).step_by(2)) {
            Some(near) => format!("unknown member `{shown}`, did you mean `{near}`?"),
            None => format!("unknown member `{shown}`"),
        };
    }
    if let Some(rest) = text.strip_prefix("duplicate field ") {
        return format!("duplicate member {rest}");
    }
    if let Some(rest) = text.strip_prefix("missing field ") {
        return format!("missing member {rest}");
    }
    match text.find(", expected ").or_else(|| text.find("expected ")) {
        // The first half repeats the value.
        Some(at) if text.starts_with("invalid ") || text.starts_with("unknown variant") => {
            text.get(at..).unwrap_or_default().trim_start_matches(", ").to_owned()
        }
        _ if error.is_data() => "not a value that is taken here".to_owned(),
        _ => format!("not JSON: {text}"),
    }
}

/// The byte that a line and a column of serde_json stand for.
fn offset(bytes: &[u8], line: usize, column: usize) -> usize {
    let start =
        if line <= 1 { 0 } else { bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(line - 2).map_or(0, |(place, _)| place + 1) };
    (start + column).min(bytes.len())
}

/// Finds an array where an object stands for a thing: serde would read its items as members in order, which no document promises.
///
/// Payloads and data, which may be anything, stand deeper than this looks: a body, and the items of its lists.
fn positional(bytes: &[u8]) -> Option<usize> {
    let (mut depth, mut in_list, mut in_string, mut escaped) = (0_usize, false, false, false);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' if depth == 0 || (depth == 2 && in_list) => return Some(at),
            b'[' | b'{' => {
                depth += 1;
                if depth == 2 {
                    in_list = *byte == b'[';
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

enum Level {
    Object(String),
    Array(usize),
}

/// The JSON pointer of the member that a byte belongs to. The text up to there is well formed.
fn pointer(bytes: &[u8], end: usize) -> String {
    let mut levels: Vec<Level> = Vec::new();
    let mut at = 0;
    let mut key = None;
    while let Some(byte) = bytes.get(at).filter(|_| at < end) {
        at += 1;
        match byte {
            b'{' => levels.push(Level::Object(String::new())),
            b'[' => levels.push(Level::Array(0)),
            b'}' | b']' => {
                levels.pop();
            }
            b',' => {
                if let Some(Level::Array(index)) = levels.last_mut() {
                    *index += 1;
                }
            }
            b'"' => {
                let start = at;
                while let Some(byte) = bytes.get(at).filter(|byte| **byte != b'"') {
                    at += if *byte == b'\\' { 2 } else { 1 };
                }
                key = bytes.get(start..at.min(bytes.len())).map(|text| String::from_utf8_lossy(text).into_owned());
                at += 1;
                // A name that was refused by itself has no colon yet.
                if at >= end {
                    name(&mut levels, key.take(), bytes, at);
                }
            }
            b':' => {
                if let (Some(Level::Object(name)), Some(key)) = (levels.last_mut(), key.take()) {
                    *name = key;
                }
            }
            _ => {}
        }
    }
    let mut out = String::new();
    for level in &levels {
        match level {
            Level::Object(name) if name.is_empty() => {}
            Level::Object(name) => {
                out.push('/');
                let printable = name.chars().filter(|c| !c.is_control()).take(64);
                printable.for_each(|c| match c {
                    '~' => out.push_str("~0"),
                    '/' => out.push_str("~1"),
                    c => out.push(c),
                });
            }
            Level::Array(index) => out.push_str(&format!("/{index}")),
        }
    }
    out
}

/// Takes a string as the name of a member if a colon follows it.
fn name(levels: &mut [Level], key: Option<String>, bytes: &[u8], at: usize) {
    let next = bytes.get(at..).unwrap_or_default().iter().find(|b| !b.is_ascii_whitespace());
    if let (Some(Level::Object(name)), Some(key), Some(b':')) = (levels.last_mut(), key, next) {
        *name = key;
    }
}

#[cfg(test)]
mod tests {
    use onward_api::commit::Request;
    use onward_api::locks::Acquire;

    use super::*;

    fn refused<T: DeserializeOwned>(text: &str) -> (String, String) {
        let refusal = read::<T>(text.as_bytes()).err().unwrap();
        let member = refusal.problem.errors.into_iter().next().unwrap();
        (member.pointer, member.message)
    }

    #[test]
    fn the_refused_member_is_named() {
        let cases = [
            (r#"{"ttl_ms":1,"wiat_ms":2}"#, "/wiat_ms", "unknown member `wiat_ms`, did you mean `wait_ms`?"),
            (r#"{"ttl_ms":1,"ttl_ms":2}"#, "/ttl_ms", "duplicate member `ttl_ms`"),
            (r#"{"ttl_ms":"secret"}"#, "/ttl_ms", "expected u64"),
            (r#"{"holder":7}"#, "/holder", "expected a string"),
        ];
        for (text, pointer, message) in cases {
            assert_eq!(refused::<Acquire>(text), (pointer.to_owned(), message.to_owned()), "{text}");
        }
        assert!(refused::<Acquire>("{").1.starts_with("not JSON: EOF"));
    }

    #[test]
    fn a_place_deep_inside_is_a_pointer() {
        let text = r#"{"writes":[{"op":"create","kind":"a","name":"b"},
            {"op":"replace","kind":"a","name":"b","version":-1}]}"#;
        assert_eq!(refused::<Request>(text).0, "/writes/1/version");
        assert_eq!(refused::<Request>(r#"{"writes":[{"op":"create","kind":"a"}]}"#), ("/writes/0".into(), "missing member `name`".into()));
        assert_eq!(refused::<Request>(r#"{"writes":[{"op":"mangle","kind":"a","name":"b"}]}"#).0, "/writes/0/op");
    }

    #[test]
    fn a_lone_surrogate_and_nan_are_no_json() {
        for text in [r#"{"holder":"\ud800"}"#, r#"{"ttl_ms":NaN}"#, "{\"holder\":\"\u{1}\"}", "{} {}", "nul"] {
            read::<Acquire>(text.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn depth_has_a_bound() {
        let deep = format!(r#"{{"writes":[{{"op":"create","kind":"a","name":"b","payload":{}{}}}]}}"#, "[".repeat(200), "]".repeat(200));
        read::<Request>(deep.as_bytes()).unwrap_err();
    }
}
