//! The terminal while the command has it.

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Pid, getpgrp};
use rustix::stdio::{stdin, stdout};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};

/// The terminal, lent to the command's group; dropping it takes the terminal back.
#[derive(Debug)]
pub(super) struct Terminal {
    ours: Pid,
}

impl Terminal {
    /// Makes the group the foreground group, if we are that now; `None` in pipes and without a terminal, where nothing changes.
    pub(super) fn lend(group: Pid) -> Option<Self> {
        let ours = getpgrp();
        // In a pipeline the terminal belongs to others too, such as a pager.
        let lent = isatty(stdout()) && tcgetpgrp(stdin()) == Ok(ours) && tcsetpgrp(stdin(), group).is_ok();
        lent.then_some(Self { ours })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Whoever is in the background and sets the foreground is stopped for it, unless the signal is blocked.
        let mut background = SigSet::empty();
        background.add(Signal::SIGTTOU);
        if background.thread_block().is_ok() {
            let _ = tcsetpgrp(stdin(), self.ours);
            let _ = background.thread_unblock();
        }
    }
}
