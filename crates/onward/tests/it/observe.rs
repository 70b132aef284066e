//! What the library tells whoever watches it.

use std::sync::Arc;
use std::time::Duration;

use onward::audit::verify::Check;
use onward::model::Entry;
use onward::observe::{Event, Observer};
use onward::{Config, Onward, Result};
use parking_lot::Mutex;

#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

impl Observer for Told {
    fn observe(&self, event: &Event<'_>) {
        let line = match *event {
            Event::Batch { engine, result, .. } => format!("batch {engine} {result}"),
            Event::Commit { outcome, .. } => format!("commit {outcome}"),
            Event::Append { result, .. } => format!("append {result}"),
            Event::Verify { verdict, whole } => format!("verify {verdict} {whole}"),
            Event::Feed { behind, waiting } => format!("feed {} {waiting}", if behind.is_zero() { "there" } else { "behind" }),
            _ => return,
        };
        self.0.lock().push(line);
    }
}

impl Told {
    fn take(&self) -> Vec<String> {
        self.0.lock().drain(..).filter(|line| !line.starts_with("feed")).collect()
    }

    /// Waits until something was told; bounded by the test's own patience.
    async fn hears(&self, wanted: &str) {
        let heard = async {
            while !self.0.lock().iter().any(|line| line == wanted) {
                tokio::task::yield_now().await;
            }
        };
        #[allow(clippy::disallowed_methods, reason = "a bound on the wait for an event")]
        tokio::time::timeout(Duration::from_secs(10), heard).await.unwrap_or_else(|_| panic!("{wanted}: {:?}", self.0.lock()));
    }
}

#[tokio::test]
async fn every_answer_of_the_write_path_is_told_once() -> Result<()> {
    let told = Arc::new(Told::default());
    let onward = Onward::connect(Config::new("memory:").with_observer(told.clone())).await?;
    let store = onward.store();
    drop(store.create(("doc", "a"), &1).await?);
    assert_eq!(told.take(), ["batch memory ok", "commit committed"]);
    drop(store.create(("doc", "a"), &1).await?);
    assert_eq!(told.take(), ["commit conflict"], "nothing was written");
    assert!(store.create(("Doc!", "a"), &1).await.is_err());
    let chain = onward.audit().chain("main")?;
    let entry = || Entry::new("k").with_event_id("e");
    chain.append(entry(), Default::default()).await?;
    chain.append(entry(), Default::default()).await?;
    let told_now = told.take();
    let appends: Vec<&String> = told_now.iter().filter(|line| line.starts_with("append")).collect();
    assert_eq!(appends, ["append appended", "append replayed"], "{told_now:?}");
    chain.verify(Check::default()).await?;
    assert!(onward.audit().chain("none")?.verify(Check::default()).await.is_err());
    let told_now = told.take();
    let verdicts: Vec<&String> = told_now.iter().filter(|line| line.starts_with("verify")).collect();
    assert_eq!(verdicts, ["verify ok true", "verify failed true"], "{told_now:?}");
    Ok(())
}

#[tokio::test]
async fn the_reader_of_the_change_log_tells_how_far_it_is() -> Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("a.db").display());
    let told = Arc::new(Told::default());
    let _reader = Onward::connect(Config::new(&url).with_observer(told.clone())).await?;
    let writer = Onward::open(&url).await?;
    drop(writer.store().create(("doc", "a"), &1).await?);
    // Another process's commit is worked on, and then the end of the log is reached.
    told.hears("feed behind 1").await;
    told.hears("feed there 0").await;
    Ok(())
}
