//! Several changes as one statement.
//!
//! Each message to the server has an answer that it sends by itself, and that wakes a thread here: on a batch of small statements that is a
//! good part of its time. So what a batch changes travels as one statement, whose parts are its `WITH` queries. All of them see the same
//! snapshot, so none may rely on what another one wrote.

use std::fmt::Write as _;

use tokio_postgres::types::Type;

use super::connection::{Param, Step};

/// A change of rows, to be a part of a larger statement.
pub(super) struct Part<'a> {
    sql: &'static str,
    params: Vec<Param<'a>>,
    expected: Expected,
}

/// How many rows a part must change, or the statement fails.
#[derive(Clone, Copy)]
enum Expected {
    Any,
    One,
    /// As many as its first parameter has elements.
    Each,
}

impl<'a> Part<'a> {
    /// A part that changes any number of rows.
    pub(super) fn any(sql: &'static str, params: Vec<Param<'a>>) -> Self {
        Self { sql, params, expected: Expected::Any }
    }

    /// A part that must change one row.
    pub(super) fn one(sql: &'static str, params: Vec<Param<'a>>) -> Self {
        Self { sql, params, expected: Expected::One }
    }

    /// A part that must change as many rows as its first parameter has elements.
    pub(super) fn each(sql: &'static str, params: Vec<Param<'a>>) -> Self {
        Self { sql, params, expected: Expected::Each }
    }
}

/// One statement made of parts.
pub(super) struct United<'a> {
    sql: String,
    params: Vec<Param<'a>>,
}

impl<'a> United<'a> {
    /// Unites parts. If one of them has not changed what it must, nothing is applied.
    pub(super) fn of(parts: Vec<Part<'a>>) -> Self {
        let (mut sql, mut looks, mut params) = (String::with_capacity(4_096), String::from("SELECT 0"), Vec::with_capacity(64));
        for (n, part) in parts.into_iter().enumerate() {
            let first = params.len();
            sql.push_str(if n == 0 { "WITH " } else { ", " });
            // Writing to a string does not fail.
            let _ = write!(sql, "p{n} AS (");
            renumber(&mut sql, part.sql, first);
            sql.push_str(" RETURNING 1)");
            let _ = match part.expected {
                Expected::Any => Ok(()),
                Expected::One => write!(looks, " + 1 / (SELECT count(*) FROM p{n})"),
                Expected::Each => write!(looks, " + 1 / ((SELECT count(*) FROM p{n}) = cardinality(${}))::int", first + 1),
            };
            params.extend(part.params);
        }
        sql.push(' ');
        sql.push_str(&looks);
        Self { sql, params }
    }

    /// Tells a word to those who listen on a channel, once all is committed.
    pub(super) fn telling(mut self, channel: &'a &'static str, word: &'a String) -> Self {
        let first = self.params.len() + 1;
        let _ = write!(self.sql, ", pg_notify(${first}, ${})", first + 1);
        self.params.extend([(channel as _, Type::TEXT), (word as _, Type::TEXT)]);
        self
    }

    pub(super) fn step(&self) -> Step<'_> {
        Step::Often(&self.sql, self.params.clone())
    }
}

/// Writes a statement whose parameters come behind `before` others.
fn renumber(into: &mut String, sql: &str, before: usize) {
    let mut pieces = sql.split('$');
    into.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = piece.split_at(digits);
        let number: usize = number.parse().unwrap_or_default();
        let _ = write!(into, "${}{rest}", number + before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_their_own_parameters_and_are_counted() {
        let (keys, at, word) = (vec![1_i64, 2], 7_i64, "hello".to_owned());
        let parts = vec![
            Part::one("UPDATE a SET at = $1", vec![(&at, Type::INT8)]),
            Part::any("DELETE FROM b", vec![]),
            Part::each("INSERT INTO c SELECT k, $2 FROM unnest($1::bigint[]) AS k", vec![(&keys, Type::INT8_ARRAY), (&at, Type::INT8)]),
        ];
        let united = United::of(parts).telling(&"channel", &word);
        assert_eq!(
            united.sql,
            "WITH p0 AS (UPDATE a SET at = $1 RETURNING 1), p1 AS (DELETE FROM b RETURNING 1), \
             p2 AS (INSERT INTO c SELECT k, $3 FROM unnest($2::bigint[]) AS k RETURNING 1) \
             SELECT 0 + 1 / (SELECT count(*) FROM p0) + 1 / ((SELECT count(*) FROM p2) = cardinality($2))::int, pg_notify($4, $5)"
        );
        assert_eq!(united.params.len(), 5);
    }
}
