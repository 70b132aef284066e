//! Acts that cannot be taken back: why, a yes, and a look beforehand.

use std::fmt;
use std::io::{BufRead as _, IsTerminal as _, stderr, stdin};

use clap::Args;

use crate::failure::{Failure, Result};
use crate::output::Out;

/// What such an act needs.
#[derive(Args, Debug)]
pub(crate) struct Deed {
    /// Why; kept in the chain onward.admin
    #[arg(long, value_name = "TEXT", required_unless_present = "dry_run")]
    reason: Option<String>,
    /// Yes, do it
    #[arg(long)]
    yes: bool,
    /// Only show what it would be done to
    #[arg(long)]
    dry_run: bool,
}

impl Deed {
    /// Tells whether nothing is to be done, and says so.
    pub(crate) fn is_dry(&self, out: &Out) -> bool {
        if self.dry_run {
            out.say(format_args!("nothing was done; this is what stands there now"));
        }
        self.dry_run
    }

    /// Returns why.
    pub(crate) fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or_default()
    }

    /// Goes on if the person said yes, or says so now at the terminal.
    ///
    /// # Errors
    /// Exit 2: nobody said yes.
    pub(crate) fn confirm(&self, out: &Out, what_happens: fmt::Arguments<'_>) -> Result<()> {
        if self.yes || asked(out, what_happens) {
            return Ok(());
        }
        Err(Failure::usage(format_args!("{what_happens}: look with --dry-run, then say --yes")))
    }
}

/// Asks the person at the terminal; without one the answer is no.
fn asked(out: &Out, what_happens: fmt::Arguments<'_>) -> bool {
    if !stdin().is_terminal() || !stderr().is_terminal() {
        return false;
    }
    out.warn(format_args!("{what_happens}. Go on? [y/N]"));
    let mut line = String::new();
    let read = stdin().lock().read_line(&mut line);
    read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes")
}
