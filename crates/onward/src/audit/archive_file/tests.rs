use std::io::Write;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::testing::archives::{self, compressed, read_as};
use crate::{Code, Kind};

fn good() -> (Vec<u8>, ArchiveFile) {
    announced_as(archives::file())
}

/// Reads a file to its end; how many rows it has.
fn read(bytes: &[u8], file: &ArchiveFile) -> Result<usize> {
    read_as(bytes, file).map(|rows| rows.len())
}

fn announced_as(bytes: Vec<u8>) -> (Vec<u8>, ArchiveFile) {
    let file = archives::announced(&bytes);
    (bytes, file)
}

/// A compressed file of some text, announced as it is.
fn announced(text: &[u8]) -> (Vec<u8>, ArchiveFile) {
    announced_as(compressed(text))
}

fn refused(bytes: &[u8], file: &ArchiveFile, what: &str) {
    let error = read(bytes, file).unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Backend, Code::IntegrityFailure), "{what}");
}

fn plain() -> String {
    String::from_utf8(zstd::decode_all(&good().0[..]).unwrap()).unwrap()
}

#[test]
fn the_same_entries_are_the_same_bytes() {
    assert_eq!(good(), good());
    assert_eq!(read(&good().0, &good().1).unwrap(), 9);
}

#[test]
fn a_bomb_ends_where_its_text_was_announced_to_end() {
    let (_, honest) = good();
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.write_all(plain().lines().next().unwrap().as_bytes()).unwrap();
    encoder.write_all(b"\n{\"seq\":").unwrap();
    (0..256).for_each(|_| encoder.write_all(&[b' '; 1 << 20]).unwrap());
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    // Announced as it is, or as the file that it replaces.
    let file = ArchiveFile { bytes: bomb.len() as u64, ..honest.clone() };
    refused(&bomb, &file, "more text than announced");
    refused(&bomb, &ArchiveFile { plain_bytes: 1 << 30, ..file }, "a line above 4 MiB");
    refused(&bomb, &honest, "a longer file than announced");
}

#[test]
fn hostile_lines_are_refused() {
    let text = plain();
    let (header, rest) = text.split_once('\n').unwrap();
    let nested = format!("{{\"seq\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let first = rest.lines().next().unwrap();
    let twice = first.replacen("{\"seq\":1,", "{\"seq\":1,\"seq\":1,", 1);
    for (what, text) in [
        ("nothing", String::new()),
        ("a byte order mark", format!("\u{feff}{text}")),
        ("the ends of lines of another system", text.replace('\n', "\r\n")),
        ("nesting without an end", format!("{header}\n{nested}\n{rest}")),
        ("a member twice", text.replacen(first, &twice, 1)),
        ("a row more", text.replacen(first, &format!("{first}\n{first}"), 1)),
        ("a row less", text.replacen(&format!("{first}\n"), "", 1)),
        ("something behind the end", format!("{text}{{}}\n")),
        ("an end that is cut off", text.trim_end().to_owned()),
        ("a number that is none of ours", text.replacen("\"seq\":1,", "\"seq\":1e0,", 1)),
        ("more rows than there are numbers", text.replacen("\"rows\":9", "\"rows\":18446744073709551615", 1)),
        ("another range", text.replacen("\"to\":9", "\"to\":8", 1)),
        ("an unknown member", text.replacen("{\"seq\":1,", "{\"seq\":1,\"x\":1,", 1)),
    ] {
        let (bytes, file) = announced(text.as_bytes());
        refused(&bytes, &file, what);
    }
}

#[test]
fn no_changed_byte_of_a_file_goes_unseen_and_none_is_a_panic() {
    let (bytes, file) = good();
    let config = Config { failure_persistence: None, cases: 512, ..Config::default() };
    let changes = prop::collection::vec((0..bytes.len(), any::<u8>(), 0..4_usize), 1..4);
    let mut runner = TestRunner::new(config);
    let seen = runner.run(&changes, |changes| {
        let mut spoilt = bytes.clone();
        for (at, byte, how) in changes {
            let at = at.min(spoilt.len().saturating_sub(1));
            match how {
                0 => spoilt.truncate(at),
                1 => spoilt.insert(at, byte),
                2 if !spoilt.is_empty() => drop(spoilt.remove(at)),
                _ => spoilt.iter_mut().skip(at).take(1).for_each(|old| *old = byte),
            }
        }
        prop_assert_eq!(read(&spoilt, &file).is_ok(), spoilt == bytes);
        Ok(())
    });
    seen.unwrap();
    // The lines in it, too, whatever sums somebody announces.
    let text = plain();
    let changes = (0..text.len(), "[\\x00-\\x7f]{0,6}", 0..12_usize);
    let config = Config { failure_persistence: None, cases: 512, ..Config::default() };
    let seen = TestRunner::new(config).run(&changes, |(at, new, skip)| {
        let spoilt = [&text[..at], &new, text.get(at + skip..).unwrap_or_default()].concat();
        let (bytes, file) = announced(spoilt.as_bytes());
        // A space more or less is the same entry; whatever else is taken has all the rows.
        if let Ok(rows) = read(&bytes, &file) {
            prop_assert_eq!(rows, 9);
        }
        Ok(())
    });
    seen.unwrap();
}
