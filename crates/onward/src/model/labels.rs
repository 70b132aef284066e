//! Labels of objects, and the selectors that find objects by them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::limits::{LABEL_KEY_BYTES, LABEL_VALUE_BYTES, LABELS, SELECTOR_TERMS, SELECTOR_VALUES};
use crate::{Error, Result};

/// The labels of an object: keys with values, by the bytes of the keys. Every character is data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// No labels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes labels of pairs.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): more than 32, a key twice, a key that is not 1..=64 bytes without `=`, a value above 256
    /// bytes, or control characters in either.
    pub fn read<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self> {
        let mut labels = BTreeMap::new();
        for (key, value) in pairs {
            let (key, value) = (key.into(), value.into());
            check_key(&key)?;
            check_value(&value)?;
            if labels.insert(key, value).is_some() {
                return Err(Error::invalid("a label stands twice"));
            }
        }
        Self(labels).bounded()
    }

    fn bounded(self) -> Result<Self> {
        if self.0.len() > LABELS { Err(Error::invalid("an object has at most 32 labels")) } else { Ok(self) }
    }

    /// Returns the value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Goes through the labels by the bytes of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts the bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    /// Lays other labels over these.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): together they are more than 32.
    pub(crate) fn merged(&self, over: &Labels) -> Result<Self> {
        let mut all = self.0.clone();
        all.extend(over.0.clone());
        Self(all).bounded()
    }
}

fn check_key(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > LABEL_KEY_BYTES || key.chars().any(|c| c == '=' || c.is_control()) {
        return Err(Error::invalid("the key of a label is 1..=64 bytes of UTF-8 without = and control characters"));
    }
    Ok(())
}

fn check_value(value: &str) -> Result<()> {
    if value.len() > LABEL_VALUE_BYTES || value.chars().any(char::is_control) {
        return Err(Error::invalid("the value of a label is at most 256 bytes of UTF-8 without control characters"));
    }
    Ok(())
}

/// What a write does to the labels of its object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LabelChange {
    /// They stay as they are; a new object has none.
    #[default]
    Keep,
    /// They are these and no others.
    Set(Labels),
    /// These are laid over those that are there.
    Merge(Labels),
}

/// What an object's labels must be to be selected: all terms hold. No terms select everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Term>);

/// One term of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Term {
    key: String,
    wish: Wish,
}

/// What a label must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    /// There, whatever its value.
    Any,
    /// One of these values, at least one.
    OneOf(BTreeSet<String>),
}

impl Wish {
    fn takes(&self, value: &str) -> bool {
        match self {
            Wish::Any => true,
            Wish::OneOf(values) => values.contains(value),
        }
    }
}

impl Selector {
    /// Selects everything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wants a label to have this value, beside what is wanted already.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): more than 16 terms, or no label can be so.
    pub fn equals(self, key: &str, value: &str) -> Result<Self> {
        self.one_of(key, [value])
    }

    /// Wants a label to have one of these values, at least one and at most 100, beside what is wanted already.
    ///
    /// # Errors
    /// As [`Selector::equals`]; or there are no values, or too many.
    pub fn one_of<V: Into<String>>(self, key: &str, values: impl IntoIterator<Item = V>) -> Result<Self> {
        let mut wanted = BTreeSet::new();
        for value in values {
            let value = value.into();
            check_value(&value)?;
            wanted.insert(value);
            if wanted.len() > SELECTOR_VALUES {
                return Err(Error::invalid("a label is compared with at most 100 values"));
            }
        }
        if wanted.is_empty() {
            return Err(Error::invalid("a label is compared with at least one value"));
        }
        self.and(key, Wish::OneOf(wanted))
    }

    /// Wants a label to be there, beside what is wanted already.
    ///
    /// # Errors
    /// As [`Selector::equals`].
    pub fn exists(self, key: &str) -> Result<Self> {
        self.and(key, Wish::Any)
    }

    /// Wants what `k=v` (the label has this value), `k in (v, w)` (one of these) or `k` (it is there) says, beside what is wanted already.
    ///
    /// A value of a set that has a comma, a quote or a space at an end is written as a JSON string: `k in ("a,b", c)`.
    ///
    /// # Errors
    /// As [`Selector::one_of`]; or a set is not well written.
    pub fn term(self, text: &str) -> Result<Self> {
        let set = text.split_once(" in (").and_then(|(key, rest)| Some((key.trim_end(), rest.trim_end().strip_suffix(')')?)));
        match (set, text.split_once('=')) {
            (Some((key, values)), _) if !key.contains('=') => self.one_of(key, read_set(values)?),
            (_, Some((key, value))) => self.equals(key, value),
            (_, None) => self.exists(text),
        }
    }

    fn and(mut self, key: &str, wish: Wish) -> Result<Self> {
        check_key(key)?;
        let term = Term { key: key.to_owned(), wish };
        // In order and once, so that one wish has one spelling.
        if let Err(place) = self.0.binary_search(&term) {
            self.0.insert(place, term);
        }
        if self.0.len() > SELECTOR_TERMS { Err(Error::invalid("a selector has at most 16 terms")) } else { Ok(self) }
    }

    /// Tells whether everything is selected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells whether an object with these labels is selected.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.0.iter().all(|term| labels.get(&term.key).is_some_and(|value| term.wish.takes(value)))
    }

    /// Returns the first label that must have one value: what an index can answer.
    pub fn first_equal(&self) -> Option<(&str, &str)> {
        self.0.iter().find_map(|term| match &term.wish {
            Wish::OneOf(values) if values.len() == 1 => Some((term.key.as_str(), values.first()?.as_str())),
            Wish::OneOf(_) | Wish::Any => None,
        })
    }

    /// Goes through the terms in their one order: the key, and the values of which it must have one; none if any will do.
    pub fn terms(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        self.0.iter().map(|term| match &term.wish {
            Wish::Any => (term.key.as_str(), Vec::new()),
            Wish::OneOf(values) => (term.key.as_str(), values.iter().map(String::as_str).collect()),
        })
    }
}

/// Reads the values of a set: bare ones and JSON strings between commas.
fn read_set(text: &str) -> Result<Vec<String>> {
    let unclear = || Error::invalid("a set of values is bare words or JSON strings between commas");
    let (mut values, mut rest) = (Vec::new(), text.trim_start());
    loop {
        let (value, behind) = if rest.starts_with('"') {
            let mut reader = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            let value = reader.next().and_then(std::result::Result::ok).ok_or_else(unclear)?;
            (value, rest.get(reader.byte_offset()..).unwrap_or_default().trim_start())
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let (value, behind) = rest.split_at(end);
            let value = value.trim_end();
            if value.is_empty() || value.contains('"') {
                return Err(unclear());
            }
            (value.to_owned(), behind)
        };
        values.push(value);
        if values.len() > SELECTOR_VALUES {
            return Err(Error::invalid("a label is compared with at most 100 values"));
        }
        match behind.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if behind.is_empty() => return Ok(values),
            None => return Err(unclear()),
        }
    }
}
