//! `onward doctor`: does what this thing promises, here and now, and is what it stands on sound?
//!
//! The promises are tried over the API, on throw-away names, and what was made is removed: a second conditional write must be refused, a
//! fill behind an invalidation superseded, a lease must end by itself, and a later token be newer. What only the engine knows it says
//! itself (`GET /v1/admin/doctor`).

use std::future::Future;

use clap::{Args, ValueEnum};
use onward::audit::verify::Verdict;
use onward::lock::Owner;
use onward::time::Clock;
use onward_api::client::{Client, Problem, Request};
use onward_api::info::{Finding, Findings, Grade, Info};
use onward_api::locks::Outcome;
use onward_api::{Code, header};
use serde::Deserialize;
use serde_json::{Map, json};

use crate::args::EXIT_CODES;
use crate::audit::streamed;
use crate::failure::{Failure, Result};
use crate::lock::path;
use crate::output::{Format, Out, Table};
use crate::target::{Otherwise, Target};

/// The lease that must end by itself.
const LEASE_MS: u64 = 200;
/// How long others may wait for that, the engine's own polling included.
const LEASE_LATE_MS: u64 = 2 * LEASE_MS + 250;
/// Fewer open files than this, and many clients are refused.
const FILES_LEAST: u64 = 4_096;
/// Chains a page.
const PAGE: u64 = 1_000;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Area {
    /// Limits of this process
    Process,
    /// The engine and the disk under it
    Engine,
    /// Conditional writes
    Store,
    /// Leases and fencing tokens
    Locks,
    /// Fill leases
    Cache,
    /// Every chain, verified from its first entry
    Audit,
}

/// Checks a server or an engine, and says what to do.
#[derive(Args, Debug)]
#[command(before_help = "Examples:\n  onward doctor\n  onward doctor --url sqlite:./app.db --only engine\n  onward doctor --strict -o json || notify\n", after_help = EXIT_CODES)]
pub(crate) struct Doctor {
    /// Look at this only; may be repeated
    #[arg(long, value_name = "AREA", value_enum)]
    only: Vec<Area>,
    /// Call a warning a failure
    #[arg(long)]
    strict: bool,
}

#[derive(Deserialize)]
struct Granted {
    #[serde(with = "onward_api::number")]
    token: u64,
    waited_ms: u64,
}

#[derive(Deserialize)]
struct Written {
    #[serde(with = "onward_api::number")]
    version: u64,
}

#[derive(Deserialize)]
struct Chains {
    items: Vec<Chain>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Chain {
    chain: String,
}

impl Doctor {
    /// Checks everything; a failure, and under `--strict` a warning, is exit 1.
    pub(crate) async fn run(self, target: &Target, out: &Out) -> Result<()> {
        let client = target.client(Otherwise::Refuse).await?;
        // Who cannot be reached, or does not let us in, has no findings.
        let info: Info = client.call(Request::get("info")).await?.json()?;
        let mut findings = vec![ok("server.version", format!("{}, epoch {}", info.version, info.epoch))];
        let wanted = |area| self.only.is_empty() || self.only.contains(&area);
        if wanted(Area::Process) {
            findings.push(files());
        }
        if wanted(Area::Engine) {
            findings.extend(asked("engine", engine(&client)).await);
        }
        if wanted(Area::Store) {
            findings.extend(asked("store", store(&client)).await);
        }
        if wanted(Area::Locks) {
            findings.extend(asked("locks", locks(&client)).await);
        }
        if wanted(Area::Cache) {
            findings.extend(asked("cache", cache(&client)).await);
        }
        if wanted(Area::Audit) {
            findings.extend(asked("audit", audit(&client, out)).await);
        }
        let worst = findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok);
        show(&findings, out)?;
        if worst == Grade::Fail || self.strict && worst == Grade::Warn { Err(Failure::Exit(1)) } else { Ok(()) }
    }
}

/// What an area found, or that it could not be looked at.
async fn asked(area: &str, findings: impl Future<Output = std::result::Result<Vec<Finding>, Problem>>) -> Vec<Finding> {
    findings.await.unwrap_or_else(|problem| match problem.code() {
        Code::Forbidden => vec![finding(area, Grade::Warn, "this token may not look", Some("use one with the role operator"))],
        Code::Unsupported => vec![ok(area, "not offered here".to_owned())],
        _ => vec![finding(area, Grade::Fail, problem.to_string(), Some("see the server's log"))],
    })
}

fn finding(check: &str, grade: Grade, found: impl Into<String>, fix: Option<&str>) -> Finding {
    Finding { check: check.to_owned(), grade, found: found.into(), fix: fix.map(str::to_owned) }
}

fn ok(check: &str, found: String) -> Finding {
    finding(check, Grade::Ok, found, None)
}

/// A promise that was tried: kept, or a failure.
fn promise(check: &str, kept: bool, found: &str, broken: &str) -> Finding {
    if kept {
        ok(check, found.to_owned())
    } else {
        finding(check, Grade::Fail, broken, Some("do not rely on this server; keep its data and report it"))
    }
}

fn files() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let few = limit.is_some_and(|limit| limit < FILES_LEAST);
    let found = limit.map_or("no limit on open files here".to_owned(), |limit| format!("{limit} open files here"));
    if few {
        finding("process.files", Grade::Warn, found, Some("a server started from here refuses clients early: ulimit -n 65536"))
    } else {
        ok("process.files", found)
    }
}

async fn engine(client: &Client) -> std::result::Result<Vec<Finding>, Problem> {
    Ok(client.call(Request::get("admin/doctor")).await?.json::<Findings>()?.findings)
}

async fn store(client: &Client) -> std::result::Result<Vec<Finding>, Problem> {
    let place = format!("objects/doctor/{}", Owner::draw());
    let create = || Request::put(&place).header("if-none-match", "*").json(&json!({"checked": true}));
    let Written { version } = client.call(create()).await?.json()?;
    let second = client.call(create()).await;
    let replace = || Request::put(&place).header("if-match", &format!("\"{version}\"")).json(&json!({"checked": "again"}));
    let (first, stale) = (client.call(replace()).await, client.call(replace()).await);
    client.call(Request::delete(&place).query("overwrite", true)).await?;
    first?;
    let refused = |answer: &std::result::Result<_, Problem>, code| matches!(answer, Err(problem) if problem.code() == code);
    Ok(vec![
        promise(
            "store.create",
            refused(&second, Code::AlreadyExists),
            "a second create of one name is refused",
            "two creates of one name were accepted",
        ),
        promise(
            "store.replace",
            refused(&stale, Code::VersionConflict),
            "a write at an old version is refused",
            "two writes at one version were accepted",
        ),
    ])
}

async fn locks(client: &Client) -> std::result::Result<Vec<Finding>, Problem> {
    let key = format!("doctor/{}", Owner::draw());
    let (first, second) = (Owner::draw().to_string(), Owner::draw().to_string());
    let ask = |owner: &str, ttl: u64, wait: u64| {
        Request::post(path(&key)).json(&json!({"ttl_ms": ttl, "wait_ms": wait, "owner": owner, "holder": "doctor"}))
    };
    let before: Granted = match client.call(ask(&first, LEASE_MS, 0)).await {
        Ok(answer) => answer.json()?,
        Err(problem) if problem.code() == Code::LockingOff => {
            return Ok(vec![finding("locks.switch", Grade::Warn, "locking is switched off", Some("onward lock switch on --reason ..."))]);
        }
        Err(problem) => return Err(problem),
    };
    let taken = client.call(ask(&second, LEASE_MS, 0)).await;
    let after: Granted = client.call(ask(&second, 30_000, 10 * LEASE_MS)).await?.json()?;
    client.call(Request::delete(path(&key)).header(header::OWNER, &second)).await?;
    let busy = matches!(&taken, Err(problem) if problem.code() == Code::ResourceLocked);
    let found = format!("a lease of {LEASE_MS} ms was free again after {} ms", after.waited_ms);
    let ended = if after.waited_ms <= LEASE_LATE_MS {
        ok("locks.lease", found)
    } else {
        finding("locks.lease", Grade::Warn, found, Some("waiters hear of an ended lease late: is the machine overloaded?"))
    };
    Ok(vec![
        promise("locks.exclusion", busy, "a second holder is refused", "two holders were granted one lock"),
        ended,
        promise("locks.token", after.token > before.token, "the later token is newer", "a later token is not newer"),
    ])
}

async fn cache(client: &Client) -> std::result::Result<Vec<Finding>, Problem> {
    let place = format!("cache/doctor/{}", Owner::draw());
    let fill = match client.call(Request::get(&place)).await {
        Err(problem) if problem.code() == Code::CacheMiss => problem.header(header::FILL).map(str::to_owned),
        Err(problem) => return Err(problem),
        Ok(_) => None,
    };
    let Some(fill) = fill else { return Ok(vec![promise("cache.fill", false, "", "a name that was never used is cached")]) };
    client.call(Request::delete(&place)).await?;
    let late = Request::put(&place).header(header::FILL, &fill).header(header::TTL_MS, "1000").body("text/plain", "late");
    let outcome = client.call(late).await?.json::<Outcome>()?.outcome;
    Ok(vec![promise(
        "cache.fill",
        outcome == "superseded",
        "a fill behind an invalidation is refused",
        "a fill behind an invalidation was stored",
    )])
}

async fn audit(client: &Client, out: &Out) -> std::result::Result<Vec<Finding>, Problem> {
    let clock = Clock::system();
    let began = clock.now();
    let (mut findings, mut looked, mut cursor) = (Vec::new(), 0u64, None::<String>);
    let mut progress = out.progress("rows");
    loop {
        let page = Request::get("chains").query("limit", PAGE).maybe_query("cursor", cursor.as_deref());
        let Chains { items, next_cursor } = client.call(page).await?.json()?;
        for Chain { chain } in items {
            // Streamed: a long chain takes its time, and no verdict of somebody else is believed.
            match streamed(client, &chain, Map::new(), &mut progress).await?.verdict {
                Verdict::Ok => {}
                Verdict::Broken => {
                    let found = format!("chain {chain} is broken");
                    findings.push(finding("audit.chain", Grade::Fail, found, Some("onward audit verify says where")));
                }
                Verdict::Undetermined => {
                    let found = format!("chain {chain}: undetermined");
                    findings.push(finding("audit.chain", Grade::Warn, found, Some("onward audit verify says why")));
                }
            }
            looked += 1;
        }
        cursor = next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    if findings.is_empty() {
        let took = clock.now().since(began).as_millis();
        findings.push(ok("audit.chains", format!("{looked} chains looked at in {took} ms, none broken")));
    }
    Ok(findings)
}

pub(crate) fn show(findings: &[Finding], out: &Out) -> Result<()> {
    if out.format() != Format::Table {
        let all = Findings { findings: findings.to_vec() };
        return out.line(&serde_json::to_string(&all).unwrap_or_default());
    }
    let mut table = Table::default();
    for finding in findings {
        let grade = match finding.grade {
            Grade::Ok => "OK",
            Grade::Warn => "WARN",
            Grade::Fail => "FAIL",
        };
        let fix = finding.fix.as_ref().map(|fix| format!(" -> {fix}")).unwrap_or_default();
        table.row([grade.to_owned(), finding.check.clone(), format!("{}{fix}", finding.found)]);
    }
    out.bytes(table.to_string().as_bytes())
}
