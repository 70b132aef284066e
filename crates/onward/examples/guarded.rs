//! All four parts in one call: lock, compare-and-swap, audit entry and cache. `cargo run --example guarded`

#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use std::convert::Infallible;

use onward::model::RequestId;
use onward::{Onward, Result};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Project {
    services: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let onward = Onward::open("memory:").await?;
    onward.guard("projects", "42").create(&Project { services: vec!["avatars".into()] }).commit().await?;
    let count = || async {
        let project = onward.store().get::<Project>(("projects", "42")).await?;
        Ok::<_, onward::Error>(project.map_or(0, |project| project.value.services.len()))
    };
    println!("cached: {} service", onward.cache().get_or_load("project:42", |_| count()).await?);

    let request = RequestId::new("enable-mail-for-42")?;
    let enable = || {
        onward
            .guard("projects", "42")
            .by("user:7")
            .update(|project: &mut Project| project.services.push("mail".into()))
            .audit("project.update")
            .invalidate(["project:42"])
            .request(request.clone())
    };
    let done = enable().commit().await?;
    println!("version {}, cache {:?}, entry {:?}", done.written.version, done.invalidation, done.audit.map(|entry| entry.seq.get()));

    // The answer got lost? The same request again changes nothing.
    assert!(enable().commit().await?.replayed);
    let cached: usize = onward.cache().get_or_load("project:42", |_| async { Ok::<_, Infallible>(count().await.unwrap_or(0)) }).await?;
    println!("cached: {cached} services");
    Ok(())
}
