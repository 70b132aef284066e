//! Watching: the change feed as server-sent events, one event a commit.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::header;
use onward::commit::{Change, ChangeOp, FeedItem, Record};
use onward::model::{Epoch, Revision};
use onward::store::{From, Watch, Watcher};
use onward::time::{Clock, Moment};
use onward::{Code, Kind, retry};
use onward_api::objects::{Bookmark, Changed, Open};

use super::objects::{labels, spell};
use crate::auth::caller::{Caller, OURS};
use crate::auth::scope::Part;
use crate::call::{Call, ours};
use crate::refusal::{Answer, Refusal};
use crate::spelled::Spelled;
use crate::sse::{Event, Source, Step, stream};

/// `GET /v1/watch`
pub(crate) async fn watch(call: Call) -> Answer {
    let query = call.query(&["namespace", "kind", "prefix", "label", "payload", "from", "epoch"])?;
    let last = call.header("last-event-id")?.map(str::parse::<Revision>).transpose();
    let last = last.map_err(|_| Refusal::new(Code::InvalidCursor, "Last-Event-ID is the id of an event"))?;
    let from = match (last, query.get("from")) {
        (Some(revision), _) => From::After(revision),
        (None, None | Some("now")) => From::Now,
        (None, Some(_)) => query.parse("from", "now or a revision")?.map_or(From::Now, From::After),
    };
    let epoch: Option<Epoch> = query.parse("epoch", "16 hex digits")?;
    let named =
        |name: &str| -> Result<Option<String>, Refusal> { query.get(name).map(|word| ours(word).map(|()| word.to_owned())).transpose() };
    let watch = Watch {
        from,
        epoch,
        namespace: named("namespace")?,
        kind: named("kind")?,
        prefix: query.get("prefix").unwrap_or_default().to_owned(),
        selector: query.selector()?,
    };
    let payload = query.flag("payload", true)?;
    if call.is_head() {
        let mut response = axum::response::Response::default();
        response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("text/event-stream"));
        return Ok(response);
    }
    let watcher = match call.reading(call.onward().store().watch(watch)).await {
        Err(refusal) if refusal.problem.code == Code::CursorCompacted => return Err(compacted(&call, refusal, from, epoch).await),
        watcher => watcher?,
    };
    let open = Open { epoch: watcher.epoch().to_string(), revision: watcher.revision().get() };
    let told = watcher.revision();
    let shown = Clock::system().now();
    let (caller, spelled) = (call.caller.clone(), call.state.spelled().clone());
    stream(&call, Event::new("open", None, &open), Changes { watcher, caller, payload, spelled, told, shown, rest: Moment::default() })
}

/// Adds what the caller needs to start anew.
async fn compacted(call: &Call, mut refusal: Refusal, from: From, epoch: Option<Epoch>) -> Refusal {
    let Ok(meta) = call.reading(call.onward().store().queue().engine().meta()).await else { return refusal };
    let future = matches!(from, From::After(revision) if revision > meta.revision);
    let reason = match epoch {
        Some(epoch) if epoch != meta.epoch => "epoch",
        _ if future => "future",
        _ => "compacted",
    };
    let problem = &mut refusal.problem;
    problem.reason = Some(reason.to_owned());
    problem.oldest = Some(meta.compacted.get());
    problem.newest = Some(meta.revision.get());
    problem.epoch = Some(meta.epoch.to_string());
    refusal
}

/// How long a watch that is shown nothing is left without a place to come back to.
const BOOKMARK_AFTER: Duration = Duration::from_secs(1);

/// How many bytes of events are sent in one go, about.
const TOGETHER: usize = 32 << 10;
/// How long a watch of a busy store rests after it was sent several events in one go: more come together then, and the writers have the
/// machine meanwhile. One event at a time never waits.
const REST: Duration = Duration::from_millis(4);

struct Changes {
    watcher: Watcher,
    /// Who watches: what lies outside of its scopes is not told.
    caller: Caller,
    payload: bool,
    spelled: Arc<Spelled>,
    /// The id of the last event.
    told: Revision,
    /// When that was.
    shown: Moment,
    /// Until when it rests.
    rest: Moment,
}

impl Changes {
    fn tell(&mut self, revision: Revision, event: Event) -> Step {
        (self.told, self.shown) = (revision, Clock::system().now());
        Step::Event(event)
    }

    fn shows(&self, change: &Change) -> bool {
        let (namespace, kind) = (change.key.namespace(), change.key.kind());
        let ours = namespace.starts_with(OURS) || kind.starts_with(OURS);
        !ours && self.caller.may(Part::Objects, &[namespace.as_bytes(), kind.as_bytes()])
    }

    async fn one(&mut self) -> Step {
        match self.watcher.next().await {
            Ok(FeedItem::Commit(record)) => {
                let revision = record.revision;
                if let Some(record) = record.narrowed(|change| self.shows(change)) {
                    let event = self.spelled.event(&record, self.payload, || change(&record, self.payload));
                    return self.tell(revision, event);
                }
                // Nothing for this caller; how far it is it must know all the same, to come back there.
                if Clock::system().now().since(self.shown) < BOOKMARK_AFTER {
                    return Step::Quiet;
                }
                self.tell(revision, bookmark(revision))
            }
            Ok(FeedItem::Bookmark(revision)) if revision > self.told => self.tell(revision, bookmark(revision)),
            Ok(FeedItem::Bookmark(_)) => Step::Quiet,
            Err(error) if error.kind() == Kind::Expired => Step::End("compacted"),
            // The client comes back with the id that it has.
            Err(_) => Step::End("unavailable"),
        }
    }
}

impl Source for Changes {
    const KIND: &'static str = "watch";

    async fn next(&mut self) -> Step {
        retry::sleep_until(&Clock::system(), self.rest).await;
        let first = match self.one().await {
            Step::Event(event) => event,
            other => return other,
        };
        // From here on nothing is waited for, so that nothing taken is lost.
        let (mut bytes, mut events) = (first.len(), vec![first]);
        while bytes < TOGETHER && self.watcher.waiting() > 0 {
            match at_once(self.one()) {
                Some(Step::Event(event)) => {
                    bytes += event.len();
                    events.push(event);
                }
                Some(Step::Quiet) => {}
                // The end is told again when it is asked for.
                Some(Step::End(_)) | None => break,
            }
        }
        if events.len() == 1 {
            return events.pop().map_or(Step::Quiet, Step::Event);
        }
        self.rest = Clock::system().now() + REST;
        Step::Event(Event::join(&events))
    }
}

/// Returns what a future has without waiting.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn bookmark(revision: Revision) -> Event {
    Event::new("bookmark", Some(revision.get()), &Bookmark { revision: revision.get() })
}

fn change(record: &Record, payload: bool) -> Event {
    let changes = record.changes.iter().filter_map(|change| changed(change, payload)).collect();
    let data = onward_api::objects::Change { revision: record.revision.get(), at: record.at.to_string(), changes };
    Event::new("change", Some(record.revision.get()), &data)
}

fn changed(change: &Change, payload: bool) -> Option<Changed> {
    let object = change.after.as_ref().or(change.before.as_ref())?;
    let (json, binary) = match &change.after {
        Some(after) if payload => spell(&after.value),
        _ => (None, None),
    };
    Some(Changed {
        op: word(change.op).to_owned(),
        namespace: change.key.namespace().to_owned(),
        kind: change.key.kind().to_owned(),
        name: change.key.name().to_owned(),
        uid: object.meta.uid.to_string(),
        version: change.version.get(),
        labels: labels(object),
        content_type: change.after.as_ref().map(|after| after.value.content_type().to_owned()),
        payload: json,
        payload_base64: binary,
    })
}

/// Spells what happened to an object.
pub(super) fn word(op: ChangeOp) -> &'static str {
    match op {
        ChangeOp::Put => "put",
        ChangeOp::Delete => "delete",
        ChangeOp::Expire => "expire",
    }
}
