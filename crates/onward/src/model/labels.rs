//! Labels of objects, and the selectors that find objects by them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limits::{LABEL_KEY_BYTES, LABEL_VALUE_BYTES, LABELS, SELECTOR_TERMS};
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
    /// The value that it must have; `None`: any.
    value: Option<String>,
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
        check_value(value)?;
        self.and(key, Some(value))
    }

    /// Wants a label to be there, beside what is wanted already.
    ///
    /// # Errors
    /// As [`Selector::equals`].
    pub fn exists(self, key: &str) -> Result<Self> {
        self.and(key, None)
    }

    /// Wants what `k=v` (the label has this value) or `k` (it is there) says, beside what is wanted already.
    ///
    /// # Errors
    /// As [`Selector::equals`].
    pub fn term(self, text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((key, value)) => self.equals(key, value),
            None => self.exists(text),
        }
    }

    fn and(mut self, key: &str, value: Option<&str>) -> Result<Self> {
        check_key(key)?;
        let term = Term { key: key.to_owned(), value: value.map(str::to_owned) };
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
        self.0.iter().all(|term| labels.get(&term.key).is_some_and(|is| term.value.as_deref().is_none_or(|value| value == is)))
    }

    /// Returns the first label that must have one value: what an index can answer.
    pub fn first_equal(&self) -> Option<(&str, &str)> {
        self.0.iter().find_map(|term| Some((term.key.as_str(), term.value.as_deref()?)))
    }

    /// Goes through the terms in their one order.
    pub fn terms(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|term| (term.key.as_str(), term.value.as_deref()))
    }
}
