//! Audit chains.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Method, StatusCode};
use onward::audit::verify::{Depth, Extent};
use onward::audit::{AppendOptions, Chain, ChainInfo, Export, Filter, From, KeptVerdict, Order, Page, Tail};
use onward::model::{ChainName, Entry, Head, Sealed, Seq, limits};
use onward::{Code, Onward};
use onward_api::base64;
use onward_api::chains::{self, Append, Chains, Entries, Receipts};

use super::commit::data;
use super::json;
use crate::call::{Call, bad_path, ours};
use crate::cursor;
use crate::download::{PIECE_BYTES, Pieces, download};
use crate::query::Query;
use crate::refusal::{Answer, Refusal};
use crate::sse::{Event, Source, Step, stream};

/// `GET /v1/chains`
pub(crate) async fn list(call: Call) -> Answer {
    let query = call.query(&["limit", "cursor"])?;
    let limit = query.parse("limit", "1 to 1000")?.unwrap_or(100);
    let after = query.get("cursor").map(|text| cursor::open(text, &["chains"])).transpose()?;
    let after = after.map(|name| ChainName::new(&name)).transpose()?;
    let found = match call.caller.chains() {
        None => call.reading(call.onward().audit().chains(after.as_ref(), limit)).await?,
        Some(own) => call.reading(named(call.onward(), own, after.as_ref(), limit)).await?,
    };
    let next = found.last().filter(|_| found.len() == limit).map(|last| cursor::seal(last.name.as_str(), &["chains"]));
    let shown = found.iter().filter(|chain| call.caller.sees(chain.name.as_str()));
    let items = shown.map(|ChainInfo { name, head }| spell_chain(name, head)).collect();
    json(StatusCode::OK, &Chains { items, next_cursor: next })
}

/// Looks up chains by name, in order, as a list does.
async fn named(onward: &Onward, names: BTreeSet<&str>, after: Option<&ChainName>, limit: usize) -> onward::Result<Vec<ChainInfo>> {
    let mut found = Vec::new();
    for name in names.into_iter().filter(|name| after.is_none_or(|after| *name > after.as_str())) {
        if found.len() == limit {
            break;
        }
        let chain = onward.audit().chain_of_ours(name)?;
        if let Some(head) = chain.head().await? {
            found.push(ChainInfo { name: chain.name().clone(), head });
        }
    }
    Ok(found)
}

/// `GET /v1/chains/{chain}`
pub(crate) async fn head(call: Call) -> Answer {
    call.query(&[])?;
    let chain = chain(&call)?;
    let head = call.reading(chain.head()).await?.ok_or_else(|| Refusal::new(Code::NotFound, "no such chain"))?;
    let kept = call.reading(chain.last_verdict()).await?;
    json(StatusCode::OK, &chains::Chain { last_verdict: kept.as_ref().map(spell_verdict), ..spell_chain(chain.name(), &head) })
}

/// `POST /v1/chains/{chain}/entries`
pub(crate) async fn append(mut call: Call) -> Answer {
    call.query(&[])?;
    let chain = chain(&call)?;
    let mut options = AppendOptions::new().with_deadline(call.queue_time());
    let mut fences = call.fences()?.into_iter();
    if let Some((lock, token)) = fences.next() {
        options = options.with_fence(lock, token);
    }
    if fences.next().is_some() {
        return Err(Refusal::header(onward_api::header::FENCE, "an append takes one"));
    }
    let asked: Append = call.json(limits::COMMIT_BYTES).await?;
    let alone = asked.entries.len() == 1;
    let mut entries = Vec::with_capacity(asked.entries.len());
    for (index, one) in asked.entries.into_iter().enumerate() {
        let place = format!("/entries/{index}");
        if one.event_id.is_some() && !alone {
            return Err(Refusal::member(format!("{place}/event_id"), "only for an entry that is appended alone; else Idempotency-Key"));
        }
        entries.push(entry(&call, one).map_err(|e| e.under(&place))?);
    }
    let receipts = match entries.pop() {
        None => return Err(Refusal::member("/entries", "1 to 128 entries")),
        Some(mut entry) if alone => {
            entry.event_id.get_or_insert_with(|| call.event_id());
            vec![call.writing(chain.append(entry, options)).await?]
        }
        Some(entry) => {
            entries.push(entry);
            call.writing(chain.append_many(entries, options.with_event_id(call.event_id()))).await?
        }
    };
    let receipt = |receipt: onward::audit::Receipt| chains::Receipt {
        seq: receipt.seq.get(),
        hash: receipt.hash.to_string(),
        at: receipt.at.to_string(),
        event_id: receipt.event_id,
        replayed: receipt.replayed,
    };
    json(StatusCode::CREATED, &Receipts { receipts: receipts.into_iter().map(receipt).collect() })
}

fn entry(call: &Call, one: chains::Entry) -> Result<Entry, Refusal> {
    let mut entry = Entry::new(one.kind).with_data(data(one.data.as_deref(), one.data_text, one.data_base64.as_deref())?);
    entry.actor = call.caller.actor(one.actor);
    entry.resource = one.resource;
    entry.event_id = one.event_id;
    entry.personal = one.personal.map(super::personal::personal).transpose()?;
    entry.check()?;
    Ok(entry)
}

/// `GET /v1/chains/{chain}/entries`
pub(crate) async fn query(call: Call) -> Answer {
    let chain = chain(&call)?;
    if call.header("accept")?.is_some_and(|accept| accept.contains("text/event-stream")) {
        return tail(&call, &chain).await;
    }
    let names = ["from_seq", "to_seq", "since", "until", "kind", "actor", "resource", "order"];
    if call.header("accept")?.is_some_and(|accept| accept.contains(LINES)) {
        let filter = filter(&call.query(&names)?)?;
        // Whether there is such a chain is said before the first line.
        call.reading(chain.head()).await?.ok_or_else(|| Refusal::new(Code::NotFound, "no such chain"))?;
        let matching = Matching { chain, filter, after: None, ended: false };
        return download(&call, LINES, Split { from: matching, rest: Bytes::new() });
    }
    let query = call.query(&[&names[..], &["limit", "cursor"]].concat())?;
    let filter = filter(&query)?;
    let mut question = vec![chain.name().as_str()];
    question.extend(names.iter().map(|name| query.get(name).unwrap_or("\0")));
    let after = query.get("cursor").map(|text| cursor::open(text, &question)).transpose()?;
    let after = after.map(|seq| seq.parse::<Seq>()).transpose()?;
    let page = Page { limit: query.parse("limit", "1 to 1000")?.unwrap_or(100), after };
    let found = call.reading(chain.query(&filter, page)).await?;
    let next_cursor = found.next.map(|seq| cursor::seal(&seq.to_string(), &question));
    json(StatusCode::OK, &Entries { items: found.items.iter().map(spell).collect(), next_cursor, absent: found.absent })
}

/// Lines of JSON.
const LINES: &str = "application/x-ndjson";

/// Short pieces of long ones: a client that does not read holds a few of them.
struct Split<P> {
    from: P,
    rest: Bytes,
}

impl<P: Pieces> Pieces for Split<P> {
    async fn next(&mut self) -> onward::Result<Option<Bytes>> {
        while self.rest.is_empty() {
            let Some(rest) = self.from.next().await? else { return Ok(None) };
            self.rest = rest;
        }
        Ok(Some(self.rest.split_to(self.rest.len().min(PIECE_BYTES))))
    }
}

/// All entries that a filter wants, a line each.
struct Matching {
    chain: Chain,
    filter: Filter,
    after: Option<Seq>,
    ended: bool,
}

impl Pieces for Matching {
    async fn next(&mut self) -> onward::Result<Option<Bytes>> {
        if self.ended {
            return Ok(None);
        }
        let found = self.chain.query(&self.filter, Page { limit: 100, after: self.after }).await?;
        (self.ended, self.after) = (found.next.is_none(), found.next);
        let mut lines = Vec::new();
        for entry in &found.items {
            serde_json::to_writer(&mut lines, &spell(entry))
                .map_err(|e| onward::Error::unavailable("a line cannot be written").with_source(e))?;
            lines.push(b'\n');
        }
        Ok(Some(lines.into()))
    }
}

/// `GET /v1/chains/{chain}/export`
pub(crate) async fn export(call: Call) -> Answer {
    let query = call.query(&["from_seq", "to_seq"])?;
    let chain = chain(&call)?;
    let (from, to) = (query.parse("from_seq", "a seq, from 1")?, query.parse("to_seq", "a seq, from 1")?);
    let export = call.reading(chain.export(from, to)).await?;
    download(&call, LINES, Split { from: Exporting(export), rest: Bytes::new() })
}

struct Exporting(Export);

impl Pieces for Exporting {
    async fn next(&mut self) -> onward::Result<Option<Bytes>> {
        self.0.next().await
    }
}

fn filter(query: &Query) -> Result<Filter, Refusal> {
    let text = |name: &str| query.get(name).map(str::to_owned);
    Ok(Filter {
        kind: text("kind"),
        actor: text("actor"),
        resource: text("resource"),
        since: query.parse("since", "a time, RFC 3339")?,
        until: query.parse("until", "a time, RFC 3339")?,
        from: query.parse("from_seq", "a seq, from 1")?,
        to: query.parse("to_seq", "a seq, from 1")?,
        order: match query.get("order") {
            None | Some("asc") => Order::Ascending,
            Some("desc") => Order::Descending,
            Some(_) => return Err(Refusal::new(Code::InvalidRequest, "query parameter `order`: expected asc or desc")),
        },
    })
}

async fn tail(call: &Call, chain: &Chain) -> Answer {
    let query = call.query(&["from_seq"])?;
    let last = call.header("last-event-id")?.map(str::parse::<Seq>).transpose();
    let last = last.map_err(|_| Refusal::new(Code::InvalidCursor, "Last-Event-ID is the id of an event"))?;
    let from = match last {
        Some(last) => From::Seq(Seq::new(last.get() + 1)?),
        None => query.parse("from_seq", "a seq, from 1")?.map_or(From::Head, From::Seq),
    };
    let mut tail = chain.tail(from);
    call.reading(tail.start()).await?;
    let open = serde_json::json!({"chain": chain.name()});
    stream(call, Event::new("open", None, &open), Following(tail))
}

struct Following(Tail);

impl Source for Following {
    const KIND: &'static str = "tail";

    async fn next(&mut self) -> Step {
        match self.0.next().await {
            Ok(entry) => Step::Event(Event::new("entry", Some(entry.seq.get()), &spell(&entry))),
            // The client comes back with the id that it has.
            Err(_) => Step::End("unavailable"),
        }
    }
}

/// `GET /v1/chains/{chain}/entries/{seq}`
pub(crate) async fn get(call: Call) -> Answer {
    call.query(&[])?;
    let chain = chain(&call)?;
    let seq: Seq = call.segment(2)?.parse()?;
    json(StatusCode::OK, &spell(&call.reading(chain.get(seq)).await?))
}

pub(super) fn chain(call: &Call) -> Result<Chain, Refusal> {
    let name = call.segment(0)?;
    if name.is_empty() {
        return Err(bad_path());
    }
    // Who may read what is ours reads it here; nobody writes it.
    if !(call.caller.sees(&name) && reads(call)) {
        ours(&name)?;
    }
    Ok(call.onward().audit().chain_of_ours(&name)?)
}

/// A verification is asked for with a body, and reads all the same.
fn reads(call: &Call) -> bool {
    call.is_head() || call.parts.method == Method::GET || call.parts.uri.path().ends_with("/verify")
}

fn spell_chain(name: &ChainName, head: &Head) -> chains::Chain {
    chains::Chain {
        chain: name.to_string(),
        origin: head.origin.to_string(),
        head: chains::Head { seq: head.seq.get(), hash: head.hash.to_string(), at: head.at.to_string() },
        last_verdict: None,
    }
}

fn spell_verdict(kept: &KeptVerdict) -> chains::LastVerdict {
    chains::LastVerdict {
        verdict: kept.verdict.to_string(),
        extent: match kept.extent {
            Extent::Full => "full",
            Extent::Incremental => "incremental",
        }
        .to_owned(),
        depth: match kept.depth {
            Depth::Public => "public",
            Depth::Keyed => "keyed",
        }
        .to_owned(),
        attested: kept.attested,
        to_seq: kept.to_seq,
        at: kept.at.to_string(),
        finding: kept.finding.as_ref().map(|finding| finding.code.to_string()),
    }
}

/// Spells an entry with exactly the stored bytes.
fn spell(entry: &Sealed) -> chains::Sealed {
    let text = std::str::from_utf8(&entry.data).ok();
    chains::Sealed {
        seq: entry.seq.get(),
        at: entry.at.to_string(),
        event_id: entry.event_id.clone(),
        kind: entry.kind.clone(),
        actor: entry.actor.clone(),
        resource: entry.resource.clone(),
        data: text.map(str::to_owned),
        data_base64: text.is_none().then(|| base64::encode(&entry.data)),
        personal: entry.personal.map(|commitment| commitment.to_string()),
        prev: entry.prev.to_string(),
        hash: entry.hash.to_string(),
        mac: entry.mac.map(|mac| onward::model::Hash::from_bytes(mac).to_string()),
        kid: entry.kid.clone(),
        flags: entry.flags,
    }
}
