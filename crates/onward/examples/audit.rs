//! A trail that shows tampering, and a head kept outside that shows a cut tail. `cargo run --example audit`

#![allow(clippy::print_stdout, reason = "an example shows what happens")]

use onward::audit::AppendOptions;
use onward::audit::verify::{Check, SavedHead};
use onward::model::{Data, Entry, MacKeys};
use onward::{Config, Onward, Result};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<()> {
    // The key never stands in the database: whoever can write the rows cannot seal them.
    let keys = MacKeys::one("k1", [7; 32])?; // in earnest: ONWARD__AUDIT__KEY_FILE
    let onward = Onward::connect(Config::new("memory:").with_keys(keys)).await?;
    let billing = onward.audit().chain("billing")?;

    let refund = || Entry::new("order.refund").by("user:7").on("order:42").with_event_id("refund-42");
    let entry = refund().with_data(Data::json(&json!({"amount": 9.5}))?);
    let receipt = billing.append(entry.clone(), AppendOptions::new()).await?;
    println!("entry {} of {}: {}", receipt.seq, receipt.origin, receipt.hash);

    // A lost answer? Send it again: it is there once.
    assert!(billing.append(entry, AppendOptions::new()).await?.replayed);

    let report = billing.verify(Check::default()).await?;
    println!("{report}");
    // Keep this text elsewhere. Checked against it, a trail that lost its end, or was put back to yesterday, is found out.
    let saved: Option<SavedHead> = report.saved_head(onward.store().queue().clock().wall());
    println!("{}", saved.map(|head| head.to_text()).unwrap_or_default());
    Ok(())
}
