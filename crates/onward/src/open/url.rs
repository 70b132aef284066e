//! Where a part is kept. A URL may hold a password, so its text is had by asking for it, never by printing.

use std::fmt;

/// The URL of what is in memory.
pub(super) const MEMORY: &str = "memory:";

/// The URL of an engine or an archive; `Display` and `Debug` hide its password.
///
/// What it may say is judged by who opens it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// Returns the text, with the password: to connect, never to show.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Tells whether it is this process's memory, which no other sees and which ends with it.
    pub fn is_memory(&self) -> bool {
        self.0 == MEMORY
    }

    /// Tells whether it is a folder of this machine.
    pub fn is_file(&self) -> bool {
        self.0.starts_with("file:")
    }
}

impl<T: Into<String>> From<T> for Url {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.0.split_once("://").and_then(|(scheme, rest)| {
            // A password may hold anything, also a slash, a colon or an at sign.
            let (user, host) = rest.rsplit_once('@')?;
            let (name, _) = user.split_once(':')?;
            Some(format!("{scheme}://{name}:***@{host}"))
        });
        for part in hidden.as_ref().unwrap_or(&self.0).split_inclusive(['?', '&']) {
            let shown = if part.starts_with("password=") { "password=***" } else { part };
            let more = if shown != part && part.ends_with('&') { "&" } else { "" };
            write!(f, "{shown}{more}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::Url;

    #[test]
    fn a_password_in_a_url_is_hidden() {
        for (url, shown) in [
            ("sqlite:./onward.db", "sqlite:./onward.db"),
            ("postgres://u@h/db", "postgres://u@h/db"),
            ("postgres://u:p:/@h:5432/db?sslmode=disable", "postgres://u:***@h:5432/db?sslmode=disable"),
            ("postgres://u:p?q@h:5432/db", "postgres://u:***@h:5432/db"),
            ("postgres://h/db?user=u&password=p", "postgres://h/db?user=u&password=***"),
            ("postgres://u@h/db?password=p&ca=/a@b", "postgres://u@h/db?password=***&ca=/a@b"),
            ("redis://:p@h", "redis://:***@h"),
            ("redis://:p@h,redis://:q@i", "redis://:***@i"),
        ] {
            assert_eq!(Url::from(url).to_string(), shown);
            assert_eq!(format!("{:?}", Url::from(url)), format!("Url({shown})"));
        }
    }
}
