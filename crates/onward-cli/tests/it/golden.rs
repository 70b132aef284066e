//! What people and scripts see, word for word: the help of every command, and a session with its answers, complaints and exit codes.
//!
//! A change that is wanted: `INSTA_UPDATE=always cargo test -p onward-cli --test it golden`, then read the difference of `snapshots/`.

use std::fmt::Write as _;

use crate::support::{Home, Said};

#[test]
fn the_help_of_every_command() {
    let home = Home::bare();
    let folder = home.path("man");
    home.expect(0, &["man", &folder.display().to_string(), "-q"]);
    let mut pages: Vec<String> = std::fs::read_dir(&folder).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    pages.sort();
    let mut all = String::new();
    for page in pages {
        let words: Vec<&str> = page.trim_end_matches(".1").split('-').skip(1).collect();
        let help = home.expect(0, &[&["help"], &words[..]].concat());
        // What every command takes is said once, with the first.
        let own = if words.is_empty() { &help } else { help.split("Everywhere:").next().unwrap() };
        writeln!(all, "==== onward {}\n{}", words.join(" "), own.trim_end()).unwrap();
    }
    insta::assert_snapshot!(all);
}

#[test]
fn a_session_with_objects() {
    let home = Home::bare();
    home.file("p.json", r#"{"open":true}"#);
    session(
        "objects",
        &home,
        &[
            "object put project/42 p.json --create",
            "object put project/42 p.json --create",
            "object put project/42 p.json",
            "object put project/42 p.json --if-version 1",
            "object patch project/42 --set /open=false",
            "object put project/42 p.json --if-version 1",
            "object put project/42 p.json --if-version 1 -o json",
            "object get project/42",
            "object get project/42 --meta -o json",
            "object get project/43",
            "object list project",
            "object history project/42",
            "object delete project/42 --if-version 2",
            "object delete project/42",
            "object get project",
        ],
    );
}

#[test]
fn a_session_with_locks_a_cache_and_a_chain() {
    let home = Home::bare();
    home.file("page.html", "<p>42</p>");
    session(
        "parts",
        &home,
        &[
            "lock status nightly",
            "lock run nightly -- sh -c 'exit 7'",
            "lock run nightly -- ./not-there",
            "lock run nightly --ttl 5 -- true",
            "cache get web project:42",
            "cache put web project:42 page.html --fill 00 --ttl 60s",
            "cache invalidate web project:42",
            "cache invalidate web project:42 -o json",
            "cache flush web",
            "audit append billing --kind invoice.paid --actor user:7 --resource invoice/1",
            "audit append Billing --kind invoice.paid",
            "audit query billing -o jsonl",
            "audit verify billing",
            "audit verify nothing",
            "bench lock --clients 0",
            "objekt list",
        ],
    );
}

/// Runs lines on one file of SQLite and compares everything that is said.
fn session(name: &str, home: &Home, lines: &[&str]) {
    let mut all = String::new();
    for line in lines {
        let quoted: Vec<&str> = line.split('\'').collect();
        let mut args: Vec<&str> = Vec::new();
        for (at, part) in quoted.iter().enumerate() {
            if at % 2 == 1 { args.push(part) } else { args.extend(part.split_whitespace()) }
        }
        let Said { code, out, err } = home.run(&[&["--url", "sqlite:./golden.db"], &args[..]].concat());
        let told = |text: &str, mark: &str| text.lines().map(|line| format!("{mark}{}\n", steady(line))).collect::<String>();
        let code = code.map_or("killed".to_owned(), |code| code.to_string());
        write!(all, "$ onward {line}\n{}{}[{code}]\n\n", told(&String::from_utf8_lossy(&out), "  "), told(&err, "! ")).unwrap();
    }
    insta::assert_snapshot!(name, all);
}

/// Puts a word for what differs from run to run: times, ids and hashes.
fn steady(line: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.' | '+');
    let mut out = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_part) {
        let end = rest[start..].find(|c| !is_part(c)).map_or(rest.len(), |length| start + length);
        out.push_str(&rest[..start]);
        out.push_str(word(&rest[start..end]));
        rest = &rest[end..];
    }
    out + rest
}

fn word(word: &str) -> &str {
    let hex = word.len() >= 16 && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    let time = word.len() >= 20 && word.as_bytes()[4] == b'-' && word.contains('T') && word.ends_with('Z');
    let large = word.len() >= 15 && word.chars().all(|c| c.is_ascii_digit());
    match (time, large, hex, word.contains('-')) {
        (true, ..) => "TIME",
        (_, true, ..) => "NUMBER",
        (_, _, true, true) => "UUID",
        (_, _, true, false) => "HEX",
        _ => word,
    }
}
