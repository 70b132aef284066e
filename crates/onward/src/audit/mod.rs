//! The part `audit`: named chains of entries, each linked to the one before it by its hash.
//!
//! An edit, a deletion, an insertion or a reordering shows, to anyone, without our code, our server or our secrets; what a chain alone
//! cannot show, a cut tail or a database put back to yesterday, shows against a [head saved outside](verify::SavedHead). Writing belongs
//! to the one write path: an append is a [`Commit`](crate::commit::Commit) that only appends, or a line of any other commit. A chain
//! never forks, loses an acknowledged entry or reorders (INV-5); the verifier names every tampering in its catalogue and raises no false
//! alarm (INV-7).
//!
//! Refuses to lose silently: an append is written, or it is an error whose effect says whether it may have been. Only who calls
//! [`Chain::append_or_drop`] may lose an entry to an outage, and then the chain itself tells how many.
//!
//! # Examples: a retried event is appended once
//! ```
//! # use onward::{Onward, model::{Data, Entry}, audit::{AppendOptions, verify::{Check, Verdict}}};
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let onward = Onward::open("memory:").await?;
//! let orders = onward.audit().chain("orders")?;
//! let refund = || Entry::new("order.refund").by("user:7").on("order:42").with_event_id("refund-42");
//! let first = orders.append(refund(), AppendOptions::new()).await?;
//! let again = orders.append(refund(), AppendOptions::new()).await?;
//! assert_eq!((first.seq, first.hash), (again.seq, again.hash));
//! assert_eq!(orders.verify(Check::default()).await?.verdict, Verdict::Ok);
//! # Ok::<(), onward::Error>(()) }).unwrap();
//! ```

mod anchor;
mod archive;
pub(crate) mod archive_file;
mod chain;
mod drop_file;
mod drops;
pub mod engine;
mod export;
mod export_file;
mod import;
mod keyring;
mod options;
mod prove;
mod redact;
mod saved;
mod segment;
mod tail;
mod verdicts;
mod verification;
pub mod verify;

pub use archive::Archive;
pub use archive_file::verify_archived;
pub use chain::{Chain, ChainInfo, Receipt, Trail};
pub use drops::Appended;
pub use export::Export;
pub use export_file::verify_export;
pub use keyring::{read_keyring, save_keyring};
pub use options::{AppendOptions, Filter, Found, Order, Page, TrailOptions};
pub use prove::{Consistency, Inclusion};
pub use redact::{Redact, Redacted};
pub use saved::{read_saved_head, save_head};
pub use segment::{Act, Healed, Hold, Holds, Maintenance, Means, Policies, Policy, Segment, Stage, Step, StepResult, Tick};
pub use tail::{From, Tail};
pub use verdicts::KeptVerdict;
pub use verification::Pace;
