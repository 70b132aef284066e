//! What a person should know about a database file before it hurts: version, durability, disk, size of the log, who may read it.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::error::before_commit;
use super::wal;
use crate::observe::{Finding, Grade};
use crate::time::Clock;
use crate::{Error, Result, random};

/// Below this much free space writes are about to fail.
const SPACE_LEAST: u64 = 100 << 20;
/// Below this much free space somebody should look.
const SPACE_LOW: u64 = 1 << 30;
/// A log this long slows every read; something keeps it from being folded into the file.
const LOG_LONG: u64 = 256 << 20;
/// A disk that takes longer makes every writer wait.
const SYNC_SLOW: Duration = Duration::from_millis(20);
/// How many syncs are timed.
const SYNCS: usize = 40;

/// Looks at an open database file and the disk under it.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<Vec<Finding>> {
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, String>(0)).map_err(before_commit);
    let journal = pragma("journal_mode")?;
    let schema: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(before_commit)?;
    let mut findings = vec![
        Finding::fine("sqlite.version", format!("{}, schema {schema}", rusqlite::version())),
        Finding::of(
            "sqlite.journal",
            journal.eq_ignore_ascii_case("wal"),
            Grade::Failure,
            format!("journal mode {journal}"),
            "another program changed it: stop that program, then `PRAGMA journal_mode = WAL`",
        ),
    ];
    findings.push(mode(path)?);
    findings.push(log(path));
    findings.extend(space(path)?);
    findings.push(sync(path)?);
    Ok(findings)
}

fn mode(path: &Path) -> Result<Finding> {
    let mode = std::fs::metadata(path).map_err(away)?.permissions().mode() & 0o777;
    Ok(Finding::of(
        "sqlite.mode",
        mode & 0o077 == 0,
        Grade::Warning,
        format!("file mode {mode:04o}"),
        "others may read the data: chmod 600",
    ))
}

fn log(path: &Path) -> Finding {
    let bytes = wal::bytes(&wal::beside(path));
    let fix = "a reader or a stopped process keeps it from being folded into the file: end it";
    Finding::of("sqlite.log", bytes < LOG_LONG, Grade::Warning, format!("{} MiB of write-ahead log", bytes >> 20), fix)
}

fn space(path: &Path) -> Result<Option<Finding>> {
    let Some(folder) = folder(path) else { return Ok(None) };
    let disk = rustix::fs::statvfs(folder).map_err(|e| away(e.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let grade = if free < SPACE_LEAST { Grade::Failure } else { Grade::Warning };
    let fix = "a full disk refuses every write: make room, or shorten the history";
    Ok(Some(Finding::of("sqlite.space", free >= SPACE_LOW, grade, format!("{} MiB free", free >> 20), fix)))
}

/// Times what every COMMIT waits for, in a file of its own beside the database.
fn sync(path: &Path) -> Result<Finding> {
    let folder = folder(path).unwrap_or_else(|| Path::new("."));
    let name = folder.join(format!(".onward-check-{}", hex::encode(random::bytes::<8>())));
    let timed = time_syncs(&name);
    let _ = std::fs::remove_file(&name);
    let (p50, p99) = timed.map_err(away)?;
    let fix = "every commit waits for this: a faster disk, or fewer neighbours on it";
    Ok(Finding::of(
        "sqlite.sync",
        p99 <= SYNC_SLOW,
        Grade::Warning,
        format!("fdatasync p50 {} us, p99 {} us", p50.as_micros(), p99.as_micros()),
        fix,
    ))
}

fn time_syncs(name: &Path) -> std::io::Result<(Duration, Duration)> {
    let clock = Clock::system();
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(name)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[0x5a; 4096])?;
        let began = clock.now();
        file.sync_data()?;
        times.push(clock.now().since(began));
    }
    times.sort_unstable();
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    Ok((at(SYNCS / 2), at(SYNCS - 1)))
}

fn folder(path: &Path) -> Option<&Path> {
    path.parent().filter(|folder| !folder.as_os_str().is_empty())
}

fn away(error: std::io::Error) -> Error {
    Error::unavailable("the database file cannot be looked at").with_source(error)
}
