//! What a URL says about a server.

use std::fmt;
use std::path::PathBuf;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, TlsCertificates};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::{Error, Result};

/// Where a Redis is and how to talk to it, as its URL says.
///
/// `redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]`; `rediss://` speaks TLS and trusts the machine's certificates, or those in
/// `?ca=FILE` (PEM). `redis+cluster://`, `rediss+cluster://` and `?cluster=true` name one node of a cluster. `Debug` shows no password.
#[derive(Clone)]
pub struct Address {
    info: ConnectionInfo,
    shape: Shape,
    ca: Option<PathBuf>,
}

/// What stands behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Single,
    Cluster,
}

/// What is spoken on the way to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Plain,
    Tls,
}

const FORM: &str = "a Redis URL is redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE][?ca=FILE&cluster=true], or begins with rediss:// for TLS";

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid): it has another form; the message never shows it, since it may hold a password.
    pub fn parse(url: &str) -> Result<Self> {
        let wrong = || Error::invalid(FORM);
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let (scheme, mut shape) = match scheme {
            "redis" | "rediss" => (scheme, Shape::Single),
            "redis+cluster" => ("redis", Shape::Cluster),
            "rediss+cluster" => ("rediss", Shape::Cluster),
            _ => return Err(wrong()),
        };
        // A fragment could only weaken TLS.
        if rest.contains('#') {
            return Err(wrong());
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut ca = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("cluster", "true")) => shape = Shape::Cluster,
                Some(("cluster", "false")) if shape == Shape::Single => {}
                Some(("ca", file)) if scheme == "rediss" && !file.is_empty() => ca = Some(PathBuf::from(file)),
                _ => return Err(wrong()),
            }
        }
        let info = format!("{scheme}://{rest}").into_connection_info().map_err(|_| wrong())?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        // A request is small and somebody waits for it.
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        Ok(Self { info: info.set_redis_settings(settings).set_tcp_settings(tcp), shape, ca })
    }

    /// Tells whether a URL is meant for this engine, well-formed or not.
    pub fn is_meant(url: &str) -> bool {
        ["redis:", "rediss:", "redis+cluster:", "rediss+cluster:"].iter().any(|scheme| url.starts_with(scheme))
    }

    /// Tells whether it names a node of a cluster.
    pub fn is_cluster(&self) -> bool {
        self.shape == Shape::Cluster
    }

    /// Returns what is spoken on the way there.
    pub(super) fn speaks(&self) -> Speaks {
        match self.info.addr() {
            ConnectionAddr::TcpTls { .. } => Speaks::Tls,
            _ => Speaks::Plain,
        }
    }

    /// Returns what tells this address from others, without a password: `HOST:PORT/DATABASE`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.info.addr(), self.info.redis_settings().db())
    }

    /// Returns the address of another node of the same cluster; a node that does not know its own name is at this one's.
    pub(super) fn node(&self, host: &str, port: u16) -> Self {
        let named = |own: &str| if host.is_empty() { own.to_owned() } else { host.to_owned() };
        let at = match self.info.addr() {
            ConnectionAddr::TcpTls { host, insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host: named(host), port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            ConnectionAddr::Tcp(host, _) => ConnectionAddr::Tcp(named(host), port),
            other => other.clone(),
        };
        Self { info: self.info.clone().set_addr(at), ..self.clone() }
    }

    /// Returns what the client library needs to know.
    pub(super) fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Reads the certificates to trust instead of the machine's.
    pub(super) fn certificates(&self) -> Result<Option<TlsCertificates>> {
        let Some(path) = &self.ca else { return Ok(None) };
        let root = std::fs::read(path).map_err(|e| Error::invalid("the file that ca names cannot be read").with_source(e))?;
        // One that holds none would be found out late, as a server that nobody trusts.
        if !matches!(CertificateDer::pem_slice_iter(&root).next(), Some(Ok(_))) {
            return Err(Error::invalid("the file that ca names holds no certificate in PEM"));
        }
        Ok(Some(TlsCertificates { client_tls: None, root_cert: Some(root) }))
    }

    /// Makes a client; nothing is sent.
    pub(super) fn client(&self) -> Result<redis::Client> {
        let made = match self.certificates()? {
            Some(certificates) => redis::Client::build_with_tls(self.info.clone(), certificates),
            None => redis::Client::open(self.info().clone()),
        };
        made.map_err(|e| Error::invalid(FORM).with_source(e))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("at", &format_args!("{}", self.info.addr())).field("shape", &self.shape).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn every_form_is_read_and_hides_the_password() {
        let address = Address::parse("redis://me:s3cret@127.0.0.1:7000/2").unwrap();
        assert_eq!(address.info.redis_settings().db(), 2);
        assert!(address.info.tcp_settings().nodelay() && !address.is_cluster());
        assert_eq!(format!("{address:?}"), "Address { at: 127.0.0.1:7000, shape: Single }");
        for url in ["redis://h", "rediss://h:1?ca=/tmp/ca.pem", "redis://h/?cluster=false"] {
            assert!(!Address::parse(url).unwrap().is_cluster(), "{url}");
        }
        for url in ["redis+cluster://h", "rediss+cluster://h", "redis://h?cluster=true"] {
            assert!(Address::parse(url).unwrap().is_cluster(), "{url}");
        }
    }

    #[test]
    fn another_form_is_refused_without_showing_it() {
        let urls =
            ["redis:h", "redis://", "redis://:s3cret@", "rediss://h/#insecure", "redis://h?ca=/x", "redis://h?nodelay=1", "redis://h/x"];
        for url in urls {
            let error = Address::parse(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{url}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{url}");
        }
    }
}
