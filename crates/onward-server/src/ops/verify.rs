//! Verifying a chain: one answer within a minute, or a stream that tells how far it is for as long as it takes.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use onward::audit::verify::{Archives, Check, Depth, Extent, Progress, Report, SavedHead};
use onward::audit::{Chain, Pace};
use onward::model::{Seq, Vkey};
use onward::{Code, Result};
use onward_api::chains::{Verify, VerifyProgress};
use tokio::sync::watch;

use super::chains::chain;
use super::json;
use crate::call::Call;
use crate::refusal::{Answer, Refusal};
use crate::sse::{Event, Source, Step, stream};
use crate::wait::within;

/// How long a verification that is not streamed may take beyond the deadline of other calls.
const VERIFY: Duration = Duration::from_secs(50);
/// Longest question.
const QUESTION_BYTES: usize = 64 << 10;
/// How often a stream tells how far it is.
const TOLD_EVERY: Duration = Duration::from_millis(250);

/// `POST /v1/chains/{chain}/verify`
pub(crate) async fn verify(mut call: Call) -> Answer {
    call.query(&[])?;
    let chain = chain(&call)?;
    let check = check(call.json(QUESTION_BYTES).await?)?;
    if call.header("accept")?.is_some_and(|accept| accept.contains("text/event-stream")) {
        // Who asks for a chain that is not there gets a problem, not a stream of one.
        call.reading(chain.head()).await?.ok_or_else(|| Refusal::new(Code::NotFound, "no such chain"))?;
        let walk = Walk::begin(chain, check);
        return stream(&call, walk.told(), walk);
    }
    call.begin_wait()?;
    let late =
        || Refusal::new(Code::DeadlineExceeded, "the deadline passed; ask for text/event-stream, or for ranges by from_seq and to_seq");
    let report = call.waiting(VERIFY, late, chain.verify(check)).await?;
    json(http::StatusCode::OK, &report)
}

fn check(asked: Verify) -> std::result::Result<Check, Refusal> {
    let seq = |seq: Option<u64>, place: &str| seq.map(Seq::new).transpose().map_err(|e| Refusal::from(e).under(place));
    // What was signed outside says so by its form: a saved head is an object.
    let (saved, checkpoint) = match (asked.checkpoint.as_deref(), asked.vkey.as_deref()) {
        (None, None) => (None, None),
        (Some(text), None) => (Some(SavedHead::parse(text).map_err(|e| Refusal::from(e).under("/checkpoint"))?), None),
        (Some(note), Some(vkey)) => {
            let vkey = Vkey::parse(vkey).map_err(|e| Refusal::from(e).under("/vkey"))?;
            (None, Some(vkey.open(note).map_err(|e| Refusal::from(e).under("/checkpoint"))?))
        }
        (None, Some(_)) => return Err(Refusal::member("/vkey", "only with a checkpoint")),
    };
    Ok(Check {
        from: seq(asked.from_seq, "/from_seq")?,
        to: seq(asked.to_seq, "/to_seq")?,
        depth: match asked.depth.as_deref() {
            None => None,
            Some("public") => Some(Depth::Public),
            Some("keyed") => Some(Depth::Keyed),
            Some(_) => return Err(Refusal::member("/depth", "public or keyed")),
        },
        saved,
        checkpoint,
        archives: match asked.archives.as_deref() {
            None | Some("listed") => Archives::Listed,
            Some("read") => Archives::Read,
            Some(_) => return Err(Refusal::member("/archives", "listed or read")),
        },
        extent: if asked.incremental { Extent::Incremental } else { Extent::Full },
        ..Check::default()
    })
}

/// A walk that is told about. It ends with the stream: nobody else waits for it.
struct Walk {
    /// Gone when it has ended.
    running: Option<Pin<Box<dyn Future<Output = Result<Report>> + Send>>>,
    progress: watch::Receiver<Progress>,
}

impl Walk {
    fn begin(chain: Chain, check: Check) -> Self {
        let (to, progress) = watch::channel(Progress { rows_hashed: 0, bytes_hashed: 0, seq: 0, head: 0 });
        let tell = move |progress| {
            to.send_replace(progress);
        };
        let running = Box::pin(async move { chain.verify_watched(check, Pace::default(), tell).await });
        Self { running: Some(running), progress }
    }

    fn told(&self) -> Event {
        let Progress { rows_hashed, seq, head, .. } = *self.progress.borrow();
        Event::new("progress", None, &VerifyProgress { rows_hashed, seq, head })
    }
}

impl Source for Walk {
    const KIND: &'static str = "verify";

    async fn next(&mut self) -> Step {
        let Some(running) = &mut self.running else { return Step::End("done") };
        let Some(ended) = within(TOLD_EVERY, running).await else { return Step::Event(self.told()) };
        self.running = None;
        Step::Event(match ended {
            Ok(report) => Event::new("report", None, &report),
            Err(error) => Event::new("problem", None, &Refusal::from(error).problem),
        })
    }
}
