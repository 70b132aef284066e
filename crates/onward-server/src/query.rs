//! Query parameters: unknown ones are refused, and repeated ones but for `label`.

use std::str::FromStr;

use onward::Code;
use onward::model::Selector;
use onward_api::path::percent;

use crate::nearest::nearest;
use crate::refusal::Refusal;

/// The one parameter that may be repeated: each is one more wish.
const REPEATED: &str = "label";

/// The parameters of a request.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query that may have these parameters only.
    pub(crate) fn read(text: Option<&str>, allowed: &[&str]) -> Result<Self, Refusal> {
        let mut found: Vec<(String, String)> = Vec::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                return Err(Refusal::new(Code::InvalidRequest, "the query is not percent-encoded UTF-8"));
            };
            if !allowed.contains(&name.as_str()) {
                let detail = match nearest(&name, allowed.iter().copied()) {
                    Some(near) => format!("unknown query parameter, did you mean `{near}`?"),
                    None if allowed.is_empty() => "this takes no query parameters".to_owned(),
                    None => format!("unknown query parameter; known are {}", allowed.join(", ")),
                };
                return Err(Refusal::new(Code::InvalidRequest, detail));
            }
            if name != REPEATED && found.iter().any(|(known, _)| *known == name) {
                return Err(Refusal::new(Code::InvalidRequest, format!("query parameter `{name}` stands twice")));
            }
            found.push((name, value));
        }
        Ok(Self(found))
    }

    /// Returns the first parameter of a name in a query that nobody has read yet.
    pub(crate) fn first(text: Option<&str>, name: &str) -> Option<String> {
        let pairs = text.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter_map(|(own, value)| Some((decode(own)?, decode(value)?))).find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// Returns a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Reads the labels that are asked for: `label=KEY=VALUE`, `label=KEY in (A, B)` or `label=KEY`, repeated.
    pub(crate) fn selector(&self) -> Result<Selector, Refusal> {
        let labels = self.0.iter().filter(|(name, _)| name == REPEATED);
        Ok(labels.map(|(_, term)| term).try_fold(Selector::new(), |selector, term| selector.term(term))?)
    }

    /// Reads a parameter as something else.
    pub(crate) fn parse<T: FromStr>(&self, name: &str, expected: &str) -> Result<Option<T>, Refusal> {
        let refused = || Refusal::new(Code::InvalidRequest, format!("query parameter `{name}`: expected {expected}"));
        self.get(name).map(|value| value.parse().map_err(|_| refused())).transpose()
    }

    /// Reads a parameter that is `true` or `false`.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, Refusal> {
        Ok(self.parse(name, "true or false")?.unwrap_or(default))
    }
}

fn decode(text: &str) -> Option<String> {
    // `+` is a space in queries, as browsers and libraries write it.
    String::from_utf8(percent(&text.replace('+', " "))?).ok()
}
