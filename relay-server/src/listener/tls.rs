//! Certificates for the public door.

use std::{path::Path, sync::Arc};

use rustls::{ServerConfig, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or holds no PEM of the right kind.
    #[error("cannot read {what} from {path}: {detail}")]
    Read {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Certificate and key do not fit together, or are of a kind that is not supported.
    #[error("the TLS certificate and key cannot be used together: {0}")]
    Unusable(#[from] rustls::Error),
}

/// Reads a certificate chain and its key (PEM) for HTTP/1.1 over TLS 1.2 and 1.3.
///
/// # Errors
///
/// [`TlsError`]: tell the operator which file is wrong, and stop.
pub fn load(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let unreadable = |what, path: &Path, error: &dyn std::fmt::Display| TlsError::Read {
        what,
        path: path.display().to_string(),
        detail: error.to_string(),
    };
    let what = "a certificate chain";
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(what, certificate, &error))?;
    if chain.is_empty() {
        return Err(unreadable(
            what,
            certificate,
            &"there is no certificate in it",
        ));
    }
    let private_key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| unreadable("a private key", key, &error))?;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)?;
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
