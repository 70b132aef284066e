//! The command under the lock: its own process group, its end, and what dies with us.
//!
//! On Linux it is started through a shim, this very binary under another name, which asks the kernel for a SIGKILL when its parent
//! dies, checks that the parent still lives, closes what was left open, and then becomes the command. After a SIGKILL of ours grandchildren can run on: that is
//! what `ONWARD_FENCE` is for.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// The name under which this binary is the shim.
pub(crate) const SHIM: &str = "onward-lock-child";

/// Exit codes of a command that cannot be run, as shells have them.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// A running command.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    pid: Pid,
}

/// What became of the command since the last look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It runs, or is stopped.
    Alive,
    /// Somebody pressed Ctrl-Z.
    StoppedByTerminal,
    /// It ended; it is not reaped yet, so its group still is its own.
    Ended,
}

impl Running {
    /// Starts the command in its own process group. Call it on the main thread: the death signal follows the thread.
    pub(super) fn start(command: &[OsString], env: &[(&str, String)], without: &[&str]) -> io::Result<Self> {
        let Some((program, args)) = command.split_first() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let mut start = if cfg!(target_os = "linux") {
            let mut start = Command::new("/proc/self/exe");
            start.arg0(SHIM).arg(std::process::id().to_string()).arg(program);
            start
        } else {
            Command::new(program)
        };
        start.args(args).process_group(0);
        without.iter().for_each(|name| {
            start.env_remove(name);
        });
        let child = start.envs(env.iter().map(|(name, value)| (name, value))).spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { child, pid })
    }

    /// Returns the process, which also is its group.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Looks whether it has ended, without reaping it.
    pub(super) fn look(&self) -> State {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if matches!(rustix::process::waitid(WaitId::Pid(self.pid), options), Ok(Some(_))) {
            return State::Ended;
        }
        match rustix::process::waitid(WaitId::Pid(self.pid), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) if status.stopping_signal() == Some(Signal::TSTP.as_raw()) => State::StoppedByTerminal,
            _ => State::Alive,
        }
    }

    /// Sends a signal to the whole group. A group without processes has ended: nothing to tell.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = rustix::process::kill_process_group(self.pid, signal);
    }

    /// Reaps it and returns its exit code: 128 + N for signal N.
    pub(super) fn reap(mut self) -> u8 {
        use std::os::unix::process::ExitStatusExt as _;
        let Ok(status) = self.child.wait() else { return super::run::OURS };
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
    }
}

/// Becomes the command; returns only if that is impossible.
pub(crate) fn become_command(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let parent = args.next().and_then(|pid| pid.to_str()?.parse::<i32>().ok());
    let (Some(parent), Some(program)) = (parent, args.next()) else { return ExitCode::from(super::run::OURS) };
    #[cfg(target_os = "linux")]
    {
        let set = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        // The parent may have died before the kernel was asked.
        let lives = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) == Some(parent);
        if set.is_err() || !lives {
            return ExitCode::from(super::run::OURS);
        }
    }
    close_inherited();
    let error = Command::new(&program).args(args).exec();
    eprintln!("onward: cannot run {}: {error}", crate::output::plain(&program.to_string_lossy()));
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
}

/// Closes what our own caller left open: the command gets the three standard files only.
fn close_inherited() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<i32> = open.flatten().filter_map(|fd| fd.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // The folder that was just read is among them, and closed already.
        let _ = nix::unistd::close(number);
    }
}
