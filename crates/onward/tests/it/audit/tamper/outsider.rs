//! What an outsider does with `verify.py`, and with a head that was saved outside.

use std::path::Path;

use onward::audit::verify::{Check, SavedHead};
use onward::audit::{AppendOptions, read_saved_head, save_head};
use onward::model::{Entry, MacKeys};
use onward::time::Clock;
use onward::{Code, Config, Kind, Onward};

use super::{Base, keys, open, python};

#[tokio::test]
async fn verify_py_reads_a_database_that_a_writer_has_open() {
    let base = Base::new().await;
    let onward = open(&base.path("good.db"), keys()).await;
    let chain = onward.audit().chain("orders").unwrap();
    let mut expected = 40;
    for _ in 0..3 {
        chain.append(Entry::new("order.refund"), AppendOptions::new()).await.unwrap();
        expected += 1;
        // The newest entries stand only in the log so far.
        let found = python(&base.path("good.db"), &["--chain".into(), "orders".into()]);
        let text = String::from_utf8(found.stdout).unwrap();
        assert_eq!((found.status.code(), text.contains(&format!("orders: ok, entries 1..{expected},"))), (Some(0), true), "{text}");
    }
}

#[test]
fn the_golden_vector_holds_in_python() {
    let found = python(Path::new("--self-test"), &[]);
    assert_eq!((found.status.code(), found.stdout.as_slice()), (Some(0), &b"self-test: ok\n"[..]));
}

#[tokio::test]
async fn what_verify_py_cannot_read_is_no_verdict() {
    let base = Base::new().await;
    let good = base.path("good.db");
    std::fs::write(base.path("junk"), "{}").unwrap();
    let junk = base.path("junk").to_str().unwrap().to_owned();
    let head = base.path("head").to_str().unwrap().to_owned();
    for arguments in [
        vec!["--checkpoint", junk.as_str()],
        vec!["--key", junk.as_str()],
        vec!["--key", "/nowhere"],
        vec!["--chain", "nobody"],
        vec!["--chain", "others", "--checkpoint", head.as_str()],
        vec!["--nonsense"],
    ] {
        let found = python(&good, &arguments.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!((found.status.code(), found.stdout.is_empty()), (Some(2), true), "{arguments:?}");
    }
    assert_eq!(python(&base.path("nothing.db"), &[]).status.code(), Some(2));
    assert!(!base.path("nothing.db").exists());
    assert_eq!(python(&base.path("junk"), &[]).status.code(), Some(2));
}

#[tokio::test]
async fn a_saved_head_never_goes_back_or_over_to_another_history() {
    let base = Base::new().await;
    let (path, head) = (base.path("good.db"), base.path("head"));
    let now = Clock::system().wall();
    let report = async |saved: Option<&SavedHead>, path: &Path| {
        let check = Check { saved: saved.cloned(), ..Check::default() };
        open(path, keys()).await.audit().chain("orders").unwrap().verify(check).await.unwrap()
    };
    // Not checked against what is saved there.
    assert_eq!(save_head(&head, &report(None, &path).await, now).unwrap_err().code(), Code::StateConflict);
    // Cut, and another history of the same length.
    let cut = base.damaged(|a| {
        a.sql("DELETE FROM onward_entries WHERE chain = $orders AND seq > 30");
        a.rehash(31, &keys());
    });
    for saved in [None, Some(&base.saved)] {
        assert_eq!(save_head(&head, &report(saved, &cut).await, now).unwrap_err().kind(), Kind::Conflict);
    }
    let own = report(None, &cut).await.saved_head(now).unwrap();
    let other = base.damaged(|a| a.rehash(1, &MacKeys::one("k1", [9; 32]).unwrap()));
    assert_eq!(save_head(&head, &report(Some(&own), &other).await, now).unwrap_err().kind(), Kind::Conflict);
    assert_eq!(read_saved_head(&head).unwrap().unwrap(), base.saved);
    // A continuation takes its place, in a file that only its owner reads.
    let onward = open(&path, keys()).await;
    onward.audit().chain("orders").unwrap().append(Entry::new("order.refund"), AppendOptions::new()).await.unwrap();
    assert_eq!(save_head(&head, &report(Some(&base.saved), &path).await, now).unwrap().size, 41);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&head).unwrap().permissions());
    assert_eq!((mode & 0o777, read_saved_head(&head).unwrap().unwrap().size), (0o600, 41));
    let left_over =
        std::fs::read_dir(base.folder.path()).unwrap().filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "tmp"));
    assert_eq!(left_over.count(), 0);
    std::fs::write(&head, "something else").unwrap();
    assert_eq!(save_head(&head, &report(None, &path).await, now).unwrap_err().kind(), Kind::Invalid);
}

/// A file that says it is another program's, or has lost the facts of its store, gets no verdict from anyone; least of all a good one.
#[tokio::test]
async fn a_foreign_database_or_one_without_its_facts_gets_no_verdict() {
    let base = Base::new().await;
    for damage in ["PRAGMA application_id = 7", "PRAGMA application_id = 0", "DROP TABLE onward_meta", "DELETE FROM onward_meta"] {
        let path = base.damaged(|attacker| attacker.sql(damage));
        let opened = Onward::connect(Config::new(format!("sqlite:{}", path.display())).with_keys(keys())).await;
        assert!(matches!(opened.unwrap_err().kind(), Kind::Backend | Kind::Unsupported), "{damage}");
        let output = python(&path, &[]);
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true), "{damage}: {output:?}");
    }
}
