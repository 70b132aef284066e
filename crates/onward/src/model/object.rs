//! An object and what is known about it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use uuid::Uuid;

use super::limits::{CONTENT_TYPE_BYTES, JSON_DEPTH, PAYLOAD_BYTES};
use super::{Key, Labels, Revision, Version};
use crate::time::Timestamp;
use crate::{Code, Error, Kind, Result};

/// The content type of everything that is written as a Rust value.
pub(crate) const JSON: &str = "application/json";

/// The bytes of an object and their content type, kept verbatim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    bytes: Bytes,
    content_type: Arc<str>,
}

impl Payload {
    /// Makes a payload; JSON content must parse.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: more than 1 MiB, a content type that is not 1..=127 printable ASCII bytes, or JSON that does not parse, nests
    /// deeper than 128 or has a member twice.
    pub fn new(bytes: impl Into<Bytes>, content_type: &str) -> Result<Self> {
        let bytes = bytes.into();
        if bytes.len() > PAYLOAD_BYTES {
            return Err(Error::new(Kind::Invalid, Code::PayloadTooLarge, "a payload is at most 1 MiB"));
        }
        let printable = content_type.bytes().all(|b| (0x20..0x7f).contains(&b));
        if content_type.is_empty() || content_type.len() > CONTENT_TYPE_BYTES || !printable {
            return Err(Error::invalid("a content type is 1..=127 printable ASCII bytes"));
        }
        let payload = Self { bytes, content_type: content_type.into() };
        if payload.is_json() {
            check_json(&payload.bytes)?;
        }
        Ok(payload)
    }

    /// Makes a JSON payload of a value.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the value cannot be written as JSON, or is longer than 1 MiB.
    pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self> {
        let bytes = serde_json::to_vec(value).map_err(|e| Error::invalid("the value cannot be written as JSON").with_source(e))?;
        Self::new(bytes, JSON)
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn stored(bytes: Bytes, content_type: Arc<str>) -> Self {
        Self { bytes, content_type }
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the content type.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// Tells whether the content type is JSON (`application/json` or `+json`).
    pub fn is_json(&self) -> bool {
        let essence = self.content_type.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case(JSON) || essence.to_ascii_lowercase().ends_with("+json")
    }

    /// Reads the payload as a value.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the payload is not JSON, or not of this shape.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        if !self.is_json() {
            return Err(Error::invalid("the object is not JSON; read its payload instead"));
        }
        if depth(&self.bytes) > JSON_DEPTH {
            return Err(Error::integrity("a stored document nests deeper than 128"));
        }
        let mut reader = serde_json::Deserializer::from_slice(&self.bytes);
        // Its own limit is one below ours: what was accepted must be readable.
        reader.disable_recursion_limit();
        let value = T::deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
        value.map_err(|e| Error::invalid("the object has another shape than asked for").with_source(e))
    }
}

/// Refuses JSON that does not parse, nests deeper than the limit, or says one member twice: readers would not agree on it.
fn check_json(bytes: &[u8]) -> Result<()> {
    // First, since the parser has no limit of its own then; of text that does not parse this is the depth that the parser would come to.
    if depth(bytes) > JSON_DEPTH {
        return Err(Error::invalid("JSON nests at most 128 deep"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    reader.disable_recursion_limit();
    let read = Document.deserialize(&mut reader).and_then(|()| reader.end());
    read.map_err(|e| {
        let twice = e.is_data();
        Error::invalid(if twice { "an object of the payload has the same key twice" } else { "the payload is not JSON" }).with_source(e)
    })
}

/// Reads any JSON to its end and keeps nothing but the members' names of the objects that are open.
struct Document;

/// A member's name, as far as possible without a copy.
#[derive(PartialEq, Eq, Hash, Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for Document {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Document {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Document)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<Name<'de>>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("a name stands twice"));
            }
            members.next_value_seed(Document)?;
        }
        Ok(())
    }
}

/// Returns how deep JSON nests, which must parse.
pub(crate) fn depth(json: &[u8]) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                now += 1;
                most = most.max(now);
            }
            b']' | b'}' => now = now.saturating_sub(1),
            b'"' => {
                // To the end of the string; what a backslash escapes does not end it.
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => _ = bytes.next(),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    most
}

/// What the store knows about an object beside its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The identity of this life of the object: another one after delete and re-create.
    pub uid: Uuid,
    /// The version: what a conditional write is based on.
    pub version: Version,
    /// The revision of the commit that wrote this version.
    pub revision: Revision,
    /// The revision of the commit that created the object.
    pub create_revision: Revision,
    /// Its labels.
    pub labels: Labels,
    /// When its time to live ends, by the engine's clock; it is there until the store deletes it soon after. `None`: never.
    pub expires_at: Option<Timestamp>,
    /// When it was created, by the engine's clock.
    pub created_at: Timestamp,
    /// When this version was written, by the engine's clock.
    pub updated_at: Timestamp,
}

/// What a write does to the time to live of its object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TtlChange {
    /// It ends when it would have; a new object never does.
    #[default]
    Keep,
    /// It ends this long after the write, 1 s..=10 years: the store deletes the object within about a second of it.
    Set(Duration),
    /// It never ends.
    Never,
}

/// An object as it stood at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object<T = Payload> {
    /// Its name.
    pub key: Key,
    /// Its content.
    pub value: T,
    /// What the store knows about it.
    pub meta: Meta,
}

impl Object<Payload> {
    /// Reads the payload as a value.
    ///
    /// # Errors
    /// As [`Payload::read`].
    pub fn read<T: DeserializeOwned>(self) -> Result<Object<T>> {
        let value = self.value.read()?;
        Ok(Object { key: self.key, value, meta: self.meta })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_accepted_can_be_read_and_says_one_thing() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let twice = [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"\u0061":2}}]"#];
        for text in
            twice.iter().map(ToString::to_string).chain(["[1e400]".to_owned(), deep(129), "\u{feff}{}".to_owned(), "{} {}".to_owned()])
        {
            assert_eq!(Payload::new(text.clone().into_bytes(), JSON).unwrap_err().kind(), Kind::Invalid, "{text}");
        }
        for text in [r#"{"a":{"a":1},"b":[{"a":1},{"a":2}],"A":3}"#, "123456789012345678901234567890", " [ ] ", &deep(128)] {
            Payload::new(text.as_bytes().to_vec(), JSON).unwrap().read::<serde_json::Value>().unwrap();
        }
    }

    #[test]
    fn half_a_character_is_no_json() {
        for text in [r#""\ud800""#, r#""\udc00""#, r#""\ud800x\udc00""#, r#""\ud800\n""#, r#""\udc00\ud800""#, r#"{"\ud800\ud800":1}"#] {
            assert!(Payload::new(text.as_bytes().to_vec(), JSON).is_err(), "{text}");
        }
        for text in [r#""\ud83d\ude00""#, r#""\\ud800""#, r#""\u00e4\n\ud83d\ude00\ud83d\ude00""#] {
            assert!(Payload::new(text.as_bytes().to_vec(), JSON).is_ok(), "{text}");
        }
    }
}
