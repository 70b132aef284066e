//! Which disks a database file may lie on: SQLite's write-ahead log keeps its index in shared memory, and its locks are the kernel's;
//! neither reaches another machine (sqlite.org/wal.html, "all processes using a database must be on the same host computer").

use std::path::Path;

use crate::{Error, Result};

/// File systems over a network, by the number that `statfs` gives (`linux/magic.h` and their own headers).
const NETWORKS: &[(u32, &str)] = &[
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x7375_7245, "Coda"),
    (0x0000_564c, "NCP"),
];

/// Refuses a file on a network file system: there, two machines could write at once and neither would see it (C9).
///
/// # Errors
/// [`Kind::Unsupported`](crate::Kind::Unsupported): it lies on one.
#[cfg(target_os = "linux")]
pub(super) fn refuse_network(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A folder that cannot be looked at is told by whoever opens the file.
    let Ok(disk) = rustix::fs::statfs(folder) else { return Ok(()) };
    match network(disk.f_type) {
        Some(name) => {
            Err(Error::unsupported(format!("the database file is on {name}: SQLite's locks do not reach other machines; use a local disk")))
        }
        None => Ok(()),
    }
}

/// Elsewhere `statfs` has other numbers.
#[cfg(not(target_os = "linux"))]
pub(super) fn refuse_network(_: &Path) -> Result<()> {
    Ok(())
}

/// Names a file system over a network. The kernel's number is signed or not by the machine: its low half is what counts.
#[cfg(target_os = "linux")]
fn network(kind: impl Into<i128>) -> Option<&'static str> {
    let kind = kind.into() & 0xffff_ffff;
    NETWORKS.iter().find(|(number, _)| i128::from(*number) == kind).map(|(_, name)| *name)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn network_disks_are_known_and_local_ones_are_not() {
        assert_eq!(network(0x6969_i64), Some("NFS"));
        // As a machine with a signed number of 32 bits has it.
        assert_eq!(network(i64::from(0xff53_4d42_u32.cast_signed())), Some("CIFS"));
        for local in [0xef53_i64, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630] {
            assert_eq!(network(local), None, "{local:x}");
        }
        assert!(refuse_network(Path::new("here.db")).is_ok());
    }
}
