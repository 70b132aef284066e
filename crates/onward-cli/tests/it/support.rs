//! A house of its own for each test: a folder, a server, and nothing of the caller's environment.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use tempfile::TempDir;

/// How long an event may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

const BINARY: &str = env!("CARGO_BIN_EXE_onward");

/// A folder with everything that a user's session has, and perhaps a running server.
pub(crate) struct Home {
    folder: TempDir,
    server: Option<Running>,
}

/// A process that ends with the test.
pub(crate) struct Running {
    child: Child,
    /// Its output as it comes; the end of it when every process that holds it is gone.
    lines: Receiver<String>,
    /// What was read on the way to the end.
    unread: String,
}

/// What a command said.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Home {
    /// A session without a server.
    pub(crate) fn bare() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), server: None }
    }

    /// A session with `onward dev`, which has told that it is ready.
    pub(crate) fn with_server() -> Self {
        let mut home = Self::bare();
        let mut server = home.start(home.command(&["dev", "--port", "0", "-o", "json"]).stderr(Stdio::null()));
        let ready = server.line();
        assert!(ready.starts_with('{'), "not ready: {ready}");
        std::fs::write(home.path("ready.json"), ready).unwrap();
        home.server = Some(server);
        home
    }

    /// The ready line's member.
    pub(crate) fn ready(&self, member: &str) -> String {
        let text = std::fs::read_to_string(self.path("ready.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()[member].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn server(&mut self) -> &mut Running {
        self.server.as_mut().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file with this content.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name).display().to_string()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        self.isolate(&mut command);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs another program to its end, as this session.
    pub(crate) fn other(&self, program: &str, args: &[&str]) -> Said {
        let mut command = Command::new(program);
        self.isolate(&mut command);
        finish(command.args(args).output().unwrap())
    }

    pub(crate) fn isolate(&self, command: &mut Command) {
        let runtime = self.path("run");
        make_private(&runtime);
        for name in [
            "ONWARD_URL",
            "ONWARD_TOKEN",
            "ONWARD_CA_FILE",
            "XDG_CONFIG_HOME",
            "ONWARD__AUDIT__KEY",
            "ONWARD__AUDIT__KEY_FILE",
            "ONWARD__LOCKS__ENABLED",
            "XDG_DATA_HOME",
            "NO_COLOR",
        ] {
            command.env_remove(name);
        }
        command.env("XDG_RUNTIME_DIR", runtime).env("HOME", self.folder.path()).current_dir(self.folder.path());
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Said {
        finish(self.command(args).output().unwrap())
    }

    /// Runs a command with this on stdin.
    pub(crate) fn pipe(&self, args: &[&str], input: &[u8]) -> Said {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        finish(child.wait_with_output().unwrap())
    }

    /// Runs a command that must end with this code; returns stdout.
    pub(crate) fn expect(&self, code: i32, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, Some(code), "{args:?}: {said:?}");
        said.text()
    }

    /// Starts a command whose output is read line by line.
    pub(crate) fn start(&self, command: &mut Command) -> Running {
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Running { child, lines, unread: String::new() }
    }
}

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "code {:?}\nout {}\nerr {}", self.code, self.text(), self.err)
    }
}

impl Said {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

impl Running {
    /// Waits for the next line; empty at the end.
    pub(crate) fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => String::new(),
            Err(RecvTimeoutError::Timeout) => panic!("nothing was said for {PATIENCE:?}"),
        }
    }

    /// Waits until every process that holds the output is gone; returns what was said.
    pub(crate) fn rest(&mut self) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.unread.push_str(&format!("{line}\n")),
                Err(RecvTimeoutError::Disconnected) => return std::mem::take(&mut self.unread),
                Err(RecvTimeoutError::Timeout) => panic!("the output is still open after {PATIENCE:?}"),
            }
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    /// Waits for the end; returns the exit code.
    pub(crate) fn code(&mut self) -> Option<i32> {
        self.unread = self.rest();
        self.child.wait().unwrap().code()
    }

    /// Waits for the end; returns what it said on stderr.
    pub(crate) fn complaints(&mut self) -> String {
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn finish(output: Output) -> Said {
    Said { code: output.status.code(), out: output.stdout, err: String::from_utf8_lossy(&output.stderr).into_owned() }
}

fn make_private(folder: &Path) {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).unwrap();
}
