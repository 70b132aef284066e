//! Cursors: where to go on, and a checksum over what they belong to. No secret: each page is authenticated anew.

use onward::Code;
use onward_api::base64;
use sha2::{Digest, Sha256};

use crate::refusal::Refusal;

/// Writes a cursor for a place in an answer to a question.
pub(crate) fn seal(place: &str, question: &[&str]) -> String {
    base64::encode_url(format!("{}{place}", checksum(place, question)).as_bytes())
}

/// Reads a cursor of the same question.
pub(crate) fn open(cursor: &str, question: &[&str]) -> Result<String, Refusal> {
    let text = base64::decode_url(cursor).and_then(|bytes| String::from_utf8(bytes).ok());
    let place = text.and_then(|text| {
        let (sum, place) = text.split_at_checked(16)?;
        (checksum(place, question) == sum).then(|| place.to_owned())
    });
    place.ok_or_else(|| Refusal::new(Code::InvalidCursor, "the cursor is damaged or belongs to another question"))
}

fn checksum(place: &str, question: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in question.iter().chain([&place]) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    base64::encode_url(&hasher.finalize()[..12])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_opens_for_its_own_question_only() {
        let cursor = seal("42", &["main", "kind"]);
        assert_eq!(open(&cursor, &["main", "kind"]).unwrap(), "42");
        assert!(open(&cursor, &["mainkind", ""]).is_err());
        assert!(open(&cursor[1..], &["main", "kind"]).is_err());
        assert!(open("", &[]).is_err());
    }
}
