//! Exported chains: checked by the library and by `verify.py`, which must say the same of every file, good, edited or hostile.

use std::ops::ControlFlow;
use std::path::PathBuf;

use onward::audit::verify::{Check, Report, SavedHead, Verdict};
use onward::audit::{AppendOptions, Chain, save_head, verify_export};
use onward::model::{Data, Entry, MacKeys, Seq};
use onward::time::Clock;
use onward::{Config, Kind, Onward};

use super::tamper::Auditor;

const KEY: [u8; 32] = [7; 32];

struct Desk {
    folder: tempfile::TempDir,
    chain: Chain,
    auditor: Auditor,
    saved: SavedHead,
}

fn keys() -> MacKeys {
    MacKeys::one("k1", KEY).unwrap()
}

fn seq(number: u64) -> Option<Seq> {
    Some(Seq::new(number).unwrap())
}

impl Desk {
    async fn new(entries: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::new("memory:").with_keys(keys()).with_clock(Clock::manual());
        let chain = Onward::connect(config).await.unwrap().audit().chain("orders").unwrap();
        let entry = |n: usize| match n % 4 {
            0 => Entry::new("order.paid").by("user:7").on("").with_data(Data::json(&serde_json::json!({"né": n})).unwrap()),
            1 => Entry::new("order.paid").with_data(Data::bytes(vec![0, 255, 10, 13])),
            2 => Entry::new("order.paid").by("\"quoted\\\"").with_data(Data::text("two\nlines")),
            _ => Entry::new("order.paid"),
        };
        let mut made = (0..entries).map(entry).peekable();
        while made.peek().is_some() {
            chain.append_many(made.by_ref().take(128).collect(), AppendOptions::new()).await.unwrap();
        }
        let report = chain.verify(Check::default()).await.unwrap();
        let saved = save_head(&folder.path().join("head"), &report, Clock::system().wall()).unwrap();
        std::fs::write(folder.path().join("key"), "07".repeat(32)).unwrap();
        Self { folder, chain, auditor: Auditor::new(), saved }
    }

    async fn export(&self, from: Option<Seq>, to: Option<Seq>) -> Vec<u8> {
        let mut export = self.chain.export(from, to).await.unwrap();
        let mut file = Vec::new();
        while let Some(piece) = export.next().await.unwrap() {
            file.extend_from_slice(&piece);
        }
        file
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Checks a file with both, and insists that they say the same; `None`: no verdict.
    fn check(&mut self, file: &[u8], keyed: bool, saved: bool) -> Option<Report> {
        let path = self.path("export");
        std::fs::write(&path, file).unwrap();
        let mut arguments = vec!["--export".to_owned(), path.display().to_string()];
        for (name, file) in [("--key", "key")].iter().filter(|_| keyed).chain([("--checkpoint", "head")].iter().filter(|_| saved)) {
            arguments.extend([(*name).to_owned(), self.path(file).display().to_string()]);
        }
        let (exit, said) = self.auditor.ask(&arguments);
        let keys = if keyed { keys() } else { MacKeys::none() };
        let saved = saved.then(|| self.saved.clone());
        match verify_export(file, &Check { saved, ..Check::default() }, &keys, &mut |_| ControlFlow::Continue(())) {
            Ok(report) => {
                assert_eq!((exit, said), (report.exit(), format!("{report}\n")), "{}", String::from_utf8_lossy(file));
                Some(report)
            }
            Err(error) => {
                assert!(matches!(error.kind(), Kind::Invalid | Kind::Unsupported), "{error}");
                assert_eq!((exit, said.as_str()), (2, ""), "{error}: {}", String::from_utf8_lossy(file));
                None
            }
        }
    }
}

#[tokio::test]
async fn an_export_of_any_range_is_good_to_both_verifiers() {
    let mut desk = Desk::new(600).await;
    let head = desk.saved.size;
    for (from, to) in [(1, head), (1, 1), (2, 2), (1, 256), (256, 257), (300, head), (head, head)] {
        let file = desk.export(seq(from), seq(to)).await;
        let report = desk.check(&file, true, false).unwrap();
        assert_eq!((report.verdict, report.authenticated, report.from_seq, report.to_seq), (Verdict::Ok, true, from, to), "{report}");
        assert_eq!((report.rows_hashed, file.iter().filter(|b| **b == b'\n').count() as u64), (to - from + 1, to - from + 3));
        assert_eq!(desk.check(&file, false, false).unwrap().verdict, Verdict::Ok);
    }
    let whole = desk.export(None, None).await;
    assert_eq!(whole, desk.export(seq(1), seq(head)).await);
    let report = desk.check(&whole, true, true).unwrap();
    assert_eq!((report.attested_to, report.root), (Some(head), Some(desk.saved.root)));
    // A saved head that the file does not reach says nothing of it.
    let part = desk.export(None, seq(head - 1)).await;
    assert!(desk.check(&part, true, true).is_none());
    assert_eq!(desk.chain.export(seq(3), seq(2)).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(desk.chain.export(None, seq(head + 1)).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn a_piece_of_an_export_is_bounded_whatever_the_range() {
    let config = Config::new("memory:").with_clock(Clock::manual());
    let chain = Onward::connect(config).await.unwrap().audit().chain("big").unwrap();
    for _ in 0..4 {
        let entry = || Entry::new("big").with_data(Data::bytes(vec![0; 1 << 20]));
        chain.append_many(vec![entry(), entry(), entry()], AppendOptions::new()).await.unwrap();
    }
    let (mut export, mut pieces) = (chain.export(None, None).await.unwrap(), 0);
    while let Some(piece) = export.next().await.unwrap() {
        assert!(piece.len() < 4 << 20, "{}", piece.len());
        pieces += 1;
    }
    assert!(pieces >= 10, "{pieces}");
    assert_eq!(export.next().await.unwrap(), None);
}

type Change = (&'static str, fn(&mut Vec<String>));

#[tokio::test]
async fn every_change_of_an_export_is_named_alike_by_both_verifiers() {
    let mut desk = Desk::new(12).await;
    let changes: &[Change] = &[
        ("data edited", |l| l[5] = l[5].replace("order.paid", "order.fake")),
        ("time edited", |l| l[5] = l[5].replace("\"at\":1", "\"at\":2")),
        ("absent actor made empty", |l| l[3] = l[3].replace("\"data_base64\"", "\"actor\":\"\",\"data_base64\"")),
        ("entry left out", |l| drop(l.remove(5))),
        ("entry twice", |l| l.insert(5, l[5].clone())),
        ("entries swapped", |l| l.swap(5, 6)),
        ("last entry left out", |l| drop(l.remove(l.len() - 2))),
        ("all entries left out", |l| drop(l.drain(1..l.len() - 1))),
        ("mac left out", |l| {
            let at = l[4].find(",\"mac\"").unwrap();
            l[4].replace_range(at..at + 73, "");
        }),
        ("flags edited", |l| l[4] = l[4].replace("\"flags\":", "\"flags\":1")),
        ("unknown flag", |l| l[3] = l[3].replace("\"flags\":0", "\"flags\":64")),
        ("origin edited", |l| l[0] = l[0].replace("\"origin\":\"", "\"origin\":\"x")),
        ("chain renamed", |l| l[0] = l[0].replace("\"chain\":\"orders\"", "\"chain\":\"others\"")),
        ("range beyond the entries", |l| {
            for line in [0, l.len() - 1] {
                l[line] = l[line].replace("\"rows\":13", "\"rows\":14").replace("\"to\":13", "\"to\":14");
            }
        }),
        ("range before the entries", |l| {
            for line in [0, l.len() - 1] {
                l[line] = l[line].replace("\"rows\":13", "\"rows\":12").replace("\"to\":13", "\"to\":12");
            }
        }),
        ("root edited", |l| {
            let last = l.len() - 1;
            let at = l[last].find("\"root\":\"").unwrap() + 8;
            l[last].replace_range(at..at + 64, &"0".repeat(64));
        }),
        ("last hash edited", |l| {
            let last = l.len() - 1;
            let at = l[last].find("\"last\":\"").unwrap() + 8;
            l[last].replace_range(at..at + 64, &"0".repeat(64));
        }),
    ];
    for (from, to) in [(None, None), (seq(1), seq(13))] {
        let good = String::from_utf8(desk.export(from, to).await).unwrap();
        for (name, change) in changes {
            let mut lines: Vec<String> = good.lines().map(str::to_owned).collect();
            change(&mut lines);
            let file = lines.join("\n") + "\n";
            assert!(file != good, "{name}");
            for keyed in [false, true] {
                let report = desk.check(file.as_bytes(), keyed, false);
                assert!(report.as_ref().is_none_or(|report| report.verdict != Verdict::Ok), "{name}: {report:?}");
            }
        }
    }
    // In the middle of a chain the hash before the range is what links it.
    let part = String::from_utf8(desk.export(seq(4), seq(9)).await).unwrap();
    let at = part.find("\"prev\":\"").unwrap() + 8;
    let mut edited = part.clone();
    edited.replace_range(at..at + 64, &"0".repeat(64));
    let report = desk.check(edited.as_bytes(), true, false).unwrap();
    assert_eq!(report.findings.iter().map(|f| (f.code.to_string(), f.from_seq)).collect::<Vec<_>>(), [("BROKEN(link)".to_owned(), 4)]);
}

#[tokio::test]
async fn no_byte_of_an_export_can_be_changed_unseen() {
    let mut desk = Desk::new(3).await;
    let good = desk.export(None, None).await;
    for place in 0..good.len() {
        let mut file = good.clone();
        file[place] ^= 1;
        let report = desk.check(&file, true, false);
        assert!(report.as_ref().is_none_or(|report| report.verdict != Verdict::Ok), "byte {place}: {report:?}");
    }
}

#[tokio::test]
async fn what_is_not_exactly_an_export_is_refused_by_both() {
    let mut desk = Desk::new(3).await;
    let good = String::from_utf8(desk.export(None, None).await).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let with = |line: usize, new: &str| {
        let mut lines = lines.clone();
        lines[line] = new;
        lines.join("\n") + "\n"
    };
    let (first, entry, last) = (lines[0], lines[2], lines[lines.len() - 1]);
    let deep = format!("{{\"seq\":{}1{}}}", "[".repeat(200_000), "]".repeat(200_000));
    let long = format!("{{\"seq\":2,\"kind\":\"{}\"}}", "x".repeat(5 << 20));
    let hostile = [
        String::new(),
        "\n".to_owned(),
        "{}\n".to_owned(),
        "SQLite format 3\0".to_owned(),
        good[..good.len() - 1].to_owned(),
        good[..good.len() / 2].to_owned(),
        lines[..lines.len() - 1].join("\n") + "\n",
        format!("{good}\n"),
        format!("{good}{last}\n"),
        format!("{good}x"),
        format!("\u{feff}{good}"),
        good.replace('\n', "\r\n"),
        good.replacen('\n', "\n\n", 1),
        with(0, &first.replace("\"v\":1", "\"v\":2")),
        with(0, &first.replace("\"v\":1", "\"v\":0")),
        with(0, &first.replace("\"v\":1", "\"v\":1.0")),
        with(0, &first.replace("\"v\":1", "\"v\":2,\"new\":1")),
        with(0, &first.replace("\"archive\"", "\"saved-head\"")),
        with(0, &first.replace("\"from\":1", "\"from\":0")),
        with(0, &first.replace("\"from\":1", "\"from\":9")),
        with(0, &first.replace("\"to\":4", "\"to\":9007199254740992")),
        with(0, &first.replace("\"rows\":4", "\"rows\":5")),
        with(0, &first.replace("\"chain\":\"orders\"", "\"chain\":\"../orders\"")),
        with(0, &first.replace("\"v\":1", "\"v\":1,\"v\":1")),
        with(2, &entry.replace("\"seq\":2", "\"seq\":2,\"seq\":2")),
        with(2, &entry.replace("\"seq\":2", "\"seq\":\"2\"")),
        with(2, &entry.replace("\"seq\":2", "\"seq\":0")),
        with(2, &entry.replace("\"seq\":2", "\"seq\":-2")),
        with(2, &entry.replace("\"seq\":2", "\"seq\":2e0")),
        with(2, &entry.replace("\"seq\":2", "\"seq\":9007199254740992")),
        with(2, &entry.replace("\"seq\":2", "\"seq\":99999999999999999999999999")),
        with(2, &entry.replace("\"seq\":2", "\"seq\":NaN")),
        with(2, &entry.replace("\"seq\":2", "\"seq\":null")),
        with(2, &entry.replace("\"seq\":2", "\"seq\":true")),
        with(2, &entry.replace("\"flags\":", "\"flags\":-0,\"x\":")),
        with(2, &entry.replace("\"flags\":", "\"more\":1,\"flags\":")),
        with(2, &entry.replace("\"kid\":\"k1\"", "\"kid\":\"\\ud800\"")),
        with(2, &entry.replace("\"data\"", "\"data_base64\"")),
        with(2, &entry.replace("\"data\"", "\"data_base64\":\"QQ==\",\"data\"")),
        with(3, &lines[3].replace("\"data_base64\":\"", "\"data_base64\":\"*")),
        with(2, &entry.replace("\"hash\":\"", "\"hash\":\" ")),
        with(2, &deep),
        with(2, &long),
        with(lines.len() - 1, &last.replace("\"rows\":4", "\"rows\":3")),
        with(lines.len() - 1, &last.replace("true", "false")),
        with(lines.len() - 1, &last.replace("true", "1")),
    ];
    for file in hostile {
        assert_ne!(file, good);
        assert!(desk.check(file.as_bytes(), false, false).is_none(), "{}", file.chars().take(400).collect::<String>());
    }
    let mut odd = good.clone().into_bytes();
    odd[good.find("order.paid").unwrap()] = 0xff;
    assert!(desk.check(&odd, false, false).is_none());
}

#[test]
fn an_endless_line_is_refused_in_bounded_memory() {
    /// A file without end that counts what is read of it.
    struct Endless(u64);

    impl std::io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            buffer.fill(b'{');
            self.0 += buffer.len() as u64;
            Ok(buffer.len())
        }
    }

    let mut endless = Endless(0);
    let refused = verify_export(&mut endless, &Check::default(), &MacKeys::none(), &mut |_| ControlFlow::Continue(()));
    assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
    assert!(endless.0 < 5 << 20, "{}", endless.0);
}
