//! `import` and `export`: objects in bulk, a JSON document a line.

use std::io::{BufRead, BufReader, Read as _};
use std::time::Duration;

use clap::Args;
use onward::time::Clock;
use onward_api::client::{Client, Problem, Request};
use onward_api::objects::Imported;
use onward_api::{Effect, NDJSON_TYPE};

use super::Which;
use crate::failure::{Failure, Result};
use crate::output::Out;
use crate::save::{Progress, save};
use crate::wait;

/// Lines of one request, and about how many bytes: small, so that other writers come in between.
const LINES: usize = 512;
const BYTES: usize = 1 << 20;
/// The longest line, above the server's limit, so that the server names it.
const LINE_BYTES: u64 = 16 << 20;
/// How long a store that is busy or away is asked again.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause where the store names none.
const PAUSE: Duration = Duration::from_millis(500);

/// Creates objects from lines.
#[derive(Args, Debug)]
pub(crate) struct Import {
    /// The file with a JSON document a line; - for stdin
    #[arg(value_name = "FILE")]
    file: String,
}

/// Writes objects as lines.
#[derive(Args, Debug)]
pub(crate) struct Export {
    /// The new file; - for stdout
    #[arg(value_name = "FILE")]
    file: String,
    /// Only objects of this kind
    #[arg(long)]
    kind: Option<String>,
    #[command(flatten)]
    which: Which,
}

impl Export {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let request = self.which.ask(Request::get("objects")).maybe_query("kind", self.kind.as_deref());
        let download = client.download(request, Duration::ZERO).await?;
        let revision = download.header(onward_api::header::REVISION).unwrap_or("-").to_owned();
        let bytes = save(download, &self.file, "export", out).await?;
        out.say(format_args!("{bytes} bytes, as of revision {revision}"));
        Ok(())
    }
}

impl Import {
    pub(super) async fn run(self, client: &Client, out: &Out) -> Result<()> {
        let mut reader: Box<dyn BufRead> = match self.file.as_str() {
            "-" => Box::new(std::io::stdin().lock()),
            path => {
                let file = std::fs::File::open(path).map_err(|e| Failure::usage(format_args!("cannot read {path}: {e}")))?;
                Box::new(BufReader::new(file))
            }
        };
        let mut progress = Progress::new(out);
        let mut done = Imported::default();
        let mut before = 0;
        loop {
            let (chunk, lines) = chunk(&mut reader).map_err(|e| Failure::usage(format_args!("cannot read {}: {e}", self.file)))?;
            if lines == 0 {
                break;
            }
            match send(client, chunk, out).await {
                Ok(more) => {
                    done.created += more.created;
                    done.existing += more.existing;
                }
                Err(problem) => {
                    drop(progress);
                    let more = problem.document().imported.unwrap_or_default();
                    let (created, existing) = (done.created + more.created, done.existing + more.existing);
                    out.warn(format_args!("{created} created and {existing} existing before that; the same import again is safe"));
                    return Err(moved(&problem, before).into());
                }
            }
            before += lines;
            progress.show(|| format!("import: {before} lines, {} created, {} existing", done.created, done.existing));
        }
        drop(progress);
        out.record(serde_json::to_string(&done).unwrap_or_default().as_bytes())
    }
}

/// Reads the lines of one request; none at the end.
fn chunk(reader: &mut impl BufRead) -> std::io::Result<(Vec<u8>, usize)> {
    let (mut chunk, mut lines) = (Vec::new(), 0);
    while lines < LINES && chunk.len() < BYTES {
        let read = reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut chunk)?;
        if read == 0 {
            break;
        }
        lines += 1;
    }
    Ok((chunk, lines))
}

/// Sends the lines; again while the store is busy or away, since what was created already is only counted.
async fn send(client: &Client, chunk: Vec<u8>, out: &Out) -> std::result::Result<Imported, Problem> {
    let clock = Clock::system();
    let give_up = clock.now() + PATIENCE;
    let chunk = bytes::Bytes::from(chunk);
    let mut done = Imported::default();
    loop {
        let request = Request::post("objects").body(NDJSON_TYPE, chunk.clone()).timeout(PATIENCE);
        match client.call(request).await.and_then(|answer| answer.json::<Imported>()) {
            Ok(more) => {
                // What an earlier try created exists now.
                let existing = more.existing.saturating_sub(done.created);
                return Ok(Imported { created: done.created + more.created, existing });
            }
            Err(problem) if problem.code().retryable() && clock.now() < give_up => {
                done.created += problem.document().imported.map_or(0, |imported| imported.created);
                out.detail(format_args!("{problem}"));
                let pause = problem.document().retry_after_ms.map_or(PAUSE, Duration::from_millis);
                wait::pause(&clock, pause).await;
            }
            Err(problem) => return Err(problem),
        }
    }
}

/// Counts the line of a refusal from the beginning of the file.
fn moved(problem: &Problem, before: usize) -> Problem {
    let pointer = problem.document().errors.first().map(|error| error.pointer.as_str()).unwrap_or_default();
    let line = pointer.split('/').nth(1).and_then(|line| line.parse::<usize>().ok());
    let text = line.and_then(|line| problem.document().detail.strip_prefix(&format!("line {line}: ")).map(|text| (line, text)));
    match text {
        Some((line, text)) => {
            let member = pointer.splitn(3, '/').nth(2).map(|member| format!(" (/{member})")).unwrap_or_default();
            Problem::of(problem.code(), Effect::NotApplied, format!("line {}: {text}{member}", before + line))
        }
        None => problem.clone(),
    }
}
