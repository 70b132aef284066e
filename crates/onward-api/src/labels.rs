//! Labels and times to live on the wire.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::number;

/// Labels as a caller wrote them, a JSON object of strings; one that stands twice is still there twice, so that it can be refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(pub Vec<(String, String)>);

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Pairs)
    }
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Labels, A::Error> {
        let mut labels = Vec::new();
        while let Some(pair) = members.next_entry()? {
            labels.push(pair);
        }
        Ok(Labels(labels))
    }
}

/// A time to live: whole milliseconds, or `never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// So many milliseconds after the write.
    Millis(u64),
    /// It never ends.
    Never,
}

/// What [`Ttl`] is read from.
const EXPECTED: &str = "whole milliseconds, or never";

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Millis(millis) => millis.fmt(f),
            Self::Never => f.write_str("never"),
        }
    }
}

impl FromStr for Ttl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "never" { Ok(Self::Never) } else { number::parse(text).map(Self::Millis).ok_or(EXPECTED) }
    }
}

impl Serialize for Ttl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Millis(millis) => number::serialize(millis, serializer),
            Self::Never => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either)
    }
}

struct Either;

impl Visitor<'_> for Either {
    type Value = Ttl;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_u64<E: Error>(self, millis: u64) -> Result<Ttl, E> {
        Ok(Ttl::Millis(millis))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Ttl, E> {
        text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_stands_twice_is_seen_twice() {
        let labels: Labels = serde_json::from_str(r#"{"b":"1","a":"2","b":""}"#).unwrap();
        assert_eq!(labels.0.len(), 3);
        for bad in ["[]", "1", "null", r#"{"a":1}"#, r#"{"a":null}"#, r#"[["a","b"]]"#] {
            assert!(serde_json::from_str::<Labels>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_to_live_has_one_meaning() {
        for (text, ttl) in [("1000", Ttl::Millis(1_000)), ("\"1000\"", Ttl::Millis(1_000)), ("\"never\"", Ttl::Never)] {
            assert_eq!(serde_json::from_str::<Ttl>(text).unwrap(), ttl);
        }
        for bad in ["-1", "1.5", "null", "\"\"", "\"Never\"", "\"1s\"", "true", "18446744073709551616"] {
            assert!(serde_json::from_str::<Ttl>(bad).is_err(), "{bad}");
        }
    }
}
