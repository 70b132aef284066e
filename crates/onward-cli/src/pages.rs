//! Lists that come in pages: written as they arrive, so that memory stays flat at any length.

use onward_api::client::{Client, Request};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::failure::Result;
use crate::output::{Format, Out, Table, cell};

/// The columns of a table: title and member.
pub(crate) type Columns = &'static [(&'static str, &'static str)];

/// The most items that one page carries.
const PAGE_MAX: u64 = 1_000;

/// A list to write.
#[derive(Debug)]
pub(crate) struct Pages {
    request: Request,
    columns: Columns,
    limit: Option<u64>,
}

#[derive(Deserialize)]
struct Page {
    /// As they came: numbers and payloads keep every digit.
    items: Vec<Box<RawValue>>,
    #[serde(default)]
    next_cursor: Option<String>,
}

impl Pages {
    pub(crate) fn new(request: Request, columns: Columns, limit: Option<u64>) -> Self {
        Self { request, columns, limit }
    }

    /// Writes all pages, or the first `limit` items; returns what else the last page said.
    pub(crate) async fn write(self, client: &Client, out: &Out) -> Result<Value> {
        let mut left = self.limit.unwrap_or(u64::MAX);
        let mut cursor: Option<String> = None;
        let mut writer = Writer::new(self.columns, out);
        loop {
            let request = self.request.clone().query("limit", left.clamp(1, PAGE_MAX)).maybe_query("cursor", cursor.as_deref());
            let answer = client.call(request).await?;
            let mut page: Page = answer.json()?;
            page.items.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left = left.saturating_sub(page.items.len() as u64);
            writer.items(&page.items)?;
            cursor = page.next_cursor.filter(|_| left > 0);
            if cursor.is_none() {
                let mut rest: Value = answer.json()?;
                if let Some(members) = rest.as_object_mut() {
                    members.retain(|name, _| !matches!(name.as_str(), "items" | "next_cursor"));
                }
                writer.end(&rest)?;
                return Ok(rest);
            }
        }
    }
}

/// Writes items in the format that was asked for.
pub(crate) struct Writer<'a> {
    columns: Columns,
    out: &'a Out,
    table: Table,
    begun: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(columns: Columns, out: &'a Out) -> Self {
        Self { columns, out, table: Table::default(), begun: false }
    }

    pub(crate) fn items(&mut self, items: &[Box<RawValue>]) -> Result<()> {
        match self.out.format() {
            Format::Table => {
                if !self.begun {
                    self.table.row(self.columns.iter().map(|(title, _)| (*title).to_owned()));
                }
                for item in items {
                    let item: Value = serde_json::from_str(item.get()).unwrap_or_default();
                    self.table.row(self.columns.iter().map(|(_, member)| cell(item.get(*member).unwrap_or(&Value::Null))));
                }
                self.out.bytes(self.table.to_string().as_bytes())?;
                self.table.clear();
            }
            Format::Jsonl => {
                for item in items {
                    self.out.json_line(item.get())?;
                }
            }
            Format::Json => {
                for (n, item) in items.iter().enumerate() {
                    let lead = if self.begun || n > 0 { "," } else { "{\"items\":[" };
                    self.out.bytes(lead.as_bytes())?;
                    self.out.bytes(item.get().as_bytes())?;
                }
            }
        }
        self.begun |= !items.is_empty() || self.out.format() == Format::Table;
        Ok(())
    }

    pub(crate) fn end(self, rest: &Value) -> Result<()> {
        if self.out.format() != Format::Json {
            return Ok(());
        }
        let mut tail = if self.begun { "]".to_owned() } else { "{\"items\":[]".to_owned() };
        for (name, value) in rest.as_object().into_iter().flatten() {
            tail.push_str(&format!(",{}:{value}", Value::from(name.as_str())));
        }
        tail.push('}');
        self.out.line(&tail)
    }
}
