//! The configuration of `onward serve`: defaults, then a file, then `ONWARD__SECTION__KEY`, then flags.
//!
//! Owns one table of keys, from which the parser, `config show`, the example and `docs/configuration.md` come. Refuses unknown keys, also
//! in the environment, with the nearest name; keys that are designed and not built (C9); a value out of bounds; a secret given twice.

mod designed;
mod items;
mod keys;
mod read;
mod settings;
mod show;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::path::{Path, PathBuf};

use onward::Url;

pub use read::{Origin, Sources};
pub use settings::{ListedToken, Rate, Settings, Shutdown, TlsFiles};
pub use show::{Origins, Shown};

use keys::{KEYS, Key, Secrecy};
use read::Given;
use value::Value;

/// What is wrong with a configuration: all of it, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(Vec<String>);

impl ConfigError {
    /// Returns each problem.
    pub fn problems(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// A configuration that was read: each value, and where it came from.
#[derive(Debug)]
pub struct Configuration {
    settings: Settings,
    values: Vec<Held>,
    file: Option<PathBuf>,
}

struct Held {
    key: &'static Key,
    value: Value,
    origin: Origin,
}

impl Configuration {
    /// Reads all layers and checks each value for itself.
    ///
    /// # Errors
    /// Every problem that was found, with its place.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut layers = read::read(sources);
        let mut settings = Settings::default();
        let mut values = Vec::with_capacity(KEYS.len());
        let mut problems = std::mem::take(&mut layers.problems);
        for key in KEYS {
            let given = read::of(&layers, key);
            match take(key, &given, &mut settings) {
                Ok(value) => values.push(Held { key, value, origin: given.origin }),
                Err(wanted) => problems.push(format!("`{}` ({}) is {wanted}", key.name, given.origin.place())),
            }
        }
        if problems.is_empty() { Ok(Self { settings, values, file: layers.file }) } else { Err(ConfigError(problems)) }
    }

    /// Returns what it comes to.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the file that was read, if any.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Returns where a key's value came from; `None` for what is no key.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.iter().find(|held| held.key.name == key).map(|held| &held.origin)
    }
}

/// Sets a key; a variable that is TOML of the wrong kind may have been meant as plain text.
fn take(key: &Key, given: &Given, settings: &mut Settings) -> Result<Value, String> {
    match (key.set(settings, &given.value), &given.plain) {
        (Ok(()), _) => Ok(given.value.clone()),
        (Err(wanted), Some(plain)) => {
            let value = Value::Text(plain.clone());
            key.set(settings, &value).map(|()| value).map_err(|_| wanted)
        }
        (Err(wanted), None) => Err(wanted),
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} ({})", self.key.name, shown(self.key, &self.value), self.origin)
    }
}

/// Shows a value unless it is secret; of a URL only the password is.
fn shown(key: &Key, value: &Value) -> String {
    match (key.secrecy, value) {
        (Secrecy::Secret, Value::Text(text)) if key.name.ends_with(".url") => format!("\"{}\"", Url::from(text.as_str())),
        (Secrecy::Secret, Value::Text(text)) if !text.is_empty() => "\"***\"".to_owned(),
        _ => value.to_string(),
    }
}
