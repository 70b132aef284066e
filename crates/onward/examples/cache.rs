//! A reader is overtaken by a purge: its fill is refused, and nobody reads the old row. `cargo run --example cache`

#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::convert::Infallible;

use onward::cache::{Filled, Lookup};
use onward::{Onward, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let cache = Onward::open("memory:").await?.cache();

    // The miss takes a fill lease, before the source is read.
    let Lookup::Lease(lease) = cache.begin::<String>("project:42").await? else { return Ok(()) };
    let old_row = "version 1".to_owned();

    // Meanwhile a writer commits version 2 and purges. The key is empty, and still the purge counts.
    let _ = cache.invalidate("project:42").await?;

    match lease.commit(&old_row).await? {
        Filled::Stored => println!("the old row is cached for everyone"),
        Filled::Superseded { now } => println!("refused: the row changed while it was read ({now:?})"),
    }

    // `get_or_load` does all of this, with one load for any number of callers.
    let row: String = cache.get_or_load("project:42", |_fill| async { Ok::<_, Infallible>("version 2".to_owned()) }).await?;
    println!("loaded {row:?}; now cached: {:?}", cache.get::<String>("project:42").await?.flatten());
    Ok(())
}
