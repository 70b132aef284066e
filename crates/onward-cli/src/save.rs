//! Files that are there whole or not at all, and how far long work is.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use onward::time::{Clock, Moment};
use onward_api::client::Download;

use crate::failure::{Failure, Result};
use crate::output::Out;

/// Writes a download to a new file, or to stdout for `-`; returns how many bytes it had.
///
/// # Errors
/// Exit 2: the file is there already, or cannot be made. Otherwise as [`Download::next`]; nothing stands under the name then.
pub(crate) async fn save(mut from: Download, to: &str, what: &str, out: &Out) -> Result<u64> {
    let mut progress = Progress::new(out);
    let mut bytes = 0_u64;
    if to == "-" {
        while let Some(piece) = from.next().await? {
            bytes += piece.len() as u64;
            out.bytes(&piece)?;
            progress.show(|| format!("{what}: {bytes} bytes"));
        }
        return Ok(bytes);
    }
    let mut file = NewFile::make(Path::new(to))?;
    let all = from.left();
    while let Some(piece) = from.next().await? {
        bytes += piece.len() as u64;
        file.write(&piece)?;
        progress.show(|| match all {
            Some(all) => format!("{what}: {} of {all} bytes", bytes),
            None => format!("{what}: {bytes} bytes"),
        });
    }
    file.finish()?;
    Ok(bytes)
}

/// A file in the making, under another name until it is whole; mode 0600.
struct NewFile {
    name: PathBuf,
    part: PathBuf,
    file: File,
    whole: bool,
}

impl NewFile {
    fn make(name: &Path) -> Result<Self> {
        if name.symlink_metadata().is_ok() {
            return Err(Failure::usage(format_args!("{} is there already: name a new file", name.display())));
        }
        let mut part = name.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        // What a cut run left is replaced.
        let _ = std::fs::remove_file(&part);
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let file = made.map_err(|e| Failure::usage(format_args!("cannot make {}: {e}", part.display())))?;
        Ok(Self { name: name.to_owned(), part, file, whole: false })
    }

    fn write(&mut self, piece: &[u8]) -> Result<()> {
        self.file.write_all(piece).map_err(|e| Failure::io(format_args!("cannot write {}", self.part.display()), &e))
    }

    /// Gives the file its name, durably.
    fn finish(mut self) -> Result<()> {
        let cannot = |e: std::io::Error| Failure::io(format_args!("cannot write {}", self.name.display()), &e);
        self.file.sync_all().map_err(cannot)?;
        // Not a rename: a file that appeared meanwhile is nobody's to lose.
        std::fs::hard_link(&self.part, &self.name).map_err(cannot)?;
        let folder = self.name.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(cannot)?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Whole or not: the name of the making goes. What cannot be removed is replaced by the next run.
        let _ = std::fs::remove_file(&self.part);
    }
}

/// One line on a terminal's stderr that says how far long work is; silent elsewhere.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
    clock: Clock,
    next: Option<Moment>,
    drawn: bool,
}

impl Progress {
    pub(crate) fn new(out: &Out) -> Self {
        let clock = Clock::system();
        let shown = !out.is_quiet() && std::io::stderr().is_terminal();
        Self { shown, next: None, clock, drawn: false }
    }

    /// Shows how far it is, a few times a second.
    pub(crate) fn show(&mut self, text: impl FnOnce() -> String) {
        let now = self.clock.now();
        if self.shown && self.next.is_none_or(|next| now >= next) {
            self.next = Some(now + Duration::from_millis(200));
            self.draw(&text());
        }
    }

    fn draw(&mut self, text: &str) {
        self.drawn = true;
        // Nobody reads stderr: there is no one left to tell.
        let _ = write!(std::io::stderr().lock(), "\r\u{1b}[K{text}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn {
            self.draw("");
        }
    }
}
