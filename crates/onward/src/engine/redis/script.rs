//! Scripts: several commands in one step, sent by their hash.

use std::sync::LazyLock;

use redis::{Cmd, ErrorKind, FromRedisValue, ServerErrorKind};

use super::connection::Link;
use super::error::{Sent, of_call};
use crate::Result;

/// Room for the digits of a number of keys.
const NUMBER: usize = 20;

/// A script, known to the server by the hash of its text.
pub(super) struct Script(LazyLock<redis::Script>, &'static str);

impl Script {
    /// Makes a script of its text; `make` hashes it at its first use.
    pub(super) const fn new(text: &'static str, make: fn() -> redis::Script) -> Self {
        Self(LazyLock::new(make), text)
    }

    /// Carries out one step on a link; a server that does not know the script is sent its text, once.
    ///
    /// # Errors
    /// As [`Link::send`]; what the script's commands answer has [`Effect::Unknown`](crate::Effect::Unknown), unless nothing was done.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        link: &Link,
        keys: &[impl AsRef<[u8]> + Sync],
        args: &[impl AsRef<[u8]> + Sync],
    ) -> Result<T> {
        match link.send(&self.command("EVALSHA", self.0.get_hash(), keys, args)).await? {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                // Once in a server's life: what is boxed here need not be carried by every call.
                let answer = Box::pin(async { link.send(&self.command("EVAL", self.1, keys, args)).await }).await?;
                answer.map_err(|e| of_call(e, Sent::Steps))
            }
            answer => answer.map_err(|e| of_call(e, Sent::Steps)),
        }
    }

    /// Carries out one step on a link behind another command, in one way there and back, and returns both answers.
    ///
    /// # Errors
    /// As [`Script::run`].
    pub(super) async fn run_behind<F: FromRedisValue, T: FromRedisValue>(
        &self,
        first: Cmd,
        link: &Link,
        keys: &[impl AsRef<[u8]> + Sync],
        args: &[impl AsRef<[u8]> + Sync],
    ) -> Result<(Option<F>, T)> {
        let mut both = redis::pipe();
        both.add_command(first).add_command(self.command("EVALSHA", self.0.get_hash(), keys, args));
        match link.send_all(&both).await? {
            Ok((first, answer)) => Ok((Some(first), answer)),
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                Ok((None, Box::pin(self.run(link, keys, args)).await?))
            }
            Err(error) => Err(of_call(error, Sent::Steps)),
        }
    }

    /// Returns the hash of its text.
    pub(super) fn hash(&self) -> &str {
        self.0.get_hash()
    }

    /// Returns its text.
    pub(super) fn text(&self) -> &'static str {
        self.1
    }

    fn command(&self, verb: &str, script: &str, keys: &[impl AsRef<[u8]>], args: &[impl AsRef<[u8]>]) -> Cmd {
        let bytes: usize = keys.iter().map(|key| key.as_ref().len()).chain(args.iter().map(|arg| arg.as_ref().len())).sum();
        let mut command = Cmd::with_capacity(3 + keys.len() + args.len(), verb.len() + script.len() + NUMBER + bytes);
        command.arg(verb).arg(script).arg(keys.len());
        for key in keys {
            command.arg(key.as_ref());
        }
        for arg in args {
            command.arg(arg.as_ref());
        }
        command
    }
}

/// Makes a [`Script`] of the files that it is put together from.
macro_rules! script {
    ($($file:literal),+) => {{
        const TEXT: &str = concat!($(include_str!(concat!("scripts/", $file))),+);
        $crate::engine::redis::script::Script::new(TEXT, || redis::Script::new(TEXT))
    }};
}
pub(super) use script;
