//! JSON as a tree whose numbers and strings stay as they were written, so that a patch changes nothing that it does not name.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::{Code, Error, Kind, Result};

/// A JSON value; members are in the order of their names.
#[derive(Clone, Debug)]
pub(super) enum Node<'a> {
    /// A number, string, boolean or null, as its text.
    Leaf(Cow<'a, str>),
    /// An array.
    Array(Vec<Node<'a>>),
    /// An object.
    Object(BTreeMap<String, Node<'a>>),
}

impl<'a> Node<'a> {
    /// Reads JSON text that is known to be well formed and to nest within its limit.
    ///
    /// # Errors
    /// [`Kind::Invalid`], `validation_failed`: an object has a member twice.
    pub(super) fn parse(text: &'a str) -> Result<Self> {
        Reader { rest: text }.value()
    }

    pub(super) const fn null() -> Self {
        Self::Leaf(Cow::Borrowed("null"))
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Leaf(text) if text == "null")
    }

    /// Writes the value without spaces.
    pub(super) fn write(&self, out: &mut String) {
        match self {
            Self::Leaf(text) => out.push_str(text),
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (index, (name, member)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    out.push_str(&serde_json::Value::from(name.as_str()).to_string());
                    out.push(':');
                    member.write(out);
                }
                out.push('}');
            }
        }
    }

    /// Tells whether two values are the same JSON, however they are spelled.
    pub(super) fn equals(&self, other: &Node<'_>) -> bool {
        match (self, other) {
            (Self::Leaf(one), Node::Leaf(other)) => same_leaf(one, other),
            (Self::Array(one), Node::Array(other)) => one.len() == other.len() && one.iter().zip(other).all(|(a, b)| a.equals(b)),
            (Self::Object(one), Node::Object(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|((a, x), (b, y))| a == b && x.equals(y))
            }
            _ => false,
        }
    }
}

/// Greatest integer that a double holds exactly, with all below it.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn same_leaf(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    match (one.starts_with('"'), other.starts_with('"')) {
        (true, true) => matches!((string(one), string(other)), (Ok(one), Ok(other)) if one == other),
        (false, false) => match (one.parse::<i128>(), other.parse::<i128>()) {
            (Ok(one), Ok(other)) => one == other,
            (Err(_), Err(_)) => matches!((one.parse::<f64>(), other.parse::<f64>()), (Ok(a), Ok(b)) if a.is_finite() && a == b),
            // Beyond it a double stands for several integers.
            _ => matches!((one.parse::<f64>(), other.parse::<f64>()), (Ok(a), Ok(b)) if a.abs() <= EXACT && a == b),
        },
        _ => false,
    }
}

fn string(token: &str) -> Result<String> {
    serde_json::from_str(token).map_err(|e| Error::integrity("a document is not what was checked").with_source(e))
}

fn malformed() -> Error {
    Error::integrity("a document is not what was checked")
}

/// Takes well-formed JSON apart from the front, each byte once.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
        self.rest.bytes().next()
    }

    fn take(&mut self, length: usize) -> Result<&'a str> {
        let (token, rest) = self.rest.split_at_checked(length).ok_or_else(malformed)?;
        self.rest = rest;
        Ok(token)
    }

    fn value(&mut self) -> Result<Node<'a>> {
        match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => Ok(Node::Leaf(self.quoted()?.into())),
            Some(_) => {
                let end = self.rest.find([',', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(self.rest.len());
                Ok(Node::Leaf(self.take(end)?.into()))
            }
            None => Err(malformed()),
        }
    }

    fn object(&mut self) -> Result<Node<'a>> {
        self.take(1)?;
        let mut members = BTreeMap::new();
        while self.peek() != Some(b'}') {
            if !members.is_empty() {
                self.take(1)?;
                self.peek();
            }
            let name = string(self.quoted()?)?;
            self.peek();
            self.take(1)?;
            let member = self.value()?;
            if members.insert(name, member).is_some() {
                return Err(Error::new(Kind::Invalid, Code::ValidationFailed, "a patched document has the same member twice"));
            }
        }
        self.take(1)?;
        Ok(Node::Object(members))
    }

    fn array(&mut self) -> Result<Node<'a>> {
        self.take(1)?;
        let mut items = Vec::new();
        while self.peek() != Some(b']') {
            if !items.is_empty() {
                self.take(1)?;
            }
            items.push(self.value()?);
        }
        self.take(1)?;
        Ok(Node::Array(items))
    }

    /// A string with its quotes.
    fn quoted(&mut self) -> Result<&'a str> {
        let mut bytes = self.rest.bytes().enumerate().skip(1);
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => return self.take(at + 1),
                b'\\' => _ = bytes.next(),
                _ => {}
            }
        }
        Err(malformed())
    }
}
