//! How far long work is: a bar on a terminal, once it has lasted a second.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use onward::time::{Clock, Moment};

/// What lasts less needs no bar; and the time between two lines.
const PERIOD: Duration = Duration::from_secs(1);
/// How often a bar is drawn at most, a second.
const DRAWN: u8 = 4;

/// When to show how far long work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// On a terminal, once the work has lasted a second
    Auto,
    /// Always; as lines where there is no terminal
    Always,
    /// Never
    Never,
}

/// A bar on stderr, or nothing.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    unit: &'static str,
    clock: Clock,
    /// When something is shown next.
    due: Moment,
    how: How,
}

/// How it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Bar,
    /// A line a second, where there is no terminal.
    Lines,
    Hidden,
}

impl Progress {
    /// Begins work that is counted in `unit`, such as `rows`.
    pub(crate) fn begin(when: When, unit: &'static str) -> Self {
        let how = match when {
            When::Never => How::Hidden,
            When::Auto | When::Always if stderr().is_terminal() => How::Bar,
            When::Auto => How::Hidden,
            When::Always => How::Lines,
        };
        let clock = Clock::system();
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        let line = format!("{{wide_bar}} {{human_pos}}/{{human_len}} {unit}  {{per_sec}}  {{eta}} left");
        // A line that cannot be read leaves the bar as it is by default.
        if let Ok(style) = ProgressStyle::with_template(&line) {
            bar.set_style(style);
        }
        let due = if when == When::Always { clock.now() } else { clock.now() + PERIOD };
        Self { bar, unit, clock, due, how }
    }

    /// Tells how much is done of all; 0 for all: nobody knows yet.
    pub(crate) fn at(&mut self, done: u64, all: u64) {
        self.bar.set_length(all.max(done));
        self.bar.set_position(done);
        let now = self.clock.now();
        if now < self.due || all == 0 {
            return;
        }
        match self.how {
            How::Bar if self.bar.is_hidden() => self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWN)),
            How::Lines => {
                // Talk that nobody hears is no failure.
                let _ = writeln!(stderr(), "{done}/{all} {}", self.unit);
                self.due = now + PERIOD;
            }
            How::Bar | How::Hidden => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
