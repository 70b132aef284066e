//! Two editors, one document: the second save is refused and sees what it missed. `cargo run --example store`

#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use onward::store::Put;
use onward::{Onward, Result};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Document {
    title: String,
    words: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    let store = Onward::open("memory:").await?.store();
    let draft = Document { title: "Draft".into(), words: 10 };
    let Put::Committed(created) = store.create(("document", "a"), &draft).await? else { return Ok(()) };

    // Both read version 1. The first save lands.
    let theirs = Document { title: "Theirs".into(), ..draft.clone() };
    assert!(matches!(store.replace(("document", "a"), &theirs, created.version).await?, Put::Committed(_)));

    // The second one is refused and carries the document as it is now: no extra read.
    let ours = Document { title: "Ours".into(), ..draft };
    match store.replace(("document", "a"), &ours, created.version).await? {
        Put::Committed(_) => println!("this would have erased their title"),
        Put::Conflict(lost) => {
            println!("refused: it is at version {:?} and reads {:?}", lost.version, lost.current.map(|now| now.value.title))
        }
    }

    // Where the change can be made again on fresh state, `update` does the retrying.
    let add = |document: &mut Document, _: &onward::model::Meta| {
        document.words += 5;
        Ok(())
    };
    let done = store.update(("document", "a"), add).await?;
    println!("{:?} at version {} after {} try", done.value, done.written.version, done.tries);
    Ok(())
}
