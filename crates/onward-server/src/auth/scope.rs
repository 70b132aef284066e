//! Scopes: where a token may do what its role lets it do.
//!
//! A scope is a part and the first segments of what it covers: `locks:lock:main:eu-1`, `objects:ns/project`, `cache:web`,
//! `chains:billing`. Segments end at `/` and `:` and count as wholes: `objects:proj` does not cover `project`. `*` covers everything,
//! and as the last segment everything from there on. An object's namespace stands first; one segment alone is a kind in `default`.
//!
//! Objects and chains are scoped by whole kinds and whole chains, so that a list is shown or refused and no cursor tells a name outside.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Longest scope.
const BYTES: usize = 512;

/// What a scope is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// Locks, by their keys.
    Locks,
    /// Objects, by namespace, kind and name.
    Objects,
    /// Cached values, by namespace and key.
    Cache,
    /// Audit chains, by name.
    Chains,
}

/// Where a token may act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    text: String,
    /// `None` for everything.
    part: Option<Part>,
    segments: Vec<String>,
}

/// The text is not a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAScope;

impl fmt::Display for NotAScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scope is *, locks:KEY.., objects:[NAMESPACE/]KIND, cache:NAMESPACE.. or chains:CHAIN, at most 512 bytes")
    }
}

impl std::error::Error for NotAScope {}

impl Scope {
    fn covers(&self, part: Part, thing: &[&[u8]]) -> bool {
        let mut pieces = pieces(thing);
        self.part.is_none_or(|own| own == part) && self.segments.iter().all(|own| pieces.next() == Some(own.as_bytes()))
    }
}

/// The segments of a thing that is given in parts, such as namespace and key.
fn pieces<'a>(thing: &'a [&'a [u8]]) -> impl Iterator<Item = &'a [u8]> {
    thing.iter().flat_map(|part| part.split(|byte| matches!(byte, b'/' | b':')))
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Scope {
    type Err = NotAScope;

    fn from_str(text: &str) -> Result<Self, NotAScope> {
        if text.len() > BYTES || text.chars().any(char::is_control) {
            return Err(NotAScope);
        }
        if text == "*" {
            return Ok(Self { text: text.to_owned(), part: None, segments: Vec::new() });
        }
        let (part, rest) = text.split_once(':').ok_or(NotAScope)?;
        let part = match part {
            "locks" => Part::Locks,
            "objects" => Part::Objects,
            "cache" => Part::Cache,
            "chains" => Part::Chains,
            _ => return Err(NotAScope),
        };
        let mut segments: Vec<String> = rest.split(['/', ':']).map(str::to_owned).collect();
        if part == Part::Objects && segments.len() == 1 && rest != "*" {
            segments.insert(0, "default".to_owned());
        }
        segments.pop_if(|last| last == "*");
        let deepest = match part {
            Part::Objects => 2,
            Part::Chains => 1,
            Part::Locks | Part::Cache => usize::MAX,
        };
        if segments.len() > deepest || segments.iter().any(|segment| segment.is_empty() || segment.contains('*')) {
            return Err(NotAScope);
        }
        Ok(Self { text: text.to_owned(), part: Some(part), segments })
    }
}

/// All scopes of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scopes(pub(crate) Vec<Scope>);

impl Scopes {
    /// Tells whether a thing lies in one of them; a thing is given in parts, such as namespace, kind and name.
    pub(crate) fn cover(&self, part: Part, thing: &[&[u8]]) -> bool {
        self.0.iter().any(|scope| scope.covers(part, thing))
    }

    /// Returns the names of the chains in them, in order; `None` if every chain is.
    pub(crate) fn chains(&self) -> Option<BTreeSet<&str>> {
        let own = self.0.iter().filter(|scope| scope.part.is_none_or(|part| part == Part::Chains));
        own.map(|scope| scope.segments.first().map(String::as_str)).collect()
    }

    /// Tells whether nothing lies outside.
    pub(crate) fn are_everything(&self) -> bool {
        self.0.iter().any(|scope| scope.part.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(scope: &str, part: Part, thing: &[&str]) -> bool {
        let thing: Vec<&[u8]> = thing.iter().map(|part| part.as_bytes()).collect();
        Scopes(vec![scope.parse().unwrap()]).cover(part, &thing)
    }

    #[test]
    fn segments_count_as_wholes() {
        for (scope, part, inside, outside) in [
            ("objects:project", Part::Objects, &["default", "project", "42"][..], &["default", "projects", "42"][..]),
            ("objects:proj", Part::Objects, &["default", "proj", "a"], &["default", "project", "a"]),
            ("objects:ns/project", Part::Objects, &["ns", "project", "a"], &["default", "ns", "project/a"]),
            ("objects:ns/*", Part::Objects, &["ns", "any", "a"], &["default", "ns", "a"]),
            ("locks:lock:main:eu-1", Part::Locks, &["lock:main:eu-1:projects:42"], &["lock:main:eu-10:projects:42"]),
            ("locks:jobs/nightly", Part::Locks, &["jobs/nightly"], &["jobs"]),
            ("cache:web", Part::Cache, &["web", "user:7"], &["web2", "user:7"]),
            ("cache:web/user", Part::Cache, &["web", "user:7"], &["web", "users"]),
            ("chains:billing", Part::Chains, &["billing"], &["billing.eu"]),
            ("chains:*", Part::Chains, &["billing"], &[]),
        ] {
            assert!(covers(scope, part, inside), "{scope}");
            if !outside.is_empty() {
                assert!(!covers(scope, part, outside), "{scope}");
            }
            for other in [Part::Locks, Part::Objects, Part::Cache, Part::Chains].into_iter().filter(|other| *other != part) {
                assert!(!covers(scope, other, inside), "{scope} {other:?}");
            }
            assert!(covers("*", part, inside));
        }
    }

    #[test]
    fn the_chains_of_scopes_are_named_unless_they_are_all() {
        let scopes = |texts: &[&str]| Scopes(texts.iter().map(|text| text.parse().unwrap()).collect());
        assert_eq!(scopes(&["chains:b", "chains:a", "cache:c"]).chains(), Some(BTreeSet::from(["a", "b"])));
        assert_eq!(scopes(&["cache:c"]).chains(), Some(BTreeSet::new()));
        assert_eq!(scopes(&["chains:b", "chains:*"]).chains(), None);
        assert_eq!(scopes(&["*"]).chains(), None);
    }

    #[test]
    fn what_is_no_scope_is_refused() {
        let long = format!("cache:{}", "a".repeat(512));
        for text in [
            "objects:default/doc/a",
            "chains:a/b",
            "",
            "web",
            "objects",
            "objects:",
            "objects:a//b",
            "rows:a",
            "cache:a*",
            "cache:*/a",
            "**",
            "Locks:a",
            "cache:a\n",
            &long,
        ] {
            assert_eq!(text.parse::<Scope>(), Err(NotAScope), "{text}");
        }
    }
}
