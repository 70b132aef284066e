//! Archives in a bucket of S3, or of what speaks like it: MinIO, Ceph, R2.
//!
//! `s3://BUCKET/PREFIX`, with `endpoint`, `region` and `insecure` as parameters. Who we are comes from the `AWS_*` environment, as for
//! other programs: a key there, a web identity, a container's or a machine's role. Nothing of that stands in a URL or is printed.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};

use super::transport::Connector;
use crate::{Error, Result};

/// How often a request is sent again, and for how long.
const RETRIES: (usize, Duration) = (3, Duration::from_secs(30));

/// What a URL says.
pub(super) struct Place<'a> {
    bucket: &'a str,
    prefix: Path,
    endpoint: Option<&'a str>,
    region: Option<&'a str>,
    insecure: bool,
}

/// Reads a URL.
pub(super) fn read(url: &str) -> Result<Place<'_>> {
    let shape = || Error::invalid("the URL of an archive on S3 is s3://BUCKET/PREFIX?endpoint=URL&region=NAME");
    let rest = url.strip_prefix("s3://").ok_or_else(shape)?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if rest.contains('@') {
        return Err(Error::invalid("the URL of an archive carries no credentials: they come from AWS_ACCESS_KEY_ID and its like"));
    }
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) {
        return Err(Error::invalid("a bucket has 3 to 63 characters of a-z, 0-9, dot and hyphen"));
    }
    let prefix = Path::parse(prefix).map_err(|_| Error::invalid("the prefix in the URL of an archive is a path, such as audit/eu"))?;
    let mut place = Place { bucket, prefix, endpoint: None, region: None, insecure: false };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("endpoint", at)) if at.starts_with("https://") || at.starts_with("http://") => place.endpoint = Some(at),
            Some(("endpoint", _)) => return Err(Error::invalid("the endpoint of an archive is https://HOST[:PORT] or http://HOST[:PORT]")),
            Some(("region", name)) if !name.is_empty() => place.region = Some(name),
            Some(("insecure", "true")) => place.insecure = true,
            _ => return Err(Error::invalid("the URL of an archive on S3 may say endpoint=URL, region=NAME and insecure=true")),
        }
    }
    Ok(place)
}

/// Opens a bucket; no I/O but the system's certificates.
pub(super) fn open(url: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Arc<dyn ObjectStore>> {
    let place = read(url)?;
    let mut builder = AmazonS3Builder::new();
    for (name, value) in environment {
        if name.starts_with("AWS_")
            && let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>()
        {
            builder = builder.with_config(key, value);
        }
    }
    // The URL wins, also over the variable that is for S3 alone.
    if let Some(endpoint) = place.endpoint {
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    if let Some(region) = place.region {
        builder = builder.with_region(region);
    }
    if place.insecure {
        builder = builder.with_allow_http(true);
    }
    let asked = |key: AmazonS3ConfigKey| builder.get_config_value(&key);
    let plain = asked(AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| asked(AmazonS3ConfigKey::Endpoint))
        .is_some_and(|endpoint| !endpoint.starts_with("https://"));
    if plain && asked(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)).as_deref() != Some("true") {
        return Err(Error::invalid("an endpoint of http:// shows every entry to the network: use https://, or add insecure=true"));
    }
    if asked(AmazonS3ConfigKey::AccessKeyId).is_some() != asked(AmazonS3ConfigKey::SecretAccessKey).is_some() {
        return Err(Error::invalid("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together: one of them is missing"));
    }
    let connector = Connector::new()?;
    if !plain && !connector.trusts() {
        return Err(Error::invalid("this machine has no root certificates, so https:// trusts nobody: set SSL_CERT_FILE"));
    }
    let store = builder
        .with_bucket_name(place.bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // One request a file: not everything that speaks S3 deletes many at once.
        .with_disable_bulk_delete(true)
        .with_retry(RetryConfig { max_retries: RETRIES.0, retry_timeout: RETRIES.1, ..RetryConfig::default() })
        .with_http_connector(connector)
        .build()
        .map_err(|_| Error::invalid("a variable of the AWS_* environment does not go"))?;
    Ok(if place.prefix.is_root() { Arc::new(store) } else { Arc::new(PrefixStore::new(store, place.prefix)) })
}
