//! Showing the configuration: as a TOML file that reads back, as rows, and as the table of the documentation.

use std::fmt::Write as _;

use serde::Serialize;

use super::keys::{KEYS, Live, Secrecy};
use super::{Configuration, shown};

/// One key as `config show` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Section and name.
    pub key: &'static str,
    /// The value as TOML; `"***"` for a secret.
    pub value: String,
    /// Where it came from.
    pub origin: String,
    /// Whether a change acts while the server runs.
    pub live: bool,
}

impl Configuration {
    /// Returns every key with its value and origin, in the order of the documentation.
    pub fn rows(&self) -> Vec<Shown> {
        let row = |held: &super::Held| Shown {
            key: held.key.name,
            value: shown(held.key, &held.value),
            origin: held.origin.to_string(),
            live: held.key.live != Live::No,
        };
        self.values.iter().map(row).collect()
    }

    /// Writes every key as a TOML file, with the origin behind each if asked for.
    pub fn to_toml(&self, origins: Origins) -> String {
        let mut out = String::new();
        let mut open = "";
        for held in &self.values {
            let (section, name) = held.key.section();
            if section != open {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "{}[{section}]", if open.is_empty() { "" } else { "\n" });
                open = section;
            }
            let line = format!("{name} = {}", shown(held.key, &held.value));
            let _ = match origins {
                Origins::Shown => writeln!(out, "{line:<48} # {}", held.origin),
                Origins::Hidden => writeln!(out, "{line}"),
            };
        }
        out
    }

    /// Writes the table of `docs/configuration.md`.
    pub fn table() -> String {
        let mut out = "| key | default | a change acts | what it does |\n|---|---|---|---|\n".to_owned();
        for key in KEYS {
            let live = match key.live {
                Live::No => "at the next start",
                Live::Yes(how) => how,
            };
            let secret = if key.secrecy == Secrecy::Secret { " Secret; also as a file that `KEY_file` names." } else { "" };
            let _ = writeln!(out, "| `{}` | `{}` | {live} | {}{secret} |", key.name, key.default, key.effect);
        }
        out
    }
}

/// Whether to show where values came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Behind each value.
    Shown,
    /// Not at all.
    Hidden,
}
