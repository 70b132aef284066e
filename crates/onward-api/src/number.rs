//! Numbers that only grow, as JSON: integers up to 2^53 - 1, decimal strings above, and parsers that take both.
//!
//! JavaScript and Lua read numbers as doubles, which are exact up to 2^53 only. Use with `#[serde(with = "onward_api::number")]`.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserializer, Serializer};

/// The greatest integer that every JSON reader keeps exactly.
pub const EXACT_MAX: u64 = (1 << 53) - 1;

/// Writes `value` as an integer while that is exact everywhere, else as a decimal string.
///
/// # Errors
/// Whatever the serializer reports.
pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    if *value <= EXACT_MAX { serializer.serialize_u64(*value) } else { serializer.collect_str(value) }
}

/// Reads an integer or a decimal string.
///
/// # Errors
/// A negative, fractional or too large number, or a string that is not plain decimal digits.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Either)
}

/// Reads plain decimal digits; no sign, no space.
pub fn parse(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

struct Either;

impl Visitor<'_> for Either {
    type Value = u64;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an unsigned integer or a string of decimal digits")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        parse(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// The same for an optional number.
pub mod optional {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the number, or null.
    ///
    /// # Errors
    /// Whatever the serializer reports.
    pub fn serialize<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the number, or null.
    ///
    /// # Errors
    /// As [`super::deserialize`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        #[derive(Deserialize)]
        struct One(#[serde(with = "super")] u64);
        Ok(Option::<One>::deserialize(deserializer)?.map(|one| one.0))
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct N {
        #[serde(with = "super")]
        n: u64,
    }

    #[test]
    fn large_numbers_travel_as_strings_and_both_forms_are_read() {
        assert_eq!(serde_json::to_string(&N { n: 9_007_199_254_740_991 }).unwrap(), r#"{"n":9007199254740991}"#);
        assert_eq!(serde_json::to_string(&N { n: 9_007_199_254_740_992 }).unwrap(), r#"{"n":"9007199254740992"}"#);
        for text in [r#"{"n":7}"#, r#"{"n":"7"}"#] {
            assert_eq!(serde_json::from_str::<N>(text).unwrap(), N { n: 7 });
        }
        for text in [r#"{"n":-1}"#, r#"{"n":1.0}"#, r#"{"n":"+7"}"#, r#"{"n":""}"#, r#"{"n":18446744073709551616}"#] {
            assert!(serde_json::from_str::<N>(text).is_err(), "{text}");
        }
    }
}
