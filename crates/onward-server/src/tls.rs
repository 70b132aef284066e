//! TLS by rustls: 1.2 and 1.3, the ring provider passed explicitly, and a certificate that is read again while the server runs.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, ServerConfig};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

use crate::expiry::not_after;
use crate::metrics::Metrics;

/// The server's end of TLS. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tls(Arc<Inner>);

struct Inner {
    cert: PathBuf,
    key: PathBuf,
    current: Arc<Current>,
    config: Arc<ServerConfig>,
    /// What the files held when they were looked at last, good or bad.
    seen: Mutex<[u8; 32]>,
}

/// The pair that new connections get.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

/// What a look at the files came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// They hold what they held.
    Same,
    /// A new pair serves from now on.
    Taken,
    /// They do not go; the old pair stays.
    Kept(String),
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({})", self.0.cert.display())
    }
}

impl Tls {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    /// A file that cannot be read, holds something else, or a key of another certificate.
    pub(crate) fn open(cert: PathBuf, key: PathBuf) -> Result<Self, String> {
        let files = read(&cert, &key)?;
        let current = Arc::new(Current(RwLock::new(Arc::new(pair(&files)?))));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|e| e.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(Inner { cert, key, current, config: Arc::new(config), seen: Mutex::new(files.digest()) })))
    }

    /// Looks at the files again; what does not go is told once and changes nothing.
    pub(crate) fn look(&self) -> Looked {
        let Inner { cert, key, current, seen, .. } = &*self.0;
        let (digest, pair) = match read(cert, key) {
            Ok(files) => (files.digest(), pair(&files)),
            // A digest that no files have: the next good ones differ from it.
            Err(why) => ([0; 32], Err(why)),
        };
        if std::mem::replace(&mut *seen.lock(), digest) == digest {
            return Looked::Same;
        }
        match pair {
            Ok(pair) => {
                *current.0.write() = Arc::new(pair);
                Looked::Taken
            }
            Err(why) => Looked::Kept(why),
        }
    }

    /// Tells the metrics until when the certificate is good.
    pub(crate) fn tell(&self, metrics: &Metrics) {
        let pair = self.0.current.0.read().clone();
        if let Some(seconds) = pair.cert.first().and_then(|cert| not_after(cert)) {
            metrics.tls_expires(seconds);
        }
    }

    /// Returns what takes a connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.config.clone())
    }
}

/// The bytes of both files.
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn digest(&self) -> [u8; 32] {
        Sha256::new().chain_update(Sha256::digest(&self.cert)).chain_update(&self.key).finalize().into()
    }
}

fn read(cert: &PathBuf, key: &PathBuf) -> Result<Files, String> {
    let file = |path: &PathBuf| std::fs::read(path).map_err(|e| format!("{} cannot be read: {e}", path.display()));
    Ok(Files { cert: file(cert)?, key: file(key)? })
}

fn pair(files: &Files) -> Result<CertifiedKey, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&files.cert).collect::<Result<_, _>>().map_err(|_| "the certificate is not PEM")?;
    if chain.is_empty() {
        return Err("the certificate's file holds no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|_| "the key's file holds no private key as PEM")?;
    let wrong = |error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => "the key is that of another certificate".to_owned(),
        error => format!("certificate and key do not go: {error}"),
    };
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(wrong)
}
