//! One value of the configuration, as TOML spells it, and how it is read as what a key wants.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

/// A value as TOML spells it; the configuration has no other kinds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Switch(bool),
    Number(i64),
    Text(String),
    List(Vec<Value>),
    Table(Vec<(String, Value)>),
}

const UNITS_OF_TIME: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const UNITS_OF_SIZE: &[(&str, u64)] = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

impl Value {
    /// Takes a value over from the parser; `None` for dates and fractions, which no key has.
    pub(super) fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        Some(match value {
            DeValue::Boolean(switch) => Value::Switch(*switch),
            DeValue::Integer(number) => Value::Number(i64::from_str_radix(number.as_str(), number.radix()).ok()?),
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Array(items) => Value::List(items.iter().map(|item| Self::from_toml(item.get_ref())).collect::<Option<_>>()?),
            DeValue::Table(table) => Value::Table(Self::members(table)?),
            DeValue::Float(_) | DeValue::Datetime(_) => return None,
        })
    }

    fn members(table: &DeTable<'_>) -> Option<Vec<(String, Value)>> {
        table.iter().map(|(name, value)| Some((name.get_ref().to_string(), Self::from_toml(value.get_ref())?))).collect()
    }

    /// Reads a text as one TOML value, as an environment variable holds it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        // A line end could smuggle a second key in.
        if text.contains('\n') {
            return None;
        }
        Self::from_toml(DeValue::parse(text).ok()?.get_ref())
    }

    pub(super) fn switch(&self) -> Result<bool, String> {
        match self {
            Value::Switch(switch) => Ok(*switch),
            _ => Err("true or false".to_owned()),
        }
    }

    pub(super) fn count(&self, range: RangeInclusive<u64>) -> Result<u64, String> {
        let number = if let Value::Number(number) = self { u64::try_from(*number).ok() } else { None };
        let wanted = || format!("a whole number from {} to {}", range.start(), range.end());
        number.filter(|number| range.contains(number)).ok_or_else(wanted)
    }

    /// Reads a count that is an index or a length.
    pub(super) fn places(&self, range: RangeInclusive<u64>) -> Result<usize, String> {
        self.count(range).map(|number| usize::try_from(number).unwrap_or(usize::MAX))
    }

    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Value::Text(text) => Ok(text),
            _ => Err("a text in quotes".to_owned()),
        }
    }

    pub(super) fn word(&self, words: &[&'static str]) -> Result<&'static str, String> {
        let text = self.text().unwrap_or_default();
        words.iter().find(|word| **word == text).copied().ok_or_else(|| format!("one of {}", words.join(", ")))
    }

    pub(super) fn time(&self, range: RangeInclusive<&str>) -> Result<Duration, String> {
        self.scaled(UNITS_OF_TIME, &range)
            .map(Duration::from_millis)
            .ok_or_else(|| format!("a time with its unit (ms, s, m, h, d), from {} to {}", range.start(), range.end()))
    }

    /// Reads a time, or `None` for never.
    pub(super) fn time_or_never(&self, range: RangeInclusive<&str>) -> Result<Option<Duration>, String> {
        if matches!(self, Value::Text(text) if text == "never") {
            return Ok(None);
        }
        self.time(range).map(Some).map_err(|wanted| format!("never, or {wanted}"))
    }

    pub(super) fn size(&self, range: RangeInclusive<&str>) -> Result<u64, String> {
        self.scaled(UNITS_OF_SIZE, &range)
            .ok_or_else(|| format!("a size with its unit (B, KiB, MiB, GiB, TiB), from {} to {}", range.start(), range.end()))
    }

    fn scaled(&self, units: &[(&str, u64)], range: &RangeInclusive<&str>) -> Option<u64> {
        let Value::Text(text) = self else { return None };
        let (low, high) = (scaled(range.start(), units)?, scaled(range.end(), units)?);
        scaled(text, units).filter(|number| (low..=high).contains(number))
    }

    /// Reads a list of texts; a single text is a list of one, as an environment variable has it.
    pub(super) fn texts(&self) -> Result<Vec<&str>, String> {
        let wanted = || "a list of texts in quotes".to_owned();
        match self {
            Value::List(items) => items.iter().map(|item| item.text().map_err(|_| wanted())).collect(),
            Value::Text(text) => Ok(vec![text]),
            _ => Err(wanted()),
        }
    }

    pub(super) fn list(&self) -> Result<&[Value], String> {
        match self {
            Value::List(items) => Ok(items),
            _ => Err("a list".to_owned()),
        }
    }

    /// Reads a table that has these members only.
    pub(super) fn table(&self, members: &[&str]) -> Result<Members<'_>, String> {
        let Value::Table(table) = self else { return Err(format!("a table with {}", members.join(", "))) };
        match table.iter().find(|(name, _)| !members.contains(&name.as_str())) {
            Some((name, _)) => Err(format!("a table with {}; `{name}` is none of them", members.join(", "))),
            None => Ok(Members(table)),
        }
    }
}

/// The members of a table.
pub(super) struct Members<'a>(&'a [(String, Value)]);

impl<'a> Members<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, each) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*each)
}

impl fmt::Display for Value {
    /// Writes the value as TOML on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Switch(switch) => write!(f, "{switch}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Text(text) => quoted(f, text),
            Value::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Value::Table(members) => {
                f.write_str("{")?;
                for (index, (name, value)) in members.iter().enumerate() {
                    f.write_str(if index == 0 { " " } else { ", " })?;
                    quoted_unless_bare(f, name)?;
                    write!(f, " = {value}")?;
                }
                f.write_str(" }")
            }
        }
    }
}

fn quoted_unless_bare(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    let bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if !name.is_empty() && name.bytes().all(bare) { f.write_str(name) } else { quoted(f, name) }
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for text in ["true", "7", "\"a \\\"b\\\" \\u001B\"", "[\"a\", 1, { b = [true] }]", "{ \"a b\" = 1 }"] {
            let value = Value::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(Value::parse(&value.to_string()), Some(value), "{text}");
        }
        for text in ["1.5", "2026-11-21", "plain", "1\n2", ""] {
            assert_eq!(Value::parse(text), None, "{text}");
        }
    }

    #[test]
    fn times_and_sizes_have_units_and_bounds() {
        let time = |text: &str| Value::Text(text.to_owned()).time("1s"..="1d");
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "5", "s", "999ms", "25h", "1.5s", "-1s", "5 s", "99999999999999999999s", "1S"] {
            assert!(time(bad).is_err(), "{bad}");
        }
        assert!(Value::Number(10).time("1s"..="1d").is_err(), "a bare number has no unit");
        assert_eq!(Value::Text("8MiB".to_owned()).size("0B"..="1GiB"), Ok(8 << 20));
        assert!(Value::Text("8MB".to_owned()).size("0B"..="1GiB").is_err());
    }
}
