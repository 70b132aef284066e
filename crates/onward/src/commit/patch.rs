//! Patches: changes that the writer itself applies to the newest state, so that a hot object needs no retries.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::document::Node;
use crate::model::Payload;
use crate::model::limits::{PATCH_STEPS, POINTER_BYTES};
use crate::{Code, Error, Kind, Result};

/// A change of a JSON document that is judged and applied inside the writer, on the newest state: one attempt, no lost race.
///
/// What it does not name stays as it is, digit for digit; members come out in the order of their names.
///
/// # Examples: many writers count without a conflict
/// ```
/// # use onward::{Onward, commit::Patch, store::{Put, WriteOptions}};
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let store = Onward::open("memory:").await?.store();
/// store.create(("page", "home"), &serde_json::json!({"hits": 0})).await?;
/// let tasks: Vec<_> = (0..32).map(|_| {
///     let store = store.clone();
///     tokio::spawn(async move { store.apply(("page", "home"), Patch::new().add("/hits", 1), None, WriteOptions::new()).await })
/// }).collect();
/// for task in tasks {
///     assert!(matches!(task.await.unwrap()?, Put::Committed(_)));
/// }
/// let page = store.get::<serde_json::Value>(("page", "home")).await?.unwrap();
/// assert_eq!(page.value["hits"], 32);
/// # Ok::<(), onward::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Patch {
    form: Form,
    refused: Option<Arc<Error>>,
}

#[derive(Clone, Debug)]
enum Form {
    /// RFC 7396, as JSON text.
    Merge(String),
    /// One after the other.
    Steps(Vec<Step>),
}

#[derive(Clone, Debug)]
struct Step {
    verb: Verb,
    path: Vec<String>,
    /// JSON text; empty for `remove`.
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Set,
    Add,
    Append,
    Remove,
    Compare,
}

/// A step on the wire: one verb with its JSON pointer, and a value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    set: Option<String>,
    add: Option<String>,
    append: Option<String>,
    remove: Option<String>,
    compare: Option<String>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
}

/// Reads a member that is there, be it `null`.
fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What a patch made of a document.
pub(super) enum Patched {
    /// The new content.
    Payload(Payload),
    /// A `compare` did not hold.
    Differs,
}

impl Default for Patch {
    fn default() -> Self {
        Self::new()
    }
}

impl Patch {
    /// Starts a list of steps, each of which sees what those before it did. Pointers are those of RFC 6901; at most 128 steps.
    pub fn new() -> Self {
        Self { form: Form::Steps(Vec::new()), refused: None }
    }

    /// Merges a value into the document (RFC 7396): members are set, `null` removes, anything but an object replaces.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: the value has no JSON, has a member twice, or is too long or too deep.
    pub fn merge<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let text = serde_json::to_string(value).map_err(|e| Error::invalid("the patch cannot be written as JSON").with_source(e))?;
        Self::merge_json(&text)
    }

    /// Merges JSON text into the document, as [`Patch::merge`].
    ///
    /// # Errors
    /// As [`Patch::merge`].
    pub fn merge_json(text: &str) -> Result<Self> {
        check(text)?;
        Ok(Self { form: Form::Merge(text.to_owned()), refused: None })
    }

    /// Reads steps from JSON text, such as `[{"compare":"/state","value":"open"},{"add":"/count","value":1},{"remove":"/draft"}]`.
    ///
    /// # Errors
    /// [`Kind::Invalid`] with the place of the step: it is not one verb of `set`, `add`, `append`, `remove`, `compare` with a JSON
    /// pointer, or its value is missing or unfit.
    pub fn steps_json(text: &str) -> Result<Self> {
        if crate::model::json_depth(text.as_bytes()) > crate::model::limits::JSON_DEPTH + 2 {
            return Err(Error::invalid("JSON nests at most 128 deep"));
        }
        let items: Vec<&RawValue> =
            serde_json::from_str(text).map_err(|e| Error::invalid("a patch is a list of steps in JSON").with_source(e))?;
        let mut patch = Self::new();
        for (index, item) in items.into_iter().enumerate() {
            let place = |e: Error| e.with_pointer(format!("/{index}"));
            // An array would be read as the members in order.
            let wire = Some(item.get()).filter(|text| text.starts_with('{')).and_then(|text| serde_json::from_str::<Wire<'_>>(text).ok());
            let Wire { set, add, append, remove, compare, value } = wire
                .ok_or_else(|| place(Error::invalid("a step is one of set, add, append, remove, compare with a pointer, and a value")))?;
            let mut verbs = [(Verb::Set, set), (Verb::Add, add), (Verb::Append, append), (Verb::Remove, remove), (Verb::Compare, compare)]
                .into_iter()
                .filter_map(|(verb, path)| Some((verb, path?)));
            let (Some((verb, path)), None) = (verbs.next(), verbs.next()) else {
                return Err(place(Error::invalid("a step has exactly one verb")));
            };
            let value = match (verb, value) {
                (Verb::Remove, None) => "",
                (Verb::Remove, Some(_)) => return Err(place(Error::invalid("remove takes no value"))),
                (_, None) => return Err(place(Error::invalid("the step needs a value"))),
                (_, Some(value)) => value.get(),
            };
            patch = patch.text(verb, &path, value);
            if let Some(error) = patch.refused.take() {
                return Err(place(error.again()));
            }
        }
        patch.check()?;
        Ok(patch)
    }

    /// Sets the value at a pointer; its parent must be there.
    pub fn set<T: Serialize + ?Sized>(self, pointer: &str, value: &T) -> Self {
        self.step(Verb::Set, pointer, value)
    }

    /// Adds to the integer at a pointer; an absent member counts as 0. Beyond 64 bits the patch is refused.
    pub fn add(self, pointer: &str, by: i64) -> Self {
        self.step(Verb::Add, pointer, &by)
    }

    /// Appends to the array at a pointer; an absent member counts as an empty one.
    pub fn append<T: Serialize + ?Sized>(self, pointer: &str, value: &T) -> Self {
        self.step(Verb::Append, pointer, value)
    }

    /// Removes what is at a pointer; it must be there.
    pub fn remove(self, pointer: &str) -> Self {
        self.text(Verb::Remove, pointer, "")
    }

    /// Goes on only if the value at a pointer is this one; else nothing changes and the answer shows the current object.
    pub fn compare<T: Serialize + ?Sized>(self, pointer: &str, value: &T) -> Self {
        self.step(Verb::Compare, pointer, value)
    }

    fn step<T: Serialize + ?Sized>(mut self, verb: Verb, pointer: &str, value: &T) -> Self {
        match serde_json::to_string(value) {
            Ok(text) => self.text(verb, pointer, &text),
            Err(e) => {
                self.refused
                    .get_or_insert_with(|| Arc::new(Error::invalid("a value of the patch cannot be written as JSON").with_source(e)));
                self
            }
        }
    }

    fn text(mut self, verb: Verb, pointer: &str, value: &str) -> Self {
        let checked = match verb {
            Verb::Remove => Ok(()),
            Verb::Add if value.parse::<i64>().is_err() => Err(Error::invalid("add takes a 64 bit integer")),
            _ => check(value),
        };
        match (checked.and_then(|()| path(pointer)), &mut self.form) {
            (Ok(path), Form::Steps(steps)) => steps.push(Step { verb, path, value: value.to_owned() }),
            (Ok(_), Form::Merge(_)) => _ = self.refused.get_or_insert(Arc::new(Error::invalid("a merge has no steps"))),
            (Err(e), _) => _ = self.refused.get_or_insert(Arc::new(e)),
        }
        self
    }

    /// Refuses a patch that was built with something unfit, or has no or too many steps. Returns its size.
    pub(super) fn check(&self) -> Result<usize> {
        if let Some(error) = &self.refused {
            return Err(error.again());
        }
        match &self.form {
            Form::Merge(text) => Ok(text.len()),
            Form::Steps(steps) if (1..=PATCH_STEPS).contains(&steps.len()) => {
                Ok(steps.iter().map(|step| step.value.len() + step.path.iter().map(String::len).sum::<usize>() + 64).sum())
            }
            Form::Steps(_) => Err(Error::invalid("a patch has 1..=128 steps")),
        }
    }

    /// Hands out what it is made of, for a fingerprint.
    pub(super) fn parts<'a>(&'a self, mut take: impl FnMut(&'a str)) {
        match &self.form {
            Form::Merge(text) => {
                take("merge");
                take(text);
            }
            Form::Steps(steps) => {
                for step in steps {
                    take(match step.verb {
                        Verb::Set => "set",
                        Verb::Add => "add",
                        Verb::Append => "append",
                        Verb::Remove => "remove",
                        Verb::Compare => "compare",
                    });
                    step.path.iter().for_each(|token| take(token));
                    take(&step.value);
                }
            }
        }
    }

    /// Applies the patch to a document: pure, and linear in both.
    ///
    /// # Errors
    /// [`Kind::Invalid`], `validation_failed`: the document is not JSON or has no place for a step. `payload_too_large`: the result is.
    pub(super) fn apply(&self, before: &Payload) -> Result<Patched> {
        if !before.is_json() {
            return Err(misfit("the object is not JSON"));
        }
        let text = std::str::from_utf8(before.bytes()).map_err(|e| Error::integrity("stored JSON is not UTF-8").with_source(e))?;
        let mut document = Node::parse(text)?;
        match &self.form {
            Form::Merge(patch) => document = merge(document, Node::parse(patch)?),
            Form::Steps(steps) => {
                for (index, step) in steps.iter().enumerate() {
                    if !step.apply(&mut document).map_err(|e| e.with_pointer(format!("/{index}")))? {
                        return Ok(Patched::Differs);
                    }
                }
            }
        }
        let mut out = String::with_capacity(text.len() + 64);
        document.write(&mut out);
        Payload::new(out.into_bytes(), before.content_type()).map(Patched::Payload)
    }
}

impl Step {
    /// Does the step; `false` if it compares and differs.
    fn apply<'a>(&'a self, document: &mut Node<'a>) -> Result<bool> {
        let Some((last, parents)) = self.path.split_last() else { return self.at_root(document) };
        let mut parent = document;
        for token in parents {
            let next = match parent {
                Node::Object(members) => members.get_mut(token),
                Node::Array(items) => index(token).and_then(|index| items.get_mut(index)),
                Node::Leaf(_) => None,
            };
            match next {
                Some(next) => parent = next,
                None if self.verb == Verb::Compare => return Ok(false),
                None => return Err(misfit("the document has no such place")),
            }
        }
        match parent {
            Node::Object(members) => match (self.verb, members.get_mut(last)) {
                (_, Some(found)) if self.verb != Verb::Remove => return self.at(found),
                (Verb::Set | Verb::Add, _) => _ = members.insert(last.clone(), Node::parse(&self.value)?),
                (Verb::Append, _) => _ = members.insert(last.clone(), Node::Array(vec![Node::parse(&self.value)?])),
                (Verb::Remove, Some(_)) => _ = members.remove(last),
                (Verb::Remove, None) => return Err(misfit("there is nothing to remove")),
                (Verb::Compare, _) => return Ok(false),
            },
            Node::Array(items) => match index(last).filter(|index| *index < items.len()) {
                Some(index) if self.verb == Verb::Remove => _ = items.remove(index),
                Some(index) => {
                    if let Some(found) = items.get_mut(index) {
                        return self.at(found);
                    }
                }
                None if self.verb == Verb::Compare => return Ok(false),
                None => return Err(misfit("the array has no such place")),
            },
            Node::Leaf(_) if self.verb == Verb::Compare => return Ok(false),
            Node::Leaf(_) => return Err(misfit("the document has no such place")),
        }
        Ok(true)
    }

    fn at_root<'a>(&'a self, document: &mut Node<'a>) -> Result<bool> {
        if self.verb == Verb::Remove { Err(misfit("a document cannot remove itself")) } else { self.at(document) }
    }

    /// Does a step other than `remove` on the value that it names.
    fn at<'a>(&'a self, found: &mut Node<'a>) -> Result<bool> {
        let value = Node::parse(&self.value)?;
        match (self.verb, &mut *found) {
            (Verb::Compare, found) => return Ok(found.equals(&value)),
            (Verb::Append, Node::Array(items)) => items.push(value),
            (Verb::Append, _) => return Err(misfit("append needs an array")),
            (Verb::Add, Node::Leaf(text)) => *found = Node::Leaf(Cow::Owned(sum(text, &self.value)?)),
            (Verb::Add, _) => return Err(misfit("add needs an integer")),
            (Verb::Set | Verb::Remove, _) => *found = value,
        }
        Ok(true)
    }
}

fn sum(found: &str, by: &str) -> Result<String> {
    match (found.parse::<i64>(), by.parse::<i64>()) {
        (Ok(found), Ok(by)) => found.checked_add(by).map(|sum| sum.to_string()).ok_or_else(|| misfit("the sum is beyond 64 bits")),
        _ => Err(misfit("add needs a 64 bit integer")),
    }
}

/// RFC 7396, section 2.
fn merge<'a>(target: Node<'a>, patch: Node<'a>) -> Node<'a> {
    let Node::Object(changes) = patch else { return patch };
    let mut members = match target {
        Node::Object(members) => members,
        _ => std::collections::BTreeMap::new(),
    };
    for (name, change) in changes {
        let old = members.remove(&name);
        if !change.is_null() {
            members.insert(name, merge(old.unwrap_or(Node::null()), change));
        }
    }
    Node::Object(members)
}

/// Refuses JSON that could not stand in an object.
fn check(text: &str) -> Result<()> {
    Payload::new(text.to_owned().into_bytes(), crate::model::JSON)?;
    Node::parse(text).map(|_| ()).map_err(|_| Error::invalid("a patch has the same member twice"))
}

/// Reads a JSON pointer (RFC 6901).
fn path(pointer: &str) -> Result<Vec<String>> {
    let malformed = || Error::invalid("a pointer is empty or starts with /, has ~0 for ~ and ~1 for /, and at most 1 KiB");
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let rest = pointer.strip_prefix('/').filter(|_| pointer.len() <= POINTER_BYTES).ok_or_else(malformed)?;
    let token = |token: &str| {
        let valid = token.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
        valid.then(|| token.replace("~1", "/").replace("~0", "~")).ok_or_else(malformed)
    };
    rest.split('/').map(token).collect()
}

/// Reads an index of an array: decimal, without a leading zero.
fn index(token: &str) -> Option<usize> {
    let plain = token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
    token.parse().ok().filter(|_| plain)
}

fn misfit(why: &str) -> Error {
    Error::new(Kind::Invalid, Code::ValidationFailed, why)
}
