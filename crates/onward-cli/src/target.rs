//! Which server or engine a command speaks to, and with which token.
//!
//! `--url`, else `ONWARD_URL`, else a running `onward dev`; for locks at last a SQLite file in the user's data folder, so that
//! `onward lock run` works on a bare machine. An engine URL is served in this process: one code path for both.

use std::path::{Path, PathBuf};
use std::time::Duration;

use onward_api::client::Client;

use crate::failure::{Failure, Result};
use crate::local;

/// What the command line and the environment say about the target.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// A server or an engine.
    pub(crate) url: Option<String>,
    /// A file with the token.
    pub(crate) token_file: Option<PathBuf>,
    /// A file with the certificates to trust instead of the machine's.
    pub(crate) ca_file: Option<PathBuf>,
    /// How long a request may take.
    pub(crate) timeout: Duration,
}

/// What to do when nothing names a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// Refuse and name the ways out.
    Refuse,
    /// Use the SQLite file in the user's data folder.
    OwnFile,
}

impl Target {
    /// Makes a client of the target.
    ///
    /// # Errors
    /// Exit 2: there is no target, or its URL or token is malformed.
    pub(crate) async fn client(&self, otherwise: Otherwise) -> Result<Client> {
        let client = match &self.url {
            Some(url) if is_server(url) => {
                let found = onward_server::running().filter(|dev| dev.url == url.trim_end_matches('/'));
                let token = self.token()?.or(found.map(|dev| dev.token));
                match &self.ca_file {
                    Some(ca) => Client::connect_trusting(url, token.as_deref(), ca),
                    None => Client::connect(url, token.as_deref()),
                }?
            }
            Some(url) => local::open(url).await?,
            None => match onward_server::running() {
                Some(dev) => Client::connect(&dev.url, Some(&self.token()?.unwrap_or(dev.token)))?,
                None if otherwise == Otherwise::OwnFile => local::open(&own_file()?).await?,
                None => {
                    return Err(Failure::usage(
                        "no server is named and no `onward dev` runs: start one, give --url, or set ONWARD_URL (an engine such as sqlite:./app.db works too)",
                    ));
                }
            },
        };
        Ok(client.with_timeout(self.timeout))
    }

    fn token(&self) -> Result<Option<String>> {
        if let Some(path) = &self.token_file {
            let text = std::fs::read_to_string(path)
                .map_err(|e| Failure::usage(format_args!("cannot read the token file {}: {e}", path.display())))?;
            return Ok(Some(text.trim().to_owned()));
        }
        Ok(std::env::var("ONWARD_TOKEN").ok().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()))
    }
}

/// Names the certificates to trust in the URL of an engine that speaks TLS and names none itself.
pub(crate) fn trusting(url: &str, ca: Option<&Path>) -> String {
    let named = match url.split_once("://") {
        Some(("rediss" | "rediss+cluster", rest)) if !rest.contains("ca=") => "ca",
        Some(("postgres" | "postgresql", rest)) if !rest.contains("sslrootcert=") => "sslrootcert",
        _ => return url.to_owned(),
    };
    match ca {
        Some(ca) => format!("{url}{}{named}={}", if url.contains('?') { '&' } else { '?' }, ca.display()),
        None => url.to_owned(),
    }
}

/// Tells a server's URL from an engine's.
pub(crate) fn is_server(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

/// Tells whether a URL names a server that is not on this machine.
pub(crate) fn is_elsewhere(url: &str) -> bool {
    let host = url.split_once("://").map(|(_, rest)| rest.split(['/', '?']).next().unwrap_or(rest));
    let loopback = |host: &str| {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    is_server(url) && !host.is_some_and(loopback)
}

fn own_file() -> Result<String> {
    use std::os::unix::fs::DirBuilderExt as _;
    let set = |name: &str| std::env::var_os(name).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    let Some(folder) = data.map(|dir| dir.join("onward")) else {
        return Err(Failure::usage("HOME is not set, so there is no place for locks: give --url"));
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|e| Failure::usage(format_args!("cannot make {}: {e}; give --url", folder.display())))?;
    Ok(format!("sqlite:{}", folder.join("onward.db").display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_to_trust_go_into_the_url_of_an_engine_once() {
        let trusting = |url| trusting(url, Some(Path::new("/a/ca.pem")));
        assert_eq!(trusting("rediss://h:1/2"), "rediss://h:1/2?ca=/a/ca.pem");
        assert_eq!(trusting("rediss+cluster://h"), "rediss+cluster://h?ca=/a/ca.pem");
        assert_eq!(trusting("rediss://h?cluster=true"), "rediss://h?cluster=true&ca=/a/ca.pem");
        assert_eq!(trusting("postgres://h/d?sslmode=verify-full"), "postgres://h/d?sslmode=verify-full&sslrootcert=/a/ca.pem");
        for unchanged in ["redis://h", "sqlite:a.db", "rediss://h?ca=/b.pem", "postgres://h/d?sslrootcert=/b.pem"] {
            assert_eq!(trusting(unchanged), unchanged);
        }
    }

    #[test]
    fn only_a_server_of_another_machine_is_elsewhere() {
        for here in ["http://127.0.0.1:7337", "http://localhost", "http://[::1]:80/", "sqlite:./a.db", "memory:"] {
            assert!(!is_elsewhere(here), "{here}");
        }
        for there in ["http://10.0.0.1:7337", "https://onward.example", "http://127.0.0.1.example/"] {
            assert!(is_elsewhere(there), "{there}");
        }
    }
}
