//! The layers: defaults, then the file, then the environment, then flags; each value remembers where it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::designed::is_designed;
use super::keys::{self, KEYS, Key};
use super::value::Value;
use crate::nearest::nearest;

/// How names of variables begin.
const PREFIX: &str = "ONWARD__";
/// Longest file that is read.
const FILE_BYTES: u64 = 1 << 20;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// A variable of the environment.
    Env(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "file {}:{line}", path.display()),
            Origin::Env(name) => write!(f, "env {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

impl Origin {
    /// Where it stands, as messages have it.
    pub(super) fn place(&self) -> String {
        match self {
            Origin::Default => "default".to_owned(),
            Origin::File { path, line } => format!("{}:{line}", path.display()),
            Origin::Env(name) => name.clone(),
            Origin::Flag(flag) => (*flag).to_owned(),
        }
    }
}

/// Where the configuration comes from.
#[derive(Clone, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    places: Vec<PathBuf>,
    vars: Vec<(String, Option<String>)>,
    flags: Vec<(&'static str, &'static str, Value)>,
}

impl fmt::Debug for Sources {
    /// Names files and variables; what they hold may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.vars.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Sources").field("file", &self.file).field("places", &self.places).field("vars", &names).finish_non_exhaustive()
    }
}

impl Sources {
    /// Nothing but defaults.
    pub fn none() -> Self {
        Self::default()
    }

    /// What this process was given: the environment, and the first file there is of `./onward.toml`, the user's and the machine's.
    pub fn of_process() -> Self {
        let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let config = config.or_else(|| std::env::home_dir().map(|home| home.join(".config")));
        let mut places = vec![PathBuf::from("onward.toml")];
        places.extend(config.map(|config| config.join("onward/onward.toml")));
        places.push(PathBuf::from("/etc/onward/onward.toml"));
        let vars = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| name.starts_with(PREFIX))?;
            Some((name, value.into_string().ok()))
        });
        Self { places, vars: vars.collect(), ..Self::default() }
    }

    /// What a development server heeds: how it logs, from the environment; no file.
    pub(crate) fn of_dev() -> Self {
        let mut sources = Self::of_process();
        sources.places.clear();
        sources.vars.retain(|(name, _)| name.starts_with("ONWARD__OPS__LOG"));
        sources
    }

    /// Reads this file, which must be there, and looks for no other.
    #[must_use]
    pub fn with_file(mut self, path: PathBuf) -> Self {
        self.file = Some(path);
        self
    }

    /// Adds a variable, such as `ONWARD__STORE__URL`.
    #[must_use]
    pub fn with_var(mut self, name: &str, value: &str) -> Self {
        self.vars.push((name.to_owned(), Some(value.to_owned())));
        self
    }

    /// Takes a switch from a flag.
    #[must_use]
    pub fn with_switch(mut self, flag: &'static str, key: &'static str) -> Self {
        self.flags.push((flag, key, Value::Switch(true)));
        self
    }

    /// Takes texts from a flag; none leave the key alone.
    #[must_use]
    pub fn with_texts(mut self, flag: &'static str, key: &'static str, texts: &[String]) -> Self {
        if !texts.is_empty() {
            self.flags.push((flag, key, Value::List(texts.iter().cloned().map(Value::Text).collect())));
        }
        self
    }
}

/// A value that was given, with its origin. A variable may be meant as TOML or as plain text.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) plain: Option<String>,
    pub(super) origin: Origin,
}

/// What the layers come to: the winning value of each key that somebody gave.
#[derive(Default)]
pub(super) struct Layers {
    pub(super) file: Option<PathBuf>,
    pub(super) given: BTreeMap<&'static str, Given>,
    pub(super) problems: Vec<String>,
}

/// Reads all layers.
pub(super) fn read(sources: &Sources) -> Layers {
    let mut layers = Layers::default();
    if let Some(path) = sources.file.as_ref().or_else(|| sources.places.iter().find(|place| place.is_file())) {
        layers.read_file(path);
        layers.file = Some(path.clone());
    }
    layers.read_env(&sources.vars);
    for (flag, key, value) in &sources.flags {
        let given = Given { value: value.clone(), plain: None, origin: Origin::Flag(flag) };
        layers.given.insert(key, given);
    }
    layers
}

impl Layers {
    fn problem(&mut self, message: String) {
        self.problems.push(message);
    }

    fn read_file(&mut self, path: &Path) {
        let text = match small_text(path) {
            Ok(text) => text,
            Err(why) => return self.problem(format!("{}: {why}", path.display())),
        };
        let at = |from: usize| {
            let line = 1 + text.bytes().take(from).filter(|byte| *byte == b'\n').count();
            Origin::File { path: path.to_owned(), line }
        };
        match DeTable::parse(&text) {
            Ok(table) => {
                let mut layer = BTreeMap::new();
                self.walk("", table.get_ref(), &at, &mut layer);
                self.given.append(&mut layer);
            }
            // The parser's message names what it wanted; the line itself may hold a secret and is not repeated.
            Err(error) => {
                let place = at(error.span().map_or(0, |span| span.start)).place();
                self.problem(format!("{place}: {}", error.message()));
            }
        }
    }

    fn walk(&mut self, prefix: &str, table: &DeTable<'_>, at: &impl Fn(usize) -> Origin, layer: &mut BTreeMap<&'static str, Given>) {
        for (name, value) in table {
            let path = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
            let origin = at(name.span().start);
            match value.get_ref() {
                DeValue::Table(inner) if keys::is_section(&path) => self.walk(&path, inner, at, layer),
                other => match Value::from_toml(other) {
                    Some(value) => self.take(&path, Given { value, plain: None, origin }, layer),
                    None => self.problem(format!("`{path}` ({}) is a date or a fraction, which no key is", origin.place())),
                },
            }
        }
    }

    fn read_env(&mut self, vars: &[(String, Option<String>)]) {
        let mut layer = BTreeMap::new();
        for (name, text) in vars {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let origin = Origin::Env(name.clone());
            match text {
                None => self.problem(format!("{name} is not UTF-8")),
                // Empty is unset.
                Some(text) if text.is_empty() => {}
                Some(text) => {
                    let path = rest.to_ascii_lowercase().replace("__", ".");
                    let value = Value::parse(text).unwrap_or_else(|| Value::Text(text.clone()));
                    self.spread(&path, &value, text, &origin, &mut layer);
                }
            }
        }
        self.given.append(&mut layer);
    }

    /// Takes a variable; one that holds a whole section is taken key by key.
    fn spread(&mut self, path: &str, value: &Value, text: &str, origin: &Origin, layer: &mut BTreeMap<&'static str, Given>) {
        match value {
            Value::Table(members) if keys::is_section(path) => {
                for (name, value) in members {
                    self.spread(&format!("{path}.{name}"), value, "", origin, layer);
                }
            }
            value => {
                let plain = Some(text.to_owned()).filter(|text| !text.is_empty());
                self.take(path, Given { value: value.clone(), plain, origin: origin.clone() }, layer);
            }
        }
    }

    /// Puts a value into its layer.
    fn take(&mut self, path: &str, given: Given, layer: &mut BTreeMap<&'static str, Given>) {
        let place = given.origin.place();
        let (key, given) = match (keys::find(path), keys::find_by_file(path)) {
            (Some(key), _) => (key, given),
            (None, Some(key)) => match from_file(&given) {
                Ok(value) => (key, Given { value, plain: None, origin: given.origin }),
                Err(why) => return self.problem(format!("`{path}` ({place}): {why}")),
            },
            (None, None) => return self.unknown(path, &place),
        };
        if let Some(other) = layer.insert(key.name, given) {
            let other = other.origin.place();
            self.problem(format!("`{0}` and `{0}_file` are both set ({other} and {place}): one of them goes", key.name));
        }
    }

    fn unknown(&mut self, path: &str, place: &str) {
        if is_designed(path) {
            return self.problem(format!("`{path}` ({place}) is not built in this version: take it out"));
        }
        if keys::is_section(path) {
            return self.problem(format!("`{path}` ({place}) is a section: its keys stand below it"));
        }
        let near = nearest(path, KEYS.iter().map(|key| key.name));
        let hint = near.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default();
        self.problem(format!("unknown key `{path}` ({place}){hint}"));
    }
}

/// Reads the file that holds a secret.
fn from_file(given: &Given) -> Result<Value, String> {
    let path = given.plain.as_deref().map_or_else(|| given.value.text(), Ok)?;
    let path = Path::new(path);
    // Whoever may write it could plant a secret. That others may read it is how containers are given theirs.
    if std::fs::metadata(path).is_ok_and(|file| std::os::unix::fs::MetadataExt::mode(&file) & 0o022 != 0) {
        return Err("may be written by others than its owner: chmod go-w".to_owned());
    }
    small_text(path).map(|text| Value::Text(text.trim().to_owned()))
}

fn small_text(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|e| format!("cannot be read: {e}"))?.len();
    if size > FILE_BYTES {
        return Err("is above 1 MiB".to_owned());
    }
    std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"))
}

/// Returns the value of a key, as somebody gave it or by default.
pub(super) fn of(layers: &Layers, key: &Key) -> Given {
    layers.given.get(key.name).cloned().unwrap_or_else(|| Given { value: key.default_value(), plain: None, origin: Origin::Default })
}
