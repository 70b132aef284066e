//! `verify`: a verdict on a chain, and heads kept outside that show a cut tail or a database put back.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use onward::audit::verify::{Check, Progress as Walked, Report, SavedHead};
use onward::audit::{read_keyring, read_saved_head, save_head, verify_archived, verify_export};
use onward::model::{MacKeys, Vkey};
use onward::time::Clock;
use onward_api::chains::VerifyProgress;
use onward_api::client::{Client, Problem, Request, segment};
use onward_api::{Code, Effect};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::checkpoint::read_note;
use crate::failure::{Failure, Result};
use crate::local;
use crate::output::{Format, Out};
use crate::progress::Progress;
use crate::target::{Otherwise, Target, is_server};

/// The end of the help of `verify`.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0 the chain is good
  1 the chain is bad: the first broken entry, what was found and the next step are shown
  2 usage, could not run, or no verdict possible";

/// Verifies a chain.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("signed").args(["checkpoint", "manifest"]).multiple(true))]
pub(crate) struct Verify {
    /// The chain
    #[arg(required_unless_present = "file")]
    chain: Option<String>,
    /// An exported file instead of a chain; - for stdin
    #[arg(long, value_name = "EXPORT", conflicts_with_all = ["chain", "from", "to", "incremental"])]
    file: Option<PathBuf>,
    /// Begin with this entry; what lies before is believed
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
    /// End with this entry
    #[arg(long, value_name = "SEQ")]
    to: Option<u64>,
    /// Save the proved head here; keep the file where the database's writers cannot reach it
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Check against the head that was saved here, or the signed checkpoint
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// The signed manifest beside an archived file, which the file must be, compressed as it lies there
    #[arg(long, value_name = "FILE", requires_all = ["file", "vkey"])]
    manifest: Option<PathBuf>,
    /// The key that checks the signatures of checkpoint and manifest: ORIGIN+ID+KEY
    #[arg(long, requires = "signed", conflicts_with_all = ["incremental", "save"])]
    vkey: Option<String>,
    /// Hash only what is newer than the saved head, which vouches for the rest
    #[arg(long, requires = "checkpoint", conflicts_with_all = ["from", "to"])]
    incremental: bool,
    /// Compare every entry in the files of archived segments, too
    #[arg(long, conflicts_with = "file")]
    deep: bool,
    /// A file with the MAC key; only with an engine URL or an exported file
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl Verify {
    /// Verifies; every failure to come to a verdict is exit 2.
    pub(super) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let report = self.report(target, out).await.map_err(|failure| failure.with_exit(2))?;
        show(&report, out)?;
        if let Some(path) = &self.save {
            if report.exit() == 0 {
                let head = save_head(path, &report, Clock::system().wall()).map_err(|e| Failure::from(e).with_exit(2))?;
                out.say(format_args!("saved the head of {} entries in {}", head.size, path.display()));
            } else {
                out.say(format_args!("the head was not saved: the chain is not good"));
            }
        }
        match report.exit() {
            0 => Ok(()),
            exit => Err(Failure::Exit(exit)),
        }
    }

    async fn report(&self, target: &Target, out: &Out) -> Result<Report> {
        if let Some(path) = &self.file {
            return self.read_file(path, out);
        }
        let client = self.client(target).await?;
        self.ask(&client, out).await
    }

    /// Checks a file here: nobody else has to be asked.
    fn read_file(&self, path: &Path, out: &Out) -> Result<Report> {
        let mut progress = out.progress("rows");
        let keys = self.key.as_deref().map(read_key).transpose()?.unwrap_or_else(MacKeys::none);
        let vkey = self.vkey.as_deref().map(Vkey::parse).transpose()?;
        let (saved, checkpoint) = match (&vkey, &self.checkpoint) {
            (Some(vkey), Some(_)) => (None, Some(vkey.open(&self.note()?)?)),
            _ => (self.saved()?, None),
        };
        let manifest = match (&vkey, &self.manifest) {
            (Some(vkey), Some(path)) => Some(vkey.open_manifest(&read_note(path)?)?),
            _ => None,
        };
        let asked = Check { saved, checkpoint, ..Check::default() };
        let mut check = |file: &mut (dyn Read + Send)| {
            let mut watch = |walked: Walked| {
                progress.at(walked.seq, walked.head);
                ControlFlow::Continue(())
            };
            match &manifest {
                Some(manifest) => verify_archived(file, manifest, &asked, &keys, &mut watch),
                None => verify_export(file, &asked, &keys, &mut watch),
            }
        };
        let report = if path == Path::new("-") {
            check(&mut std::io::stdin())
        } else {
            let mut file = File::open(path).map_err(|e| Failure::usage(format_args!("cannot read {}: {e}", path.display())))?;
            check(&mut file)
        };
        Ok(report?)
    }

    fn saved(&self) -> Result<Option<SavedHead>> {
        let Some(path) = &self.checkpoint else { return Ok(None) };
        let head = read_saved_head(path)?;
        head.map(Some).ok_or_else(|| Failure::usage(format_args!("there is no saved head at {}", path.display())))
    }

    fn note(&self) -> Result<String> {
        read_note(self.checkpoint.as_deref().unwrap_or_else(|| Path::new("")))
    }

    async fn client(&self, target: &Target) -> Result<Client> {
        let engine = target.url.as_deref().filter(|url| !is_server(url));
        let Some(url) = engine else {
            if self.key.is_some() {
                return Err(Failure::usage("a key is not sent to a server: name the engine, such as --url sqlite:./app.db"));
            }
            return target.client(Otherwise::Refuse).await;
        };
        let keys = self.key.as_deref().map(read_key).transpose()?;
        Ok(local::open_existing(url, keys).await?.with_timeout(target.timeout))
    }

    async fn ask(&self, client: &Client, out: &Out) -> Result<Report> {
        let mut members = Map::new();
        for (name, seq) in [("from_seq", self.from), ("to_seq", self.to)] {
            if let Some(seq) = seq {
                members.insert(name.to_owned(), Value::from(seq));
            }
        }
        if let Some(vkey) = &self.vkey {
            // Refused here, where the key is, before anybody is asked.
            Vkey::parse(vkey)?.open(&self.note()?)?;
            members.insert("checkpoint".to_owned(), Value::from(self.note()?));
            members.insert("vkey".to_owned(), Value::from(vkey.as_str()));
        } else if let Some(head) = self.saved()? {
            members.insert("checkpoint".to_owned(), Value::from(head.to_text()));
        }
        if self.deep {
            members.insert("archives".to_owned(), Value::from("read"));
        }
        if self.incremental {
            members.insert("incremental".to_owned(), Value::from(true));
        }
        let mut progress = out.progress("rows");
        Ok(streamed(client, self.chain.as_deref().unwrap_or_default(), members, &mut progress).await?)
    }
}

/// Verifies a chain for as long as that takes, and tells how far it is.
pub(crate) async fn streamed(
    client: &Client,
    chain: &str,
    asked: Map<String, Value>,
    progress: &mut Progress,
) -> std::result::Result<Report, Problem> {
    let request = Request::post(format!("chains/{}/verify", segment(chain))).json(&Value::Object(asked));
    let mut events = client.stream(request).await?;
    loop {
        let Some(event) = events.next().await? else { return Err(ended("the server ended the verification")) };
        match event.name.as_str() {
            "progress" => {
                let VerifyProgress { seq, head, .. } = read(&event.data)?;
                progress.at(seq, head);
            }
            "report" => return read(&event.data),
            "problem" => {
                let problem: onward_api::Problem = read(&event.data)?;
                return Err(Problem::of(problem.code, problem.effect, problem.detail));
            }
            "bye" => return Err(ended("the server shuts down; ask again")),
            _ => {}
        }
    }
}

fn read<T: DeserializeOwned>(data: &str) -> std::result::Result<T, Problem> {
    serde_json::from_str(data).map_err(|e| Problem::of(Code::Internal, Effect::NotApplied, format!("the answer cannot be read: {e}")))
}

fn ended(why: &str) -> Problem {
    Problem::of(Code::Unavailable, Effect::NotApplied, why)
}

fn read_key(path: &Path) -> Result<MacKeys> {
    read_keyring(path).map_err(|e| Failure::usage(format_args!("cannot use the key file {}: {e}", path.display())))
}

pub(super) fn show(report: &Report, out: &Out) -> Result<()> {
    match out.format() {
        Format::Table => out.line(&report.to_string()),
        _ => out.line(&serde_json::to_string(report).unwrap_or_default()),
    }
}
