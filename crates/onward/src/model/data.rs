//! The data of an entry and the one JSON form that two callers with equal values agree on.
//!
//! The form is made once, when the entry is made; a verifier hashes the stored bytes and never writes JSON again.

use bytes::Bytes;
use serde::Serialize;
use serde::ser::{self, Serializer};

use super::limits::PAYLOAD_BYTES;
use crate::{Code, Error, Kind, Result};

/// Greatest depth of JSON in an entry.
const DEPTH_MAX: usize = 64;

/// The data of an entry: opaque bytes, stored and hashed verbatim.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Data(Bytes);

impl Data {
    /// Takes the bytes as they are.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// Takes the text as it is.
    pub fn text(text: impl Into<String>) -> Self {
        Self(Bytes::from(text.into()))
    }

    /// Writes a value as canonical JSON.
    ///
    /// Keys sorted by their UTF-8 bytes, no spaces, only required escapes, integers in all their digits, floats in their shortest form.
    /// Nothing is normalised: two spellings of one letter stay two.
    ///
    /// # Errors
    /// [`Kind::Invalid`]: NaN or an infinity, a key twice in one object, a depth above 64, more than 1 MiB, or a value that has no JSON.
    ///
    /// # Examples: the order of the members does not show
    /// ```
    /// use onward::model::Data;
    /// let data = Data::json(&serde_json::json!({"order": 42, "amount": 9.5}))?;
    /// assert_eq!(&data.as_bytes()[..], br#"{"amount":9.5,"order":42}"#);
    /// # Ok::<(), onward::Error>(())
    /// ```
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        // Before serde_json sees the value: it would write NaN as null, and follow any depth.
        value.serialize(Check { depth: 0 }).map_err(|refusal| Error::invalid(refusal.0))?;
        let text = serde_json::to_string(value).map_err(|e| Error::invalid("the value cannot be written as JSON").with_source(e))?;
        Self::json_text(&text)
    }

    /// Brings JSON text into the canonical form of [`Data::json`].
    ///
    /// # Errors
    /// As [`Data::json`]; also text that is not JSON, a lone surrogate, or a number with a fraction or exponent beyond a double.
    pub fn json_text(text: &str) -> Result<Self> {
        // The grammar is serde_json's business; what follows reads tokens that are known to be well formed.
        serde_json::from_str::<serde::de::IgnoredAny>(text)
            .map_err(|e| Error::invalid("the data are not JSON, or nest too deep").with_source(e))?;
        let mut out = Vec::with_capacity(text.len());
        Reader { rest: text }.value(&mut out, 0).map_err(|refusal| Error::invalid(refusal.0))?;
        if out.len() > PAYLOAD_BYTES {
            return Err(Error::new(Kind::Invalid, Code::PayloadTooLarge, "the data of an entry is at most 1 MiB").with_pointer("/data"));
        }
        Ok(Self(out.into()))
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Why a value has no canonical form.
#[derive(Debug)]
struct Refused(String);

const NOT_FINITE: &str = "JSON has no NaN and no infinity";
const TOO_DEEP: &str = "the data nest deeper than 64";
const TWICE: &str = "an object has the same key twice";
const MALFORMED: &str = "the data are not JSON";

fn refuse<T>(why: &str) -> Result<T, Refused> {
    Err(Refused(why.to_owned()))
}

/// Reads well-formed JSON text from the front and writes it back in canonical form.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn peek(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
        self.rest.bytes().next()
    }

    fn take(&mut self, length: usize) -> Result<&'a str, Refused> {
        let (token, rest) = self.rest.split_at_checked(length).ok_or_else(|| Refused(MALFORMED.to_owned()))?;
        self.rest = rest;
        Ok(token)
    }

    fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), Refused> {
        match self.peek() {
            Some(b'{') => self.object(out, deeper(depth)?),
            Some(b'[') => self.array(out, deeper(depth)?),
            Some(b'"') => {
                let text = self.string()?;
                write(out, &text)
            }
            Some(b'-' | b'0'..=b'9') => self.number(out),
            Some(b't' | b'n') => {
                out.extend_from_slice(self.take(4)?.as_bytes());
                Ok(())
            }
            Some(b'f') => {
                out.extend_from_slice(self.take(5)?.as_bytes());
                Ok(())
            }
            _ => refuse(MALFORMED),
        }
    }

    fn object(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), Refused> {
        self.take(1)?;
        let mut members: Vec<(String, Vec<u8>)> = Vec::new();
        loop {
            match self.peek() {
                Some(b'}') => break,
                Some(b',') => drop(self.take(1)?),
                Some(b'"') => {
                    let key = self.string()?;
                    if self.peek() != Some(b':') {
                        return refuse(MALFORMED);
                    }
                    self.take(1)?;
                    let mut value = Vec::new();
                    self.value(&mut value, depth)?;
                    members.push((key, value));
                }
                _ => return refuse(MALFORMED),
            }
        }
        self.take(1)?;
        members.sort_unstable_by(|left, right| left.0.as_bytes().cmp(right.0.as_bytes()));
        if members.windows(2).any(|pair| matches!(pair, [left, right] if left.0 == right.0)) {
            return refuse(TWICE);
        }
        out.push(b'{');
        for (i, (key, value)) in members.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write(out, key)?;
            out.push(b':');
            out.extend_from_slice(value);
        }
        out.push(b'}');
        Ok(())
    }

    fn array(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), Refused> {
        self.take(1)?;
        out.push(b'[');
        loop {
            match self.peek() {
                Some(b']') => break,
                Some(b',') => out.extend_from_slice(self.take(1)?.as_bytes()),
                _ => self.value(out, depth)?,
            }
        }
        self.take(1)?;
        out.push(b']');
        Ok(())
    }

    /// Takes one string token; serde_json reads the escapes and refuses a lone surrogate.
    fn string(&mut self) -> Result<String, Refused> {
        let mut escaped = false;
        let end = self.rest.bytes().skip(1).position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let token = match end {
            Some(end) => self.take(end + 2)?,
            None => return refuse(MALFORMED),
        };
        serde_json::from_str(token).map_err(|_| Refused("a string has half of a surrogate pair".to_owned()))
    }

    /// Takes one number: an integer keeps its digits, whatever their count; anything else becomes a double in its shortest form.
    fn number(&mut self, out: &mut Vec<u8>) -> Result<(), Refused> {
        let inside = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
        let token = self.take(self.rest.bytes().take_while(|byte| inside(*byte)).count())?;
        if token.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
            // There is one integer zero.
            out.extend_from_slice(if token == "-0" { b"0" } else { token.as_bytes() });
            return Ok(());
        }
        match token.parse::<f64>() {
            Ok(number) if number.is_finite() => write(out, &number),
            _ => refuse("a number is beyond a double"),
        }
    }
}

fn deeper(depth: usize) -> Result<usize, Refused> {
    if depth >= DEPTH_MAX { refuse(TOO_DEEP) } else { Ok(depth + 1) }
}

/// Writes one string or double as serde_json does: required escapes only, shortest form.
fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), Refused> {
    serde_json::to_writer(out, value).map_err(|_| Refused(MALFORMED.to_owned()))
}

/// A serializer that writes nothing: it walks a value and refuses what JSON could only hide.
#[derive(Clone, Copy)]
struct Check {
    depth: usize,
}

impl Check {
    fn inside(self) -> Result<Self, Refused> {
        Ok(Self { depth: deeper(self.depth)? })
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    /// The message of the value's own `Serialize` may hold user data: it is not repeated.
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self("the value cannot be written as JSON".to_owned())
    }
}

macro_rules! accept {
    ($($method:ident($type:ty)),* $(,)?) => { $(fn $method(self, _: $type) -> Result<(), Refused> { Ok(()) })* };
}

impl Serializer for Check {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    accept!(serialize_bool(bool), serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64), serialize_i128(i128));
    accept!(serialize_u8(u8), serialize_u16(u16), serialize_u32(u32), serialize_u64(u64), serialize_u128(u128), serialize_char(char));
    accept!(serialize_str(&str), serialize_bytes(&[u8]), serialize_unit_struct(&'static str));

    fn serialize_f32(self, number: f32) -> Result<(), Refused> {
        if number.is_finite() { Ok(()) } else { refuse(NOT_FINITE) }
    }

    fn serialize_f64(self, number: f64) -> Result<(), Refused> {
        if number.is_finite() { Ok(()) } else { refuse(NOT_FINITE) }
    }

    fn serialize_none(self) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Refused> {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(self, _: &'static str, _: u32, _: &'static str, value: &T) -> Result<(), Refused> {
        value.serialize(self.inside()?)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Refused> {
        self.inside()
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Refused> {
        self.inside()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        self.inside()
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, Refused> {
        self.inside()?.inside()
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Refused> {
        self.inside()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Refused> {
        self.inside()
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, _: &'static str, _: usize) -> Result<Self, Refused> {
        self.inside()?.inside()
    }
}

macro_rules! elements {
    ($($trait:ident: $method:ident),* $(,)?) => { $(impl ser::$trait for Check {
        type Ok = ();
        type Error = Refused;

        fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
            value.serialize(*self)
        }

        fn end(self) -> Result<(), Refused> {
            Ok(())
        }
    })* };
}

elements!(
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field,
);

macro_rules! members {
    ($($trait:ident),* $(,)?) => { $(impl ser::$trait for Check {
        type Ok = ();
        type Error = Refused;

        fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Result<(), Refused> {
            value.serialize(*self)
        }

        fn end(self) -> Result<(), Refused> {
            Ok(())
        }
    })* };
}

members!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Check {
    type Ok = ();
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        key.serialize(*self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        value.serialize(*self)
    }

    fn end(self) -> Result<(), Refused> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn canonical(text: &str) -> Option<String> {
        Data::json_text(text).ok().map(|data| String::from_utf8(data.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn the_canonical_form_of_the_worked_example_holds() {
        let data = Data::json(&json!({"order": 42, "note": "remboursé", "amount": 9.5})).unwrap();
        assert_eq!(&data.as_bytes()[..], r#"{"amount":9.5,"note":"remboursé","order":42}"#.as_bytes());
    }

    #[test]
    fn keys_are_sorted_by_bytes_and_only_required_escapes_stay() {
        let text = " { \"é\" : [ 1 , \"\\u0041\\/\\n\\u0001\\\"\\\\\" ] , \"Z\":null,\"a\":{\"\":true} , \"\\ud83d\\ude00\":false }";
        assert_eq!(canonical(text).unwrap(), "{\"Z\":null,\"a\":{\"\":true},\"é\":[1,\"A/\\n\\u0001\\\"\\\\\"],\"😀\":false}");
    }

    #[test]
    fn integers_keep_all_their_digits_and_floats_take_their_shortest_form() {
        for (text, expected) in [
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("-9007199254740993", "-9007199254740993"),
            ("-0", "0"),
            ("1.0", "1.0"),
            ("1e2", "100.0"),
            ("0.10000000000000000000", "0.1"),
            ("-0.0", "-0.0"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(&Data::json(&u128::MAX).unwrap().as_bytes()[..], u128::MAX.to_string().as_bytes());
        assert_eq!(&Data::json(&0.1_f32).unwrap().as_bytes()[..], b"0.1");
    }

    #[test]
    fn what_has_no_one_form_is_refused() {
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#""\ud800""#,
            r#""\udc00x""#,
            "1e400",
            "-1e400",
            "NaN",
            "",
            "{} {}",
            "01",
            "\u{feff}1",
        ] {
            assert!(canonical(text).is_none(), "{text}");
        }
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(Data::json(&json!({})).is_ok() && Data::json(&[Some(number)]).is_err());
        }
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(canonical(&nested(64)).is_some() && canonical(&nested(65)).is_none());
        let mut value = json!(1);
        for _ in 0..65 {
            value = json!([value]);
        }
        assert!(Data::json(&value).is_err());
        assert!(Data::json(&"x".repeat(PAYLOAD_BYTES)).is_err_and(|e| e.code() == Code::PayloadTooLarge));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..8).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn equal_values_have_one_form_and_it_is_stable(value in any_json()) {
            let pretty = canonical(&serde_json::to_string_pretty(&value).unwrap()).unwrap();
            let direct = Data::json(&value).unwrap();
            prop_assert_eq!(pretty.as_bytes(), &direct.as_bytes()[..]);
            prop_assert_eq!(canonical(&pretty).unwrap(), pretty.clone());
        }

        #[test]
        fn any_text_is_refused_or_brought_into_a_form_that_reads_the_same(text in r#"[\[\]{},:"\\u0-9dDeE+. tfn-]{0,40}"#) {
            if let Some(form) = canonical(&text) {
                prop_assert_eq!(canonical(&form), Some(form.clone()));
                prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&form).is_ok());
            }
        }
    }
}
