//! A URL to a server: where it is, and what it must prove before anything is said to it.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{Error, Result};

/// How long a connection may take to be made.
pub(super) const CONNECT: Duration = Duration::from_secs(3);
/// How long sent bytes may stay unanswered on a dead path before the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(10);

/// Reads a URL, and makes what checks the server's certificate.
///
/// `sslmode` is `disable` or `verify-full`, which `require` means as well: whoever asks for encryption gets a server that proved its name.
/// Without one, it is `disable` on this machine and `verify-full` elsewhere. `sslrootcert` names a file of certificates to trust instead of
/// the system's.
///
/// # Errors
/// [`Kind::Invalid`](crate::Kind::Invalid): not a URL of Postgres, or a file that cannot be read. `Unsupported`: a mode that might fall back
/// to plain text (C9).
pub(super) fn read(url: &str) -> Result<(Config, MakeRustlsConnect)> {
    let (rest, query) = url.split_once('?').unwrap_or((url, ""));
    let (ours, theirs): (Vec<_>, Vec<_>) = query.split('&').filter(|pair| !pair.is_empty()).partition(|pair| is_ours(pair));
    let plain = if theirs.is_empty() { rest.to_owned() } else { format!("{rest}?{}", theirs.join("&")) };
    // The driver's own words about a bad URL may quote its password.
    let mut config: Config = plain.parse().map_err(|_| Error::invalid("the URL is not one of postgres://"))?;
    if config.get_hosts().is_empty() {
        return Err(Error::invalid("the URL of a database names its host"));
    }
    let (mut mode, mut roots) = (None, None);
    for (name, value) in ours.iter().filter_map(|pair| pair.split_once('=')) {
        *(if *name == *"sslmode" { &mut mode } else { &mut roots }) = Some(decoded(value)?);
    }
    let encrypted = match mode.as_deref() {
        None => !config.get_hosts().iter().all(is_here),
        Some("disable") => false,
        Some("require" | "verify-full") => true,
        Some(_) => return Err(Error::unsupported("sslmode is disable or verify-full")),
    };
    config.ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable });
    if config.get_application_name().is_none() {
        config.application_name("onward");
    }
    config.connect_timeout(CONNECT).tcp_user_timeout(SILENCE);
    config.keepalives_idle(SILENCE).keepalives_interval(Duration::from_secs(3)).keepalives_retries(3);
    let roots = if encrypted { trusted(roots.as_deref())? } else { RootCertStore::empty() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::unsupported("this build cannot encrypt").with_source(e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((config, MakeRustlsConnect::new(tls)))
}

fn is_ours(pair: &str) -> bool {
    matches!(pair.split_once('='), Some(("sslmode" | "sslrootcert", _)))
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()),
        Host::Unix(_) => true,
    }
}

fn trusted(file: Option<&str>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            let cannot = |e| Error::invalid("sslrootcert names no file of certificates").with_source(e);
            for certificate in CertificateDer::pem_file_iter(file).map_err(cannot)? {
                roots.add(certificate.map_err(cannot)?).map_err(|e| Error::invalid("sslrootcert names no certificate").with_source(e))?;
            }
        }
        // What the system cannot read of its own store is not trusted.
        None => _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    }
    if roots.is_empty() { Err(Error::invalid("there is no certificate to trust: set sslrootcert")) } else { Ok(roots) }
}

/// Undoes the percent signs of a URL.
fn decoded(text: &str) -> Result<String> {
    let bad = || Error::invalid("a percent sign in the URL is followed by two hex digits");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let (digits, tail) = rest.split_at_checked(2).ok_or_else(bad)?;
            bytes.extend(hex::decode(digits).map_err(|_| bad())?);
            rest = tail;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str) -> Result<SslMode> {
        read(url).map(|(config, _)| config.get_ssl_mode())
    }

    #[test]
    fn plain_text_is_for_this_machine_or_by_order() {
        assert_eq!(mode("postgres://u@localhost/db").unwrap(), SslMode::Disable);
        assert_eq!(mode("postgres://u@[::1]:5433/db").unwrap(), SslMode::Disable);
        assert_eq!(mode("postgres://u@/db?host=/run/postgresql").unwrap(), SslMode::Disable);
        assert_eq!(mode("postgres://u@db.example/db?sslmode=disable").unwrap(), SslMode::Disable);
        let missing = mode("postgres://u@db.example/db?sslrootcert=%2Fno%2Fsuch%20file").unwrap_err();
        assert_eq!(missing.kind(), crate::Kind::Invalid);
    }

    #[test]
    fn a_mode_that_may_fall_back_is_refused() {
        for fallback in ["allow", "prefer", "verify-ca", "no"] {
            let refused = mode(&format!("postgres://u@localhost/db?sslmode={fallback}")).unwrap_err();
            assert_eq!(refused.kind(), crate::Kind::Unsupported);
        }
    }

    #[test]
    fn a_bad_url_is_refused_without_its_password() {
        for url in ["postgres://u:secret@", "postgres://u:secret@localhost:x/db", "postgres://u:secret@localhost/db?sslrootcert=%2"] {
            let refused = read(url).err().unwrap();
            assert_eq!(refused.kind(), crate::Kind::Invalid, "{url}");
            assert!(!format!("{refused:?}").contains("secret"), "{refused:?}");
        }
    }
}
