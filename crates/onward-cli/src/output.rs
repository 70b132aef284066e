//! Data on stdout, talk on stderr.
//!
//! Nothing from outside reaches a terminal unescaped, and a closed pipe ends the command quietly.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use onward_api::Effect;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::progress::{Progress, When};

/// How data are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people
    Table,
    /// One JSON document
    Json,
    /// One JSON document a line
    Jsonl,
}

/// When to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Where a command speaks.
#[derive(Clone, Debug)]
pub(crate) struct Out {
    format: Option<Format>,
    quiet: bool,
    verbose: bool,
    color: bool,
    progress: When,
}

impl Out {
    pub(crate) fn new(format: Option<Format>, quiet: bool, verbose: bool, color: Color, progress: When) -> Self {
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        };
        let progress = if quiet && progress == When::Auto { When::Never } else { progress };
        Self { format, quiet, verbose, color, progress }
    }

    /// Begins to tell how far long work is, counted in `unit`.
    pub(crate) fn progress(&self, unit: &'static str) -> Progress {
        Progress::begin(self.progress, unit)
    }

    /// Tells whether nothing but data and errors is wanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Returns the format for a finite answer.
    pub(crate) fn format(&self) -> Format {
        self.format.unwrap_or(Format::Table)
    }

    /// Returns the format for what streams: lines of JSON unless a table is asked for.
    pub(crate) fn stream_format(&self) -> Format {
        match self.format {
            Some(Format::Table) => Format::Table,
            _ => Format::Jsonl,
        }
    }

    /// Writes data as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|e| Failure::io("cannot write the output", &e))
    }

    /// Writes a line of data.
    pub(crate) fn line(&self, line: &str) -> Result<()> {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Writes JSON that came with line ends of its own as one line: between tokens they are white space, and strings have none.
    pub(crate) fn json_line(&self, json: &str) -> Result<()> {
        self.line(&json.replace(['\n', '\r'], " "))
    }

    /// Writes one record, a JSON object as it came: its members as lines `name  value`, or itself.
    pub(crate) fn record(&self, record: &[u8]) -> Result<()> {
        match (self.format(), std::str::from_utf8(record)) {
            (Format::Jsonl, Ok(text)) => self.json_line(text),
            (Format::Json, Ok(text)) => self.line(text),
            _ => {
                let mut table = Table::default();
                for (name, value) in serde_json::from_slice::<Members>(record).unwrap_or_default().0 {
                    table.row([name, cell(&value)]);
                }
                self.bytes(table.to_string().as_bytes())
            }
        }
    }

    /// Says something to the person, unless they asked for quiet.
    pub(crate) fn say(&self, text: fmt::Arguments<'_>) {
        if !self.quiet {
            self.tell(&plain(&text.to_string()));
        }
    }

    /// Says what must not be missed, also to those who asked for quiet.
    pub(crate) fn warn(&self, text: fmt::Arguments<'_>) {
        self.tell(&plain(&text.to_string()));
    }

    /// Says something that only the curious want.
    pub(crate) fn detail(&self, text: fmt::Arguments<'_>) {
        if self.verbose {
            self.tell(&plain(&text.to_string()));
        }
    }

    /// Tells a failure: the problem itself in a JSON mode, else what a person needs.
    pub(crate) fn failure(&self, failure: &Failure) {
        let Some(problem) = failure.problem() else { return };
        let document = problem.document();
        if matches!(self.format, Some(Format::Json | Format::Jsonl)) {
            self.tell(&serde_json::to_string(document).unwrap_or_default());
            return;
        }
        let mark = if self.color { "\u{1b}[1;31monward:\u{1b}[0m" } else { "onward:" };
        self.tell(&format!("{mark} {}", plain(&document.detail)));
        for error in &document.errors {
            self.tell(&plain(&format!("  {} {}", error.pointer, error.message)));
        }
        if let Some(current) = problem.current() {
            let current: Value = serde_json::from_str(current.get()).unwrap_or_default();
            match current.get("version") {
                Some(version) => self.tell(&plain(&format!("  it is at version {} now", cell(version)))),
                None => self.tell("  there is no such object now"),
            }
        }
        if problem.effect() == Effect::Unknown {
            match problem.request_id() {
                Some(id) => self.tell(&plain(&format!("  it may have happened; the same request with the id {id} happens once"))),
                None => self.tell("  it may have happened"),
            }
        }
        if let Some(after) = document.retry_after_ms {
            self.tell(&format!("  try again in {after} ms"));
        }
        self.detail(format_args!("  {} ({}), request {}", document.code, document.status, problem.request_id().unwrap_or("-")));
    }

    fn tell(&self, line: &str) {
        // Nobody reads stderr: there is no one left to tell.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }
}

/// Rows in aligned columns; the last one is not padded.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
}

impl Table {
    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| plain(&cell)).collect();
        self.widths.resize(self.widths.len().max(cells.len()), 0);
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        self.rows.push(cells);
    }

    /// Forgets the rows and keeps the widths, so that the next page lines up.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&self.widths) {
                write!(line, "{cell:width$}  ")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// The members of an object in the order in which they came.
#[derive(Default)]
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Members, A::Error> {
                let mut members = Members::default();
                while let Some(member) = map.next_entry()? {
                    members.0.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Shows a JSON value in a cell.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Escapes what a terminal would obey.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_controls_are_escaped() {
        let mut table = Table::default();
        table.row(["a".to_owned(), "1".to_owned()]);
        table.row(["long\u{1b}[31m".to_owned(), "2".to_owned()]);
        assert_eq!(table.to_string(), "a               1\nlong\\u{1b}[31m  2\n");
    }
}
