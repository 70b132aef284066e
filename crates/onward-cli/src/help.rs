//! `onward help`, `onward completions` and `onward man`: what is made from the table of commands and the table of codes.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use onward_api::Code;

use crate::args::{Cli, EXIT_CODES};
use crate::failure::{Failure, Result};
use crate::output::{Format, Out};

/// The exit codes and what each one tells a script to do.
const EXITS: &[(u8, &str)] = &[
    (0, "done"),
    (1, "failed; of `audit verify`, `prove` and `bench`: the answer is bad"),
    (2, "usage: the call itself must be mended; of `audit verify`: no verdict could be reached"),
    (3, "conflict: somebody changed it; read again, then decide"),
    (4, "not found, or a miss"),
    (5, "busy: somebody holds it, or a bound is reached; try later"),
    (6, "the lease is lost, or a newer holder fenced this one out: stop"),
    (8, "unreachable, or nobody knows whether it happened: ask again with the same request id"),
    (9, "not allowed: no token, a wrong one, or too small a role"),
    (130, "Ctrl-C"),
];

/// The exit codes that `lock run` has beside those of its command.
const LOCK_RUN: &[(u8, &str)] = &[
    (75, "somebody else holds the lock; the command did not start"),
    (120, "the lease was lost while the command ran; the command was ended"),
    (125, "the lock could not be asked for; the command did not start"),
    (126, "the command cannot be run"),
    (127, "the command was not found"),
];

const KEYS: &str = "\
A lock key is 1 to 512 bytes of text, taken as it is: `nightly`, `billing/2026-11`. `onward:` at the front is ours.
An object is KIND/NAME: the kind is one word (`project`), the name may have slashes (`eu/42`); --namespace tells equal names apart.
A cached value is NAMESPACE KEY, and may have fields (--field). A chain is one word of [a-z0-9._-]; `onward.` at the front is ours.
Names are compared byte by byte: no folding of case, no normal form. Two spellings of one letter are two keys.
In a URL a key that holds more than letters, digits and ._:@=+,/- is written as ~ and the base64url of its bytes; this command does so.
";

/// What can be explained beside the commands.
const TOPICS: &[&str] = &["exit-codes", "keys"];

/// Explains a command or a topic.
#[derive(Args, Debug)]
#[command(before_help = "Examples:\n  onward help lock run\n  onward help exit-codes\n  onward help keys\n")]
pub(crate) struct Help {
    /// A command such as `lock run`, or exit-codes, or keys
    #[arg(value_name = "COMMAND|TOPIC")]
    words: Vec<String>,
}

/// Writes what a shell needs to complete commands and flags.
#[derive(Args, Debug)]
#[command(before_help = "Examples:\n  onward completions bash > /etc/bash_completion.d/onward\n  onward completions zsh > ~/.zfunc/_onward\n  onward completions fish > ~/.config/fish/completions/onward.fish\n", after_help = EXIT_CODES)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// Writes the manual pages.
#[derive(Args, Debug)]
#[command(before_help = "Examples:\n  onward man | man -l -\n  onward man /usr/local/share/man/man1\n  onward man ./man\n", after_help = EXIT_CODES)]
pub(crate) struct Man {
    /// The folder for a page a command; made if it is not there. Without it the first page goes to stdout
    folder: Option<PathBuf>,
}

impl Help {
    pub(crate) fn run(self, out: &Out) -> Result<()> {
        match self.words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["exit-codes"] => out.bytes(exit_codes().as_bytes()),
            ["keys"] => out.bytes(KEYS.as_bytes()),
            ref words => out.bytes(of_command(words)?.as_bytes()),
        }
    }
}

impl Completions {
    pub(crate) fn run(self, out: &Out) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "onward", &mut script);
        out.bytes(&script)
    }
}

impl Man {
    pub(crate) fn run(self, out: &Out) -> Result<()> {
        let page = |command: &Command| -> Result<Vec<u8>> {
            let mut page = Vec::new();
            clap_mangen::Man::new(command.clone()).render(&mut page).map_err(|e| Failure::io("cannot write the page", &e))?;
            Ok(page)
        };
        let mut all = Cli::command();
        all.build();
        let Some(folder) = self.folder else { return out.bytes(&page(&all)?) };
        let failed = |e: io::Error| Failure::io(format_args!("cannot write to {}", folder.display()), &e);
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let mut left = vec![("onward".to_owned(), &all)];
        let mut pages = 0;
        while let Some((name, command)) = left.pop() {
            let titled = command.clone().display_name(&name);
            std::fs::write(folder.join(format!("{name}.1")), page(&titled)?).map_err(failed)?;
            pages += 1;
            let shown = command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help");
            left.extend(shown.map(|inner| (format!("{name}-{}", inner.get_name()), inner)));
        }
        match out.format() {
            Format::Table => out.say(format_args!("{pages} pages in {}", folder.display())),
            Format::Json | Format::Jsonl => out.line(&serde_json::json!({"pages": pages, "folder": folder}).to_string())?,
        }
        Ok(())
    }
}

/// The long help of the command that these words name.
fn of_command(words: &[&str]) -> Result<String> {
    let mut command = &mut Cli::command();
    command.build();
    for word in words {
        let names: Vec<String> = command.get_subcommands().filter(|c| !c.is_hide_set()).map(|c| c.get_name().to_owned()).collect();
        command = command.find_subcommand_mut(word).ok_or_else(|| {
            Failure::usage(format_args!("there is no `{word}`; there is {}, and the topics {}", names.join(", "), TOPICS.join(", ")))
        })?;
    }
    Ok(command.render_long_help().to_string())
}

/// Every exit code, with the codes of the API that end in it.
fn exit_codes() -> String {
    let mut text = String::new();
    for (exit, meaning) in EXITS {
        let codes: Vec<&str> = Code::ALL.iter().filter(|code| code.exit() == *exit).map(|code| code.as_str()).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{exit:>3}  {meaning}");
        for line in codes.chunks(5) {
            let _ = writeln!(text, "       {}", line.join(" "));
        }
    }
    let _ = writeln!(text, "\n`onward lock run` ends with its command's own code (128 + N if signal N killed it), or with\n");
    for (exit, meaning) in LOCK_RUN {
        let _ = writeln!(text, "{exit:>3}  {meaning}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_api_has_an_exit_code_that_is_explained() {
        for code in Code::ALL {
            assert!(EXITS.iter().any(|(exit, _)| *exit == code.exit()), "{code} ends in {}", code.exit());
        }
        let text = exit_codes();
        assert!(Code::ALL.iter().all(|code| text.contains(code.as_str())));
    }

    #[test]
    fn every_command_that_is_shown_opens_its_help_with_three_examples() {
        let mut all = Cli::command();
        all.build();
        let mut left = vec![&all];
        while let Some(command) = left.pop() {
            let shown = command.get_subcommands().filter(|inner| !inner.is_hide_set()).collect::<Vec<_>>();
            if shown.is_empty() && command.get_name() != "help" {
                let examples = command.get_before_help().map(ToString::to_string).unwrap_or_default();
                assert!(examples.matches("onward ").count() >= 3, "{}: {examples}", command.get_name());
            }
            left.extend(shown);
        }
    }
}
