//! What stands beside every figure: the cores, how idle they were, and what one fdatasync takes on the disk that counts.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use onward::time::Clock;
use serde::Serialize;

use crate::failure::{Failure, Result};

/// How many syncs are timed.
const SYNCS: usize = 50;
/// Bytes before each sync: one page.
const PAGE: &[u8] = &[0x5a; 4096];

/// The machine before the clock starts.
#[derive(Debug)]
pub(super) struct Machine {
    fdatasync: Option<Duration>,
    folder: PathBuf,
    before: Option<Cpu>,
}

/// What was seen of the machine.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Seen {
    /// How many threads run at once.
    pub(super) cores: usize,
    /// The share of all cores that had nothing to do while the clock ran, in percent; null where the system does not say.
    pub(super) idle_percent: Option<f64>,
    /// The median of one fdatasync of 4 KiB, in microseconds.
    pub(super) fdatasync_us: Option<u64>,
    /// Where that was timed: the folder of the SQLite file, else the temporary one.
    pub(super) folder: PathBuf,
}

/// Ticks of all cores since the start of the machine.
#[derive(Clone, Copy, Debug)]
struct Cpu {
    idle: u64,
    all: u64,
}

impl Machine {
    /// Looks at the machine that this process runs on.
    pub(super) fn here(url: Option<&str>) -> Result<Self> {
        let file = url.and_then(|url| url.strip_prefix("sqlite:")).map(|rest| Path::new(rest.split('?').next().unwrap_or(rest)));
        let folder = file.and_then(Path::parent).filter(|folder| folder.is_dir()).map_or_else(std::env::temp_dir, Path::to_owned);
        let fdatasync = fdatasync(&folder).map_err(|e| Failure::io(format_args!("cannot time the disk at {}", folder.display()), &e))?;
        Ok(Self { fdatasync, folder, before: None })
    }

    /// Begins to count idle time.
    pub(super) fn begin(self) -> Self {
        Self { before: Cpu::now(), ..self }
    }

    /// Tells what was seen.
    pub(super) fn end(self) -> Seen {
        let idle = self.before.zip(Cpu::now()).filter(|(before, after)| after.all > before.all).map(|(before, after)| {
            let percent = after.idle.saturating_sub(before.idle) as f64 * 100.0 / (after.all - before.all) as f64;
            (percent * 10.0).round() / 10.0
        });
        Seen {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            idle_percent: idle,
            fdatasync_us: self.fdatasync.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            folder: self.folder,
        }
    }
}

impl Cpu {
    fn now() -> Option<Self> {
        Self::read(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// The first line: `cpu`, then ticks as user, nice, system, idle, iowait and more.
    fn read(stat: &str) -> Option<Self> {
        let mut words = stat.lines().next()?.split_whitespace();
        let ticks: Vec<u64> = (words.next()? == "cpu").then(|| words.filter_map(|word| word.parse().ok()).collect())?;
        let idle = ticks.get(3)? + ticks.get(4)?;
        Some(Self { idle, all: ticks.iter().take(8).sum() })
    }
}

fn fdatasync(folder: &Path) -> std::io::Result<Option<Duration>> {
    let clock = Clock::system();
    let mut file = tempfile::tempfile_in(folder)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(PAGE)?;
        let began = clock.now();
        file.sync_data()?;
        times.push(clock.now().since(began));
    }
    times.sort_unstable();
    Ok(times.get(SYNCS / 2).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_idle_and_iowait_of_the_first_line() {
        let cpu = Cpu::read("cpu  10 0 20 60 10 0 0 0 5 5\ncpu0 1 2 3 4 5\n").unwrap();
        assert_eq!((cpu.idle, cpu.all), (70, 100));
        assert!(Cpu::read("intr 1 2 3").is_none() && Cpu::read("").is_none());
    }
}
