//! A power cut: what a disk holds at one moment, without what the kernel has not written yet.
//!
//! A file system in a file; the writer is stopped, the file is copied as it is, and the copy is mounted: its journal is replayed as after a
//! real power cut. Beside our store stands a database without any fsync: it must lose rows, or the test shows nothing.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use onward::testing::history::{Ledger, check_ledger};
use rusqlite::Connection;

use crate::child::{Told, listen, start};
use crate::outside::look;
use crate::works;

/// A mounted image; unmounted when it is dropped.
struct Disk {
    at: PathBuf,
}

impl Disk {
    fn mount(image: &Path, at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = works("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
        mounted.then(|| Self { at: at.to_owned() })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Its file may still be open in a process that is being ended: then it goes when that has gone.
        let _ = works("umount", &[self.at.to_str().unwrap()]) || works("umount", &["-l", self.at.to_str().unwrap()]);
    }
}

fn signal(child: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &child.to_string()]).status().unwrap().success());
}

/// What the neighbour without fsync says that it has.
fn neighbour(db: &Path) -> Connection {
    let connection = Connection::open(db).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; CREATE TABLE IF NOT EXISTS t (a)").unwrap();
    connection
}

fn rows(db: &Path) -> u64 {
    let count = |connection: Connection| connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
    Connection::open(db).and_then(count).map_or(0, i64::cast_unsigned)
}

#[test]
#[allow(clippy::print_stdout, reason = "test.sh reads it")]
fn after_a_power_cut_every_acknowledged_write_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let can = works("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
    let Some(disk) = can.then(|| Disk::mount(&image, &folder.path().join("disk"))).flatten() else {
        // Needs a superuser and a loop device, which a good CI machine need not give.
        return println!("skipped: power cut (no superuser, or no loop device)");
    };
    let (mut ledger, mut lost_beside, mut acknowledged_beside) = (Ledger::default(), 0, 0);
    let beside = neighbour(&disk.at.join("beside.db"));
    for round in 0..3_u64 {
        let (mut child, mut reader) = start(&[], "write 1000000", &disk.at.join("store.db"));
        let mut told = Told { ledger, ..Told::default() };
        let enough = told.ledger.writes.len() + 40 + usize::try_from(round).unwrap() * 60;
        listen(&mut reader, enough, &mut told);
        for _ in 0..200 {
            beside.execute("INSERT INTO t VALUES (1)", []).unwrap();
            acknowledged_beside += 1;
        }
        signal(child.id(), "STOP");
        let copy = folder.path().join(format!("cut-{round}.img"));
        std::fs::copy(&image, &copy).unwrap();
        signal(child.id(), "KILL");
        child.wait().unwrap();
        // What came between the last line that was read and the stop was acknowledged as well.
        listen(&mut reader, usize::MAX, &mut told);
        ledger = told.ledger;

        let after = Disk::mount(&copy, &folder.path().join(format!("cut-{round}"))).expect("the copy is mounted");
        let found = look(&after.at.join("store.db"));
        check_ledger(&ledger, &found).unwrap_or_else(|flaw| panic!("power cut {round}: {flaw}"));
        lost_beside += u64::from(rows(&after.at.join("beside.db")) < acknowledged_beside);
        drop(after);
        std::fs::remove_file(&copy).unwrap();
    }
    assert!(lost_beside > 0, "not even a database without fsync lost anything: this is no power cut");
    assert!(ledger.writes.len() >= 160);
    std::io::stdout().flush().unwrap();
}
