use std::ops::ControlFlow;

use proptest::prelude::*;

use super::*;
use crate::model::merkle::Frontier;
use crate::model::{ChainName, Hash, MacKeys, Row, RowRef, Seq, genesis};
use crate::time::Timestamp;
use crate::{Kind, Result};

const ORIGIN: &str = "onward.example/audit/orders";

/// A chain as a database would hold it, for a test to damage.
#[derive(Clone)]
struct Stored {
    origin: String,
    head: Option<HeadRow>,
    rows: Vec<Row>,
}

impl Source for Stored {
    fn read(&self, from: i64, _: &mut Controls, each: &mut dyn FnMut(RowRef<'_>) -> ControlFlow<()>) -> Result<Option<View>> {
        let mut rows: Vec<&Row> = self.rows.iter().filter(|row| row.seq >= from).collect();
        rows.sort_by_key(|row| row.seq);
        let _ = rows.into_iter().try_for_each(|row| each(row.view()));
        Ok(Some(View { origin: self.origin.clone(), head: self.head.clone() }))
    }

    fn skeleton(&self, _: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn another(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(self.clone()))
    }
}

fn keys() -> MacKeys {
    MacKeys::one("k1", [7; 32]).unwrap()
}

fn name() -> ChainName {
    ChainName::new("orders").unwrap()
}

impl Stored {
    /// Writes a chain of `count` entries as a writer does.
    fn new(origin: &str, count: i64, keys: &MacKeys) -> Self {
        let created = format!(r#"{{"alg":"sha256","nonce":"00","origin":"{origin}","v":1}}"#);
        let rows = (1..=count)
            .map(|seq| Row {
                seq,
                kid: keys.active().as_bytes().to_vec(),
                at: 1_760_000_000_000_000 + seq,
                event_id: format!("e{seq}").into_bytes(),
                kind: if seq == 1 { b"chain.created".to_vec() } else { b"order.refund".to_vec() },
                actor: (seq > 1 && seq % 3 != 0).then(|| b"user:7".to_vec()),
                data: if seq == 1 { created.clone().into() } else { format!("{{\"order\":{seq}}}").into() },
                flags: if seq == 1 {
                    1
                } else if seq % 3 != 0 {
                    2
                } else {
                    0
                },
                ..Row::default()
            })
            .collect();
        let mut stored = Self { origin: origin.to_owned(), head: None, rows };
        stored.rehash(1, origin, keys);
        stored
    }

    fn at(&mut self, seq: i64) -> &mut Row {
        self.rows.iter_mut().find(|row| row.seq == seq).unwrap()
    }

    /// Hashes every row from `seq` on again, and the head: what somebody with the code but without the key can do, or with it.
    fn rehash(&mut self, seq: i64, origin: &str, keys: &MacKeys) {
        let mut prev = genesis(origin);
        let mut frontier = Frontier::default();
        for row in &mut self.rows {
            if row.seq >= seq {
                row.prev = prev.as_bytes().to_vec();
                let hash = row.compute_hash(origin);
                row.hash = hash.as_bytes().to_vec();
                let kid = String::from_utf8(row.kid.clone()).unwrap();
                row.mac = keys.sign(&kid, &hash).map(|mac| mac.to_vec()).or(row.mac.take());
            }
            prev = Hash::from_bytes(row.hash.clone().try_into().unwrap());
            frontier.push(&prev);
        }
        let last = self.rows.last().unwrap();
        self.head = Some(HeadRow { seq: last.seq, hash: last.hash.clone(), frontier: frontier.to_bytes(), at: last.at });
    }

    fn check(&self, check: &Check, keys: &MacKeys) -> Report {
        verify(self, &name(), check, keys, &mut |_| ControlFlow::Continue(())).unwrap()
    }

    fn findings(&self, check: &Check, keys: &MacKeys) -> Vec<(FindingCode, u64, u64)> {
        self.check(check, keys).findings.into_iter().map(|finding| (finding.code, finding.from_seq, finding.to_seq)).collect()
    }

    fn saved(&self) -> SavedHead {
        self.check(&Check::default(), &MacKeys::none()).saved_head(Timestamp::from_micros(1_760_000_001_000_000)).unwrap()
    }
}

#[test]
fn a_good_chain_is_ok_at_every_depth_and_in_every_range() {
    let stored = Stored::new(ORIGIN, 40, &keys());
    let report = stored.check(&Check::default(), &keys());
    assert_eq!((report.verdict, report.authenticated, report.rows_hashed, report.to_seq), (Verdict::Ok, true, 40, 40));
    let report = stored.check(&Check { saved: Some(stored.saved()), ..Check::default() }, &MacKeys::none());
    assert_eq!((report.verdict, report.authenticated, report.attested_to, report.exit()), (Verdict::Ok, false, Some(40), 0));
    for (from, to) in [(1, 1), (2, 9), (20, 40), (40, 40), (41, 41)] {
        let range = |seq| Some(Seq::new(seq).unwrap());
        let report = stored.check(&Check { from: range(from), to: range(to), ..Check::default() }, &keys());
        assert_eq!((report.verdict, report.rows_hashed), (Verdict::Ok, (to + 1).min(41) - from), "{from}..{to}: {report}");
    }
}

/// One row: the attack, and the findings that it must give.
type Attack = (&'static str, fn(&mut Stored), &'static [(FindingCode, u64, u64)]);

#[test]
fn every_attack_of_the_catalogue_is_named_at_its_seq() {
    use FindingCode::*;
    let attacks: &[Attack] = &[
        ("edited data", |s| s.at(5).data = "{}".into(), &[(Edited, 5, 5)]),
        ("edited hash", |s| s.at(5).hash = vec![1; 32], &[(Edited, 5, 5)]),
        ("short hash", |s| s.at(5).hash = vec![1], &[(Edited, 5, 5)]),
        ("edited last hash", |s| s.at(40).hash = vec![1; 32], &[(Edited, 40, 40)]),
        ("edited time", |s| s.at(5).at = 3, &[(Time, 5, 5), (Edited, 5, 5)]),
        ("absent actor made empty", |s| s.at(6).actor = Some(vec![]), &[(Edited, 6, 6)]),
        ("flag taken from a control entry", |s| s.at(1).flags = 0, &[(Edited, 1, 1), (Control, 1, 1)]),
        ("mac taken away", |s| s.at(5).mac = None, &[(Mac, 5, 5)]),
        ("mac edited", |s| s.at(5).mac = Some(vec![9; 32]), &[(Mac, 5, 5)]),
        (
            "one row hashed again",
            |s| {
                let row = s.at(5);
                row.data = "{}".into();
                row.hash = row.compute_hash(ORIGIN).as_bytes().to_vec();
            },
            &[(Mac, 5, 5), (Link, 6, 6)],
        ),
        ("row deleted", |s| s.rows.retain(|row| row.seq != 5), &[(Gap, 5, 5)]),
        ("first rows cut", |s| s.rows.retain(|row| row.seq > 3), &[(Gap, 1, 3)]),
        ("tail cut, head left", |s| s.rows.truncate(30), &[(Gap, 31, 40)]),
        ("all rows cut, head left", |s| s.rows.clear(), &[(Gap, 1, 40)]),
        ("row inserted before the first", |s| s.rows.push(Row { seq: 0, ..Row::default() }), &[(Foreign, 0, 0)]),
        ("row duplicated", |s| s.rows.push(s.rows[8].clone()), &[(Foreign, 9, 9)]),
        (
            "row beyond the head",
            |s| {
                s.head.as_mut().unwrap().seq = 39;
                s.head.as_mut().unwrap().frontier = vec![0; 4 * 32];
            },
            &[(Head, 40, 40)],
        ),
        ("head deleted", |s| s.head = None, &[(Head, 40, 40)]),
        ("head hash edited", |s| s.head.as_mut().unwrap().hash = vec![1; 32], &[(Head, 40, 40)]),
        ("root edited", |s| s.head.as_mut().unwrap().frontier[0] ^= 1, &[(Root, 40, 40)]),
        ("frontier cut", |s| s.head.as_mut().unwrap().frontier.clear(), &[(Root, 40, 40)]),
        ("origin edited", |s| s.origin = "evil/orders".into(), &[(Origin, 1, 1)]),
        ("chains swapped by name", |s| *s = Stored::new("onward.example/audit/others", 40, &keys()), &[(Origin, 1, 1)]),
        ("a whole other chain", |s| s.rows = Stored::new("x/orders", 40, &keys()).rows, &[(Origin, 1, 1), (Head, 40, 40)]),
        (
            "all hashed again",
            |s| {
                s.at(5).data = "{}".into();
                s.rehash(1, ORIGIN, &MacKeys::none());
            },
            &[(Mac, 5, 40)],
        ),
        (
            "all hashed again without key",
            |s| {
                s.rows.iter_mut().for_each(|row| (row.kid, row.mac) = (vec![], None));
                s.rehash(1, ORIGIN, &MacKeys::none());
            },
            &[(Mac, 1, 40)],
        ),
        (
            "rest hashed again without key",
            |s| {
                s.rows.iter_mut().skip(4).for_each(|row| (row.kid, row.mac) = (vec![], None));
                s.rehash(5, ORIGIN, &MacKeys::none());
            },
            &[(Mac, 5, 40)],
        ),
        (
            "another key planted",
            |s| {
                s.rows.iter_mut().skip(4).for_each(|row| row.kid = b"k2".to_vec());
                s.rehash(5, ORIGIN, &MacKeys::one("k2", [8; 32]).unwrap());
            },
            &[(UnknownKey, 5, 40)],
        ),
        (
            "control entry forged",
            |s| {
                s.at(5).kind = b"segment.purged".to_vec();
                s.rehash(5, ORIGIN, &keys());
            },
            &[(Control, 5, 5)],
        ),
    ];
    for (attack, damage, expected) in attacks {
        let mut stored = Stored::new(ORIGIN, 40, &keys());
        damage(&mut stored);
        let report = stored.check(&Check::default(), &keys());
        assert_eq!(stored.findings(&Check::default(), &keys()), *expected, "{attack}: {report}");
        assert_eq!((report.exit(), report.authenticated, report.hash), (1, false, None), "{attack}");
    }
}

#[test]
fn a_cut_tail_is_seen_with_the_saved_head_only() {
    let mut stored = Stored::new(ORIGIN, 40, &keys());
    let saved = stored.saved();
    stored.rows.truncate(30);
    stored.rehash(1, ORIGIN, &keys());
    assert_eq!(stored.check(&Check::default(), &keys()).verdict, Verdict::Ok);
    let with_saved = Check { saved: Some(saved), ..Check::default() };
    assert_eq!(stored.findings(&with_saved, &keys()), [(FindingCode::Truncated, 31, 40)]);

    // The same, and then honest rows after the cut.
    let mut stored = Stored::new(ORIGIN, 50, &keys());
    stored.at(31).data = "{}".into();
    stored.rehash(31, ORIGIN, &keys());
    assert_eq!(stored.check(&Check::default(), &keys()).verdict, Verdict::Ok);
    assert_eq!(stored.findings(&with_saved, &keys()), [(FindingCode::Diverged, 1, 40)]);

    let swapped = Stored::new("elsewhere/orders", 50, &keys());
    assert_eq!(swapped.findings(&with_saved, &keys()), [(FindingCode::Diverged, 1, 40)]);
}

#[test]
fn a_saved_head_vouches_up_to_its_size() {
    let old = Stored::new(ORIGIN, 40, &keys()).saved();
    let grown = Stored::new(ORIGIN, 60, &keys());
    let report = grown.check(&Check { saved: Some(old.clone()), ..Check::default() }, &keys());
    assert_eq!((report.verdict, report.attested_to, report.to_seq), (Verdict::Ok, Some(40), 60));
    let other_root = SavedHead { root: old.hash, ..old };
    assert_eq!(grown.findings(&Check { saved: Some(other_root), ..Check::default() }, &keys()), [(FindingCode::Diverged, 1, 40)]);
}

#[test]
fn an_incremental_walk_hashes_only_what_is_newer_than_the_saved_head() {
    let saved = Stored::new(ORIGIN, 40, &keys()).saved();
    let incremental = Check { saved: Some(saved.clone()), extent: Extent::Incremental, ..Check::default() };
    let mut grown = Stored::new(ORIGIN, 60, &keys());
    let report = grown.check(&incremental, &keys());
    assert_eq!((report.verdict, report.rows_hashed, report.from_seq, report.to_seq), (Verdict::Ok, 20, 41, 60), "{report}");
    assert_eq!((report.attested_to, report.authenticated), (Some(40), true));
    // What it proves is the same head that a whole walk proves.
    let at = Timestamp::from_micros(1_760_000_001_000_000);
    assert_eq!(report.saved_head(at), grown.check(&Check::default(), &keys()).saved_head(at));
    let same = Stored::new(ORIGIN, 40, &keys()).check(&incremental, &keys());
    assert_eq!(
        (same.verdict, same.rows_hashed, same.attested_to, same.saved_head(saved.saved_at)),
        (Verdict::Ok, 0, Some(40), Some(saved))
    );
    // It does not look at what lies behind the saved head, and at everything that lies before.
    grown.at(7).data = "{}".into();
    assert_eq!(grown.check(&incremental, &keys()).verdict, Verdict::Ok);
    grown.at(47).data = "{}".into();
    assert_eq!(grown.findings(&incremental, &keys()), [(FindingCode::Edited, 47, 47)]);
}

#[test]
fn an_incremental_walk_names_a_history_that_the_saved_head_does_not_know() {
    let saved = Stored::new(ORIGIN, 40, &keys()).saved();
    let check = |saved: &SavedHead| Check { saved: Some(saved.clone()), extent: Extent::Incremental, ..Check::default() };
    for size in [40, 60] {
        let mut rewritten = Stored::new(ORIGIN, size, &keys());
        rewritten.at(9).data = "{}".into();
        rewritten.rehash(9, ORIGIN, &keys());
        assert_eq!(rewritten.findings(&check(&saved), &keys())[0], (FindingCode::Diverged, 1, 40), "{size}");
    }
    let mut cut = Stored::new(ORIGIN, 30, &keys());
    assert_eq!(cut.findings(&check(&saved), &keys()), [(FindingCode::Truncated, 31, 40)]);
    cut.head = None;
    assert_eq!(cut.findings(&check(&saved), &keys()), [(FindingCode::Truncated, 1, 40)]);
    let other_tree = SavedHead { frontier: Frontier::from_bytes(40, &[1; 64]).unwrap(), ..saved.clone() };
    assert_eq!(Stored::new(ORIGIN, 60, &keys()).findings(&check(&other_tree), &keys()), [(FindingCode::Root, 60, 60)]);
    let mut missing = Stored::new(ORIGIN, 60, &keys());
    missing.rows.retain(|row| row.seq != 40);
    assert_eq!(missing.findings(&check(&saved), &keys())[0], (FindingCode::Gap, 40, 40));
    let run = |check: &Check| verify(&missing, &name(), check, &keys(), &mut |_| ControlFlow::Continue(())).unwrap_err().kind();
    assert_eq!(run(&Check { saved: None, ..check(&saved) }), Kind::Invalid);
    assert_eq!(run(&Check { to: Some(Seq::new(50).unwrap()), ..check(&saved) }), Kind::Invalid);
}

#[test]
fn many_threads_find_what_one_finds() {
    let attacks: &[fn(&mut Stored)] = &[
        |_| {},
        |s| s.at(1_500).data = "{}".into(),
        |s| s.rows.retain(|row| row.seq != 3_000),
        |s| s.rows.retain(|row| !(1_900..4_100).contains(&row.seq)),
        |s| s.rows.push(s.rows[2_999].clone()),
        |s| s.rows.truncate(3_500),
        |s| s.head.as_mut().unwrap().seq = i64::MAX,
        |s| s.head = None,
        |s| s.rows.push(Row { seq: -5, ..Row::default() }),
        |s| s.rows.iter_mut().filter(|row| row.seq > 2_500).for_each(|row| row.mac = None),
    ];
    for (number, attack) in attacks.iter().enumerate() {
        let mut stored = Stored::new(ORIGIN, 6_500, &keys());
        let saved = Some(Stored::new(ORIGIN, 2_700, &keys()).saved());
        attack(&mut stored);
        for (from, to) in [(None, None), (None, Some(4_444)), (Some(2_600), None), (Some(1_000), Some(6_500))] {
            let seq = |seq: Option<u64>| seq.map(|seq| Seq::new(seq).unwrap());
            let check = Check { from: seq(from), to: seq(to), saved: saved.clone(), ..Check::default() };
            let one = stored.check(&check, &keys());
            for threads in [2, 3, 16] {
                assert_eq!(
                    stored.check(&Check { threads, ..check.clone() }, &keys()),
                    one,
                    "attack {number}, {from:?}..{to:?}, {threads} threads"
                );
            }
        }
    }
}

#[test]
fn a_walk_in_threads_can_be_stopped() {
    let stored = Stored::new(ORIGIN, 9_000, &keys());
    let check = Check { threads: 4, ..Check::default() };
    let mut windows = 0;
    let stopped = verify(&stored, &name(), &check, &keys(), &mut |progress| {
        windows += 1;
        assert!(progress.rows_hashed <= windows * 1_000 && progress.head == 9_000);
        if windows == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((stopped.unwrap_err().code(), windows), (crate::Code::DeadlineExceeded, 3));
}

#[test]
fn without_the_key_a_keyed_walk_is_undetermined() {
    let stored = Stored::new(ORIGIN, 9, &keys());
    let keyed = Check { depth: Some(Depth::Keyed), ..Check::default() };
    let report = stored.check(&keyed, &MacKeys::none());
    assert_eq!((report.verdict, report.exit(), report.authenticated), (Verdict::Undetermined, 2, false));
    assert_eq!(stored.findings(&keyed, &MacKeys::none()), [(FindingCode::Undetermined, 1, 9)]);
    assert_eq!(Stored::new(ORIGIN, 9, &MacKeys::none()).check(&keyed, &MacKeys::none()).verdict, Verdict::Ok);
}

#[test]
fn entries_from_before_the_first_key_are_vouched_for_by_later_ones() {
    let mut stored = Stored::new(ORIGIN, 9, &MacKeys::none());
    stored.rows.iter_mut().skip(5).for_each(|row| row.kid = b"k1".to_vec());
    stored.rehash(1, ORIGIN, &keys());
    let report = stored.check(&Check::default(), &keys());
    assert_eq!((report.verdict, report.authenticated), (Verdict::Ok, true), "{report}");
}

#[test]
fn a_report_is_bounded_and_counts_the_rest() {
    let mut stored = Stored::new(ORIGIN, 2_400, &MacKeys::none());
    stored.rows.iter_mut().filter(|row| row.seq % 2 == 0).for_each(|row| row.data = "x".into());
    let report = stored.check(&Check::default(), &MacKeys::none());
    assert_eq!((report.findings.len(), report.findings_left_out), (FINDINGS_MAX, 200));
}

#[test]
fn a_walk_without_a_verdict_is_an_error() {
    struct Nothing;
    impl Source for Nothing {
        fn read(&self, _: i64, _: &mut Controls, _: &mut dyn FnMut(RowRef<'_>) -> ControlFlow<()>) -> Result<Option<View>> {
            Ok(None)
        }

        fn skeleton(&self, _: &str) -> Result<Option<Vec<u8>>> {
            Ok(None)
        }

        fn another(&self) -> Result<Box<dyn Source>> {
            Ok(Box::new(Nothing))
        }
    }
    let run = |check: &Check| verify(&Nothing, &name(), check, &MacKeys::none(), &mut |_| ControlFlow::Continue(()));
    assert_eq!(run(&Check::default()).unwrap_err().kind(), Kind::NotFound);
    let stored = Stored::new(ORIGIN, 9, &keys());
    let report = run(&Check { saved: Some(stored.saved()), ..Check::default() }).unwrap();
    assert_eq!(report.findings[0].code, FindingCode::Truncated);
    let stopped = verify(&stored, &name(), &Check::default(), &keys(), &mut |_| ControlFlow::Break(()));
    assert_eq!(stopped.unwrap_err().kind(), Kind::Backend);
    let beyond = Check { from: Some(Seq::new(11).unwrap()), ..Check::default() };
    let beyond = verify(&stored, &name(), &beyond, &keys(), &mut |_| ControlFlow::Continue(()));
    assert_eq!(beyond.unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn a_report_reads_back_from_json_as_itself() {
    let mut stored = Stored::new(ORIGIN, 9, &keys());
    stored.at(5).data = "{}".into();
    for report in [stored.check(&Check::default(), &keys()), Stored::new(ORIGIN, 9, &keys()).check(&Check::default(), &keys())] {
        assert_eq!(serde_json::from_str::<Report>(&serde_json::to_string(&report).unwrap()).unwrap(), report);
    }
}

#[test]
fn the_verifier_is_pure() {
    for source in [
        include_str!("mod.rs"),
        include_str!("check.rs"),
        include_str!("files.rs"),
        include_str!("look.rs"),
        include_str!("past.rs"),
        include_str!("report.rs"),
        include_str!("saved.rs"),
        include_str!("segment.rs"),
        include_str!("source.rs"),
        include_str!("walk.rs"),
    ] {
        let code: String = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        // A source may hand over a file as something to read from; opening one is its business.
        let code = code.replace("std::io::Read", "");
        for word in ["tokio", "rusqlite", "async ", "await", "Clock", "std::fs", "std::time", "std::io", "random", "crate::engine"] {
            assert!(!code.contains(word), "{word}");
        }
    }
}

proptest! {
    #[test]
    fn any_change_of_a_sealed_chain_is_found(seq in 1i64..=20, column in 0usize..9, byte in any::<u8>()) {
        let mut stored = Stored::new(ORIGIN, 20, &keys());
        let before = stored.clone();
        let row = stored.at(seq);
        match column {
            0 => row.prev[0] ^= byte,
            1 => row.hash[31] ^= byte,
            2 => row.mac.as_mut().unwrap()[5] ^= byte,
            3 => row.kid.push(byte),
            4 => row.at = row.at.wrapping_add(i64::from(byte)),
            5 => row.event_id.push(byte),
            6 => row.kind.push(byte),
            7 => row.resource = Some(vec![byte]),
            _ => row.flags ^= i64::from(byte),
        }
        let changed = stored.rows != before.rows;
        prop_assert_eq!(stored.check(&Check::default(), &keys()).verdict != Verdict::Ok, changed);
    }

    #[test]
    fn a_saved_head_reads_back_as_itself_and_damage_is_no_panic(size in 1u64..1 << 53, cut in 0usize..300, junk in any::<String>()) {
        let roots: Vec<u8> = (0..size.count_ones()).flat_map(|n| [n as u8; 32]).collect();
        let frontier = Frontier::from_bytes(size, &roots).unwrap();
        let saved = SavedHead {
            chain: name(), origin: "a \"b\"/orders".into(), size,
            hash: genesis("a"), root: frontier.root(), frontier, saved_at: Timestamp::from_micros(1_760_000_000_123_456),
        };
        let text = saved.to_text();
        prop_assert_eq!(SavedHead::parse(&text).unwrap(), saved);
        let cut: String = text.chars().take(cut).collect();
        prop_assert!(cut.len() + 1 >= text.len() || SavedHead::parse(&cut).is_err());
        prop_assert!(SavedHead::parse(&junk).is_err());
        prop_assert!(SavedHead::parse(&text.replace("\"v\":1", "\"v\":2")).is_err_and(|e| e.kind() == Kind::Unsupported));
        prop_assert!(SavedHead::parse(&text.replace("\"v\":1", "\"v\":1,\"v\":1")).is_err());
    }
}
