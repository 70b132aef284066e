//! The server's own worker: what is due in the life of the chains is done while it runs, by one server of all at a time.

use std::time::Duration;

use onward::audit::{Act, StepResult, Tick};

use crate::log;
use crate::state::State;
use crate::wait::sleep;

/// How often it looks what is due.
pub(crate) const EVERY: Duration = Duration::from_secs(30);
/// How long it works before it looks whether another server would.
const BUDGET: Duration = Duration::from_secs(5);

/// Takes the steps that are due, unless another process does: `None`.
pub(crate) async fn tick(state: &State, act: &Act) -> onward::Result<Option<Tick>> {
    // Whoever comes meanwhile remembers nothing, which costs him a little work.
    let mut memory = std::mem::take(&mut *state.maintenance().lock());
    let tick = state.onward().maintain(&mut memory, act, BUDGET).await;
    *state.maintenance().lock() = memory;
    tick
}

/// Maintains for ever. It may be dropped at any moment: whoever comes next finishes what it was at.
pub(crate) async fn maintain(state: &State, every: Duration) {
    let act = Act::because("retention").by(Some("onward".to_owned()));
    loop {
        let more = match tick(state, &act).await {
            Ok(Some(tick)) => {
                for step in tick.steps.iter().filter(|step| step.result == StepResult::Failed) {
                    let why = step.why.as_deref().unwrap_or_default();
                    log::warn(&format!("maintain: {} of {} from {} failed: {why}", step.stage.as_str(), step.chain, step.from));
                }
                tick.more && tick.steps.iter().any(|step| step.result == StepResult::Done)
            }
            Ok(None) => false,
            Err(error) => {
                log::warn(&format!("maintain: {error}"));
                false
            }
        };
        if !more {
            sleep(every).await;
        }
    }
}
